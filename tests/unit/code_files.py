"""Small ELF files made for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence

BASE = 0x400000
MACHINES = {"x86_64": 62, "aarch64": 183, "ppc64le": 21, "riscv64": 243}


def elf(
    family: str,
    code: bytes,
    functions: Sequence[tuple[str, int, int]],
    *,
    shared: bool = False,
    extra: tuple[str, int, bytes] | None = None,
) -> bytes:
    """Return an ELF file with `code` at BASE + 0x1000 and global functions (name, offset, size).

    The functions are in .dynsym. The entry is at the code's start, none for a shared library.
    `extra` is one more section: name, type, contents.
    """
    text = BASE + 0x1000
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in functions)
    symbols = bytes(24)
    at = 1
    for name, offset, size in functions:
        symbols += struct.pack("<IBBHQQ", at, 0x12, 0, 1, text + offset, size)
        at += len(name) + 1
    parts = [(".text", 1, 6, code, 0), (".dynsym", 11, 2, symbols, 3), (".dynstr", 3, 2, names, 0)]
    if extra:
        parts.append((extra[0], extra[1], 0, extra[2], 0))
    labels = b"\0" + b"".join(part[0].encode() + b"\0" for part in parts) + b".shstrtab\0"
    parts.append((".shstrtab", 3, 0, labels, 0))
    body = bytearray(b"\0" * 0x1000)
    headers = bytes(64)
    at = 1
    for name, kind, flags, content, link in parts:
        offset = len(body)
        address = BASE + offset if flags & 2 else 0
        headers += struct.pack(
            "<IIQQQQIIQQ", at, kind, flags, address, offset, len(content), link, 0, 1, 0
        )
        at += len(name) + 1
        body += content + bytes(-len(content) % 16)
    size = len(body)
    body += headers
    body[:64] = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3 if shared else 2, MACHINES[family], 1, 0 if shared else text, 64, size,
        0, 64, 56, 1, 64, len(parts) + 1, len(parts),
    )  # fmt: skip
    body[64:120] = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    return bytes(body)
