"""OCI layouts as directories and archives, and Docker archives: real ones, then each member."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oci_files
import pytest
from oci_files import (
    INDEX,
    LAYOUT,
    File,
    Store,
    archive,
    need,
    oci_sif,
    run,
    tar,
    write_layout,
)

from slurm_cmeta import evidence, vocabulary
from slurm_cmeta.image import Image, Run, open_image
from slurm_cmeta.image.filetree import deep_budget
from slurm_cmeta.image.ociimage import seconds

Wrap = Callable[[Path, Store, Any], Path]


def as_directory(path: Path, store: Store, index: Any) -> Path:
    return write_layout(path / "layout", store, index)


def as_archive(path: Path, store: Store, index: Any) -> Path:
    (path / "image.tar").write_bytes(archive(store, index))
    return path / "image.tar"


def as_sif(path: Path, store: Store, index: Any) -> Path:
    (path / "image.sif").write_bytes(oci_sif(store, index))
    return path / "image.sif"


every = pytest.mark.parametrize("wrap", [as_directory, as_archive, as_sif])
FORMAT = {as_directory: "oci-layout", as_archive: "oci-layout", as_sif: "oci-sif"}

TREE = tar(
    oci_files.directory("bin"),
    File("bin/sh", b"\x7fELF" + bytes(2000), mode=0o755),
    File("./etc/os-release", b"ID=debian\n"),
    oci_files.link("etc-too", "/etc"),
)


def opened(path: Path, *, deep: bool = False) -> Image:
    image = open_image(str(path), deep_budget() if deep else None)
    assert all(warning.isprintable() for warning in image.warnings)
    return image


@pytest.fixture
def umoci(tmp_path: Path) -> Path:
    """Return a layout that umoci made: two layers, the upper one with a whiteout."""
    need("umoci", "skopeo")
    root, layout = tmp_path / "root", tmp_path / "made"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "bin" / "sh").write_bytes(b"\x7fELF" + bytes(200_000))
    (root / "etc" / "old").write_text("old")
    (root / "etc" / "os-release").write_text("ID=debian\n")
    (root / "link").symlink_to("/etc")
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:a")
    for step in ("one", "two"):
        bundle = tmp_path / step
        run("umoci", "unpack", "--rootless", "--image", f"{layout}:a", bundle)
        if step == "one":
            run("cp", "-a", f"{root}/.", bundle / "rootfs")
        else:
            (bundle / "rootfs" / "etc" / "old").unlink()
            (bundle / "rootfs" / "etc" / "new").write_text("new")
        run("umoci", "repack", "--image", f"{layout}:a", bundle)
    options = ("--config.label", "cpu.target=zen3", "--config.env", "A=b=c")
    start = ("--config.entrypoint", "/bin/sh", "--config.cmd", "-l")
    more = ("--manifest.annotation", "org.site.gpu=yes", "--architecture", "arm64")
    run("umoci", "config", "--image", f"{layout}:a", *options, *start, *more)
    return layout


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_real_image(umoci: Path, tmp_path: Path, transport: str) -> None:
    target = umoci
    if transport != "oci":
        target = tmp_path / "image.any"
        run("skopeo", "copy", "-q", f"oci:{umoci}:a", f"{transport}:{target}:x/y:latest")
    docker = transport == "docker-archive"
    with opened(target, deep=True) as image:
        assert image.format == ("docker-archive" if docker else "oci-layout")
        assert image.content.architectures == (("arm64", "OCI configuration", ""),)
        assert image.content.platforms == ()
        labels = image.labels()
        assert labels["cpu.target"] == "zen3"
        assert labels.get("org.site.gpu") == (None if docker else "yes")
        assert image.environment()["A"] == "b=c"
        assert image.run() == Run(words=("/bin/sh", "-l"))
        tree = image.tree()
        assert tree is not None
        assert tree.text("/link/new", 100) == "new"
        assert tree.text("/link/os-release", 100) == "ID=debian\n"
        assert tree.find("/etc/old") is None
        assert sorted(name for name, _ in tree.list("/etc")) == ["new", "os-release"]
        assert len(tree.read(tree.find("/bin/sh"))) == 200_004
        assert image.warnings == []
        if not docker:
            index = json.loads((umoci / "index.json").read_bytes())
            digest = index["manifests"][0]["digest"]
            assert image.content.digest == digest
            info, config = os.stat(target), os.stat(umoci / "index.json")
            assert image.identity.inode == info.st_ino
            if transport == "oci":
                assert image.identity.size == config.st_size
        assert image.content.created is not None
        assert any(fact.key == "arch" for fact in evidence.read(image).facts)


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
def test_quick_look_leaves_packed_layers_alone(umoci: Path, tmp_path: Path, transport: str) -> None:
    target = umoci
    if transport != "oci":
        target = tmp_path / "image.any"
        run("skopeo", "copy", "-q", f"oci:{umoci}:a", f"{transport}:{target}:latest")
    with opened(target) as image:
        assert image.tree() is None
        assert image.warnings == ["the layers are packed and were not looked into; --deep does"]


def test_real_docker_archive_is_looked_into_at_once(umoci: Path, tmp_path: Path) -> None:
    """Its layers are not packed, so that their headers tell where each file is."""
    target = tmp_path / "image.any"
    run("skopeo", "copy", "-q", f"oci:{umoci}:a", f"docker-archive:{target}:latest")
    with opened(target) as image:
        tree = image.tree()
        assert tree is not None
        assert tree.text("/etc/new", 10) == "new"
        assert tree.find("/etc/old") is None


@every
def test_all_that_an_image_states(tmp_path: Path, wrap: Wrap) -> None:
    store = Store()
    made = store.image(
        "arm64",
        TREE,
        variant="v8",
        labels={"a": "config", "n": 7},
        annotations={"a": "manifest", "b": "manifest", "z": None},
        listed={"a": "listed", "b": "listed", "c": "listed"},
    )
    index = store.index(made, annotations={"c": "index", "d": "index"})
    with opened(wrap(tmp_path, store, index)) as image:
        assert image.format == FORMAT[wrap]  # type: ignore[index]
        assert image.content.architectures == (
            ("arm64", "OCI configuration", "v8"),
            ("arm64", "platform in the OCI index", "v8"),
        )
        assert image.labels() == {"a": "config", "b": "manifest", "c": "listed", "d": "index"}
        assert image.environment() == {"PATH": "/usr/bin", "A": "b=c"}
        assert image.run() == Run(words=("/bin/sh", "-c", "true"))
        assert image.content.digest == made["digest"]
        assert image.content.created == 1709204400
        tree = image.tree()
        assert tree is not None
        assert tree.text("/etc-too/os-release", 100) == "ID=debian\n"
        assert image.warnings == [
            "OCI configuration holds 1 label(s) that are not text, ignored: n"
        ]


@every
def test_several_architectures(tmp_path: Path, wrap: Wrap) -> None:
    here = vocabulary.architecture(os.uname().machine)
    own = {"x86_64": "amd64", "aarch64": "arm64"}.get(here or "", here or "")
    store = Store()
    made = [
        store.image("s390x", TREE),
        store.image(own, TREE, variant="v2", labels={"own": "yes"}),
        store.image("riscv64", platform=False),
    ]
    attestation = store.image("unknown", listed={"vnd.docker.reference.type": "attestation"})
    attestation["platform"] = {"architecture": "unknown", "os": "unknown"}
    index = store.index(*made, attestation)
    with opened(wrap(tmp_path, store, index)) as image:
        assert [(s.name, s.variant) for s in image.content.platforms] == [
            ("s390x", ""),
            (own, "v2"),
            ("riscv64", ""),
        ]
        assert image.content.architectures[0].name == own
        assert image.content.digest == made[1]["digest"]
        assert image.labels() == {"own": "yes"}
        assert image.warnings == [
            f"there are 3 images in it: {own}/v2 is looked into, not s390x, riscv64"
        ]


@every
def test_none_for_this_machine_takes_the_first(tmp_path: Path, wrap: Wrap) -> None:
    store = Store()
    index = store.index(store.image("mips64le"), store.image("s390x"))
    with opened(wrap(tmp_path, store, index)) as image:
        assert [s.name for s in image.content.platforms] == ["mips64le", "s390x"]
        assert image.content.architectures[0].name == "mips64le"


def test_several_tags_are_told_by_name(tmp_path: Path) -> None:
    store = Store()
    name = "org.opencontainers.image.ref.name"
    made = [store.image("amd64", labels={"n": n}, listed={name: n}) for n in ("one", "t\x1bwo")]
    with opened(write_layout(tmp_path / "layout", store, store.index(*made))) as image:
        assert image.warnings == [
            "there are 2 images in it: one (amd64) is looked into, not t\\x1bwo (amd64)"
        ]


@every
def test_index_inside_an_index(tmp_path: Path, wrap: Wrap) -> None:
    store = Store()
    made = store.image("arm64", listed={"a": "inner"})
    inner = store.add(store.index(made, annotations={"b": "inner index"}), INDEX)
    inner["annotations"] = {"a": "outer", "c": "outer"}
    with opened(wrap(tmp_path, store, store.index(inner))) as image:
        assert image.content.digest == made["digest"]
        assert image.labels() == {"a": "inner", "b": "inner index", "c": "outer"}


@every
def test_platforms_that_were_left_out(tmp_path: Path, wrap: Wrap) -> None:
    """`docker save` keeps the index of all platforms, and the blobs of one."""
    store = Store()
    gone, made = store.image("s390x"), store.image("arm64")
    del store.blobs[gone["digest"]]
    with opened(wrap(tmp_path, store, store.index(gone, made))) as image:
        assert image.content.architectures[0].name == "arm64"
        assert image.content.platforms == ()
        assert image.warnings == []


def test_docker_media_types(tmp_path: Path) -> None:
    store = Store()
    docker = "application/vnd.docker"
    made = store.image(
        "arm64",
        TREE,
        layer_type=f"{docker}.image.rootfs.diff.tar",
        mediaType=f"{docker}.distribution.manifest.v2+json",
    )
    made["mediaType"] = f"{docker}.distribution.manifest.v2+json"
    inner = store.add(store.index(made), f"{docker}.distribution.manifest.list.v2+json")
    with opened(write_layout(tmp_path / "layout", store, store.index(inner))) as image:
        assert image.content.digest == made["digest"]
        assert image.tree() is not None


@every
def test_what_is_no_image_is_skipped(tmp_path: Path, wrap: Wrap) -> None:
    store = Store()
    made = store.image("arm64")
    other = store.image("arm64", artifactType="application/x")
    named = {**store.image("amd64", x=1), "artifactType": "application/x"}
    cosign = store.image("amd64", b"{}", layer_type="application/vnd.dev.cosign.simplesigning")
    strange = {**store.image("amd64", x=2), "mediaType": "application/x\n"}
    windows = store.image("amd64", x=3)
    windows["platform"] = {"architecture": "amd64", "os": "windows"}
    schema1 = store.add({"schemaVersion": 1, "fsLayers": []})
    helm = store.add({"config": {"mediaType": "application/vnd.cncf.helm"}, "layers": []})
    about = store.image("amd64", subject={"digest": made["digest"]})
    index = store.index(other, named, cosign, strange, windows, schema1, helm, about, made)
    with opened(wrap(tmp_path, store, index)) as image:
        assert image.content.digest == made["digest"]
        assert image.content.platforms == ()
        text = "\n".join(image.warnings)
        for part in ("something else", "cosign", r"application/x\n", "windows", "first schema"):
            assert part in text
        assert "about another image" in text
        assert len(image.warnings) == 7


def test_encrypted_layers(tmp_path: Path) -> None:
    store = Store()
    made = store.image("arm64", b"x" * 600, layer_type=f"{oci_files.LAYER}+gzip+encrypted")
    with opened(write_layout(tmp_path / "layout", store, store.index(made)), deep=True) as image:
        assert image.content.encrypted
        assert image.tree() is None
        assert "layer 1 of 1 is encrypted" in image.warnings[0]


def docker_archive(*images: tuple[dict[str, Any], list[tuple[str, bytes]]], **more: Any) -> bytes:
    """Return what `docker save` wrote before Docker 25."""
    files: list[File] = []
    listed = []
    for number, (config, layers) in enumerate(images):
        data = json.dumps(config).encode()
        name = hashlib.sha256(data).hexdigest() + ".json"
        files.append(File(name, data))
        files += [File(layer, body) for layer, body in layers]
        entry = {"Config": name, "RepoTags": [f"x:{number}"], "Layers": [n for n, _ in layers]}
        listed.append({**entry, **more})
    return tar(*files, File("manifest.json", json.dumps(listed).encode()))


def test_docker_archive(tmp_path: Path) -> None:
    path = tmp_path / "image"
    config = {"architecture": "arm64", "variant": "v8", "config": {"Labels": {"a": "b"}}}
    whiteout = tar(File("etc/.wh.os-release"), File("etc/x", b"y"))
    path.write_bytes(docker_archive((config, [("1/layer.tar", TREE), ("2/layer.tar", whiteout)])))
    with opened(path) as image:
        assert image.format == "docker-archive"
        assert image.content.architectures == (("arm64", "OCI configuration", "v8"),)
        assert image.labels() == {"a": "b"}
        tree = image.tree()
        assert tree is not None
        assert tree.list("/etc") == [("x", "file")]
        assert image.content.digest == ""
        assert image.warnings == []


def test_docker_archive_of_two_images(tmp_path: Path) -> None:
    path = tmp_path / "image"
    configs: list[dict[str, Any]] = [{"architecture": "s390x"}, {"architecture": "mips64le"}]
    path.write_bytes(docker_archive(*((config, []) for config in configs)))
    with opened(path) as image:
        assert [s.name for s in image.content.platforms] == ["s390x", "mips64le"]
        assert image.content.architectures[0].name == "s390x"
        assert "s390x is looked into, not mips64le" in image.warnings[0]


def test_layers_that_are_links_in_a_docker_archive(tmp_path: Path) -> None:
    """`docker save` writes a layer once and links to it where it comes again."""
    path = tmp_path / "image"
    config = File("c.json", b'{"architecture": "arm64"}')
    links = [
        oci_files.link("b/layer.tar", "../a/layer.tar"),
        File("c/layer.tar", type=b"1", link="a/layer.tar"),
        oci_files.link("loop", "loop"),
    ]
    for name in ("a/layer.tar", "b/layer.tar", "c/layer.tar", "loop"):
        listed = json.dumps([{"Config": "c.json", "Layers": [name]}]).encode()
        path.write_bytes(
            tar(config, File("a/layer.tar", TREE), *links, File("manifest.json", listed))
        )
        with opened(path) as image:
            assert (image.tree() is None) == (name == "loop")


@pytest.mark.parametrize("whole", [True, False])
def test_archive_that_is_both(tmp_path: Path, whole: bool) -> None:
    """Docker since 25: gone by as OCI, and as Docker's where that is damaged."""
    store = Store()
    made = store.image("arm64", TREE, labels={"a": "b"})
    manifest = json.loads(store.blobs[made["digest"]])
    names = {
        "Config": f"blobs/{manifest['config']['digest'].replace(':', '/')}",
        "Layers": [f"blobs/{m['digest'].replace(':', '/')}" for m in manifest["layers"]],
    }
    if not whole:
        del store.blobs[made["digest"]]
    path = tmp_path / "image"
    extra = File("manifest.json", json.dumps([names]).encode())
    path.write_bytes(archive(store, store.index(made), extra))
    with opened(path) as image:
        assert image.format == "docker-archive"
        assert image.content.digest == (made["digest"] if whole else "")
        assert image.labels() == {"a": "b"}
        assert image.tree() is not None


