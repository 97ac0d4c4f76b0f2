"""Which MPI families a node's own libraries offer, from replayed machines."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
from elf_files import elf
from net_hosts import Files, Link, ask, build, of, why

from slurm_cmeta.node import Found, mpi
from slurm_cmeta.node.host import Host

LOCAL = {"/proc/mounts": "/dev/sda2 / ext4 rw,relatime 0 0\n"}
LIB = "/usr/lib/x86_64-linux-gnu"
PACKAGES = os.environ.get("CMETA_TEST_PACKAGES", "/opt/packages/amd64")
"""Where the tests' image has Debian packages unpacked (test_mpi.py)."""

ELF = elf(soname="libmpi.so.40")


def ld_cache(libraries: dict[str, str]) -> bytes:
    """Return an ld.so.cache as glibc 2.32 and later write it (sysdeps/generic/dl-cache.h)."""
    strings = b""
    entries = b""
    start = 48 + 24 * len(libraries)
    for name, path in libraries.items():
        at = start + len(strings)
        strings += name.encode() + b"\0" + path.encode() + b"\0"
        entries += struct.pack("<iIIIQ", 0x0303, at, at + len(name) + 1, 0, 0)
    head = b"glibc-ld.so.cache1.1" + struct.pack("<II", len(libraries), len(strings))
    return head.ljust(48, b"\0") + entries + strings


def library(path: str, real: str, content: bytes = ELF) -> dict[str, str | bytes | Link | None]:
    """Return a library as packages install it: the soname is a link to the real file."""
    return {path: Link(real), f"{path.rpartition('/')[0]}/{real}": content}


DEBIAN_12 = {
    **LOCAL,
    "/etc/ld.so.cache": ld_cache(
        {
            "libmpi.so.40": f"{LIB}/libmpi.so.40",
            "libmpich.so.12": f"{LIB}/libmpich.so.12",
            "libc.so.6": f"{LIB}/libc.so.6",
        }
    ),
    f"{LIB}/libmpi.so.40": Link("openmpi/lib/libmpi.so.40.30.4"),
    f"{LIB}/openmpi/lib/libmpi.so.40": Link("libmpi.so.40.30.4"),
    f"{LIB}/openmpi/lib/libmpi.so.40.30.4": ELF,
    **library(f"{LIB}/libmpich.so.12", "libmpich.so.12.2.2"),
}
"""Packages libopenmpi3 4.1.4-3 and libmpich12 4.0.2-3."""

ROCKY_9 = {
    **LOCAL,
    "/etc/ld.so.cache": ld_cache({"libc.so.6": "/lib64/libc.so.6"}),
    **library("/usr/lib64/openmpi/lib/libmpi.so.40", "libmpi.so.40.30.1"),
    **library("/usr/lib64/mpich/lib/libmpi.so.12", "libmpi.so.12.2.2"),
}
"""Packages openmpi and mpich, which `module load mpi/...` brings; not in the loader's cache."""

CRAY = {
    **LOCAL,
    **library(
        "/opt/cray/pe/mpich/8.1.29/ofi/gnu/12.3/lib/libmpi_gnu_91.so.12", "libmpi_gnu_91.so.12.0.0"
    ),
    "/opt/cray/pe/mpich/8.1.29/ofi/gnu/12.3/lib-abi-mpich/libmpi.so.12": Link(
        "../lib/libmpi_gnu_91.so.12.0.0"
    ),
}
"""HPE Cray PE on a local disk; names from general knowledge."""

INTEL = {
    **LOCAL,
    "/opt/intel/oneapi/mpi/latest": Link("2021.12"),
    **library("/opt/intel/oneapi/mpi/2021.12/lib/libmpi.so.12", "libmpi.so.12.0.0"),
}
OPENHPC = {
    **LOCAL,
    **library("/opt/ohpc/pub/mpi/openmpi4-gnu12/4.1.6/lib/libmpi.so.40", "libmpi.so.40.30.6"),
    **library("/opt/ohpc/pub/mpi/mvapich2-gnu12/2.3.7/lib/libmpi.so.12", "libmpi.so.12.1.1"),
}


