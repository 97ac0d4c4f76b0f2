"""What a cluster has, in everybody's spelling."""

from __future__ import annotations

import re

import pytest

from slurm_cmeta import archs, vocabulary
from slurm_cmeta.cluster import NodeClass
from slurm_cmeta.vocabulary import spellings


def cpu(name: str) -> vocabulary.Cpu:
    found = vocabulary.cpu(name)
    assert found
    return found


@pytest.mark.parametrize(
    ("name", "level", "oci", "eessi", "gcc"),
    [
        ("x86_64", "x86-64-v1", "linux/amd64/v1", "x86_64/generic", "-march=x86-64"),
        ("x86_64_v3", "x86-64-v3", "linux/amd64/v3", "x86_64/generic", "-march=x86-64-v3"),
        ("ivybridge", "x86-64-v2", "linux/amd64/v2", "x86_64/generic", "-march=ivybridge"),
        ("skylake", "x86-64-v3", "linux/amd64/v3", "x86_64/intel/haswell", "-march=skylake"),
        ("zen", "x86-64-v3", "linux/amd64/v3", "x86_64/generic", "-march=znver1"),
        ("zen3", "x86-64-v3", "linux/amd64/v3", "x86_64/amd/zen3", "-march=znver3"),
        ("zen4", "x86-64-v4", "linux/amd64/v4", "x86_64/amd/zen4", "-march=znver4"),
        ("cannonlake", "x86-64-v4", "linux/amd64/v4", "x86_64/intel/haswell",
         "-march=cannonlake"),
        ("aarch64", None, "linux/arm64/v8", "aarch64/generic", "-march=armv8-a"),
        ("neoverse_n1", None, "linux/arm64/v8.2", "aarch64/neoverse_n1", "-mcpu=neoverse-n1"),
        ("neoverse_v2", None, "linux/arm64/v9", "aarch64/nvidia/grace", "-mcpu=neoverse-v2"),
        ("cortex_a72", None, "linux/arm64/v8", "aarch64/generic", "-mcpu=cortex-a72"),
        ("a64fx", None, "linux/arm64/v8.2", "aarch64/a64fx", "-mcpu=a64fx"),
        ("power9le", None, "linux/ppc64le/power9", "ppc64le/power9le", "-mcpu=power9"),
        ("ppc64le", None, "linux/ppc64le", None, "-mcpu=powerpc64le"),
        ("riscv64", None, "linux/riscv64", None, "-march=rv64gc"),
        ("sparc", None, None, None, None),
    ],
)  # fmt: skip
def test_a_cpu_in_every_spelling(
    name: str, level: str | None, oci: str | None, eessi: str | None, gcc: str | None
) -> None:
    one = cpu(name)
    assert spellings.psabi_level(one) == level
    assert spellings.oci_platform(one) == oci
    assert spellings.eessi_path(one) == eessi
    assert spellings.gcc_option(one) == gcc


@pytest.mark.parametrize("name", sorted(vocabulary.load("cpu")["targets"]))
def test_what_we_write_we_read(name: str) -> None:
    """Each spelling of a CPU, read back, is a target that the CPU runs."""
    one = cpu(name)
    platform, path = spellings.oci_platform(one), spellings.eessi_path(one)
    if platform and one.family in ("x86_64", "aarch64", "ppc64le"):
        target = vocabulary.cpu_target(platform)
        assert target
        assert one.runs(cpu(target)), platform
    if path:
        target = vocabulary.cpu_target(path)
        assert target
        assert one.runs(cpu(target)), path
    option = spellings.gcc_option(one)
    assert option is None or re.fullmatch(r"-m(arch|cpu)=[\w.+-]+", option)


