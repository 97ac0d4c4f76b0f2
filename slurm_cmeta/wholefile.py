"""Files that others read at any time: written whole or not at all."""

from __future__ import annotations

import os
import stat

from slurm_cmeta.errors import ClusterError
from slurm_cmeta.text import clean


def write(path: str, text: str) -> None:
    """Put a file of ASCII `text` in the place of `path` by rename, readable by all.

    Raises ClusterError, and leaves what is there as it is, when `path` is no regular file, and when
    the file cannot be written.
    """
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.new")
    try:
        if not _replaceable(path):
            raise ClusterError(f"{clean(path)}: not a regular file")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        _sync_directory(directory)
    except OSError as error:
        raise ClusterError(f"{clean(path)}: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise ClusterError(f"{clean(path)}: not a path") from None


def _replaceable(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
