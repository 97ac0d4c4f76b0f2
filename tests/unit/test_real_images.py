"""Images made of real Debian packages and of programs that gcc compiled: what they need.

The packages lie where packages.sh puts them (`make test` does); each image is a squashfs in a SIF.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sif_files import ARCH, build, metadata, need_tools, partition, run

from slurm_cmeta import config
from slurm_cmeta.image.filetree import deep_budget, quick_budget
from slurm_cmeta.submission import ImageReport, read_image

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import images

TRIPLETS = {
    "amd64": "x86_64-linux-gnu",
    "arm64": "aarch64-linux-gnu",
    "ppc64el": "powerpc64le-linux-gnu",
    "riscv64": "riscv64-linux-gnu",
}
SIF_ARCH = {**ARCH, "ppc64el": ARCH["ppc64le"]}
MARCHES = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "znver3", "sapphirerapids", "bdver4")


class Maker:
    """Makes an image of files of a Debian architecture."""

    def __init__(self, work: Path, architecture: str) -> None:
        need_tools()
        self.source = images.PACKAGES / architecture
        if not (self.source / "usr/bin/dash").is_file():
            pytest.skip(f"no packages of {architecture} here (tests/tools/packages.sh)")
        self.architecture = architecture
        self.work = work
        self.tree = work / "tree"
        self.lib = Path("usr/lib") / TRIPLETS[architecture]
        for directory in ("usr/bin", "usr/lib64", "etc", "tmp", str(self.lib)):
            (self.tree / directory).mkdir(parents=True)
        for name in ("bin", "lib", "lib64"):
            (self.tree / name).symlink_to(f"usr/{name}")

    def add(self, *patterns: str, to: str = "") -> Maker:
        """Copy what these patterns find below the packages, links as links."""
        for pattern in patterns:
            found = sorted(self.source.glob(pattern))
            if not found:
                pytest.skip(f"{pattern} is not among the packages of this Debian")
            for path in found:
                target = self.tree / (Path(to) / path.name if to else path.relative_to(self.source))
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir() and not path.is_symlink():
                    shutil.copytree(path, target, symlinks=True, dirs_exist_ok=True)
                else:
                    shutil.copy2(path, target, follow_symlinks=False)
        return self

    def system(self) -> Maker:
        """A shell and the C library, as every image has."""
        self.add("usr/bin/dash", f"{self.lib}/libc.so.6", f"{self.lib}/ld*.so.*")
        if self.architecture == "amd64":
            self.add("usr/lib64/ld-linux-x86-64.so.2", "etc/ld.so.cache")
        elif self.architecture == "ppc64el":
            self.add("usr/lib64/ld64.so.*")
        else:
            self.add("usr/lib/ld-linux-*.so.1")
        (self.tree / "usr/bin/sh").symlink_to("dash")
        return self

    def read(self, *, deep: bool = False) -> ImageReport:
        squashfs = self.work / "root.squashfs"
        run(
            "mksquashfs",
            self.tree,
            squashfs,
            "-noappend",
            "-quiet",
            "-no-progress",
            "-comp",
            "zstd",
        )
        path = self.work / "img.sif"
        code = SIF_ARCH[self.architecture]
        path.write_bytes(
            build(metadata({}), partition(code, data=squashfs.read_bytes()), arch=code)
        )
        budget = deep_budget() if deep else quick_budget()
        return read_image(str(path), config.defaults(), budget)


@pytest.fixture
def maker(tmp_path: Path) -> Callable[[str], Maker]:
    return lambda architecture: Maker(tmp_path, architecture)


def needs(report: ImageReport) -> dict[str, tuple[str, str, str]]:
    return {r.key: (r.op, r.value, r.strength) for r in report.requirements}


def values(report: ImageReport, key: str) -> list[str]:
    return [fact.value for fact in report.facts if fact.key == key]


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("amd64", "x86_64"), ("arm64", "aarch64"), ("ppc64el", "ppc64le"), ("riscv64", "riscv64")],
)
def test_a_small_system_of_each_architecture(
    maker: Callable[[str], Maker], architecture: str, family: str
) -> None:
    report = maker(architecture).system().read()
    assert report.warnings == []
    known = needs(report)
    assert known["arch"] == ("=", family, "hard")
    assert known["kernel"][0] == ">="
    assert values(report, "libc") == ["glibc"]
    assert float(values(report, "glibc")[0]) >= 2.36
    assert set(known) == {"arch", "kernel"} | (
        {"page"} if family in ("aarch64", "ppc64le") else set()
    )
    if "page" in known:
        assert known["page"] == ("<=", "65536", "hard")


@pytest.mark.parametrize("architecture", ["amd64", "arm64", "ppc64el", "riscv64"])
def test_a_static_busybox(maker: Callable[[str], Maker], architecture: str) -> None:
    made = maker(architecture).add("usr/bin/busybox")
    (made.tree / "usr/bin/sh").symlink_to("busybox")
    for deep in (False, True):
        report = made.read(deep=deep)
        # archspec knows no names for the parts of RISC-V, so that a deep look has to pass.
        assert [w for w in report.warnings if "RISC-V" not in w] == []
        assert set(needs(report)) <= {"arch", "kernel", "page"}
        assert values(report, "libc") == []


def test_python_needs_no_more_than_the_baseline(maker: Callable[[str], Maker]) -> None:
    made = maker("amd64").system().add("usr/bin/python3.*")
    made.add("usr/bin/python3.*", to="opt/app/bin")  # as an application of its own, to be examined
    report = made.read(deep=True)
    assert report.warnings == []
    assert set(needs(report)) <= {"arch", "kernel"}
    assert int(values(report, "isa.examined")[0]) > 1_000_000


def test_numpy_chooses_at_run_time(maker: Callable[[str], Maker]) -> None:
    made = maker("amd64").system()
    made.add("usr/lib/python3/dist-packages/numpy/*core", to="opt/app/lib/python/numpy")
    report = made.read(deep=True)
    assert report.warnings == []
    # numpy is built for SSE3 at least (numpy's meson options, cpu-baseline); all else is a choice.
    assert needs(report).get("isa", (">=", "sse3", "soft")) == (">=", "sse3", "soft")
    assert "avx2" in values(report, "isa.dispatched")[0].split()


def test_openblas_chooses_at_run_time(maker: Callable[[str], Maker]) -> None:
    made = maker("amd64").system()
    made.add("usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblasp*.so", to="opt/app/lib")
    report = made.read(deep=True)
    assert report.warnings == []
    assert "isa" not in needs(report)
    assert "avx2" in values(report, "isa.dispatched")[0].split()


@pytest.mark.parametrize(
    ("patterns", "family"),
    [
        (("usr/lib/*/libmpi.so.40*", "usr/lib/*/libopen-*.so.40*"), "openmpi"),
        (("usr/lib/*/libmpich.so.12*",), "mpich"),
    ],
)
def test_mpi_libraries(
    maker: Callable[[str], Maker], patterns: tuple[str, ...], family: str
) -> None:
    report = maker("amd64").system().add(*patterns).read()
    assert needs(report)["mpi"] == ("=", family, "soft")
    assert report.warnings == []


def test_pmix_and_fabrics(maker: Callable[[str], Maker]) -> None:
    made = maker("amd64").system()
    made.add("usr/lib/*/libpmix.so.2*", "usr/lib/*/pmix2/lib/libpmix.so.2*")
    made.add("usr/lib/*/libucp.so.0*", "usr/lib/*/libfabric.so.1*")
    report = made.read()
    assert any("pmix" in value for value in values(report, "pmi"))
    assert {"ucx", "libfabric"} <= {v.split()[0] for v in values(report, "fabric")}


def test_gpu_targets_of_rocrand(maker: Callable[[str], Maker]) -> None:
    made = maker("amd64").system().add("usr/lib/*/librocrand.so.1*")
    report = made.read(deep=True)
    (gpu,) = (r for r in report.requirements if r.key == "gpu")
    assert (gpu.value, gpu.strength) == ("amd", "soft")
    (targets,) = (r for r in report.requirements if r.key == "gpu.arch")
    named = {targets.value} | {value for ((_, _, value),) in targets.alternatives}
    assert {"gfx906", "gfx90a"} <= {name.split(":")[0] for name in named}


SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
  static float a[4096], b[4096];
  for (int i = 0; i < 4096; i++) { a[i] = i * argc * 0.5f; b[i] = i - argc; }
  float sum = 0;
  for (int k = 0; k < argc; k++)
    for (int i = 0; i < 4096; i++) { a[i] = a[i] * b[i] + sum; sum += a[i] > 9 ? b[i] : 1; }
  printf("%f\n", sum);
  return 0;
}
"""


