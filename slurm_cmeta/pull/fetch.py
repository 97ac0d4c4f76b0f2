"""Brings one variant here, whole or not at all: into a SIF, or into an OCI layout.

Apptainer makes the SIF of an image, skopeo copies into a layout; a SIF that lies in the registry
as an artifact is fetched by ourselves. All of them write beside the destination, which is replaced
by a rename. What was fetched has the digest that was asked for: Apptainer and skopeo verify what
they get by digest, and here it is verified for artifacts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress

from slurm_cmeta import evidence
from slurm_cmeta.errors import CmetaError, ImageError, UsageError
from slurm_cmeta.image import oci, open_image
from slurm_cmeta.image.metadata import DocumentError, load
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry.client import Registry
from slurm_cmeta.registry.errors import BROKEN, RegistryError
from slurm_cmeta.registry.http import PIECE
from slurm_cmeta.registry.reference import LAYOUT, parse
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from slurm_cmeta.pull.variant import Variant
    from slurm_cmeta.registry.access import Access
    from slurm_cmeta.registry.reference import Reference

    Progress = Callable[[int, int], None]

RUNTIMES = ("apptainer", "singularity")
OPTION_PLACES = "/usr/local/bin:/usr/bin:/bin:/opt/apptainer/bin"
"""Where else the runtime is looked for, as cmeta-run does."""

SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
LAST_WORDS = 400
"""Characters of what a tool said before it failed."""


class FetchError(ImageError):
    """The variant could not be brought here."""


class BusyError(FetchError):
    """Another process is bringing it here."""


def into_sif(
    reference: Reference,
    variant: Variant,
    destination: str,
    access: Access,
    *,
    plain: bool = False,
    cached: bool = True,
    progress: Progress | None = None,
) -> None:
    """Make `destination` the SIF of one variant. Raises FetchError, RegistryError or ImageError.

    `plain`: the registry has no TLS. `cached`: whether Apptainer may use its own cache. `progress`
    is told bytes so far and of how many, where we fetch ourselves.
    """
    directory = os.path.dirname(os.path.abspath(destination))
    _need_room(directory, variant, destination)
    if _is_artifact(reference, variant):
        _fetch_artifact(reference, variant, destination, access, progress)
        return
    with _beside(directory) as place:
        made = f"{place}/image.sif"
        if reference.transport == LAYOUT:
            _lay_out_one(reference, variant, place)
            words = ["build", made, f"oci:{place}"]
        else:
            options = [*(["--no-https"] if plain else []), *([] if cached else ["--disable-cache"])]
            words = ["pull", *options, made, reference.pinned(variant.digest)]
        _run([_runtime(), *words], access, place)
        _check(made, variant)
        _settle(made, destination)


def into_layout(
    reference: Reference,
    variant: Variant,
    destination: str,
    access: Access,
    *,
    plain: bool = False,
) -> None:
    """Make the new directory `destination` an OCI layout that holds one variant.

    Raises FetchError, UsageError where something is there already.
    """
    if os.path.lexists(destination):
        raise UsageError(f"{clean(destination)} is there already: a layout is made anew")
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        raise FetchError("an OCI layout is made by skopeo, which is not installed here")
    directory = os.path.dirname(os.path.abspath(destination))
    _need_room(directory, variant, destination)
    with _beside(directory) as place:
        if reference.transport == LAYOUT:
            _lay_out_one(reference, variant, place)
            source = f"oci:{place}"
        else:
            source = reference.pinned(variant.digest).replace("oras://", "docker://")
        tls = ["--src-tls-verify=false"] if plain else []
        tag = f":{reference.tag}" if reference.tag else ""
        made = f"{place}/made"
        copy = ["copy", "--quiet", "--preserve-digests", *tls, source, f"oci:{made}{tag}"]
        _run([skopeo, *copy], access, place)
        with open(f"{made}/index.json", "rb") as file:
            found = [one.get("digest") for one in json.load(file).get("manifests", ())]
        if found != [variant.digest]:
            raise FetchError(f"{reference}: skopeo copied something else than {variant.digest}")
        os.rename(made, destination)


def _is_artifact(reference: Reference, variant: Variant) -> bool:
    return reference.transport != LAYOUT and any(
        f.key == "filesystem" and f.value == "sif" for f in variant.facts
    )


def _need_room(directory: str, variant: Variant, destination: str) -> None:
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
def _beside(directory: str) -> Iterator[str]:
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


def _runtime() -> str:
    for path in (os.environ.get("PATH"), OPTION_PLACES):
        for name in RUNTIMES:
            if found := shutil.which(name, path=path):
                return found
    raise FetchError(
        "a SIF is made by Apptainer, which is not installed here: install it, or take --format oci"
    )


def _run(words: Sequence[str], access: Access, place: str) -> None:
    """Run a tool until the time is out; raises FetchError with its last words."""
    with open(f"{place}/said", "w+b") as said:
        try:
            tool = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=place,
                env={**os.environ, "TMPDIR": place, "APPTAINER_TMPDIR": place},
            )
        except OSError as problem:
            raise FetchError(f"cannot start {clean(words[0])}: {problem.strerror}") from None
        try:
            code = tool.wait(max(access.left, 0.1))
        except BaseException as problem:
            tool.terminate()
            try:
                tool.wait(5)
            except subprocess.TimeoutExpired:
                tool.kill()
                tool.wait()
            if not isinstance(problem, subprocess.TimeoutExpired):
                raise
            raise FetchError(f"{_name(words)} was not ready in time") from None
        if code:
            said.seek(max(0, said.tell() - 65536))
            raise FetchError(f"{_name(words)} failed: {_last_words(said.read())}")


def _name(words: Sequence[str]) -> str:
    return f"{os.path.basename(words[0])} {words[1]}"


def _last_words(said: bytes) -> str:
    """Return the last line in which a tool tells of an error, without colours and time stamps."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "rror" in line or "level=fatal" in line]
    line = (telling or lines or ["no reason given"])[-1]
    for mark in ("FATAL:", 'msg="', "ERROR:"):
        line = line.rpartition(mark)[2]
    return clean(line.replace("\x1b[0m", "").strip(' "'), LAST_WORDS)


