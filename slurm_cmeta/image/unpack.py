"""Packed bytes as a stream: gzip and zstd, unpacked a piece at a time whatever they grow to."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from slurm_cmeta.image.filetree import Budget
    from slurm_cmeta.image.oci import Slice

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = tuple(bytes((number, 0x2A, 0x4D, 0x18)) for number in range(0x50, 0x60))
"""zstd frames of other data, as zstd:chunked layers have at their beginning (RFC 8878, 3.1.2)."""

_PIECE = 64 * 1024
_OUT = 256 * 1024
_BLOCK = 512
_NEAR = _PIECE // 2
"""Bytes between what was read and what is to be read, up to which all is read: two headers or more
in each piece."""

MAX_ZSTD_WINDOW_LOG = 25
"""32 MiB of memory for one zstd stream; level 19 needs 8 MiB, only --ultra and --long need more."""


class UnpackError(Exception):
    """The stream cannot be unpacked; the message says why."""


def packing(head: bytes) -> str:
    """Return `gzip`, `zstd` or, for anything else, nothing."""
    if head.startswith(GZIP):
        return "gzip"
    return "zstd" if head.startswith((ZSTD, *_SKIPPABLE)) else ""


class Plain:
    """The bytes of a slice as they are; skipping reads nothing. A tarheaders.Source.

    Where the next header was near the last one, more is read at once: an archive of small files
    would else cost a system call, or a round trip to a file server, for each.
    """

    def __init__(self, place: Slice, budget: Budget) -> None:
        self._place = place
        self._budget = budget
        self._at = 0
        self._ahead = b""
        self._ahead_at = 0

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        size = min(size, self._place.size - self._at)
        if size <= 0:
            return b""
        if size > _BLOCK:  # who reads the headers pays for them, member by member
            self._budget.spend(size)
        start = self._at - self._ahead_at
        if start + size > len(self._ahead):
            near = start - len(self._ahead) <= _NEAR
            wanted = max(size, min(_PIECE, self._place.size - self._at)) if near else size
            self._ahead = self._place.reader.read(self._place.offset + self._at, wanted)
            self._ahead_at, start = self._at, 0
        self._at += size
        return self._ahead[start : start + size]

    def skip(self, size: int) -> None:
        """Go on `size` bytes; raise UnpackError if that is beyond the end."""
        if self._at + size > self._place.size:
            self._at = self._place.size
            raise UnpackError("ends inside a file")
        self._at += size

    def tell(self) -> int:
        """Return how many bytes came before."""
        return self._at


class Unpacked:
    """The unpacked bytes of a slice, front to back. A tarheaders.Source."""

    def __init__(self, place: Slice, kind: str, budget: Budget) -> None:
        """`kind` is what packing() says; raises UnpackError if that cannot be unpacked here."""
        self._place = place
        self._budget = budget
        self._packed = 0
        self._waiting = b""
        self._at = 0
        self._step = _gzip() if kind == "gzip" else _zstd()

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        parts = []
        while size > 0:
            piece = self._piece()
            if not piece:
                break
            parts.append(piece[:size])
            self._waiting = piece[size:]
            size -= len(parts[-1])
            self._at += len(parts[-1])
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Go on `size` bytes; raise UnpackError if that is beyond the end."""
        while size > 0:
            piece = self._piece()
            if not piece:
                raise UnpackError("ends inside a file")
            gone = min(size, len(piece))
            self._waiting = piece[gone:]
            size -= gone
            self._at += gone

    def tell(self) -> int:
        """Return how many bytes came before."""
        return self._at

    def _piece(self) -> bytes:
        if self._waiting:
            waiting, self._waiting = self._waiting, b""
            return waiting
        piece = self._step(self._more)
        self._budget.spend(len(piece))
        return piece

    def _more(self) -> bytes:
        size = min(_PIECE, self._place.size - self._packed)
        if size <= 0:
            return b""
        self._budget.spend()  # there are packed bytes without end that unpack to nothing
        data = self._place.reader.read(self._place.offset + self._packed, size)
        self._packed += size
        return data


