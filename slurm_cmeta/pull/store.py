"""Images that were pulled to this node, shared by the jobs of one user, and private to that user.

    BASE/slurm-cmeta-UID/               0700, the user's own
        sha256-HEX.sif                  the image that was made of that manifest
        sha256-HEX.lock                 held by who makes it; its time is when it was last used
        lock                            held by who makes room
        .cmeta-*, .*.part               what is not whole yet, locked by who makes it

Who runs an image holds a shared lock (flock) on its file, so that who makes room leaves it alone.
Should it be removed all the same, it stays readable for who has it open.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress

from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import open_image
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BASE = "/var/tmp"  # noqa: S108 - the directory in it is made 0700, and refused unless it is so
MAX_SIZE = 50 << 30
"""Bytes that one user's images may take on a node."""

PAUSE = 0.1
STALE = 3600
"""Seconds after which what a killed pull left behind is removed."""


class StoreError(ImageError):
    """The store cannot be used; the message says why."""


class Entry(NamedTuple):
    """One image in the store."""

    path: str
    size: int
    used: float
    """When it was last used: seconds since 1970."""


class Store:
    """One user's images on this node."""

    def __init__(self, base: str = BASE, max_size: int = MAX_SIZE) -> None:
        """Make the directory if need be. Raises StoreError unless it is the user's alone."""
        self.directory = f"{base}/slurm-cmeta-{os.geteuid()}"
        self.max_size = max_size
        try:
            with suppress(FileExistsError):
                os.mkdir(self.directory, 0o700)
            found = os.lstat(self.directory)
        except OSError as problem:
            raise StoreError(f"{clean(self.directory)}: {problem.strerror}") from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StoreError(f"{clean(self.directory)} is not a directory of this user: not used")
        if found.st_mode & 0o077:
            raise StoreError(f"{clean(self.directory)} is open to other users: not used")

    def path(self, digest: str) -> str:
        """Return where the image of a manifest is, or would be."""
        return f"{self.directory}/{digest.replace(':', '-')}.sif"

    def get(self, digest: str, size: int, make: Callable[[str], None], until: float) -> str:
        """Return the path of an image, which `make(PATH)` makes if it is not here.

        Of several who ask at once one makes it, and the others wait. `size` is about what it will
        take; `until` (time.monotonic()) bounds the wait. Raises StoreError, or what `make` does.
        """
        path = self.path(digest)
        lock = path.removesuffix(".sif") + ".lock"
        with self._locked(lock, until):
            if not self._is_whole(path):
                self.make_room(size)
                make(path)
            with suppress(OSError):
                os.utime(lock)
        return path

    def make_room(self, size: int) -> None:
        """Remove the images that were used longest ago, until `size` more bytes are allowed."""
        with self._locked(f"{self.directory}/lock", time.monotonic() + 60):
            self._remove_left_behind()
            entries = sorted(self.entries(), key=lambda one: one.used)
            total = sum(one.size for one in entries) + size
            for one in entries:
                if total <= self.max_size:
                    return
                if _remove_unless_used(one.path):
                    total -= one.size

    def entries(self) -> list[Entry]:
        """Return what is in the store."""
        found = []
        for name in os.listdir(self.directory):
            if name.endswith(".sif") and name.startswith("sha"):
                path = f"{self.directory}/{name}"
                with suppress(OSError):
                    size = os.stat(path).st_size
                    lock = path.removesuffix(".sif") + ".lock"
                    found.append(Entry(path, size, os.stat(lock).st_mtime))
        return found

    def _is_whole(self, path: str) -> bool:
        """Tell whether the image is there, and nothing of it is missing."""
        try:
            with open_image(path) as image:
                ends = [o.offset + o.size for o in image.content.objects]
                return max(ends, default=1) <= os.stat(path).st_size
        except (ImageError, OSError):
            with suppress(OSError):
                os.unlink(path)
            return False

    def _remove_left_behind(self) -> None:
        for name in os.listdir(self.directory):
            path = f"{self.directory}/{name}"
            with suppress(OSError):
                if name.startswith(".") and os.lstat(path).st_mtime < time.time() - STALE:
                    _remove_unless_used(path)

    @contextmanager
    def _locked(self, path: str, until: float) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as problem:
            raise StoreError(f"{clean(path)}: {problem.strerror}") from None
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise StoreError(
                            f"{clean(path)}: another process of this user is pulling the image, "
                            "and was not ready in time"
                        ) from None
                    time.sleep(PAUSE)
                except OSError as problem:
                    raise StoreError(f"{clean(path)}: {problem.strerror}") from None
            yield
        finally:
            os.close(descriptor)


def _remove_unless_used(path: str) -> bool:
    """Remove an image, or what a pull left behind, unless somebody holds a lock on it.

    Tells whether it is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        if not os.path.islink(path):
            return False
        os.unlink(path)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_tree(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _remove_tree(path: str) -> None:
    import shutil

    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)
