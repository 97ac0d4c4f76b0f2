"""Where what is fetched lands: beside its destination, and there by a rename once it is whole.

    .cmeta-pull-XXXXXXXX/          what a tool makes; locked (flock) by who works there
    .cmeta-pull-NAME.DIGEST.part   what came of a SIF before the connection broke, for a later try

A process that is killed leaves them behind, and its lock goes with it: the next pull to the same
directory removes what nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress

from slurm_cmeta import evidence
from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import open_image
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.pull.variant import Variant


PREFIX = ".cmeta-pull-"
YOUNG = 60
"""Seconds for which a directory that nobody holds is left alone: it may have just been made."""
STALE = 7 * 86400
"""Seconds for which a part is kept for a later try."""


class Place(NamedTuple):
    """A directory for what is not whole yet."""

    path: str
    lock: int
    """Descriptor with a lock: a tool that inherits it keeps the directory, should we be killed."""


class FetchError(ImageError):
    """The variant could not be brought here."""


def need_room(directory: str, variant: Variant, destination: str) -> None:
    """Raise FetchError where the variant is larger than what is free."""
    try:
        disk = os.statvfs(directory)
    except OSError as problem:
        raise FetchError(f"{clean(destination)}: {problem.strerror}: {clean(directory)}") from None
    free = disk.f_bavail * disk.f_frsize
    if free < variant.size:
        raise FetchError(
            f"{clean(destination)}: the image has {variant.size >> 20} MiB, and {clean(directory)} "
            f"only {free >> 20} MiB left"
        )


@contextmanager
def beside(directory: str) -> Iterator[Place]:
    """Make a directory for what is not whole yet; all in it is gone afterwards."""
    sweep(directory)
    try:
        path = tempfile.mkdtemp(prefix=PREFIX, dir=directory)
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as problem:
        raise FetchError(f"{clean(directory)}: {problem.strerror}") from None
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield Place(path, lock)
    finally:
        os.close(lock)
        remove_tree(path)


def part_of(destination: str, digest: str) -> str:
    """Return where what came of a file of that digest is kept until all of it is there."""
    directory, name = os.path.split(os.path.abspath(destination))
    return f"{directory}/{PREFIX}{name[:100]}.{digest[7:19]}.part"


def sweep(directory: str) -> None:
    """Remove what pulls of this user that are dead have left in `directory`."""
    with suppress(OSError):
        for name in os.listdir(directory):
            if name.startswith(PREFIX):
                with suppress(OSError):
                    _sweep_one(f"{directory}/{name}")


def _sweep_one(path: str) -> None:
    found = os.lstat(path)
    limit = YOUNG if stat.S_ISDIR(found.st_mode) else STALE
    if found.st_uid != os.geteuid() or found.st_mtime > time.time() - limit:
        return
    held = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(path)
    finally:
        os.close(held)


def remove_tree(path: str) -> None:
    """Remove a file, or a directory with all in it, whatever modes an image gave to its own."""
    with suppress(OSError):
        os.unlink(path)
        return
    for place, directories, _ in os.walk(path):  # opened before it is looked into
        for name in directories:
            with suppress(OSError):
                if not os.path.islink(f"{place}/{name}"):
                    os.chmod(f"{place}/{name}", 0o700)
    shutil.rmtree(path, ignore_errors=True)


def check(path: str, variant: Variant) -> None:
    """Raise FetchError unless the SIF is for the architecture that the variant was chosen for."""
    with open_image(path) as image:
        found = next((f.value for f in evidence.read(image).facts if f.key == "arch"), None)
    wanted = next((f.value for f in variant.facts if f.key == "arch"), None)
    if wanted and found and wanted != found:
        raise FetchError(
            f"the registry says that {variant.digest[:19]} is for {clean(wanted)}, and the "
            f"programs in it are for {clean(found)}: not taken"
        )


def settle(made: str, destination: str) -> None:
    """Put a whole file in its place, so that it is there after a crash, too."""
    try:
        with open(made, "rb") as file:
            os.fsync(file.fileno())
        os.replace(made, destination)
        folder = os.open(os.path.dirname(os.path.abspath(destination)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as problem:
        raise FetchError(f"{clean(destination)}: {problem.strerror}") from None
