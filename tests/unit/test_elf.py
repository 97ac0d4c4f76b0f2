"""ELF files: read as readelf reads them, and harmless when they are damaged."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest
from elf_files import GLIBC, MACHINES, elf

from slurm_cmeta.evidence import elf as elf_module
from slurm_cmeta.evidence import ldcache
from slurm_cmeta.evidence.elf import Elf, open_elf


def opened(data: bytes) -> Elf:
    found = open_elf(lambda offset, size: data[offset : offset + size], len(data))
    assert found is not None
    return found


@pytest.mark.parametrize("family", MACHINES)
def test_every_machine_word_size_and_byte_order(family: str) -> None:
    read = opened(
        elf(
            family,
            interpreter="/lib/ld.so.1",
            needed=("libm.so.6", "libc.so.6"),
            soname="libown.so.1",
            runpath="/opt/x/lib:$ORIGIN/../lib",
            kernel=(3, 7, 0),
            alignment=0x10000,
            asked={"libc.so.6": ("GLIBC_2.17", "GLIBC_2.34"), "libm.so.6": ("GLIBC_2.29",)},
            defined=("libown.so.1", "OWN_1.0", "OWN_1.1"),
            sections={".text": b"code", ".nv_fatbin": b"x" * 10},
        )
    )
    assert read.family == family
    assert read.bits == MACHINES[family][1]
    assert read.interpreter == "/lib/ld.so.1"
    assert read.needed == ("libm.so.6", "libc.so.6")
    assert read.soname == "libown.so.1"
    assert read.runpath == ("/opt/x/lib", "$ORIGIN/../lib")
    assert read.rpath == ()
    assert read.kernel == "3.7.0"
    assert read.alignment == 0x10000
    assert read.versions_needed == {
        "libc.so.6": ("GLIBC_2.17", "GLIBC_2.34"),
        "libm.so.6": ("GLIBC_2.29",),
    }
    assert read.versions_defined == ("OWN_1.0", "OWN_1.1")
    assert read.sections()[".nv_fatbin"].size == 10
    assert read.is_dynamic


def test_isa_note() -> None:
    assert opened(elf(isa=7, kernel=(3, 2, 0))).isa_needed == 7
    assert opened(elf()).isa_needed == 0


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"\x7fELF" + bytes(60), b"MZ" * 60, b"#!/bin/sh\n" * 9]
)
def test_what_is_none(data: bytes) -> None:
    assert open_elf(lambda offset, size: data[offset : offset + size], len(data)) is None


def readelf(path: Path, *options: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed (Debian: binutils)")
    words = ("readelf", "-W", *options, str(path))
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


REAL = ("/bin/sh", "/usr/bin/python3", "/lib64/ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6")


@pytest.mark.parametrize("name", REAL)
def test_real_files_as_readelf_has_them(name: str) -> None:
    places = (name, f"/lib/x86_64-linux-gnu/{name}", f"/usr/lib64/{name}")
    path = next((Path(p).resolve() for p in places if Path(p).is_file()), None)
    if path is None:
        pytest.skip(f"no {name} here")
    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        found = open_elf(read, path.stat().st_size)
        assert found is not None
        dynamic = readelf(path, "-d")
        assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
        assert [found.soname] == (re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) or [""])
        versions = readelf(path, "-V")
        needed = versions.partition("Version needs section")[2]
        asked = {version for names in found.versions_needed.values() for version in names}
        assert asked == set(re.findall(r"Name: (\S+)  Flags: \S+  Version: \d+", needed))
        notes = readelf(path, "-n")
        assert ([found.kernel] if found.kernel else []) == re.findall(r"ABI: (\S+)", notes)
        loads = re.findall(r"LOAD .* (0x\w+)$", readelf(path, "-l"), re.MULTILINE)
        assert found.alignment == max(int(value, 16) for value in loads)
        named = set(
            re.findall(r"^  \[ *\d+\] ([.\w]\S*) +[A-Z]", readelf(path, "-S"), re.MULTILINE)
        )
        assert set(found.sections()) - {""} == named


def touch_all(data: bytes) -> None:
    found = open_elf(lambda offset, size: data[max(offset, 0) : offset + size], len(data))
    if found is not None:
        _ = (found.needed, found.soname, found.rpath, found.runpath, found.versions_needed)
        _ = (found.versions_defined, found.sections(), found.is_dynamic)


RICH = elf(
    interpreter="/lib/ld.so.1",
    needed=("a", "b"),
    soname="c",
    kernel=(1, 2, 3),
    isa=3,
    asked={"libc.so.6": ("GLIBC_2.17", "GLIBC_2.34")},
    defined=("c", "V1", "V2"),
    sections={".text": b"x"},
)


def test_every_truncation() -> None:
    for size in range(len(RICH)):
        touch_all(RICH[:size])


@pytest.mark.parametrize("width", [2, 8])
def test_every_field_at_the_extremes(width: int) -> None:
    extremes = (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1)
    for place in range(0, len(RICH) - width, width):
        for value in extremes:
            data = bytearray(RICH)
            data[place : place + width] = value.to_bytes(width, "little")
            touch_all(bytes(data))


def test_random_bytes() -> None:
    chance = random.Random(3)  # noqa: S311
    for _ in range(3000):
        data = bytearray(RICH)
        for _ in range(chance.randrange(1, 9)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        touch_all(bytes(data))


def test_no_read_is_larger_than_its_bound() -> None:
    """Whatever sizes a file states, and however large it is, a read of it is bounded."""
    chance = random.Random(4)  # noqa: S311
    sizes = []

    def read(offset: int, size: int) -> bytes:
        sizes.append(size)
        return data[offset : offset + size]

    for _ in range(2000):
        mutated = bytearray(RICH)
        for _ in range(3):
            place = chance.randrange(64, len(RICH) - 8)
            mutated[place : place + 8] = chance.choice((b"\xff" * 7 + b"\x0f", bytes(8)))
        data = bytes(mutated)
        found = open_elf(read, 1 << 40)
        if found is not None:
            _ = (found.needed, found.versions_needed, found.versions_defined, found.sections())
    assert max(sizes) <= elf_module.MAX_STRINGS


def test_versions_that_point_to_each_other_cost_little() -> None:
    """Every library's versions are the same chain: they are counted once for the whole file."""
    asked = {f"l{number}": ("V",) for number in range(3000)}
    data = bytearray(elf(asked=asked))
    found = opened(bytes(data))
    table = found._offset(found._tags()[0x6FFFFFFE][0])
    for number in range(3000):
        struct.pack_into("<H", data, table + number * 32 + 2, 0xFFFF)  # count
        struct.pack_into("<I", data, table + number * 32 + 16 + 12, 32)  # next
    begun = time.process_time()
    assert sum(map(len, opened(bytes(data)).versions_needed.values())) <= elf_module.MAX_ENTRIES
    assert time.process_time() - begun < 2  # it took 26 s


