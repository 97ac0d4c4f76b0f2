"""HIP code objects: those of a real library, and those that an enemy would write."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import time

import gpu_files
import pytest
from gpu_files import bundle, compressed, reader, zlib_bundle

from slurm_cmeta.evidence import hip, unpack
from slurm_cmeta.evidence.codeobject import QUICK_READS, Found

HOST = "host-x86_64-unknown-linux--"
MI200 = "hipv4-amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-"
NAMES = [
    HOST,
    MI200,
    "hipv4-amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack+",
    "hip-amdgcn-amd-amdhsa-gfx906",
]
WANTED = frozenset(("gfx90a", "gfx906"))


def look(data: bytes, reads: int = 1000) -> Found:
    return hip.targets(reader(data), 0, len(data), reads)


def test_a_real_library() -> None:
    """Debian's librocrand1, as hipcc of ROCm 5 built it."""
    found = sorted(gpu_files.PACKAGES.glob("usr/lib/*/librocrand.so.1.*"))
    if not found:
        pytest.skip(f"no librocrand.so.1 below {gpu_files.PACKAGES}")
    data = found[0].read_bytes()
    offset, size = gpu_files.sections(data)[".hip_fatbin"]
    calls: list[int] = []
    answer = hip.targets(reader(data, calls), offset, size, QUICK_READS)
    assert answer.complete
    assert {"gfx803", "gfx900", "gfx906", "gfx908", "gfx90a", "gfx1030"} <= answer.targets
    assert len(calls) < 10


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (MI200, "gfx90a"),
        ("hip-amdgcn-amd-amdhsa-gfx1030", "gfx1030"),
        ("hipv4-amdgcn-amd-amdhsa-unknown-gfx942", "gfx942"),
        ("openmp-amdgcn-amd-amdhsa--gfx908", "gfx908"),
        ("hipv4-amdgcn-amd-amdhsa--gfx9-4-generic:xnack+", "gfx9-4-generic"),
        ("hip-spirv64-amd-amdhsa--amdgcnspirv", "amdgcnspirv"),
        (HOST, ""),
        ("host-amdgcn-amd-amdhsa--gfx90a", ""),
        ("hipv4-nvptx64-nvidia-cuda--sm_80", ""),
        ("hipv4-amdgcn-amd-amdhsa--gfx\x1b[31m", ""),
        ("hipv4-amdgcn-amd-amdhsa--gfx" + "9" * 100, ""),
        ("hipv4-amdgcn-amd-amdhsa", ""),
        ("-", ""),
    ],
)
def test_the_name_of_an_entry(name: str, target: str) -> None:
    assert look(bundle([name])) == Found(frozenset((target,) if target else ()))


def test_several_bundles() -> None:
    data = bundle(NAMES) + bundle([HOST, "hipv4-amdgcn-amd-amdhsa--gfx1100"]) + bytes(1000)
    assert look(data) == Found(WANTED | {"gfx1100"})


@pytest.mark.parametrize("version", [1, 2, 3])
def test_compressed_with_zlib(version: int) -> None:
    data = zlib_bundle(version, NAMES)
    # Version 1 does not say where it ends, and so not whether more follows.
    assert look(data) == Found(WANTED, version > 1)
    if version > 1:
        following = bundle(["hipv4-amdgcn-amd-amdhsa--gfx1100"])
        assert look(data.ljust(4096, b"\0") + following) == Found(WANTED | {"gfx1100"})


@pytest.mark.parametrize("options", [[], ["-19", "--long=27"], ["--no-check"], ["--fast=100"]])
@pytest.mark.parametrize("noise", [False, True])
def test_compressed_with_zstd(options: list[str], noise: bool) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    payload = random.Random(3).randbytes(1 << 20) if noise else bytes(1 << 20)  # noqa: S311
    data = bundle(NAMES, payload)
    packed = subprocess.run(
        ["zstd", "-c", *options, f"--stream-size={len(data)}"], input=data, capture_output=True
    ).stdout
    assert packed
    answer = look(compressed(3, 1, packed, len(data)))
    if "libzstd" in answer.problem:
        pytest.skip(answer.problem)
    assert answer == Found(WANTED)


def test_zstd_by_hand() -> None:
    """A frame of one raw block and one of a repeated byte, without any compressor."""
    data = bundle(NAMES)[:4096]
    frame = b"\x28\xb5\x2f\xfd\0\x58" + (len(data) << 3 | 1).to_bytes(3, "little") + data
    answer = look(compressed(2, 1, frame, len(data)))
    if "libzstd" in answer.problem:
        pytest.skip(answer.problem)
    assert answer == Found(WANTED)
    frame = b"\x28\xb5\x2f\xfd\x20\x64" + (100 << 3 | 1).to_bytes(3, "little") + b"_" * 100
    assert unpack.first_bytes(unpack.ZSTD, frame, 1000) == (b"_" * 100, "")
    frame = b"\x28\xb5\x2f\xfd\0\x58" + (1000 << 3 | 3).to_bytes(3, "little") + b"_"
    assert unpack.first_bytes(unpack.ZSTD, frame, 100) == (b"_" * 100, "")


