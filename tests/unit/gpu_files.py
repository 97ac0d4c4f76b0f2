"""CUDA fat binaries, HIP bundles and ELF sections for the tests: built here, or of real files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PACKAGES = Path("/opt/packages/amd64")
"""Where the test root keeps Debian packages, unpacked as one tree."""


def entry(
    kind: int,
    number: int,
    payload: bytes = b"x" * 64,
    flags: int = 0,
    header: int = 64,
    size: int | None = None,
) -> bytes:
    """Return one entry of a fat binary, as in evidence/fatbin.py."""
    length = len(payload) if size is None else size
    start = struct.pack(
        "<HHIQIIIIQQQQ", kind, 0x101, header, length, 0, 0, 8, number, 0, flags, 0, 0
    )
    return start.ljust(header, b"\0") + payload


def fatbin(*entries: bytes, size: int | None = None, header: int = 16) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, header, len(body) if size is None else size) + body


def bundle(names: Sequence[str], payload: bytes = b"\x7fELF" + b"x" * 100) -> bytes:
    """Return an offload bundle with one code object for each name, as clang writes it."""
    packed = [name.encode() for name in names]
    table = 32 + sum(24 + len(name) for name in packed)
    start = -(-table // 4096) * 4096
    head = b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<Q", len(packed))
    body = b""
    for name in packed:
        size = 0 if name.startswith(b"host") else len(payload)
        head += struct.pack("<QQQ", start + len(body), size, len(name)) + name
        body += payload[:size].ljust(-(-size // 4096) * 4096, b"\0")
    return head.ljust(start, b"\0") + body


def compressed(version: int, method: int, packed: bytes, size: int) -> bytes:
    """Return a compressed bundle of one of clang's three layouts."""
    layout = {1: "<4sHHIQ", 2: "<4sHHIIQ", 3: "<4sHHQQQ"}[version]
    total = struct.calcsize(layout) + len(packed)
    sizes = (size,) if version == 1 else (total, size)
    return struct.pack(layout, b"CCOB", version, method, *sizes, 0) + packed


def zlib_bundle(version: int, names: Sequence[str]) -> bytes:
    data = bundle(names)
    return compressed(version, 0, zlib.compress(data), len(data))


def reader(data: bytes, calls: list[int] | None = None) -> Callable[[int, int], bytes]:
    """Return `read(offset, size)` over bytes, as a file's reader; `calls` counts them."""

    def read(offset: int, size: int) -> bytes:
        if calls is not None:
            calls.append(size)
        assert offset >= 0
        assert 0 < size <= 1 << 20
        return data[offset : offset + size]

    return read


def sections(data: bytes) -> Mapping[str, tuple[int, int]]:
    """Return name -> (offset, size) of the sections of a well-formed 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", data, 40)
    width, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQ", data, table + width * n) for n in range(count)]
    found = {}
    for name, _type, _flags, _address, offset, size in headers:
        start = headers[names][4] + name
        found[data[start : data.index(b"\0", start)].decode()] = (offset, size)
    return found