def test_names_of_files_do_not_matter(tmp_path: Path) -> None:
    store = Store()
    index = store.index(store.image("arm64"))
    for name in ("image.sif", "image.sqsh", "x.json", "-rf"):
        path = tmp_path / name
        path.write_bytes(archive(store, index))
        assert opened(path).format == "oci-layout"


def test_links_inside_a_layout_are_followed_and_never_leave_it(tmp_path: Path) -> None:
    store = Store()
    made = store.image("arm64", TREE)
    layout = write_layout(tmp_path / "layout", store, store.index(made))
    blobs = layout / "blobs" / "sha256"
    os.rename(blobs, layout / "elsewhere")
    blobs.symlink_to("/elsewhere")
    with opened(layout) as image:
        assert image.tree() is not None
    blobs.unlink()
    blobs.symlink_to(os.path.abspath(layout / "elsewhere"))
    with pytest.raises(Exception, match="is not in the image"):
        opened(layout)


def test_oci_layout_file_may_say_anything(tmp_path: Path) -> None:
    store = Store()
    layout = write_layout(tmp_path / "layout", store, store.index(store.image("arm64")))
    (layout / "oci-layout").write_bytes(LAYOUT.replace(b"1.0.0", b"9.9"))
    assert opened(layout).content.architectures[0].name == "arm64"