def _check(path: str, variant: Variant) -> None:
    """Raise FetchError unless the SIF is for the architecture that the variant was chosen for."""
    with open_image(path) as image:
        found = next((f.value for f in evidence.read(image).facts if f.key == "arch"), None)
    wanted = next((f.value for f in variant.facts if f.key == "arch"), None)
    if wanted and found and wanted != found:
        raise FetchError(
            f"the registry says that {variant.digest[:19]} is for {clean(wanted)}, and the "
            f"programs in it are for {clean(found)}: not taken"
        )


def _settle(made: str, destination: str) -> None:
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


def _lay_out_one(reference: Reference, variant: Variant, place: str) -> None:
    """Make `place` a layout of one image, whose blobs are those of the reference's layout."""
    manifest = f"{reference.repository}/blobs/{variant.digest.replace(':', '/')}"
    entry = {
        "mediaType": oci.MANIFESTS[0],
        "digest": variant.digest,
        "size": os.stat(manifest).st_size,
    }
    with open(f"{place}/oci-layout", "w", encoding="ascii") as file:
        file.write('{"imageLayoutVersion": "1.0.0"}')
    with open(f"{place}/index.json", "w", encoding="ascii") as file:
        json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
    os.symlink(os.path.abspath(f"{reference.repository}/blobs"), f"{place}/blobs")


# --- a SIF that lies in a registry ----------------------------------------------------------------


def _fetch_artifact(
    reference: Reference,
    variant: Variant,
    destination: str,
    access: Access,
    progress: Progress | None,
) -> None:
    registry = Registry(parse(reference.pinned(variant.digest)), access)
    try:
        layers = oci.descriptors(load(registry.manifest().data).get("layers"), oci.MAX_LAYERS)
        layer = next(one for one in layers if one.media_type == SIF_LAYER)
    except (DocumentError, StopIteration):
        raise RegistryError(f"{reference}: there is no SIF in it", BROKEN) from None
    directory, name = os.path.split(os.path.abspath(destination))
    part = f"{directory}/.{name}.{layer.digest[7:19]}.part"
    try:
        _download(registry, layer, part, progress)
        _check(part, variant)
        _settle(part, destination)
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
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(part, flags, 0o600), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{clean(part)}: another process is fetching it") from None
        digest = hashlib.sha256()
        while piece := file.read(PIECE):
            digest.update(piece)
        done = file.tell()
        if layer.size and done > layer.size:
            file.truncate(0)
            file.seek(0)
            digest, done = hashlib.sha256(), 0
        if not layer.size or done < layer.size:
            answer = registry.open_blob(layer.digest, done)
            if answer.response.status != 206 and done:  # no part of it is to be had
                file.truncate(0)
                file.seek(0)
                digest, done = hashlib.sha256(), 0
            for piece in registry.pieces(answer):
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                if layer.size and done > layer.size:
                    break
                if progress is not None:
                    progress(done, layer.size)
    if f"sha256:{digest.hexdigest()}" != layer.digest:
        _remove(part)
        raise RegistryError(
            f"{registry.reference}: the SIF is not what its digest says: not taken", BROKEN
        )


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
