"""Compatibility artifacts: what they ask for, who has them, and what hostile ones cost."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oci_files import MANIFEST, Store, write_layout
from test_offer import application, needs
from test_registry_client import TOOLS, home, started

sys.path.insert(0, str(TOOLS))

import hostile_registry as hostile
from registry import Running

from slurm_cmeta import vocabulary
from slurm_cmeta.facts import Fact
from slurm_cmeta.pull import nfd
from slurm_cmeta.pull.compat import COMPSPEC, CREATED, NFD
from slurm_cmeta.pull.offer import read
from slurm_cmeta.pull.variant import Offer
from slurm_cmeta.registry.access import Access
from slurm_cmeta.registry.reference import parse
from slurm_cmeta.vocabulary import load

__all__ = ["home"]

NFD_LAYER = "application/vnd.nfd.image-compatibility.spec.v1alpha1+yaml"

EXAMPLE = """\
version: v1alpha1
compatibilities:
- description: "My image requirements"
  rules:
  - name: "kernel and cpu"
    matchFeatures:
    - feature: kernel.loadedmodule
      matchExpressions:
        vfio-pci: {op: Exists}
    - feature: cpu.model
      matchExpressions:
        vendor_id: {op: In, value: ["Intel", "AMD"]}
  - name: "one of available nics"
    matchAny:
    - matchFeatures:
      - feature: pci.device
        matchExpressions:
          vendor: {op: In, value: ["0eee"]}
          class: {op: In, value: ["0200"]}
    - matchFeatures:
      - feature: pci.device
        matchExpressions:
          vendor: {op: In, value: ["0fff"]}
          class: {op: In, value: ["0200"]}
