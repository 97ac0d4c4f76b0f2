"""Builds ELF files from bytes: small ones with exactly what a test is about.

The layout is written down here a second time, on purpose, as for SIF in sif_files.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

MACHINES = {
    "x86": (3, 32, "<"),
    "ppc64": (21, 64, ">"),
    "ppc64le": (21, 64, "<"),
    "s390x": (22, 64, ">"),
    "arm": (40, 32, "<"),
    "x86_64": (62, 64, "<"),
    "aarch64": (183, 64, "<"),
    "riscv64": (243, 64, "<"),
    "loongarch64": (258, 64, "<"),
}
BASE = 0x10000
"""Address at which the file's first byte is loaded."""


def note(name: bytes, kind: int, data: bytes, order: str, step: int = 4) -> bytes:
    head = struct.pack(order + "III", len(name), len(data), kind) + name
    head += b"\0" * (-len(head) % step)
    return head + data + b"\0" * (-len(data) % step)


def elf(
    family: str = "x86_64",
    *,
    interpreter: str = "",
    needed: Sequence[str] = (),
    soname: str = "",
    runpath: str = "",
    kernel: tuple[int, int, int] | None = None,
    isa: int | None = None,
    alignment: int = 4096,
    asked: Mapping[str, Sequence[str]] | None = None,
    defined: Sequence[str] = (),
    type: int = 3,
    sections: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return an ELF file with one loaded segment that holds all of it."""
    machine, bits, order = MACHINES[family]
    wide = bits == 64
    word = "Q" if wide else "I"
    segments: list[tuple[int, int, int, int]] = []  # type, offset, size, alignment
    ehsize, phsize = (64, 56) if wide else (52, 32)
    body = bytearray(ehsize + 8 * phsize)

    def put(data: bytes, step: int = 8) -> int:
        body.extend(b"\0" * (-len(body) % step))
        body.extend(data)
        return len(body) - len(data)

    if interpreter:
        text = interpreter.encode() + b"\0"
        segments.append((3, put(text), len(text), 1))
    if kernel is not None:
        data = note(b"GNU\0", 1, struct.pack(order + "IIII", 0, *kernel), order)
        segments.append((4, put(data), len(data), 4))
    if isa is not None:
        step = 8 if wide else 4
        prop = struct.pack(order + "III", 0xC0008002, 4, isa)
        data = note(b"GNU\0", 5, prop + b"\0" * (-len(prop) % step), order, step)
        segments.append((4, put(data, step), len(data), step))
    strings = bytearray(b"\0")

    def name(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text.encode()) - 1

    tags: list[tuple[int, int]] = [(1, name(n)) for n in needed]
    if soname:
        tags.append((14, name(soname)))
    if runpath:
        tags.append((29, name(runpath)))
    if asked:
        table = b""
        for number, (library, versions) in enumerate(asked.items()):
            aux = b""
            for index, version in enumerate(versions):
                following = 16 if index + 1 < len(versions) else 0
                aux += struct.pack(order + "IHHII", 0, 0, 2, name(version), following)
            following = 16 + len(aux) if number + 1 < len(asked) else 0
            head = struct.pack(order + "HHIII", 1, len(versions), name(library), 16, following)
            table += head + aux
        tags += [(0x6FFFFFFE, BASE + put(table)), (0x6FFFFFFF, len(asked))]
    if defined:
        table = b""
        for number, version in enumerate(defined):
            flags = 1 if version == soname else 0
            following = 28 if number + 1 < len(defined) else 0
            table += struct.pack(order + "HHHHIII", 1, flags, number + 1, 1, 0, 20, following)
            table += struct.pack(order + "II", name(version), 0)
        tags += [(0x6FFFFFFC, BASE + put(table)), (0x6FFFFFFD, len(defined))]
    if tags:
        tags += [(5, BASE + put(bytes(strings))), (10, len(strings)), (0, 0)]
        form = order + ("qQ" if wide else "iI")
        data = b"".join(struct.pack(form, *tag) for tag in tags)
        segments.append((2, put(data), len(data), 8))
    shoff = shnum = 0
    if sections:
        names = bytearray(b"\0.shstrtab\0")
        headers = [bytes(64 if wide else 40)]
        for title, data in sections.items():
            at = len(names)
            names.extend(title.encode() + b"\0")
            headers.append(_section(order, wide, at, put(data), len(data)))
        headers.append(_section(order, wide, 1, put(bytes(names)), len(names)))
        shoff, shnum = put(b"".join(headers)), len(headers)
    segments.append((1, 0, len(body), alignment))
    assert len(segments) <= 8
    for number, (kind, offset, size, align) in enumerate(segments):
        address = BASE + offset
        if wide:
            head = struct.pack(
                order + "IIQQQQQQ", kind, 5, offset, address, address, size, size, align
            )
        else:
            head = struct.pack(
                order + "IIIIIIII", kind, offset, address, address, size, size, 5, align
            )
        body[ehsize + number * phsize :][:0] = b""
        start = ehsize + number * phsize
        body[start : start + phsize] = head
    ident = b"\x7fELF" + bytes((2 if wide else 1, 1 if order == "<" else 2, 1)) + bytes(9)
    body[:ehsize] = ident + struct.pack(
        order + f"HHI{word}{word}{word}IHHHHHH",
        *(type, machine, 1, BASE, ehsize, shoff, 0),
        *(ehsize, phsize, len(segments), 64 if wide else 40, shnum, max(shnum - 1, 0)),
    )
    return bytes(body)


def _section(order: str, wide: bool, name: int, offset: int, size: int) -> bytes:
    if wide:
        return struct.pack(order + "IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0)
    return struct.pack(order + "IIIIIIIIII", name, 1, 0, 0, offset, size, 0, 0, 1, 0)


GLIBC = elf(soname="libc.so.6", defined=("libc.so.6", "GLIBC_2.2.5", "GLIBC_2.36", "GLIBC_PRIVATE"))
