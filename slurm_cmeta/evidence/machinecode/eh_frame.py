"""Where functions begin and end, from .eh_frame, which stripped files keep.

Source: Linux Standard Base Core 5.0, chapter "Exception Frames"; DWARF pointer encodings there.
"""

from __future__ import annotations

import struct

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.evidence.machinecode.elf_code import Elf

MAX_RECORDS = 2_000_000
_SIZES = {0x00: "<Q", 0x02: "<H", 0x03: "<I", 0x04: "<Q", 0x0A: "<h", 0x0B: "<i", 0x0C: "<q"}
_PCREL, _OMIT = 0x10, 0xFF


def functions(elf: Elf) -> Iterator[tuple[int, int]]:
    """Yield (address, size) of each function that has a frame description entry."""
    address, offset, size = _section(elf)
    view = elf.view[offset : offset + size]
    encodings: dict[int, int] = {}
    at = 0
    for _ in range(MAX_RECORDS):
        if at + 8 > len(view):
            return
        length, pointer = struct.unpack_from("<II", view, at)
        if length < 4 or length == 0xFFFFFFFF:
            return  # the terminator, or the 64-bit form, which no linker here writes
        if pointer:
            encoding = _encoding(view, at + 4 - pointer, encodings)
            form = _SIZES.get(encoding & 0x0F)
            width = struct.calcsize(form) if form else 0
            if form and at + 8 + 2 * width <= len(view) and encoding & 0x70 in (0, _PCREL):
                (start,) = struct.unpack_from(form, view, at + 8)
                (count,) = struct.unpack_from(form.upper(), view, at + 8 + width)
                if encoding & _PCREL:
                    start += address + at + 8
                start &= (1 << 64) - 1
                if count:
                    yield start, count
        at += 4 + length


def _section(elf: Elf) -> tuple[int, int, int]:
    """Return address, file offset and size of .eh_frame; the size is 0 if there is none."""
    for section in elf.sections:
        if section.name == ".eh_frame" and section.kind != 8:
            return section.address, section.offset, section.size
    if elf.eh_frame_hdr is not None:
        header = elf.read(elf.eh_frame_hdr, 8)
        if len(header) == 8 and header[0] == 1 and header[1] == 0x1B:  # pc-relative, signed 4
            address = elf.eh_frame_hdr + 4 + struct.unpack_from("<i", header, 4)[0]
            offset, left = elf.offset(address)
            return address, offset, left
    return 0, 0, 0


def _encoding(view: memoryview, at: int, known: dict[int, int]) -> int:
    """Return the pointer encoding that the common information entry at `at` declares."""
    if at in known:
        return known[at]
    found = _OMIT
    if at >= 0 and at + 17 <= len(view):
        record = bytes(view[at + 8 : at + 8 + 256])
        end = record.find(b"\0", 1)
        letters = record[1:end] if end > 0 else b""
        if not letters:
            found = 0
        elif letters[:1] == b"z":
            found = _augmented(record, letters, end + 1)
    if len(known) < 10_000:
        known[at] = found
    return found


def _augmented(record: bytes, letters: bytes, at: int) -> int:
    for _ in range(4):  # two alignment factors, the return register, the length: LEB128
        while at < len(record) and record[at] & 0x80:
            at += 1
        at += 1
    for letter in letters[1:]:
        if at >= len(record):
            return _OMIT
        if letter == ord("R"):
            return record[at]
        if letter == ord("L"):
            at += 1
        elif letter == ord("P"):
            form = _SIZES.get(record[at] & 0x0F)
            if form is None:
                return _OMIT
            at += 1 + struct.calcsize(form)
    return 0
