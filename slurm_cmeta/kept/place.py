"""The user's cache directory: files that are written whole, and believed only if nobody else can
have written them."""

from __future__ import annotations

import os
import stat
from zlib import crc32

MAX_BYTES = 1 << 20
"""Largest file read or written, in bytes."""

_SUM = len(b"crc32 00000000\n")


def read(path: str) -> bytes | None:
    """Return what write() wrote to `path`; None where there is nothing that can be believed."""
    directory, name = os.path.split(path)
    try:
        place = _open_directory(directory)
    except OSError:
        return None
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place
        )
        with open(descriptor, "rb", 0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not _is_own(status):
                return None
            if not _SUM <= status.st_size <= MAX_BYTES:
                return None
            data = file.read(MAX_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(place)
    return data[:-_SUM] if data[-_SUM:] == _sum(data[:-_SUM]) else None


def write(path: str, data: bytes) -> bool:
    """Put `data` in the place of `path`, whole or not at all; tell whether that could be done."""
    if len(data) > MAX_BYTES - _SUM:
        return False
    directory, name = os.path.split(path)
    temporary = f".{name}.{os.getpid()}"
    try:
        # Never a home: root would make that of an account which is to have none (/nonexistent).
        for each in (os.path.dirname(directory), directory):
            _make_directory(each)
        place = _open_directory(directory)
    except OSError:
        return False
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        _unlink(temporary, place)  # of a process that had this number once
        descriptor = os.open(temporary, flags, 0o600, dir_fd=place)
        try:
            with open(descriptor, "wb", 0) as file:
                whole = data + _sum(data)
                if file.write(whole) != len(whole):
                    raise OSError("no room")
            os.replace(temporary, name, src_dir_fd=place, dst_dir_fd=place)
        except BaseException:
            _unlink(temporary, place)
            raise
    except OSError:
        return False
    finally:
        os.close(place)
    return True


def _sum(data: bytes) -> bytes:
    return b"crc32 %08x\n" % crc32(data)


def _make_directory(path: str) -> None:
    """Make it if need be. Raises OSError, also where the directory above it is another user's:
    `sudo sbatch` may keep the user's HOME, and must not leave a directory of root's there."""
    if os.path.lexists(path):
        return
    above, name = os.path.split(path)
    place = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(place).st_uid != os.geteuid():
            raise PermissionError(f"{above} is another user's")
        os.mkdir(name, 0o700, dir_fd=place)
    except FileExistsError:  # another process of this user's was faster
        return
    finally:
        os.close(place)


def _open_directory(path: str) -> int:
    """Return a descriptor; raise OSError unless the directory is the user's alone to write to."""
    place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _is_own(os.fstat(place)):
        os.close(place)
        raise PermissionError(f"{path} is not this user's alone")
    return place


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _unlink(name: str, place: int) -> None:
    try:
        os.unlink(name, dir_fd=place)
    except OSError:
        return
