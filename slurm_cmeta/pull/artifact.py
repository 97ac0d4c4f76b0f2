"""A SIF that lies in a registry as an artifact: fetched by ourselves, and verified."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress

from slurm_cmeta.errors import CmetaError
from slurm_cmeta.image import oci
from slurm_cmeta.image.metadata import DocumentError, load
from slurm_cmeta.pull.landing import FetchError, check, part_of, settle, sweep
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry.client import Registry
from slurm_cmeta.registry.errors import BROKEN, RegistryError
from slurm_cmeta.registry.http import PIECE
from slurm_cmeta.registry.reference import LAYOUT, parse
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from slurm_cmeta.pull.variant import Variant
    from slurm_cmeta.registry.access import Access
    from slurm_cmeta.registry.reference import Reference

    Progress = Callable[[int, int], None]

SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
MAX_TRIES = 5
"""How often a transfer that broke off is taken up again at once, as long as it gets on."""


class BusyError(FetchError):
    """Another process is fetching it."""


def is_artifact(reference: Reference, variant: Variant) -> bool:
    """Tell whether a variant is a SIF in a registry."""
    return reference.transport != LAYOUT and any(
        f.key == "filesystem" and f.value == "sif" for f in variant.facts
    )


def fetch(
    reference: Reference,
    variant: Variant,
    destination: str,
    access: Access,
    progress: Progress | None,
) -> None:
    """Make `destination` the SIF that `variant` is. Raises RegistryError, FetchError or ImageError.

    What came before a connection broke is kept beside it, and the next try goes on from there.
    """
    registry = Registry(parse(reference.pinned(variant.digest)), access)
    try:
        layers = oci.descriptors(load(registry.manifest().data).get("layers"), oci.MAX_LAYERS)
        layer = next(
            one for one in layers if one.media_type == SIF_LAYER and oci.is_digest(one.digest)
        )
    except (DocumentError, StopIteration):
        raise RegistryError(f"{reference}: there is no SIF in it", BROKEN) from None
    part = part_of(destination, layer.digest)
    sweep(os.path.dirname(part))
    try:
        _download(registry, layer, part, progress)
        check(part, variant)
        settle(part, destination)
    except (RegistryError, BusyError, KeyboardInterrupt):
        raise  # what came is kept: the next try goes on from there
    except CmetaError:
        _remove(part)
        raise
    except OSError as problem:
        _remove(part)
        raise FetchError(f"{clean(destination)}: {problem.strerror}") from None
    finally:
        registry.close()


def _download(
    registry: Registry, layer: oci.Descriptor, part: str, progress: Progress | None
) -> None:
    algorithm, _, wanted = layer.digest.partition(":")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(part, flags, 0o600), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{clean(part)}: another process is fetching it") from None
        digest = hashlib.new(algorithm)
        while piece := file.read(PIECE):
            digest.update(piece)
        tries = 0
        while not layer.size or file.tell() < layer.size:
            before = file.tell()
            try:
                digest = _go_on(registry, layer, file, digest, progress)
                break
            except RegistryError as problem:
                tries += 1
                if not problem.passing or tries >= MAX_TRIES or file.tell() <= before:
                    raise
    if digest.hexdigest() != wanted:
        _remove(part)
        raise RegistryError(
            f"{registry.reference}: the SIF is not what its digest says: not taken", BROKEN
        )


def _go_on(
    registry: Registry,
    layer: oci.Descriptor,
    file: BinaryIO,
    digest: hashlib._Hash,
    progress: Progress | None,
) -> hashlib._Hash:
    """Append what is missing; returns the digest of all of it. Raises RegistryError half-way."""
    done = file.tell()
    answer = registry.open_blob(layer.digest, done)
    if answer.response.status != 206 and done:  # no part of it is to be had
        file.seek(0)
        file.truncate()
        digest, done = hashlib.new(digest.name), 0
    for piece in registry.pieces(answer):
        file.write(piece)
        digest.update(piece)
        done += len(piece)
        if layer.size and done > layer.size:
            break
        if progress is not None:
            progress(done, layer.size)
    return digest


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
