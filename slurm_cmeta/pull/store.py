"""Images that were pulled to this node, shared by the jobs of one user, and private to that user.

    BASE/slurm-cmeta-UID/               0700, the user's own
        sha256-HEX.sif                  the image that was made of that manifest
        sha256-HEX.lock                 locked by who makes it; what the image was when it was whole
                                        (size and time), and by its own time when it was last used
        lock                            locked by who makes room
        ask                             locked by who asks a registry
        offer-XX                        what it said (offers.py)
        .cmeta-pull-...                 what is not whole yet (landing.py)

All locks are flock(2)'s. Who runs an image holds a shared one on its file, so that who makes room
leaves it alone (spank/pull.c). Should it be removed all the same, it stays readable for who has it
open.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress

from slurm_cmeta.errors import ImageError
from slurm_cmeta.pull.landing import sweep
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BASE = "/var/tmp"  # noqa: S108 - the directory in it is made 0700, and refused unless it is so
MAX_SIZE = 50 << 30
"""Bytes that one user's images may take on a node."""

PAUSE = 0.1
"""Seconds between two tries to get a lock that another process holds."""
MAX_STAMP = 100


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
            _need_safe(base, os.stat(base))
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

    @contextmanager
    def asking(self, seconds: float) -> Iterator[None]:
        """Be the only one of this store who asks a registry, so that the others find what it said.

        Who has waited for `seconds` asks as well: it only spares the registry.
        """
        with ExitStack() as held:
            with suppress(StoreError, OSError):
                held.enter_context(_locked(f"{self.directory}/ask", time.monotonic() + seconds))
            yield

    def get(self, digest: str, size: int, make: Callable[[str], None], until: float) -> str:
        """Return the path of an image, which `make(PATH)` makes if it is not here.

        Of several who ask at once one makes it, and the others wait. `size` is about what it will
        take; `until` (time.monotonic()) bounds the wait. Raises StoreError, or what `make` does.
        """
        path = self.path(digest)
        try:
            with _locked(_lock_of(path), until) as lock:
                if _is_what_it_was(path, lock):
                    with suppress(OSError):
                        os.utime(lock)
                else:
                    self._make(path, size, make, until)
                    _stamp(path, lock)
                    self._remove_unused(0)
        except OSError as problem:
            raise StoreError(f"{clean(self.directory)}: {problem.strerror}") from None
        return path

    def _make(self, path: str, size: int, make: Callable[[str], None], until: float) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)  # damaged, or of a pull that died before it was done
        self.make_room(size, until)
        make(path)
        taken = os.stat(path).st_size
        if taken > self.max_size:
            os.unlink(path)
            raise self._too_large(taken)

    def make_room(self, size: int, until: float) -> None:
        """Remove the images that were used longest ago, until `size` more bytes are allowed.

        Raises StoreError where they are not, whatever is removed.
        """
        if size > self.max_size:
            raise self._too_large(size)
        with _locked(f"{self.directory}/lock", until):
            sweep(self.directory)
            self._remove_lone_locks()
            left = self._remove_unused(size)
        if left + size > self.max_size:
            raise StoreError(
                f"{clean(self.directory)} has no room for {size >> 20} MiB: images in use take "
                f"{left >> 20} of {self.max_size >> 20} MiB (store_size)"
            )

    def entries(self) -> list[Entry]:
        """Return what is in the store."""
        found = []
        for name in os.listdir(self.directory):
            if name.startswith("sha") and name.endswith(".sif"):
                path = f"{self.directory}/{name}"
                with suppress(OSError):
                    size = os.stat(path).st_size
                    try:
                        used = os.stat(_lock_of(path)).st_mtime
                    except FileNotFoundError:
                        used = 0.0
                    found.append(Entry(path, size, used))
        return found

    def _remove_unused(self, size: int) -> int:
        """Remove the oldest until `size` more bytes fit; return the bytes of what is left."""
        entries = sorted(self.entries(), key=lambda one: one.used)
        total = sum(one.size for one in entries)
        for one in entries:
            if total + size <= self.max_size:
                break
            if _remove_unless_used(one.path):
                total -= one.size
        return total

    def _remove_lone_locks(self) -> None:
        """Remove those that pulls which came to nothing have left."""
        for name in os.listdir(self.directory):
            image = f"{self.directory}/{name.removesuffix('.lock')}.sif"
            if name.startswith("sha") and name.endswith(".lock") and not os.path.exists(image):
                _remove_unless_used(image)

    def _too_large(self, size: int) -> StoreError:
        return StoreError(
            f"the image takes {size >> 20} MiB, and {clean(self.directory)} may take no more than "
            f"{self.max_size >> 20} MiB (store_size)"
        )


def _need_safe(base: str, found: os.stat_result) -> None:
    """Raise StoreError where others could put another directory in the place of the user's."""
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if (shared and not found.st_mode & stat.S_ISVTX) or found.st_uid not in (0, os.geteuid()):
        raise StoreError(
            f"others can rename what is in {clean(base)}: not used; it must be root's, and sticky "
            "where all may write (chmod 1777)"
        )


def _lock_of(path: str) -> str:
    return path.removesuffix(".sif") + ".lock"


@contextmanager
def _locked(path: str, until: float) -> Iterator[int]:
    """Hold the lock of that file; gives its descriptor. Raises StoreError when time is out."""
    while (descriptor := _try(path)) is None:
        if time.monotonic() > until:
            raise StoreError(
                f"{clean(path)}: another process of this user is pulling the image, and was not "
                "ready in time"
            )
        time.sleep(PAUSE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try(path: str) -> int | None:
    """Return a descriptor of the locked file, or None where another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass  # a file that was removed meanwhile locks nobody out: the next try makes another
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _identity(path: str) -> bytes:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError
    return b"cmeta 1 %d %d\n" % (found.st_size, found.st_mtime_ns)


def _is_what_it_was(path: str, lock: int) -> bool:
    """Tell whether the image is there as it was when it had been verified."""
    try:
        return os.pread(lock, MAX_STAMP, 0) == _identity(path)
    except OSError:
        return False


def _stamp(path: str, lock: int) -> None:
    """Note what the image is. Where that cannot be done, it is pulled again the next time."""
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, _identity(path), 0)


def _remove_unless_used(path: str) -> bool:
    """Remove an image, unless somebody runs it or is about to; tell whether it is gone."""
    try:
        lock = _try(_lock_of(path))
        if lock is None:
            return False
        try:
            with suppress(FileNotFoundError), open(path, "r+b") as image:
                fcntl.flock(image, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            os.unlink(_lock_of(path))
        finally:
            os.close(lock)
    except OSError:
        return False
    return True
