"""CUDA code objects: those that a real nvcc writes, and those that an enemy would."""

from __future__ import annotations

import random
import struct
import sys
import time
from pathlib import Path

import gpu_files
import pytest
from gpu_files import entry, fatbin, reader
from subjects import examined, gpu_facts

from slurm_cmeta.evidence import fatbin as subject
from slurm_cmeta.evidence.codeobject import QUICK_READS, Found
from slurm_cmeta.facts import OBSERVED, Fact

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import cuda_compiler


def look(data: bytes, reads: int = 1000) -> Found:
    return subject.targets(reader(data), 0, len(data), reads)


@pytest.fixture(scope="module")
def nvcc() -> str:
    found = cuda_compiler.find()
    if found is None:
        pytest.skip("nvcc is not installed")
    if not cuda_compiler.supports(found, "compute_80", "compute_90", "compute_100"):
        pytest.skip("nvcc is too old: CUDA 12.8 is needed for family-specific targets")
    return found


GENERATED = ("80:sm_80", "90a:sm_90a", "100f:sm_100f", "90:compute_90", "90a:compute_90a")
NAMES = frozenset(pair.split(":")[1] for pair in GENERATED)


def options(*pairs: str) -> list[str]:
    return [f"-gencode=arch=compute_{a},code={code}" for a, code in (p.split(":") for p in pairs)]


@pytest.mark.parametrize(
    "compression", [(), ("--no-compress",), ("-Xfatbin", "-compress-all")], ids=" ".join
)
@pytest.mark.parametrize(
    "kind", [("-shared", "-Xcompiler", "-fPIC"), ("-DPROGRAM",), ("-DPROGRAM", "-rdc=true")]
)
def test_what_nvcc_links(
    nvcc: str, tmp_path: Path, compression: tuple[str, ...], kind: tuple[str, ...]
) -> None:
    path = tmp_path / "out"
    cuda_compiler.compile_cuda(nvcc, path, *options(*GENERATED), *kind, *compression)
    data = path.read_bytes()
    found: set[str] = set()
    for name, (offset, size) in gpu_files.sections(data).items():
        if name in subject.SECTIONS:
            answer = subject.targets(reader(data), offset, size, QUICK_READS)
            assert answer.complete
            found |= answer.targets
    # Relocatable device code has no PTX beside machine code of the same target.
    assert NAMES - {"compute_90a"} <= found <= NAMES


def test_what_nvcc_leaves_in_an_object_and_in_a_fatbin(nvcc: str, tmp_path: Path) -> None:
    pairs = ("80:sm_80", "90:sm_90", "90:compute_90")
    path = cuda_compiler.compile_cuda(nvcc, tmp_path / "a.o", "-dc", *options(*pairs))
    data = path.read_bytes()
    offset, size = gpu_files.sections(data)["__nv_relfatbin"]
    wanted = Found(frozenset(("sm_80", "sm_90", "compute_90")))
    assert subject.targets(reader(data), offset, size) == wanted
    path = cuda_compiler.compile_cuda(nvcc, tmp_path / "a.fatbin", "-fatbin", *options(*pairs))
    assert look(path.read_bytes()) == wanted


@pytest.mark.parametrize("number", [80, 90, 100])
def test_a_cubin_of_nvcc(nvcc: str, tmp_path: Path, number: int) -> None:
    path = cuda_compiler.compile_cuda(nvcc, tmp_path / "a.cubin", "-cubin", f"-arch=sm_{number}")
    assert subject.cubin(path.read_bytes()[:64]) == f"sm_{number}"


def test_a_program_of_nvcc(nvcc: str, tmp_path: Path) -> None:
    """From the file to the fact, with no library that would tell of a GPU."""
    targets = options("80:sm_80", "90:[sm_90,compute_90]")
    data = cuda_compiler.compile_cuda(nvcc, tmp_path / "app", "-DPROGRAM", *targets).read_bytes()
    image = examined({"NVIDIA_REQUIRE_CUDA": "cuda>=12.2"}, program=data)
    alternatives = ((("gpu.arch", "=", "sm_90"),), (("gpu.arch", ">=", "compute_90"),))
    assert gpu_facts(image, "gpu.arch") == [
        Fact("gpu.arch", "sm_80", "code in /app", OBSERVED, False, "=", alternatives)
    ]


def elf_head(machine: int, abi: int, flags: int) -> bytes:
    ident = b"\x7fELF\x02\x01\x01\x33" + bytes((abi,)) + bytes(7)
    return (ident + struct.pack("<HHIQQQI", 2, machine, 1, 0, 0, 0, flags)).ljust(64, b"\0")


