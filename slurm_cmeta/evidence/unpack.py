"""The first bytes of compressed data, unpacked within hard bounds of memory and time."""

from __future__ import annotations

ZLIB = 0
ZSTD = 1
"""llvm/include/llvm/Support/Compression.h, enum Format."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK = 128 * 1024
"""Largest block of zstd, packed or unpacked (RFC 8878, section 3.1.1.2.4)."""


def first_bytes(method: int, packed: bytes, limit: int) -> tuple[bytes, str]:
    """Return up to `limit` first bytes that `packed`, which may be cut off, unpacks to.

    The second value says in words why there are none. Raises nothing.
    """
    if method == ZLIB:
        import zlib

        try:
            return zlib.decompressobj().decompress(packed, limit), ""
        except zlib.error:
            return b"", "code objects compressed with zlib are damaged"
    if method == ZSTD:
        frame = _first_block(packed)
        if not frame:
            return b"", "code objects compressed with zstd are damaged"
        return _zstd(frame, limit)
    return b"", f"code objects are compressed by method {method}, which is not known here"


def _first_block(packed: bytes) -> bytes:
    """Return a frame of its own with nothing but the first block of a zstd frame, or nothing.

    The first block needs nothing before it. Alone it needs 128 KB of memory, where the frame may
    ask for gigabytes (RFC 8878, section 3.1.1: frame header and block header).
    """
    if not packed.startswith(_ZSTD_MAGIC) or len(packed) < 8:
        return b""
    descriptor = packed[4]
    single = descriptor >> 5 & 1
    if descriptor & 0b1011:  # a dictionary, which nobody has, or a bit that must be zero
        return b""
    start = 5 + (1 - single) + (single, 2, 4, 8)[descriptor >> 6]
    block = int.from_bytes(packed[start : start + 3], "little")
    kind, size = block >> 1 & 3, block >> 3
    stored = 1 if kind == 1 else size  # one byte that is repeated `size` times
    content = packed[start + 3 : start + 3 + stored]
    if kind == 3 or size > _BLOCK or len(content) < stored:
        return b""
    window = (17 - 10) << 3  # a window of 2**17 bytes, which allows blocks of 128 KB
    return b"".join((_ZSTD_MAGIC, bytes((0, window)), (block | 1).to_bytes(3, "little"), content))


def _zstd(frame: bytes, limit: int) -> tuple[bytes, str]:
    """Unpack a whole small frame with Python 3.14's own zstd, or else with libzstd."""
    import importlib

    try:
        own = importlib.import_module("compression.zstd")
    except ImportError:
        return _libzstd(frame, limit)
    try:
        return bytes(own.ZstdDecompressor().decompress(frame, max_length=limit)), ""
    except own.ZstdError:
        return b"", "code objects compressed with zstd are damaged"


def _libzstd(frame: bytes, limit: int) -> tuple[bytes, str]:
    """Source of the two functions and their types: zstd.h, Simple API, stable since 1.0."""
    missing = "code objects are compressed with zstd, which needs libzstd.so.1: not looked at"
    try:
        import ctypes

        library = ctypes.CDLL("libzstd.so.1")
        decompress, is_error = library.ZSTD_decompress, library.ZSTD_isError
    except (ImportError, OSError, AttributeError):
        return b"", missing
    decompress.restype = ctypes.c_size_t
    decompress.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    is_error.restype = ctypes.c_uint
    is_error.argtypes = (ctypes.c_size_t,)
    buffer = ctypes.create_string_buffer(max(limit, _BLOCK))
    size = decompress(buffer, len(buffer), frame, len(frame))
    if is_error(size):
        return b"", "code objects compressed with zstd are damaged"
    return buffer.raw[: min(size, limit)], ""