def compiled(target: Path, *options: str) -> None:
    gcc = shutil.which("gcc")
    if gcc is None or os.uname().machine != "x86_64":
        pytest.skip("gcc for x86_64 is not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [gcc, *options, "-x", "c", "-o", str(target), "-"]
    subprocess.run(command, input=SOURCE, text=True, check=True)


@pytest.mark.parametrize("march", MARCHES)
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_the_instructions_decide_and_not_the_tag(
    maker: Callable[[str], Maker], march: str, level: str
) -> None:
    """As in the published runs: at -O0 a program for sapphirerapids runs nearly anywhere."""
    made = maker("amd64").system()
    compiled(made.tree / "opt/app/bin/app", f"-march={march}", level, "-ffast-math")
    report = made.read(deep=True)
    assert report.warnings == []
    flags = set(needs(report).get("isa", ("", "", ""))[1].split())
    if march in ("x86-64", "x86-64-v2"):
        assert flags <= {"sse3", "ssse3", "sse4_1", "sse4_2", "popcnt"}
    elif level == "-O0":
        assert flags <= {"avx"}  # scalar code in VEX form
    elif march == "bdver4":
        assert "fma4" in flags or "fma" in flags
        assert not any(flag.startswith("avx512") for flag in flags)
    elif march in ("x86-64-v4", "sapphirerapids"):
        assert any(flag.startswith("avx512") for flag in flags)
    else:
        assert {"avx", "fma"} <= flags
        assert not any(flag.startswith("avx512") for flag in flags)


def test_a_declared_target_is_a_wish_once_the_code_was_read(maker: Callable[[str], Maker]) -> None:
    made = maker("amd64").system()
    compiled(made.tree / "opt/app/bin/app", "-march=sapphirerapids", "-O0")
    name = {"name": "app", "arch": {"target": {"name": "sapphirerapids"}}}
    lock = made.tree / "opt/spack-environment/spack.lock"
    lock.parent.mkdir()
    import json

    lock.write_text(json.dumps({"roots": [{"hash": "a"}], "concrete_specs": {"a": name}}))
    assert needs(made.read())["cpu"] == (">=", "sapphirerapids", "hard")
    assert needs(made.read(deep=True))["cpu"] == (">=", "sapphirerapids", "soft")
