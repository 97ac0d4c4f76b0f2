"""Where what is fetched lands: beside its destination, and there by a rename once it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress

from slurm_cmeta import evidence
from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import open_image
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.pull.variant import Variant


class FetchError(ImageError):
    """The variant could not be brought here."""


class BusyError(FetchError):
    """Another process is bringing it here."""


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
def beside(directory: str) -> Iterator[str]:
    """Make a directory for what is not whole yet; all in it is gone afterwards."""
    try:
        place = tempfile.mkdtemp(prefix=".cmeta-", dir=directory)
        lock = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as problem:
        raise FetchError(f"{clean(directory)}: {problem.strerror}") from None
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield place
    finally:
        os.close(lock)
        shutil.rmtree(place, ignore_errors=True)


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