def test_a_search_path_of_a_megabyte() -> None:
    found = opened(elf(runpath="/x:" * 300_000))
    assert len(found.runpath) == elf_module.MAX_DIRECTORIES


def test_the_loader_cache_as_ldconfig_has_it() -> None:
    ldconfig = shutil.which("ldconfig", path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    cache = Path(ldcache.PATH)
    if ldconfig is None or not cache.is_file():
        pytest.skip("no ldconfig or no ld.so.cache here")
    done = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True)
    rows = re.findall(r"^\t(\S+) \((.*)\) => (\S+)$", done.stdout, re.MULTILINE)
    expected: dict[str, str] = {}
    for name, kind, path in rows:
        if "hwcap" not in kind:
            expected.setdefault(name, path)
    assert ldcache.read(cache.read_bytes()) == expected
    assert expected


def test_a_damaged_loader_cache() -> None:
    cache = Path(ldcache.PATH)
    if not cache.is_file():
        pytest.skip("no ld.so.cache here")
    data = cache.read_bytes()[:6000]
    chance = random.Random(5)  # noqa: S311
    assert ldcache.read(b"") == ldcache.read(b"x" * 100) == {}
    for size in range(0, len(data), 7):
        ldcache.read(data[:size])
    for _ in range(500):
        mutated = bytearray(data)
        mutated[chance.randrange(len(data))] = chance.randrange(256)
        ldcache.read(bytes(mutated))


def test_the_libc_of_the_tests_is_one() -> None:
    assert opened(GLIBC).versions_defined == ("GLIBC_2.2.5", "GLIBC_2.36", "GLIBC_PRIVATE")