def test_too_many_layers(tmp_path: Path) -> None:
    store = Store()
    blobs = [tar(File(f"f{n}", b"x")) for n in range(200)]
    index = store.index(store.image("arm64", *blobs))
    path = tmp_path / "image"
    path.write_bytes(archive(store, index))
    with open_image(str(path)) as image:
        assert "200 layers are more than the 127 that can be run" in image.warnings[0]
        tree = image.tree()
        assert tree is not None
        assert len(list(tree.walk())) == 127


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1),
        ("2024-02-29T12:00:00.123456789Z", 1709208000),
        ("2024-02-29T12:00:00-01:30", 1709213400),
        ("0001-01-01T00:00:00Z", None),
        ("2024-13-01T00:00:00Z", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_times(stamp: str, expected: int | None) -> None:
    assert seconds(stamp) == expected


@every
def test_an_image_for_several_architectures_runs_on_each(tmp_path: Path, wrap: Wrap) -> None:
    """An x86 login node in front of an Arm cluster must not refuse it."""
    from slurm_cmeta import requirement
    from slurm_cmeta.cluster import NodeClass
    from slurm_cmeta.match import judge

    store = Store()
    index = store.index(
        store.image("amd64", TREE, variant="v3"), store.image("arm64", TREE, variant="v8")
    )
    with opened(wrap(tmp_path, store, index)) as image:
        requirements = requirement.from_facts(evidence.read(image).facts)
    assert [r.strength for r in requirements if r.key == "cpu"] in ([], ["soft"])
    for features, verdict in (
        (("x86_64", "x86_64_v2"), "match"),
        (("aarch64",), "match"),
        (("ppc64le",), "mismatch"),
    ):
        assert judge(requirements, NodeClass("n", 1, features)).verdict == verdict