"""
"""The example of docs/usage/image-compatibility.md."""


def feature(name: str, **expressions: Any) -> dict[str, Any]:
    return {"feature": name, "matchExpressions": expressions}


def spec(*features: dict[str, Any]) -> dict[str, Any]:
    rules = [{"name": "a rule", "matchFeatures": list(features)}]
    return {"version": "v1alpha1", "compatibilities": [{"rules": rules}]}


HAS = {"op": "Exists"}


def asked(document: dict[str, Any], family: str = "x86_64") -> nfd.Asked:
    return nfd.asks(nfd.parse(json.dumps(document).encode()), family, "here")


def said(found: nfd.Asked) -> list[str]:
    return [f"{f.key} {f.op} {f.value}".replace("  ", " ") for f in found.facts]


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "facts", "left"),
    [
        ([feature("cpu.cpuid", X86_64_V3=HAS)], ["cpu x86_64_v3"], []),
        (
            [feature("cpu.cpuid", AVX2=HAS, FMA3={"op": "IsTrue"}), feature("cpu.cpuid", SHA=HAS)],
            ["isa avx2 fma sha_ni"],
            [],
        ),
        ([feature("cpu.cpuid", AVX512F={"op": "DoesNotExist"})], [], ["cpu.cpuid AVX512F"]),
        ([feature("cpu.cpuid", HYPERVISOR=HAS)], [], ["cpu.cpuid HYPERVISOR"]),
        (
            [feature("kernel.version", major={"op": "Ge", "value": ["6"]})],
            ["kernel >= 6"],
            [],
        ),
        ([feature("kernel.version", major={"op": "Gt", "value": ["5"]})], ["kernel >= 6"], []),
        (
            [
                feature(
                    "kernel.version",
                    major={"op": "In", "value": ["6"]},
                    minor={"op": "Gt", "value": [1]},
                )
            ],
            ["kernel >= 6.2", "kernel < 7"],
            [],
        ),
        (
            [feature("kernel.version", full={"op": "InRegexp", "value": ["^6"]})],
            [],
            ["kernel.version full"],
        ),
        (
            [feature("pci.device", vendor={"op": "In", "value": ["10de"]})],
            ["gpu nvidia"],
            [],
        ),
        (
            [
                feature(
                    "pci.device",
                    vendor={"op": "In", "value": ["8086"]},
                    **{"class": {"op": "In", "value": ["0380"]}},
                )
            ],
            ["gpu intel"],
            [],
        ),
        (
            [feature("pci.device", vendor={"op": "In", "value": ["8086"]})],
            [],
            ["pci.device vendor"],
        ),
        (
            [feature("pci.device", vendor={"op": "In", "value": ["10de", "1002"]})],
            [],
            ["pci.device vendor"],
        ),
        (
            [
                feature(
                    "pci.device",
                    vendor={"op": "In", "value": ["10de"]},
                    **{"class": {"op": "In", "value": ["0200"]}},
                )
            ],
            [],
            ["pci.device class, vendor"],
        ),
        ([{"feature": "kernel.config", "matchName": HAS}], [], ["kernel.config"]),
    ],
)
def test_rules_become_facts_where_a_requirement_stands_for_them(
    features: list[dict[str, Any]], facts: list[str], left: list[str]
) -> None:
    found = asked(spec(*features))
    assert said(found) == facts
    assert list(found.left) == left


def test_the_example_of_the_documentation_names_what_is_not_looked_at() -> None:
    found = nfd.asks(nfd.parse(EXAMPLE.encode()), "x86_64", "here")
    assert found == ((), ("kernel.loadedmodule vfio-pci", "cpu.model vendor_id", "matchAny"))


def test_one_choice_is_none() -> None:
    document = spec()
    rule = document["compatibilities"][0]["rules"][0]
    rule["matchAny"] = [{"matchFeatures": [feature("cpu.cpuid", AVX=HAS)]}]
    assert said(asked(document)) == ["isa avx"]


def test_of_several_sets_counts_what_all_of_them_ask_for() -> None:
    document = spec(feature("cpu.cpuid", AVX=HAS, AVX2=HAS))
    document["compatibilities"] += spec(feature("cpu.cpuid", AVX2=HAS, SHA=HAS))["compatibilities"]
    found = asked(document)
    assert found.facts == (Fact("isa", "avx2", "here"),)
    assert found.left == ("isa avx", "isa sha_ni")


def test_flags_are_those_of_the_architecture() -> None:
    document = spec(feature("cpu.cpuid", AVX2=HAS, SVE=HAS, AESARM=HAS))
    assert said(asked(document, "aarch64")) == ["isa sve aes"]
    assert asked(document, "ppc64le").facts == ()


def test_every_flag_that_is_translated_is_one_of_archspec() -> None:
    known = {flag for flags in load("isa")["flags"].values() for flag in flags}
    assert set(load("nfd")["cpuid"].values()) <= known
    assert not any(name.lower() == flag for name, flag in load("nfd")["cpuid"].items())
    assert vocabulary.cpu_target("X86_64_V4") == "x86_64_v4"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"a: &x [1]\ncompatibilities: [*x]", "has anchors"),
        (b"compatibilities: &a [1]", "has anchors"),
        (b"[" * 5000, "is nested too deep"),
        (b"compatibilities: [" + b"1," * 9000 + b"1]", "is nested too deep, or has too many parts"),
        (b"compatibilities: " + b"x" * 70_000, "has more than 65536 bytes"),
        (b"compatibilities: {}", "has no list of compatibilities"),
        (b"- 1", "has no list of compatibilities"),
        (b"", "has no list of compatibilities"),
        (b"a: [", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
        (b"compatibilities: !!python/object/apply:os.system ['true']", "is no YAML"),
        (b"a: 2001-99-99\ncompatibilities: []", "is no YAML"),
    ],
)
def test_hostile_documents_are_refused_quickly(data: bytes, why: str) -> None:
    began = time.monotonic()
    with pytest.raises(nfd.SpecError, match=why):
        nfd.parse(data)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("odd", [None, 1, "x", [], [1], {"rules": 1}, {"rules": [1, None, {}]}])
def test_odd_documents_ask_for_nothing(odd: Any) -> None:
    assert asked({"compatibilities": [odd]}).facts == ()
    odd_terms = [1, None, {"feature": 3}, {"feature": "cpu.cpuid", "matchExpressions": [1]}]
    assert asked({"compatibilities": [{"rules": [{"matchFeatures": odd_terms}]}]}).facts == ()
    odd_numbers = feature("kernel.version", major={"op": "Ge", "value": [[odd]]}, minor=odd)
    assert asked(spec(odd_numbers, feature("pci.device", vendor=odd))).facts == ()


# --- attached in a real registry ------------------------------------------------------------------


def attach(
    registry: Running, name: str, subject: dict[str, Any], notes: list[tuple[str, bytes, str]]
) -> None:
    """Attach documents of a kind, each made at a time, as `oras attach` does."""
    store, listed = Store(), Store().index()
    for kind, data, created in notes:
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": store.add(b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [store.add(data, NFD_LAYER)],
            "subject": {k: subject[k] for k in ("mediaType", "digest", "size")},
            "annotations": {CREATED: created} if created else {},
        }
        text = json.dumps(manifest).encode()
        own = Store().add(text, MANIFEST)
        registry.put(name, store.blobs, own["digest"], text)
        own |= {"artifactType": kind, "annotations": manifest["annotations"]}
        listed["manifests"].append(own)
    registry.put(name, {}, subject["digest"].replace(":", "-"), json.dumps(listed).encode())


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real registry without the list of referrers: clients use a tag in its place."""
    place = tmp_path_factory.mktemp("compat")
    store = Store()
    empty = store.index(store.image("amd64", b"x"))
    layout = write_layout(place / "empty", store, store.index(store.add(empty, empty["mediaType"])))
    yield from started(place / "registry", layout)