def test_without_libzstd(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    frame = b"\x28\xb5\x2f\xfd\0\x58" + (3 << 3 | 1).to_bytes(3, "little") + b"abc"
    assert "libzstd.so.1" in unpack._libzstd(frame, 100)[1]


@pytest.mark.parametrize(
    ("method", "packed"),
    [
        (0, b""),
        (0, b"no zlib"),
        (1, b""),
        (1, b"\x28\xb5\x2f\xfd"),
        (1, b"\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff"),
        (1, b"\x28\xb5\x2f\xfd\0\x58\x05\0\0\xff"),
        (1, b"\x28\xb5\x2f\xfd\0\x58" + (8 << 3 | 5).to_bytes(3, "little") + b"\xff" * 8),
        (2, b"unknown"),
        (0xFFFF, b""),
    ],
)
def test_what_does_not_unpack_gives_a_problem(method: int, packed: bytes) -> None:
    data, problem = unpack.first_bytes(method, packed, 1000)
    assert (data, bool(problem)) == (b"", method != 0 or packed != b"")
    answer = look(compressed(2, method, packed, 5000))
    assert not answer.complete
    assert answer.targets == frozenset()


def test_a_bomb_is_not_unpacked() -> None:
    import zlib

    packed = zlib.compress(bytes(50_000_000))
    assert len(unpack.first_bytes(0, packed, 1000)[0]) == 1000
    assert not look(compressed(2, 0, packed, 50_000_000)).complete


def test_a_bundle_in_a_compressed_bundle_in_another_is_not_entered() -> None:
    import zlib

    inner = zlib_bundle(2, NAMES)
    answer = look(compressed(2, 0, zlib.compress(inner), len(inner)))
    assert answer == Found(frozenset(), False, "compressed code objects are damaged")


HUGE = (1 << 64) - 1
MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"


@pytest.mark.parametrize(
    "data",
    [
        MAGIC,
        MAGIC + struct.pack("<Q", HUGE),
        MAGIC + struct.pack("<QQQQ", 1, 0, 0, HUGE),
        MAGIC + struct.pack("<QQQQ", 1, HUGE, HUGE, 4) + b"hip-",
        MAGIC + struct.pack("<Q", HUGE) + struct.pack("<QQQ", 0, 0, 0) * 5000,
        MAGIC + struct.pack("<Q", HUGE) + (struct.pack("<QQQ", 0, 0, 1) + b"x") * 5000,
        b"CCOB",
        b"CCOB\2\0\0\0" + struct.pack("<IIQ", 0, HUGE >> 32, HUGE),
        b"CCOB\3\0\1\0" + struct.pack("<QQQ", HUGE, HUGE, HUGE),
        b"CCOB\xff\xff\1\0" + bytes(24),
        b"rubbish" * 1000,
    ],
)
def test_what_is_damaged_says_so(data: bytes) -> None:
    assert not look(data).complete
    assert not hip.targets(reader(data), 0, HUGE).complete


def test_entries_are_bounded() -> None:
    names = [f"hipv4-amdgcn-amd-amdhsa--gfx{n}" for n in range(1000, 1000 + hip.MAX_ENTRIES + 1)]
    assert look(bundle(names[:-1], b"")).complete
    answer = look(bundle(names, b""))
    assert not answer.complete
    assert len(answer.targets) == hip.MAX_ENTRIES


@pytest.mark.parametrize("data", [bundle([]), bundle([MI200]), bytes(4096), zlib_bundle(2, NAMES)])
def test_endless_repetition_ends(data: bytes) -> None:
    data = data.ljust(-(-len(data) // 4096) * 4096, b"\0")

    def read(offset: int, size: int) -> bytes:
        return (data * (size // len(data) + 2))[offset % len(data) :][:size]

    start = time.monotonic()
    assert not hip.targets(read, 0, HUGE).complete
    assert time.monotonic() - start < 20


def test_mutations_never_raise() -> None:
    rng = random.Random(11)  # noqa: S311
    for whole in (bundle(NAMES)[:4200], zlib_bundle(2, NAMES), zlib_bundle(3, NAMES)):
        for length in range(min(len(whole), 400)):
            look(whole[:length])
        for _ in range(2000):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(min(len(data), 400))] = rng.choice((0, 1, 127, 128, 255))
            look(bytes(data))


@pytest.mark.parametrize(
    ("flags", "target"), [(0x53F, "gfx90a"), (0x4C, "gfx942"), (0, ""), (0xFF, "")]
)
def test_a_bare_code_object(flags: int, target: str) -> None:
    ident = b"\x7fELF\x02\x01\x01\x40\x02" + bytes(7)
    head = (ident + struct.pack("<HHIQQQI", 3, 224, 1, 0, 0, 0, flags)).ljust(64, b"\0")
    assert hip.processor(head) == target
    assert hip.processor(head[:50]) == ""
    assert hip.processor(head.replace(b"\xe0\0", b"\x3e\0")) == ""
