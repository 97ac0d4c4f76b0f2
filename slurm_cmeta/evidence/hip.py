"""HIP code objects: for which AMD GPUs a program has code.

Section `.hip_fatbin`, a sequence of offload bundles, each at a multiple of 4096 (source:
clang/docs/ClangOffloadBundler.rst; clang/lib/Driver/ToolChains/HIPUtility.cpp for the alignment):

    +0   "__CLANG_OFFLOAD_BUNDLE__"   +24 u64 number of entries
    +32  entry: u64 offset from the bundle's start, u64 size, u64 length of its name, the name
         `host-x86_64-unknown-linux--`, `hipv4-amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-`

or a compressed bundle (clang/include/clang/Driver/OffloadBundler.h):

    +0   "CCOB"   +4 u16 version   +6 u16 method: 0 zlib, 1 zstd
    +8   version 1: u32 size of the bundle, u64 hash
         version 2: u32 size of all this, u32 size of the bundle, u64 hash
         version 3: u64 size of all this, u64 size of the bundle, u64 hash
         then the compressed bundle, of which no more is unpacked than holds the names

A target means that processor and no other; a generic one (`gfx11-generic`) those that
vocabulary/gpu.json lists. Features (`:xnack-`) are left out: they are a mode of the node.
"""

from __future__ import annotations

import struct

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.codeobject import DEEP_READS, Found, Window, aligned
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECTIONS = (".hip_fatbin",)

MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
COMPRESSED = b"CCOB"

PORTABLE = "amdgcnspirv"
"""SPIR-V, compiled at load time for any AMD GPU."""

_ALIGNMENT = 4096
_ENTRY = struct.Struct("<QQQ")

MAX_ENTRIES = 1024
"""Entries of one bundle; AMD builds its libraries for about 25 targets."""

MAX_BUNDLES = 100_000
"""Bundles of one section: one for each source file that was compiled to device code."""

MAX_NAME = 256
"""Bytes of an entry's name; real ones have about 50."""

MAX_PACKED = 160 * 1024
"""Bytes read of a compressed bundle: the first block of zstd has at most 128 KB."""

MAX_UNPACKED = 128 * 1024
"""Bytes unpacked of it: names come first, and 1024 of them fit."""

_IN_NAMES = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")

EM_AMDGPU = 224

_COMPRESSED_HEADERS = {
    1: (struct.Struct("<4sHHIQ"), False),
    2: (struct.Struct("<4sHHIIQ"), True),
    3: (struct.Struct("<4sHHQQQ"), True),
}
"""Version -> layout, and whether it states its own size."""


def targets(
    read: Callable[[int, int], bytes], offset: int, size: int, reads: int = DEEP_READS
) -> Found:
    """Return the targets of the offload bundles in a section.

    `read(offset, size)` gives bytes of the file, fewer at its end; `offset` and `size` of the
    section are in bytes, as stated. Raises nothing, and reads at most `reads` times, of which a
    compressed bundle takes two.
    """
    window = Window(read, offset, size, reads)
    found: set[str] = set()
    complete, problem = True, ""
    position = 0
    for _ in range(MAX_BUNDLES):
        if window.only_padding(position):
            return Found(frozenset(found), complete, problem)
        head = window.get(position, len(MAGIC) + 8)
        if head.startswith(MAGIC):
            end = _bundle(window, position, found)
        elif head.startswith(COMPRESSED):
            end, trouble = _compressed(window, position, found)
            problem = problem or trouble
            complete = complete and not trouble
        else:
            break
        if not position < end <= size:
            break
        position = aligned(end, _ALIGNMENT)
    return Found(frozenset(found), False, problem)


def _bundle(window: Window, position: int, found: set[str]) -> int:
    """Add the targets of a bundle; return the end of its last code object, 0 if it is damaged."""
    count = int.from_bytes(window.get(position + len(MAGIC), 8), "little")
    at = end = position + len(MAGIC) + 8
    for number in range(count):
        head = window.get(at, _ENTRY.size)
        if number == MAX_ENTRIES or len(head) < _ENTRY.size:
            return 0
        start, size, length = _ENTRY.unpack(head)
        name = window.get(at + _ENTRY.size, length) if length <= MAX_NAME else b""
        if not name or len(name) < length:
            return 0
        _add(name, found)
        at += _ENTRY.size + length
        end = max(end, at, position + start + size)
    return end


def _add(name: bytes, found: set[str]) -> None:
    """Add the processor in the name of an entry (`hip-amdgcn-amd-amdhsa-gfx906:xnack-`)."""
    text = name.decode("ascii", "replace")
    kind, _, triple = text.partition("-")
    if kind not in ("hip", "hipv4", "openmp"):
        return
    if triple.startswith("spirv64-amd-") or triple.endswith(PORTABLE):
        found.add(PORTABLE)
        return
    _, dash, target = triple.partition("-gfx")
    processor = "gfx" + target.partition(":")[0]
    if triple.startswith("amdgcn-") and dash and _plausible(processor):
        found.add(processor)


def _plausible(processor: str) -> bool:
    """Tell a processor's name (`gfx90a`, `gfx10-3-generic`) from what else may stand there."""
    return 6 <= len(processor) <= 24 and not set(processor) - _IN_NAMES


def _compressed(window: Window, position: int, found: set[str]) -> tuple[int, str]:
    """Add the targets of a compressed bundle; return its end and what went wrong, if anything.

    The end is 0 where it is not known: version 1 does not state it.
    """
    head = window.get(position, 32)
    version = int.from_bytes(head[4:6], "little")
    if version not in _COMPRESSED_HEADERS:
        return 0, f"compressed code objects of version {version} are not known here"
    layout, sized = _COMPRESSED_HEADERS[version]
    if len(head) < layout.size:
        return 0, ""
    fields = layout.unpack_from(head)
    method = fields[2]
    total = fields[3] if sized else window.size - position
    if total <= layout.size:
        return 0, ""
    packed = window.get(position + layout.size, min(total - layout.size, MAX_PACKED))
    # Imported where they are needed: few images have any compressed code object.
    from slurm_cmeta.evidence import unpack

    data, problem = unpack.first_bytes(method, packed, MAX_UNPACKED)
    if not data.startswith(MAGIC):
        return (position + total if sized else 0), problem or "compressed code objects are damaged"
    inner = Window(lambda at, length: data[at : at + length], 0, len(data), MAX_ENTRIES)
    end = _bundle(inner, 0, found)
    return (position + total if sized else 0), "" if end else "compressed code objects are damaged"


def processor(head: bytes) -> str:
    """Return the target of a bare AMD GPU code object from its first 64 bytes, empty if none.

    Source: llvm/docs/AMDGPUUsage.rst, ELF header flags: EF_AMDGPU_MACH is the lowest byte.
    """
    if len(head) < 64 or not head.startswith(b"\x7fELF\x02\x01"):
        return ""
    if int.from_bytes(head[18:20], "little") != EM_AMDGPU:
        return ""
    values: dict[str, str] = vocabulary.load("gpu")["amdgpu_mach"]["values"]
    return values.get(str(head[48]), "")