def pushed(registry: Running, place: Path, name: str, *notes: tuple[int, str, bytes, str]) -> Offer:
    """Push an application with artifacts (-1: attached to its index); return what is read."""
    store = Store()
    index = application(store)
    top = store.add(index, index["mediaType"])
    registry.push(write_layout(place / "app", store, store.index(top)), f"org/{name}:1.0")
    by_subject: dict[int, list[tuple[str, bytes, str]]] = {}
    for number, kind, data, created in notes:
        by_subject.setdefault(number, []).append((kind, data, created))
    for number, those in by_subject.items():
        subject = top if number < 0 else index["manifests"][number]
        attach(registry, f"org/{name}", subject, those)
    reference = parse(f"docker://{registry.address}/org/{name}:1.0")
    return read(reference, Access.within(20), attached=True)


def dumped(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def test_what_is_attached_to_an_image_counts_for_it(registry: Running, tmp_path: Path) -> None:
    document = spec(
        feature("cpu.cpuid", AVX512F=HAS), feature("kernel.loadedmodule", **{"vfio-pci": HAS})
    )
    offer = pushed(registry, tmp_path, "nfd", (0, NFD, dumped(document), ""))
    assert needs(offer.variants[0]) == {"arch": "x86_64", "isa": "avx512f"}
    assert needs(offer.variants[1]) == {"arch": "x86_64", "cpu": "x86_64_v2"}
    (warning,) = offer.warnings
    assert warning.startswith("compatibility artifact ")
    assert warning.endswith(": not looked at: kernel.loadedmodule vfio-pci")
    (need,) = [r for r in offer.variants[0].requirements if r.key == "isa"]
    assert need.source.startswith("compatibility artifact ")
    assert not offer.partial


def test_what_is_attached_to_an_index_counts_for_all(registry: Running, tmp_path: Path) -> None:
    document = spec(
        feature("cpu.cpuid", X86_64_V2=HAS),
        feature("kernel.version", major={"op": "Ge", "value": ["5"]}),
    )
    offer = pushed(registry, tmp_path, "of-index", (-1, NFD, dumped(document), ""))
    assert [needs(v).get("cpu", "") for v in offer.variants] == [
        *("x86_64_v2", "x86_64_v2", "x86_64_v3", "x86_64_v4"),
        *("", "", ""),
    ], "the stronger one is kept, and x86 levels are not asked of others"
    assert all(needs(v)["kernel"] == "5" for v in offer.variants)


def test_the_newest_counts(registry: Running, tmp_path: Path) -> None:
    old, new = (dumped(spec(feature("cpu.cpuid", **{flag: HAS}))) for flag in ("AVX", "SHA"))
    offer = pushed(
        *(registry, tmp_path, "newest"),
        *((0, NFD, new, "2025-02-01T00:00:00Z"), (0, NFD, old, "2024-01-01T00:00:00Z")),
    )
    assert needs(offer.variants[0])["isa"] == "sha_ni"


@pytest.mark.parametrize("kind", COMPSPEC)
def test_attributes_of_compspec_are_labels(registry: Running, tmp_path: Path, kind: str) -> None:
    document = {
        "version": "0.1.0",
        "kind": "CompatibilitySpec",
        "compatibilities": [
            {"name": "io.archspec", "attributes": {"cpu.target": "zen3"}},
            {"name": "org.supercontainers", "attributes": {"mpi": "openmpi"}},
        ],
    }
    name = f"compspec-{COMPSPEC.index(kind)}"
    offer = pushed(registry, tmp_path, name, (0, kind, json.dumps(document).encode(), ""))
    assert needs(offer.variants[0]) == {"arch": "x86_64", "cpu": "zen3", "mpi": "openmpi"}
    assert offer.warnings == ()


def test_what_cannot_be_read_is_a_warning_and_no_more(registry: Running, tmp_path: Path) -> None:
    offer = pushed(
        *(registry, tmp_path, "broken"),
        *((0, NFD, b"a: &x [1]", ""), (1, "application/x-other", b"rubbish", "")),
    )
    assert [needs(v).get("cpu", "") for v in offer.variants[:2]] == ["", "x86_64_v2"]
    (warning,) = offer.warnings
    assert warning.endswith(" has anchors, which are not taken: not looked at")


def test_a_registry_that_lists_no_referrers_is_asked_for_the_list_once(
    registry: Running, tmp_path: Path
) -> None:
    before = len(registry.asked())
    pushed(registry, tmp_path, "asked")
    listed = [one for one in registry.asked()[before:] if "/referrers/" in one]
    assert len(listed) <= 8, "by those that are asked at once, and never again"


# --- attached in a hostile one --------------------------------------------------------------------


def served(referrers: Any) -> hostile.Hostile:
    """Return a registry with one image, and `referrers` for the list of what is attached to it."""
    store = Store()
    image = store.image("amd64", b"x", platform=False)
    blobs = dict(store.blobs)

    def act(request: hostile.Request) -> None:
        name = request.path.rpartition("/")[2]
        name = image["digest"] if name == "1" else name
        if "/referrers/" in request.path:
            if callable(referrers):
                referrers(request)
            else:
                hostile.reply(request, 200, json.dumps(referrers).encode())
        elif name in blobs:
            hostile.reply(request, 200, blobs[name], {"Content-Type": MANIFEST})
        else:
            hostile.reply(request, 404)

    return hostile.Hostile(act)


def entry(**more: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(b'none').hexdigest()}"
    return {"artifactType": NFD, "digest": digest, "mediaType": MANIFEST, "size": 4, **more}


@pytest.mark.parametrize(
    ("referrers", "warnings"),
    [
        ({"manifests": [entry()]}, 1),
        ({"manifests": [entry(digest="rubbish")]}, 1),
        ({"manifests": [entry(digest=3, annotations={CREATED: 4})]}, 1),
        ({"manifests": [entry(annotations=5)] * 300}, 1),
        ({"manifests": 5}, 0),
        ({"manifests": [None, 1, {"artifactType": []}]}, 0),
        ([], 0),
        (hostile.status(500), 1),
        (hostile.status(403), 0),
        (hostile.huge, 0),
        (hostile.die, 1),
        (hostile.drip, 1),
        (hostile.hang, 1),
    ],
)
def test_a_hostile_list_costs_a_warning_and_bounded_time(referrers: Any, warnings: int) -> None:
    with served(referrers) as server:
        began = time.monotonic()
        reference = parse(f"docker://{server.address}/a/b:1")
        offer = read(reference, Access.within(3), attached=True)
        assert time.monotonic() - began < 6
        (variant,) = offer.variants
        assert needs(variant) == {"arch": "x86_64"}
        assert len(offer.warnings) == warnings, offer.warnings
        assert len(server.requests) < 20
