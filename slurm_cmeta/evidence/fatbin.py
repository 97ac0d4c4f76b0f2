"""CUDA fat binaries: for which NVIDIA GPUs a program has code.

NVIDIA documents no layout. This one was read off what nvcc 13.0 writes for known targets
(tests/unit/test_fatbin.py does it again) and holds for NVIDIA's own libraries of CUDA 11 and 12:

    section .nv_fatbin (linked code) or __nv_relfatbin (code that is linked on the device, where
    PTX is linked again at load time), a sequence of fat binaries, each at a multiple of 8

    +0   u32 magic 0xBA55ED50   +4 u16 version 1   +6 u16 size of this header (16)
    +8   u64 size of all entries
    +16  entry, entry, ...

    entry
    +0   u16 kind: 1 PTX, 2 machine code (a cubin, an ELF file), 8 LTO intermediate code
    +4   u32 size of this header (64 and more)         +8   u64 size of the payload, padded
    +16  u32 size of the compressed payload            +28  u32 target: 10 * major + minor
    +40  u64 flags: 0x2000 and 0x8000 compressed; 0x100000 target ends in `a`, 0x200000 in `f`
    +56  u64 size of the payload, unpacked             then options, then the payload

Everything needed is in the headers; payloads are not read. The section .nvFatBinSegment holds only
pointers to the fat binaries, which the loader fills in.

What a target means (CUDA C++ Programming Guide, Compute Capabilities): `sm_XY` runs on GPUs of
major X and a minor of Y or more, `compute_XY` is compiled at load time for any GPU from X.Y on; an
`a` at the end means X.Y only, an `f` the same major and a minor of Y or more.
"""

from __future__ import annotations

import struct

from slurm_cmeta.evidence.codeobject import DEEP_READS, Found, Window, aligned
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECTIONS = (".nv_fatbin", "__nv_relfatbin")

MAGIC = 0xBA55ED50
_MAGIC = MAGIC.to_bytes(4, "little")
PTX = 1
CUBIN = 2
ARCH_SPECIFIC = 0x100000
FAMILY_SPECIFIC = 0x200000

_HEADER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQQIIQQ")
_ALIGNMENT = 8

TARGETS = range(10, 1000)
"""Compute capabilities times ten that are believed: 1.0 is the oldest, 12.1 the newest of 2025."""

MAX_ENTRIES = 500_000
"""Headers of one section that are looked at, those of fat binaries included. Many fit in one read,
so reads alone are no bound; the largest real sections have some ten thousand."""

EM_CUDA = 190


def targets(
    read: Callable[[int, int], bytes], offset: int, size: int, reads: int = DEEP_READS
) -> Found:
    """Return the targets of the fat binaries in a section.

    `read(offset, size)` gives bytes of the file, fewer at its end; `offset` and `size` of the
    section are in bytes, as stated. Raises nothing, and reads at most `reads` times.
    """
    window = Window(read, offset, size, reads)
    found: set[str] = set()
    complete = True
    position = 0
    entries = MAX_ENTRIES
    while not window.only_padding(position):
        head = window.get(position, _HEADER.size)
        if len(head) < _HEADER.size:
            return Found(frozenset(found), False)
        magic, _version, header, length = _HEADER.unpack(head)
        if magic != MAGIC or header < _HEADER.size:
            following = window.find(_MAGIC, position + _ALIGNMENT, _ALIGNMENT)
            complete = complete and magic != MAGIC and not head.strip(b"\0")
            if following < 0:
                return Found(frozenset(found), False)
            position = following
            continue
        end = position + header + length
        whole, entries = _entries(window, position + header, min(end, size), found, entries - 1)
        complete = complete and whole and end <= size
        if entries <= 0 or window.left <= 0:
            return Found(frozenset(found), False)
        position = aligned(end, _ALIGNMENT)
    return Found(frozenset(found), complete)


def _entries(
    window: Window, position: int, end: int, found: set[str], left: int
) -> tuple[bool, int]:
    """Add the targets of one fat binary; return whether it was whole, and entries still allowed."""
    while position < end:
        head = window.get(position, _ENTRY.size)
        if len(head) < _ENTRY.size or left <= 0:
            return False, left
        left -= 1
        kind, _version, header, payload, _packed, _minor_major, number, _name, flags = (
            _ENTRY.unpack(head)
        )
        if header < _ENTRY.size:
            return False, left
        if kind in (PTX, CUBIN):
            if number not in TARGETS:
                return False, left
            found.add(("compute_" if kind == PTX else "sm_") + str(number) + _suffix(flags))
        position += header + payload
    return position == end, left


def _suffix(flags: int) -> str:
    if flags & ARCH_SPECIFIC:
        return "a"
    return "f" if flags & FAMILY_SPECIFIC else ""


def cubin(head: bytes) -> str:
    """Return the target of a bare cubin from its first 64 bytes, empty if it is none.

    Source: llvm/include/llvm/BinaryFormat/ELF.h (EF_CUDA_SM): up to ABI version 7 the target is in
    the lowest byte of e_flags and 0x800 means `a`, from 8 on (CUDA 13) it is in the second byte;
    there nothing tells `a` or `f`, nvcc 13.0 writes the same for all three.
    """
    if len(head) < 64 or not head.startswith(b"\x7fELF\x02\x01"):
        return ""
    if int.from_bytes(head[18:20], "little") != EM_CUDA:
        return ""
    flags = int.from_bytes(head[48:52], "little")
    new = head[8] >= 8
    number = flags >> 8 & 0xFF if new else flags & 0xFF
    if number not in TARGETS:
        return ""
    return f"sm_{number}" + ("a" if not new and flags & 0x800 else "")