@pytest.mark.parametrize(
    ("files", "families", "versions"),
    [
        (
            DEBIAN_12,
            ["openmpi", "mpich"],
            [f"Open MPI 4.1.4 ({LIB}/libmpi.so.40)", f"MPICH 4.0.2 ({LIB}/libmpich.so.12)"],
        ),
        (
            ROCKY_9,
            ["openmpi", "mpich"],
            [
                "Open MPI 4.1.1 (/usr/lib64/openmpi/lib/libmpi.so.40)",
                "MPICH 4.0.2 (/usr/lib64/mpich/lib/libmpi.so.12)",
            ],
        ),
        (
            CRAY,
            ["mpich"],
            ["Cray MPICH 8.1.29 (/opt/cray/pe/mpich/8.1.29/ofi/gnu/12.3/lib/libmpi_gnu_91.so.12)"],
        ),
        (
            INTEL,
            ["mpich"],
            ["Intel MPI 2021.12 (/opt/intel/oneapi/mpi/2021.12/lib/libmpi.so.12)"],
        ),
        (
            OPENHPC,
            ["mpich", "openmpi"],
            [
                "MVAPICH 2.3.7 (/opt/ohpc/pub/mpi/mvapich2-gnu12/2.3.7/lib/libmpi.so.12)",
                "Open MPI 4.1.6 (/opt/ohpc/pub/mpi/openmpi4-gnu12/4.1.6/lib/libmpi.so.40)",
            ],
        ),
        (
            {**LOCAL, "/usr/local/lib/libmpi_abi.so.1": ELF, "/usr/local/lib/libmpi.so.12": ELF},
            ["mpich", "mpi-abi"],
            [
                "MPICH ABI (/usr/local/lib/libmpi.so.12)",
                "MPI ABI (/usr/local/lib/libmpi_abi.so.1)",
            ],
        ),
        (  # Open MPI 1.10 has the soname of the MPICH ABI
            {
                **LOCAL,
                **library("/usr/lib64/libmpi.so.12", "libmpi.so.12.0.7"),
                "/usr/lib64/libopen-rte.so.12": ELF,
            },
            ["openmpi"],
            ["Open MPI 1.10.7 (/usr/lib64/libmpi.so.12)"],
        ),
    ],
)
def test_the_families(
    tmp_path: Path, files: Files, families: list[str], versions: list[str]
) -> None:
    found = ask(mpi.probe, build(tmp_path, files))
    assert of(found, "mpi") == families
    assert of(found, "mpi.version") == versions
    assert found.unknown == []


@pytest.mark.skipif(
    not Path(f"{PACKAGES}{LIB}/libmpi.so.40").exists(),
    reason=f"no unpacked Debian packages in {PACKAGES} (libopenmpi3, libmpich12)",
)
def test_the_packages_of_debian() -> None:
    found = ask(mpi.probe, Path(PACKAGES))
    assert "openmpi" in of(found, "mpi")
    assert of(found, "mpi.version")[0].startswith("Open MPI ")


def test_nothing_found_is_unknown_not_none(tmp_path: Path) -> None:
    found = ask(mpi.probe, build(tmp_path, LOCAL))
    assert found.facts == []
    assert "a module may offer one" in why(found, "mpi")
    assert "a module may offer one" in why(found, "mpi.version")


@pytest.mark.parametrize(
    ("mounted", "type", "seen"),
    [
        ("/opt/ohpc/pub", "nfs4", False),
        ("/opt", "autofs", False),
        ("/opt/ohpc", "lustre", False),
        ("/opt/ohpc/pub/mpi/openmpi4-gnu12", "fuse.sshfs", True),  # the other family is elsewhere
        ("/opt", "xfs", True),
        ("/", "nfs4", True),  # a node without disk
        ("/usr", "nfs", True),
    ],
)
def test_network_file_systems_are_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: str, type: str, seen: bool
) -> None:
    mount = f"server:/x {mounted} {type} rw 0 0\n"
    files = ROCKY_9 if mounted == "/usr" else OPENHPC
    root = build(tmp_path, {**files, "/proc/mounts": LOCAL["/proc/mounts"] + mount})
    touched: list[str] = []
    outside = Host._outside

    def note(self: Host, path: str) -> str:
        touched.append(path)
        return outside(self, path)

    monkeypatch.setattr(Host, "_outside", note)
    found = ask(mpi.probe, root)
    assert bool(of(found, "mpi")) is seen
    if mounted not in ("/", "/usr") and type != "xfs":
        assert not [path for path in touched if path == mounted or path.startswith(mounted + "/")]
        assert ("openmpi" in of(found, "mpi")) is False
        assert seen or f"{mounted}: not looked at" in why(found, "mpi")