def _gzip() -> Callable[[Callable[[], bytes]], bytes]:
    """Return what gives the next unpacked bytes, and nothing at the end."""
    import zlib

    state: dict[str, Any] = {"member": zlib.decompressobj(31), "rest": b"", "begun": False}

    def step(more: Callable[[], bytes]) -> bytes:
        while True:
            member = state["member"]
            packed = state["rest"] or more()
            if member.eof:
                # Another member may follow, or padding.
                if not packed or not packed.strip(b"\0"):
                    return b""
                if not packed.startswith(GZIP[:1]):
                    return b""
                member = state["member"] = zlib.decompressobj(31)
            if not packed:
                raise UnpackError("is truncated")
            try:
                out = member.decompress(packed, _OUT)
            except zlib.error:
                raise UnpackError("is damaged (gzip)") from None
            state["rest"] = member.unused_data if member.eof else member.unconsumed_tail
            if out:
                return bytes(out)

    return step


def _zstd() -> Callable[[Callable[[], bytes]], bytes]:
    """As _gzip(), by Python's own module (3.14) or libzstd."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return _libzstd()
    options = {zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG}
    state: dict[str, Any] = {"frame": zstd.ZstdDecompressor(options=options), "rest": b""}

    def step(more: Callable[[], bytes]) -> bytes:
        while True:
            frame = state["frame"]
            packed = state["rest"]
            if frame.eof:
                packed = packed or more()
                if not packed:
                    return b""
                frame = state["frame"] = zstd.ZstdDecompressor(options=options)
            elif frame.needs_input:
                packed = packed or more()
                if not packed:
                    raise UnpackError("is truncated")
            try:
                out = frame.decompress(packed, _OUT)
            except zstd.ZstdError:
                raise UnpackError("is damaged, or needs too much memory (zstd)") from None
            state["rest"] = frame.unused_data if frame.eof else b""
            if out:
                return bytes(out)

    return step


def _libzstd() -> Callable[[Callable[[], bytes]], bytes]:
    """As _zstd(), by libzstd.so.1 (zstd.h, streaming decompression)."""
    import ctypes

    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        raise UnpackError(
            "is packed with zstd, which is not read here: install libzstd (Debian: libzstd1)"
        ) from None

    class Buffer(ctypes.Structure):
        _fields_ = (
            ("data", ctypes.c_void_p),
            ("size", ctypes.c_size_t),
            ("at", ctypes.c_size_t),
        )

    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_freeDStream.argtypes = (ctypes.c_void_p,)
    library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    library.ZSTD_DCtx_setParameter.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    library.ZSTD_decompressStream.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(Buffer),
        ctypes.POINTER(Buffer),
    )

    class Stream:
        def __init__(self) -> None:
            self.handle = library.ZSTD_createDStream()
            if not self.handle:
                raise UnpackError("cannot be unpacked: out of memory")
            library.ZSTD_DCtx_setParameter(self.handle, 100, MAX_ZSTD_WINDOW_LOG)
            self.packed = b""
            self.source = Buffer(None, 0, 0)
            self.room = ctypes.create_string_buffer(_OUT)
            self.hint = 1

        def step(self, more: Callable[[], bytes]) -> bytes:
            while True:
                if self.source.at == self.source.size:
                    self.packed = more()
                    if not self.packed and self.hint == 0:
                        return b""
                    pointer = ctypes.cast(ctypes.c_char_p(self.packed), ctypes.c_void_p)
                    self.source = Buffer(pointer, len(self.packed), 0)
                out = Buffer(ctypes.cast(self.room, ctypes.c_void_p), _OUT, 0)
                before = self.source.at
                hint = library.ZSTD_decompressStream(
                    self.handle, ctypes.byref(out), ctypes.byref(self.source)
                )
                if library.ZSTD_isError(hint):
                    raise UnpackError("is damaged, or needs too much memory (zstd)")
                self.hint = hint
                if out.at:
                    return self.room.raw[: out.at]
                if not self.packed and self.source.at == before:
                    raise UnpackError("is truncated")

        def __del__(self) -> None:
            if getattr(self, "handle", None):
                library.ZSTD_freeDStream(self.handle)

    return Stream().step