@pytest.mark.parametrize(
    ("head", "target"),
    [
        (elf_head(190, 7, 0x00500550), "sm_80"),
        (elf_head(190, 7, 0x005A0D5A), "sm_90a"),
        (elf_head(190, 8, 0x06005A04), "sm_90"),
        (elf_head(190, 8, 0x06007902), "sm_121"),
        (elf_head(62, 7, 0x00500550), ""),
        (elf_head(190, 7, 0), ""),
        (elf_head(190, 7, 0x00500550)[:40], ""),
        (b"", ""),
    ],
)
def test_a_cubin_is_told_by_its_header(head: bytes, target: str) -> None:
    assert subject.cubin(head) == target


@pytest.mark.parametrize(
    ("data", "targets"),
    [
        (fatbin(entry(2, 70), entry(2, 80), entry(1, 90)), {"sm_70", "sm_80", "compute_90"}),
        (
            fatbin(entry(2, 90, flags=0x108011), entry(1, 120, flags=0x208011)),
            {"sm_90a", "compute_120f"},
        ),
        (fatbin(entry(2, 35)) + fatbin(entry(1, 50, header=112)), {"sm_35", "compute_50"}),
        (fatbin(entry(8, 80), entry(64, 0), entry(2, 75)), {"sm_75"}),
        (fatbin(entry(2, 75)) + bytes(24) + fatbin(entry(2, 80)) + bytes(100), {"sm_75", "sm_80"}),
        (fatbin(entry(2, 75, b"x" * 100_000), entry(2, 80)), {"sm_75", "sm_80"}),
        (fatbin(), set()),
        (b"", set()),
        (bytes(2000), set()),
    ],
)
def test_what_is_whole(data: bytes, targets: set[str]) -> None:
    assert look(data) == Found(frozenset(targets))


HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("data", "targets"),
    [
        (fatbin(entry(2, 80), size=HUGE), {"sm_80"}),
        (fatbin(entry(2, 80, size=HUGE), entry(2, 90)), {"sm_80"}),
        (fatbin(entry(2, 80), entry(2, 90, header=64)[:48] + b"\0" * 16, header=0), set()),
        (fatbin(entry(2, 80), header=15), set()),
        (fatbin(entry(2, 80), entry(2, 90)[:4] + bytes(60)), {"sm_80"}),
        (fatbin(entry(2, 80), entry(2, 0xFFFFFFFF)), {"sm_80"}),
        (fatbin(entry(2, 80), entry(1, 0)), {"sm_80"}),
        (fatbin(entry(2, 80)) + b"rubbish, and much of it" * 500, {"sm_80"}),
        (b"\xff" * 5000, set()),
        (bytes(10_000), set()),
    ],
)
def test_what_is_not_whole_says_so(data: bytes, targets: set[str]) -> None:
    assert look(data) == Found(frozenset(targets), False)


def test_a_section_that_is_not_in_the_file() -> None:
    data = fatbin(entry(2, 80))
    for offset, size in ((HUGE, 100), (0, HUGE), (len(data), 5000), (8, HUGE)):
        assert not subject.targets(reader(data), offset, size).complete
    assert subject.targets(lambda o, s: b"", 0, HUGE) == Found(frozenset(), False)


@pytest.mark.parametrize("apart", [False, True])
def test_reads_are_bounded(apart: bool) -> None:
    entries = [entry(2, 50 + n % 40, b"x" * 5000) for n in range(300)]
    data = b"".join(map(fatbin, entries)) if apart else fatbin(*entries)
    calls: list[int] = []
    answer = subject.targets(reader(data, calls), 0, len(data), QUICK_READS)
    assert not answer.complete
    assert "sm_50" in answer.targets
    assert len(calls) <= QUICK_READS


@pytest.mark.parametrize("data", [fatbin(), fatbin(entry(2, 80, b"")), bytes(8), b"\1" * 8])
def test_endless_repetition_ends(data: bytes) -> None:
    """Whatever a section of 2**64 bytes repeats, the look at it ends."""

    def read(offset: int, size: int) -> bytes:
        return (data * (size // len(data) + 2))[offset % len(data) :][:size]

    start = time.monotonic()
    assert not subject.targets(read, 0, HUGE).complete
    assert time.monotonic() - start < 10


def test_mutations_never_raise() -> None:
    whole = fatbin(entry(2, 80), entry(1, 90), entry(8, 75)) + fatbin(entry(2, 100, header=96))
    for length in range(len(whole)):
        look(whole[:length])
    for offset in range(len(whole)):
        for value in (b"\0", b"\xff" * 8, b"\x7f", b"\x80" + bytes(7)):
            look(whole[:offset] + value + whole[offset + len(value) :])
    rng = random.Random(7)  # noqa: S311
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        answer = look(bytes(data))
        assert len(answer.targets) <= 4
