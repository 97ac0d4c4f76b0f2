"""Opens an image file and reads a few places of it, never more than it was asked to."""

from __future__ import annotations

import os
import stat

from slurm_cmeta.errors import ImageError
from slurm_cmeta.record import NamedTuple
from slurm_cmeta.text import clean

WINDOW = 64 * 1024
"""Bytes read at once from the start of the file. SIF header, 48 descriptors and the metadata that
Apptainer puts before the partition end near 40 kB, so that most images need this read only."""

MAX_PATH = 4096
"""Linux's PATH_MAX: a path is shown whole, because its end is what tells images apart."""

FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""How regular files are opened: should a FIFO have taken the place of one, nobody waits for it."""

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


class Identity(NamedTuple):
    """What changes when a file's content is changed or replaced (times in nanoseconds)."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def error(path: str, reason: str) -> ImageError:
    """Return the one-line error `PATH: reason`."""
    return ImageError(f"{clean(path, MAX_PATH)}: {reason}")


class Reader:
    """An open regular file. Owns the descriptor until close()."""

    __slots__ = ("_fd", "_window", "identity", "path", "size")

    def __init__(self, path: str) -> None:
        """Open `path`; raise ImageError if it cannot be opened or is no regular file.

        What is no regular file is not even opened: opening a FIFO would wake its writer, opening
        a device may do anything.
        """
        self.path = path
        self._fd = -1
        self._window = b""
        try:
            _refuse_unless_regular(path, os.stat(path).st_mode)
            self._fd = os.open(path, FLAGS)
            info = os.fstat(self._fd)
            _refuse_unless_regular(path, info.st_mode)
        except OSError as problem:
            raise error(path, why_not_open(path, problem)) from None
        except ValueError:
            raise error(path, "is no path: it holds a NUL or cannot be encoded") from None
        self._is_of(info)

    def _is_of(self, info: os.stat_result) -> None:
        self.size = info.st_size
        self.identity = Identity(
            info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
        )

    @property
    def fd(self) -> int:
        """The open file descriptor, -1 once closed."""
        return self._fd

    def head(self) -> bytes:
        """Return the first WINDOW bytes, or the whole file if it is shorter."""
        if not self._window:
            self._window = self._pread(0, min(self.size, WINDOW))
        return self._window

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`; both must lie inside the file, as stated by `size`.

        Raises ImageError if the file cannot be read or has become shorter.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise error(self.path, f"has no {size} bytes at offset {offset}")
        if offset + size <= len(self._window):
            return self._window[offset : offset + size]
        return self._pread(offset, size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, of which the file must have enough.

        Raises ImageError if the file cannot be read or has become shorter.
        """
        done = 0
        fd = self._descriptor()
        while done < len(buffer):
            try:
                got = os.preadv(fd, [memoryview(buffer)[done:]], offset + done)
            except OSError as problem:
                raise error(self.path, f"cannot be read: {strerror(problem)}") from None
            if not got:
                raise error(self.path, "became shorter while it was read")
            done += got

    def _descriptor(self) -> int:
        """Return the descriptor for one read; raise ImageError where there is none."""
        return self._fd

    def release(self) -> None:
        """Let go of what is open, where that can be had again: nothing will be read for now."""

    def _pread(self, offset: int, size: int) -> bytes:
        data = b""
        fd = self._descriptor()
        while len(data) < size:
            try:
                part = os.pread(fd, size - len(data), offset + len(data))
            except OSError as problem:
                raise error(self.path, f"cannot be read: {strerror(problem)}") from None
            if not part:
                raise error(self.path, "became shorter while it was read")
            data = data + part if data else part
        return data

    def close(self) -> None:
        """Close the file; safe to call again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def _refuse_unless_regular(path: str, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    for test, name in _KINDS:
        if test(mode):
            raise error(path, f"is {name}")
    raise error(path, "is no regular file")


def why_not_open(path: str, problem: OSError) -> str:
    """Return the reason why `path` could not be opened."""
    if isinstance(problem, FileNotFoundError):
        return "is a reference, not a file" if "://" in path else "does not exist"
    return f"cannot be opened: {strerror(problem)}"


def strerror(problem: OSError) -> str:
    """Return what the system calls `problem`."""
    return os.strerror(problem.errno) if problem.errno else "unknown error"