def test_a_link_to_a_network_file_system_is_not_followed(tmp_path: Path) -> None:
    files: Files = {
        "/proc/mounts": LOCAL["/proc/mounts"] + "server:/sw /sw nfs rw 0 0\n",
        "/opt/openmpi": Link("/sw/openmpi"),
        "/sw/openmpi/lib/libmpi.so.40": ELF,
    }
    found = ask(mpi.probe, build(tmp_path, files))
    assert found.facts == []
    assert "/sw: not looked at" in why(found, "mpi")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"/etc/ld.so.cache": b"garbage"}, "/etc/ld.so.cache tells of no library"),
        ({"/etc/ld.so.cache": b""}, "tells of no library"),
        ({"/usr/lib64/libmpi.so.40": b"#!/bin/sh\n"}, "/usr/lib64/libmpi.so.40 is no ELF file"),
        ({"/usr/lib64/libmpi.so.40": b""}, "is no ELF file"),
        ({"/usr/lib64/libmpi.so.40": None}, "libmpi.so.40: Is a directory"),
    ],
)
def test_what_is_damaged_is_said_beside_what_is_found(
    tmp_path: Path, files: Files, words: str
) -> None:
    found = ask(mpi.probe, build(tmp_path, {**ROCKY_9, **files}))
    assert of(found, "mpi") == ["openmpi", "mpich"]
    assert words in why(found, "mpi")


def test_a_cache_that_leads_nowhere_tells_nothing(tmp_path: Path) -> None:
    cache = {"libmpi.so.40": "/gone/libmpi.so.40", "libmpi.so.12": "/usr/lib64/other.so"}
    files: Files = {**LOCAL, "/etc/ld.so.cache": ld_cache(cache), "/usr/lib64/other.so": ELF}
    found = ask(mpi.probe, build(tmp_path, files))
    assert of(found, "mpi.version") == ["MPICH ABI (/usr/lib64/other.so)"]


def test_libraries_of_another_architecture_do_not_count(tmp_path: Path) -> None:
    build(tmp_path, {**ROCKY_9, "/usr/lib64/mpich/lib/libmpi.so.12.2.2": elf("aarch64")})
    found = Found()
    found.fact("arch", "x86_64", "test")
    mpi.probe(Host(str(tmp_path)), found)
    assert of(found, "mpi") == ["openmpi"]


def test_the_number_of_places_is_bounded(tmp_path: Path) -> None:
    files: dict[str, str | bytes | Link | None] = dict(LOCAL)
    for number in range(200):
        files[f"/opt/ohpc/pub/mpi/m{number:03}/lib/libmpi.so.40"] = ELF + bytes([number])
    found = ask(mpi.probe, build(tmp_path, files))
    assert len(of(found, "mpi.version")) == mpi.MAX_LIBRARIES
    look = mpi.Look(Host(str(tmp_path)), None)
    assert len(mpi._expand(look, "/opt/ohpc/pub/mpi/*/lib")) == mpi.MAX_PLACES


def test_a_replayed_machine_needs_no_mounts(tmp_path: Path) -> None:
    files = {path: what for path, what in ROCKY_9.items() if path != "/proc/mounts"}
    assert of(ask(mpi.probe, build(tmp_path, files)), "mpi") == ["openmpi", "mpich"]


def test_random_garbage_in_any_file_raises_nothing(tmp_path: Path) -> None:
    build(tmp_path, {**DEBIAN_12, **INTEL, **CRAY, **OPENHPC})
    chance = random.Random(6)  # noqa: S311
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) == 8
    for file in sorted(files):
        whole = file.read_bytes()
        for size in (0, 1, 60, 5000):
            for head in (b"", whole[:48]):
                file.write_bytes(head + chance.randbytes(size))
                found = Found()
                mpi.probe(Host(str(tmp_path)), found)
                assert all(f.value.isprintable() for f in found.facts)
        file.write_bytes(whole)


def test_the_same_host_gives_the_same_facts_twice(tmp_path: Path) -> None:
    build(tmp_path, {**DEBIAN_12, **OPENHPC, **INTEL})
    assert ask(mpi.probe, tmp_path).facts == ask(mpi.probe, tmp_path).facts


def test_this_machine_is_answered() -> None:
    found = Found()
    mpi.probe(Host(), found)
    assert found.values("mpi") or found.is_unknown("mpi")
