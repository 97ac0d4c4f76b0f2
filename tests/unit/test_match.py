"""Requirements against node classes."""

from __future__ import annotations

import pytest

from slurm_cmeta import nodefacts
from slurm_cmeta.cluster import NodeClass
from slurm_cmeta.match import judge
from slurm_cmeta.requirement import KEYS, Requirement


def need(key: str, value: str, strength: str = "hard") -> Requirement:
    return Requirement(key, KEYS[key], value, strength, "declared", "a test")


def verdict(requirement: Requirement, features: str) -> str:
    names = tuple(filter(None, features.split(",")))
    judged = judge([requirement], NodeClass("n1", 1, names))
    (reason,) = judged.reasons
    assert judged.verdict == ("mismatch" if reason.verdict == "mismatch" else "match")
    return reason.verdict


@pytest.mark.parametrize(
    ("image", "features", "expected"),
    [
        ("x86_64", "x86_64", "match"),
        ("x86_64", "zen4", "match"),  # the name implies the family
        ("x86_64", "amd64,bigmem", "match"),
        ("aarch64", "x86_64,zen4", "mismatch"),
        ("aarch64", "neoverse_v1", "match"),
        ("aarch64", "bigmem,ib", "unchecked"),  # nobody said what it is
        ("aarch64", "", "unchecked"),
        ("aarch64", "bigmem,cmeta=1", "mismatch"),  # the node's facts are complete
        ("x86", "x86_64", "match"),
        ("arm", "aarch64", "unchecked"),  # some aarch64 machines run it, some do not
        ("aarch64", "x86_64,aarch64", "match"),
        ("ppc64le", "x86_64,aarch64", "unchecked"),  # contradictory features prove nothing
        ("s390x", "s390x", "match"),
        ("x86_64", "m1", "unchecked"),  # a site's own word, not an Apple M1
        ("x86_64", "m1,aarch64", "mismatch"),
        ("riscv64", "riscv64,u74mc", "match"),
    ],
)
def test_arch(image: str, features: str, expected: str) -> None:
    assert verdict(need("arch", image), features) == expected


@pytest.mark.parametrize(
    ("target", "features", "expected"),
    [
        ("x86_64_v3", "x86_64,x86_64_v2,x86_64_v3,zen3", "match"),
        ("x86_64_v3", "zen3", "match"),
        ("x86_64_v3", "ivybridge", "mismatch"),
        ("x86_64_v3", "x86_64,x86_64_v2", "mismatch"),
        ("x86_64_v3", "x86_64", "unchecked"),  # only the family is said, not the level
        ("x86_64_v3", "x86_64,cmeta=1", "mismatch"),
        ("x86_64_v3", "ib", "unchecked"),
        ("zen4", "zen4", "match"),
        ("zen3", "zen4", "match"),
        ("zen4", "zen3", "mismatch"),
        ("zen4", "icelake", "mismatch"),  # archspec knows no order between vendors
        ("zen4", "x86_64_v4", "unchecked"),  # the level is there, the name is not said
        ("zen4", "x86_64_v3", "mismatch"),  # the level is not there
        ("zen4", "x86_64,x86_64_v4,cmeta=1", "mismatch"),
        ("zen4", "neoverse_v1", "mismatch"),
        ("neoverse_v1", "neoverse_v2", "mismatch"),
        ("neoverse_n1", "neoverse_v2", "match"),
        ("armv8.2a", "a64fx", "match"),
        ("x86_64_v3", "znver3", "match"),  # a site's spelling
        ("x86_64_v3", "x86-64-v3", "match"),
    ],
)
def test_cpu(target: str, features: str, expected: str) -> None:
    assert verdict(need("cpu", target), features) == expected


def test_a_soft_requirement_prefers_and_never_excludes() -> None:
    wish = need("cpu", "zen4", "soft")
    near, far = NodeClass("a", 1, ("zen4",)), NodeClass("b", 1, ("zen2",))
    silent = NodeClass("c", 1, ())
    assert [
        (judge([wish], c).verdict, judge([wish], c).preferred) for c in (near, far, silent)
    ] == [
        ("match", True),
        ("match", False),
        ("match", False),
    ]


def test_a_reason_says_what_the_node_has() -> None:
    (reason,) = judge([need("cpu", "zen4")], NodeClass("n", 1, ("x86_64", "zen2"))).reasons
    assert (reason.needs, reason.has, reason.source) == ("zen4", "zen2", "a test")
    (reason,) = judge([need("arch", "aarch64")], NodeClass("n", 1, ("zen2",))).reasons
    assert reason.has == "x86_64"


def test_an_ambiguous_name_counts_beside_its_family_only() -> None:
    assert nodefacts.read(["grace"]).cpus == ()
    assert {c.name for c in nodefacts.read(["grace", "aarch64"]).cpus} == {"aarch64", "neoverse_v2"}
