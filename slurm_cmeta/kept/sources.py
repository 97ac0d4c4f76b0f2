"""The files that something was drawn from, as they were then."""

from __future__ import annotations

import os

from slurm_cmeta.record import NamedTuple

SETTLED_NS = 2_000_000_000
"""A file that was changed less than this before now may change again without a trace: times have
the grain of the file system's clock, 4 ms on Linux, a second or two on old network file systems."""


class SourceFile(NamedTuple):
    """A file as it was when it was opened: what was read is valid while the file is so."""

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Sources(NamedTuple):
    """All that something was drawn from."""

    files: tuple[SourceFile, ...] = ()
    absent: tuple[str, ...] = ()
    """Paths where there was nothing, and where something would have counted."""
    until: int = 0
    """Seconds since 1970 from which on it holds no longer; 0: no such time."""

    def __add__(self, other: Sources) -> Sources:  # type: ignore[override]
        """Return the sources of what was drawn from both."""
        ends = [end for end in (self.until, other.until) if end]
        return Sources(
            tuple(dict.fromkeys(self.files + other.files)),
            tuple(dict.fromkeys(self.absent + other.absent)),
            min(ends, default=0),
        )

    def settled(self, now_ns: int) -> bool:
        """Tell whether a later change of any of the files will show."""
        return all(
            path.startswith("/") and "\n" not in path and "\0" not in path
            for path in (*(f.path for f in self.files), *self.absent)
        ) and all(max(f.mtime_ns, f.ctime_ns) < now_ns - SETTLED_NS for f in self.files)

    def hold(self, now: float) -> bool:
        """Tell whether all files are what they were."""
        if self.until and now >= self.until:
            return False
        same = all(of_path(file.path).files == (file,) for file in self.files)
        return same and not any(map(_is_there, self.absent))


def of_file(path: str, status: os.stat_result) -> SourceFile:
    """Return a file as fstat(2) tells of it."""
    return SourceFile(
        *(path, status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )


def of_path(path: str) -> Sources:
    """Return what lies at a path now, or that nothing which can be seen does."""
    try:
        return Sources((of_file(path, os.stat(path)),))
    except (OSError, ValueError):
        return Sources(absent=(path,))


def of_code() -> Sources:
    """Return this package, by a file that every installation replaces."""
    import slurm_cmeta

    return of_path(os.path.abspath(slurm_cmeta.__file__))


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True  # something is there that cannot be seen
    return True
