"""Brings one variant here, whole or not at all: into a SIF, or into an OCI layout.

Apptainer makes the SIF of an image, skopeo copies into a layout; a SIF that lies in the registry
as an artifact is fetched by ourselves. All of them write beside the destination, which is replaced
by a rename. What was fetched has the digest that was asked for: Apptainer and skopeo verify what a
registry sends, and here it is verified for artifacts, and for layouts on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat

from slurm_cmeta.errors import UsageError
from slurm_cmeta.image import oci
from slurm_cmeta.image.metadata import MAX_JSON, DocumentError, load
from slurm_cmeta.pull import artifact, tools
from slurm_cmeta.pull.landing import FetchError, beside, check, need_room, settle
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry.reference import LAYOUT
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_cmeta.pull.variant import Variant
    from slurm_cmeta.registry.access import Access
    from slurm_cmeta.registry.reference import Reference

    Progress = Callable[[int, int], None]
    """Is told bytes so far, 0 where a tool fetches, and of how many."""


def into_sif(
    reference: Reference,
    variant: Variant,
    destination: str,
    access: Access,
    *,
    plain: bool = False,
    in_job: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make `destination` the SIF of one variant. Raises FetchError, RegistryError or ImageError.

    `plain`: the registry has no TLS. `in_job`: nothing is put into the user's home (Apptainer's
    cache), and memory may be short.
    """
    directory = os.path.dirname(os.path.abspath(destination))
    need_room(directory, variant, destination)
    if artifact.is_artifact(reference, variant):
        artifact.fetch(reference, variant, destination, access, progress)
        return
    with beside(directory) as place:
        made = f"{place.path}/image.sif"
        variables = tools.frugal() if in_job else {}
        words = [tools.runtime(), "build"]  # not pull: it takes arguments for mksquashfs
        if reference.transport == LAYOUT:
            _lay_out_one(reference, variant, place.path, access)
            words += [made, "oci:."]  # the tool is in there: a colon in a path would end it
        else:
            variables |= tools.as_we_do(reference, access, place.path)
            words += ["--no-https"] if plain else []
            words += ["--disable-cache"] if in_job else []
            words += [made, reference.pinned(variant.digest)]
        tell = _telling(progress, variant)
        tools.run(words, access, place, variables, tell)
        check(made, variant)
        settle(made, destination)


def into_layout(
    reference: Reference,
    variant: Variant,
    destination: str,
    access: Access,
    *,
    tag: str = "",
    plain: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make the new directory `destination` an OCI layout that holds one variant, named `tag`.

    Raises FetchError, UsageError where something is there already.
    """
    if os.path.lexists(destination):
        raise UsageError(f"{clean(destination)} is there already: a layout is made anew")
    directory = os.path.dirname(os.path.abspath(destination))
    need_room(directory, variant, destination)
    with beside(directory) as place:
        variables: dict[str, str] = {}
        if reference.transport == LAYOUT:
            _lay_out_one(reference, variant, place.path, access)
            source = "oci:."
        else:
            variables = tools.as_we_do(reference, access, place.path)
            source = reference.pinned(variant.digest).replace("oras://", "docker://")
        tls = ["--src-tls-verify=false"] if plain else []
        made = f"{place.path}/made"
        target = f"oci:made:{tag}" if tag else "oci:made"
        copy = ["copy", "--quiet", "--preserve-digests", *tls, source, target]
        tell = _telling(progress, variant)
        tools.run([tools.skopeo(), *copy], access, place, variables, tell)
        if _named_in(made) != [variant.digest]:
            raise FetchError(f"{reference}: skopeo copied something else than {variant.digest}")
        try:
            os.rename(made, destination)
        except OSError as problem:
            raise FetchError(f"{clean(destination)}: {problem.strerror}") from None


def _telling(progress: Progress | None, variant: Variant) -> Callable[[], None] | None:
    return None if progress is None else lambda: progress(0, variant.size)


def _named_in(layout: str) -> list[str]:
    try:
        with open(f"{layout}/index.json", "rb") as file:
            return [one.get("digest") for one in json.load(file).get("manifests", ())]
    except (OSError, ValueError) as problem:
        raise FetchError(f"skopeo left no layout: {clean(str(problem))}") from None


def _lay_out_one(reference: Reference, variant: Variant, place: str, access: Access) -> None:
    """Make `place` a layout of one image, whose blobs are those of the reference's layout.

    They are verified first: Apptainer does not look at the digests of a layout's layers.
    """
    blobs = os.path.abspath(f"{reference.repository}/blobs")
    manifest = _verified(f"{blobs}/{variant.digest.replace(':', '/')}", variant.digest, access)
    try:
        with open(manifest, "rb") as file:
            document = load(file.read(MAX_JSON))
    except (OSError, DocumentError) as problem:
        raise FetchError(f"{clean(manifest)}: {clean(str(problem))}") from None
    config = oci.descriptors([document.get("config")], 1)
    layers = oci.descriptors(document.get("layers"), oci.MAX_LAYERS + 1)
    if len(layers) > oci.MAX_LAYERS:
        raise FetchError(f"{clean(manifest)}: it has more than {oci.MAX_LAYERS} layers")
    for one in (*config, *layers):
        if not oci.is_digest(one.digest):
            raise FetchError(f"{clean(manifest)}: {clean(one.digest, 80)} is no digest")
        _verified(f"{blobs}/{one.digest.replace(':', '/')}", one.digest, access)
    size = os.stat(manifest).st_size
    entry = {"mediaType": oci.MANIFESTS[0], "digest": variant.digest, "size": size}
    with open(f"{place}/oci-layout", "w", encoding="ascii") as file:
        file.write('{"imageLayoutVersion": "1.0.0"}')
    with open(f"{place}/index.json", "w", encoding="ascii") as file:
        json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
    os.symlink(blobs, f"{place}/blobs")


def _verified(path: str, digest: str, access: Access) -> str:
    """Return the path of a blob. Raises FetchError unless it is what its digest says."""
    algorithm, _, wanted = digest.partition(":")
    found = hashlib.new(algorithm)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FetchError(f"{clean(path)} is no file")
            while piece := file.read(1 << 20):
                found.update(piece)
                if access.left <= 0:
                    raise FetchError(f"{clean(path)} was not read in time")
    except OSError as problem:
        raise FetchError(f"{clean(path)}: {problem.strerror}") from None
    if found.hexdigest() != wanted:
        raise FetchError(f"{clean(path)} is not what its digest says: not taken")
    return path