@pytest.mark.parametrize(
    ("feature", "name", "eessi", "compiler"),
    [
        ("sm=80", "sm_80", "accel/nvidia/cc80", "-gencode arch=compute_80,code=sm_80"),
        ("sm_90", "sm_90", "accel/nvidia/cc90", "-gencode arch=compute_90,code=sm_90"),
        ("sm120", "sm_120", "accel/nvidia/cc120", "-gencode arch=compute_120,code=sm_120"),
        ("gfx90a", "gfx90a", "accel/amd/gfx90a", "--offload-arch=gfx90a"),
        ("GFX1030", "gfx1030", "accel/amd/gfx1030", "--offload-arch=gfx1030"),
    ],
)
def test_an_accelerator_in_every_spelling(
    feature: str, name: str, eessi: str, compiler: str
) -> None:
    found = spellings.accelerator(feature)
    assert found
    assert (found.name, found.eessi, found.compiler) == (name, eessi, compiler)


@pytest.mark.parametrize(
    "feature", ["", "sm", "sm=8", "sm=80x", "small", "gfx", "gfx9", "nvidia", "gfx90a;id", "s" * 99]
)
def test_no_accelerator(feature: str) -> None:
    assert spellings.accelerator(feature) is None


def nodes(name: str, *features: str) -> NodeClass:
    return NodeClass(name, 1, features)


def test_what_there_is_is_listed_once() -> None:
    found = archs.read(
        [
            nodes("a1", "x86_64", "x86_64_v3", "zen2", "zen3", "sm=80", "nvidia"),
            nodes("a2", "zen3"),
            nodes("a3", "zen3", "sm=80", "sm=90"),
            nodes("b1", "neoverse_v1"),
            nodes("b2", "x86_64_v3"),
            nodes("c1", "s390x"),
            nodes("d1", "bigmem"),
            nodes("d2", "x86_64", "aarch64"),
            nodes("d3", "sm=70"),
        ]
    )
    assert [(c.name, on.nodes, on.node_count) for c, on in found.cpus] == [
        ("neoverse_v1", "b1", 1),
        ("s390x", "c1", 1),
        ("x86_64_v3", "b2", 1),
        ("zen3", "a[1-3]", 3),
    ]
    assert [(a.name, on.nodes) for a, on in found.accelerators] == [
        ("sm_70", "d3"),
        ("sm_80", "a[1,3]"),
        ("sm_90", "a3"),
    ]
    assert [(t.cpu.name, t.accelerator and t.accelerator.name) for t in found.targets] == [
        ("neoverse_v1", None),
        ("s390x", None),
        ("x86_64_v3", None),
        ("zen3", None),
        ("zen3", "sm_80"),
        ("zen3", "sm_90"),
    ]
    assert found.unknown == archs.Nodes("d[1-3]", 3)


def test_an_empty_cluster_has_nothing() -> None:
    assert archs.read([]) == archs.Archs((), (), (), archs.Nodes("", 0))


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (("zen4", "x86_64_v4"), ["zen4"]),
        (("zen3", "x86_64_v4"), ["zen3"]),  # a machine says more than a level
        (("zen3", "icelake"), ["icelake", "zen3"]),
        (("milan",), []),  # a city, unless an architecture is named, too
        (("x86_64", "milan"), ["zen3"]),
        (("znver4",), ["zen4"]),
        ((), []),
    ],
)
def test_the_cpus_that_features_name(features: tuple[str, ...], names: list[str]) -> None:
    assert [c.name for c in archs.cpus_of(features)] == names


@pytest.mark.parametrize(
    ("features", "shown"),
    [
        ("x86_64,x86_64_v2,x86_64_v3,zen,zen2,zen3,ib", "zen3,ib"),
        ("ib,zen3,zen2", "ib,zen3"),
        ("x86_64,bigmem", "x86_64,bigmem"),
        ("x86_64_v4,zen3,zen2", "x86_64_v4,zen3"),
        ("znver4,zen4,x86_64", "znver4,zen4"),
        ("a,b", "a,b"),
        ("", ""),
    ],
)
def test_features_that_others_imply_are_left_out(features: str, shown: str) -> None:
    assert ",".join(archs.telling(features.split(","))) == shown
