"""What a reference names: every image of an index, by its documents alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from oci_files import MANIFEST, Store, write_layout

from slurm_cmeta.errors import ImageError
from slurm_cmeta.pull.offer import read
from slurm_cmeta.pull.variant import Offer, Variant
from slurm_cmeta.registry.access import Access
from slurm_cmeta.registry.reference import parse

LEVELS = {"": "", "v2": "x86_64_v2", "v3": "x86_64_v3", "v4": "x86_64_v4"}


def application(store: Store) -> dict[str, Any]:
    """Return the index of one application for many machines; the first entry is the least."""
    images = [
        store.image("amd64", b"layer of " + level.encode(), variant=level) for level in LEVELS
    ]
    images += [store.image("arm64", b"arm", variant="v8"), store.image("ppc64le", b"power")]
    return store.index(*images, store.image("riscv64", b"riscv"))


def offered(path: Path, store: Store, index: dict[str, Any], **options: Any) -> Offer:
    top = store.add(index, index["mediaType"])
    layout = write_layout(path / "layout", store, store.index(top))
    return read(parse(f"oci:{layout}"), Access.within(10), **options)


def needs(variant: Variant) -> dict[str, str]:
    return {r.key: r.value for r in variant.requirements}


def test_every_image_of_an_index_is_a_variant(tmp_path: Path) -> None:
    store = Store()
    offer = offered(tmp_path, store, application(store))
    assert [v.platform for v in offer.variants] == [
        *("linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"),
        *("linux/arm64/v8", "linux/ppc64le", "linux/riscv64"),
    ]
    assert [needs(v).get("cpu", "") for v in offer.variants[:4]] == list(LEVELS.values())
    assert [needs(v)["arch"] for v in offer.variants[3:]] == [
        *("x86_64", "aarch64", "ppc64le", "riscv64"),
    ]
    assert all(v.size > 100 and v.digest.startswith("sha256:") for v in offer.variants)
    assert len({v.digest for v in offer.variants}) == 7
    assert (offer.warnings, offer.partial) == ((), False)


def test_what_no_node_runs_is_not_read(tmp_path: Path) -> None:
    store = Store()
    index = application(store)
    power = index["manifests"][5]["digest"]
    del store.blobs[power]
    offer = offered(tmp_path, store, index, families=frozenset({"x86_64", "aarch64"}))
    unread = next(v for v in offer.variants if v.digest == power)
    assert (unread.platform, unread.size, needs(unread)) == (
        *("linux/ppc64le", 0),
        {"arch": "ppc64le"},
    )
    assert [v.platform for v in offer.variants][5] == "linux/ppc64le", "the order is the index's"


def test_labels_annotations_and_variables_count(tmp_path: Path) -> None:
    store = Store()
    gpu = store.image(
        "amd64",
        b"gpu",
        labels={"io.archspec.cpu.target": "zen3"},
        config={"config": {"Env": ["NVIDIA_REQUIRE_CUDA=cuda>=12.2", "CUDA_VERSION=12.2.0"]}},
    )
    noted = store.image("arm64", b"a", annotations={"org.supercontainers.mpi": "openmpi"})
    offer = offered(tmp_path, store, store.index(gpu, noted))
    assert needs(offer.variants[0])["cuda"] == "12.2"
    assert needs(offer.variants[1])["mpi"] == "openmpi"


def test_a_label_that_contradicts_the_platform_is_ignored(tmp_path: Path) -> None:
    store = Store()
    lying = store.image("arm64", b"a", labels={"io.archspec.cpu.target": "zen4"})
    offer = offered(tmp_path, store, store.index(lying))
    assert [needs(v) for v in offer.variants] == [{"arch": "aarch64"}]
    (warning,) = offer.warnings
    assert warning.startswith(
        "label io.archspec.cpu.target says zen4, a CPU of architecture x86_64"
    )


def test_warnings_name_the_images_that_they_are_about(tmp_path: Path) -> None:
    store = Store()
    label = {"io.archspec.cpu.target": "zen99"}
    images = [store.image("amd64", bytes([n]), variant=f"v{n}", labels=label) for n in (2, 3)]
    images.append({**store.image("amd64", b"c"), "platform": {"architecture": "arm64"}})
    said = offered(tmp_path, store, store.index(*images)).warnings
    assert [warning.partition(": ")[0] for warning in said] == [
        "linux/amd64/v2 and 1 more",
        "linux/amd64",
    ]
    assert said[1].endswith("says x86_64: the platform in the OCI index is ignored")


def test_warnings_are_no_more_than_a_person_reads(tmp_path: Path) -> None:
    store = Store()
    images = [
        store.image("amd64", bytes([n]), labels={"io.archspec.cpu.target": f"zen{n}9"})
        for n in range(100)
    ]
    said = offered(tmp_path, store, store.index(*images)).warnings
    assert len(said) == 21
    assert said[-1] == "more warnings about this image are left out"


def test_one_manifest_for_several_platforms_is_read_for_any_of_them(tmp_path: Path) -> None:
    store = Store()
    image = store.image("amd64", b"a")
    arm = {**image, "platform": {"architecture": "arm64", "os": "linux"}}
    families = frozenset({"x86_64"})
    (variant,) = offered(tmp_path, store, store.index(arm, image), families=families).variants
    assert needs(variant) == {"arch": "x86_64"}


def test_a_manifest_without_an_index_is_an_offer_of_one(tmp_path: Path) -> None:
    store = Store()
    image = store.image("arm64", b"a", platform=False)
    layout = write_layout(tmp_path / "layout", store, store.index(image))
    offer = read(parse(f"oci:{layout}"), Access.within(10))
    (variant,) = offer.variants
    assert offer.digest == variant.digest == image["digest"]
    assert needs(variant) == {"arch": "aarch64"}


def test_a_sif_that_was_pushed_as_an_artifact(tmp_path: Path) -> None:
    store = Store()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": store.add(b"{}", "application/vnd.sylabs.sif.config.v1+json"),
        "layers": [store.add(b"a SIF", "application/vnd.sylabs.sif.layer.v1.sif")],
    }
    top = store.add(manifest, MANIFEST)
    top["platform"] = {"architecture": "arm64", "os": "linux"}
    (variant,) = offered(tmp_path, store, store.index(top)).variants
    assert needs(variant) == {"arch": "aarch64"}


def test_a_layout_with_several_images_wants_a_tag(tmp_path: Path) -> None:
    store = Store()
    tag = "org.opencontainers.image.ref.name"
    images = [store.image(a, b"", listed={tag: n}) for a, n in (("amd64", "x"), ("arm64", "y"))]
    layout = write_layout(tmp_path / "layout", store, store.index(*images))
    (variant,) = read(parse(f"oci:{layout}:y"), Access.within(10)).variants
    assert needs(variant) == {"arch": "aarch64"}
    digest = images[0]["digest"]
    (variant,) = read(parse(f"oci:{layout}@{digest}"), Access.within(10)).variants
    assert needs(variant) == {"arch": "x86_64"}
    for wrong, said in (
        (f"oci:{layout}", "has several images: name a tag: it has x, y"),
        (f"oci:{layout}:z", "has not that tag: it has x, y"),
        (f"oci:{tmp_path}", "there is no OCI layout"),
        (f"oci:{tmp_path}/none", "No such file"),
    ):
        with pytest.raises(ImageError) as problem:
            read(parse(wrong), Access.within(10))
        assert said in str(problem.value) or "does not exist" in str(problem.value)


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    store = Store()
    image = store.image("amd64", b"a")
    odd: list[Any] = [
        {
            **store.image("amd64", b"attestation"),
            "platform": {"architecture": "unknown", "os": "unknown"},
        },
        {**store.image("amd64", b"b"), "mediaType": "application/x-unknown"},
        {"mediaType": MANIFEST, "digest": "sha256:" + "0" * 64, "size": 3},
        {"mediaType": MANIFEST, "digest": "no digest"},
        "rubbish",
        store.image("amd64", b"w", config={"os": "windows"})
        | {"platform": {"architecture": "amd64", "os": "windows"}},
    ]
    index = store.index(*odd, image)
    offer = offered(tmp_path, store, index)
    assert [v.digest for v in offer.variants] == [image["digest"]]
    with pytest.raises(ImageError):
        offered(tmp_path / "b", store, store.index(*odd[:1]))


def test_thousands_of_entries_are_bounded(tmp_path: Path) -> None:
    store = Store()
    entry = store.image("amd64", b"a")
    many = [{**entry, "annotations": {"n": str(n)}} for n in range(3000)]
    offer = offered(tmp_path, store, store.index(*many))
    assert len(offer.variants) == 1
    assert any("entries of an index are ignored" in w for w in offer.warnings)
