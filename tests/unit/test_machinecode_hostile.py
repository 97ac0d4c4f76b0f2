"""Damaged and malicious machine code: an answer, soon, and never an exception."""

from __future__ import annotations

import importlib.util
import random
import shutil
import struct
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_files import elf

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import cpu_truth
from cpu_truth import Program

from slurm_cmeta.evidence.machinecode import Emitted, elf_code, examine

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("iced_x86"),
    reason="disassembler iced-x86 is not installed: pip install slurm-cmeta[deep]",
)
EXTREMES = (0, 1, 7, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
SOON = 5.0
"""Seconds that no small file may take, with much to spare for a busy machine."""


def survives(data: bytes, family: str = "x86_64") -> Emitted:
    start = time.monotonic()
    emitted = examine(data, family)
    assert time.monotonic() - start < SOON
    assert isinstance(emitted, Emitted)
    assert emitted.examined <= len(data)
    assert emitted.unread.isprintable()
    assert "Error" not in emitted.unread
    assert all(place.isprintable() for place in emitted.needs.values())
    return emitted


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a dynamic program: all structures, little code."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    program = Program("byhand", "haswell", "O2", static=False)
    place = tmp_path_factory.mktemp("hostile")
    return cpu_truth.compile_all([program], place)[program].read_bytes()


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    program = Program("clones", "x86-64", "O2")
    place = tmp_path_factory.mktemp("hostile-static")
    return cpu_truth.compile_all([program], place)[program].read_bytes()


def borders(data: bytes) -> Iterator[int]:
    """Yield where the structures of an ELF file begin and end."""
    yield from (0, 3, 16, 63, 64)
    phoff, shoff = struct.unpack_from("<QQ", data, 32)
    phnum, _, shnum = struct.unpack_from("<HHH", data, 56)
    yield from (phoff + 56 * i for i in range(phnum + 1))
    yield from (shoff + 64 * i for i in range(shnum + 1))
    for at in range(shoff, shoff + 64 * shnum, 64):
        offset, size = struct.unpack_from("<QQ", data, at + 24)
        yield from (offset, offset + size)


def test_truncated(small: bytes) -> None:
    for border in set(borders(small)):
        for at in {max(0, border - 1), border, border + 1}:
            survives(small[:at])


def test_every_number_of_the_headers_at_its_extremes(small: bytes) -> None:
    phoff, shoff = struct.unpack_from("<QQ", small, 32)
    phnum, _, shnum = struct.unpack_from("<HHH", small, 56)
    places = [(at, "<H") for at in (16, 18, 52, 54, 56, 58, 60, 62)]
    places += [(at, "<Q") for at in (24, 32, 40)]
    for header in range(phoff, phoff + 56 * phnum, 56):
        places += [(header, "<I"), (header + 4, "<I")]
        places += [(header + at, "<Q") for at in (8, 16, 32, 40)]
    for header in range(shoff, shoff + 64 * shnum, 64):
        places += [(header + at, "<I") for at in (0, 4, 40)]
        places += [(header + at, "<Q") for at in (8, 16, 24, 32)]
    for at, form in places:
        for value in EXTREMES:
            data = bytearray(small)
            limit = (1 << 8 * struct.calcsize(form)) - 1
            struct.pack_into(form, data, at, value & limit)
            survives(bytes(data))


@pytest.mark.parametrize("seed", range(150))
def test_flipped(small: bytes, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    data = bytearray(small)
    for _ in range(chance.choice((1, 3, 30, 300))):
        data[chance.randrange(64, len(data))] = chance.randrange(256)
    survives(bytes(data))


@pytest.mark.parametrize("seed", range(8))
def test_flipped_in_a_static_program(static: bytes, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    data = bytearray(static)
    for _ in range(2000):
        data[chance.randrange(64, len(data))] = chance.randrange(256)
    survives(bytes(data))


@pytest.mark.parametrize("family", ["aarch64", "ppc64le", "riscv64"])
def test_another_machine_in_the_header(small: bytes, family: str) -> None:
    machine = next(number for number, name in elf_code.MACHINES.items() if name == family)
    data = bytearray(small)
    struct.pack_into("<H", data, 18, machine)
    survives(bytes(data), family)
    for seed in range(20):
        chance = random.Random(seed)  # noqa: S311
        for _ in range(50):
            data[chance.randrange(64, len(data))] = chance.randrange(256)
        struct.pack_into("<H", data, 18, machine)
        survives(bytes(data), family)


@pytest.mark.parametrize("seed", range(4))
def test_noise_as_code(seed: int) -> None:
    noise = random.Random(seed).randbytes(200_000)  # noqa: S311
    survives(elf("x86_64", noise, [("f", 0, len(noise))]))
    # With no functions told, nothing is to be seen where nothing leads to.
    emitted = survives(elf("x86_64", b"\xc3" + noise, []))
    assert not emitted.needs


def test_one_byte_branches_everywhere() -> None:
    """Most blocks, most calls: no time beyond what a real file of that size takes."""
    survives(elf("x86_64", b"\x0f\xa2" + b"\x75\x00" * 60_000 + b"\xc3", [("f", 0, 120_003)]))
    calls = b"".join(b"\xe8" + struct.pack("<i", -5 * i) for i in range(20_000))
    survives(elf("x86_64", b"\x0f\xa2" + calls, [("f", 0, 2)]))


def test_overlapping_functions() -> None:
    code = b"\x0f\xa2" + b"\x90" * 60_000 + b"\xc3"
    survives(elf("x86_64", code, [(f"f{i}", i, 1 << 40) for i in range(0, 60_000, 2)]))


def test_memory(static: bytes) -> None:
    survives(static)
    tracemalloc.start()
    examine(static, "x86_64")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_the_view_is_given_back(small: bytes) -> None:
    data = bytearray(small)
    examine(memoryview(data), "x86_64")
    data.append(0)  # fails while anybody still looks at the buffer
