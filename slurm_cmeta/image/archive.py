"""Images in a tar archive: an OCI layout (`oci-archive`), or what `docker save` writes.

`docker save` writes manifest.json, an array of {"Config": NAME, "RepoTags": [...], "Layers":
[NAME...]} whose names are members of the archive (moby image/tarexport/tarexport.go); since Docker
25 the same archive is an OCI layout, too (image-spec image-layout.md), which is then gone by.
Members are found where they lie in the archive: nothing is unpacked.
"""

from __future__ import annotations

from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import oci, tarheaders
from slurm_cmeta.image.content import Stated
from slurm_cmeta.image.document import text, texts
from slurm_cmeta.image.metadata import MAX_JSON, DocumentError, load
from slurm_cmeta.image.oci import Slice
from slurm_cmeta.image.ociimage import Config, OciImage, read_config
from slurm_cmeta.image.reader import MAX_PATH, error
from slurm_cmeta.image.unpack import Plain, UnpackError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from typing import Any

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget
    from slurm_cmeta.image.reader import Reader

MAX_MEMBERS = 4096
"""Members that are looked at: `docker save` writes up to four for each of 127 layers."""

MAX_IMAGES = 32
"""Images of one `docker save`."""


def read(reader: Reader, warnings: Warnings, budget: Budget) -> OciImage:
    """Return what the archive holds; raise ImageError if there is no image in it."""
    archive = Archive(reader, warnings, budget)
    docker = archive.find("manifest.json") is not None
    if archive.find("index.json") is not None and archive.find("oci-layout") is not None:
        name, title = (
            ("docker-archive", "Docker archive") if docker else ("oci-layout", "OCI archive")
        )
        image = OciImage(name, title, archive, warnings)
        try:
            image.choose(reader.path, archive.json("index.json"), budget)
        except ImageError:
            if not docker:
                raise
        else:
            return image
    if not docker:
        raise error(reader.path, "is a tar archive, but neither an OCI nor a Docker image")
    return _read_docker(archive, reader, warnings)


class Archive:
    """The members of a tar archive by name. Blobs of OCI are members, too."""

    def __init__(self, reader: Reader, warnings: Warnings, budget: Budget) -> None:
        self._reader = reader
        self._budget = budget
        self._places: dict[bytes, Slice] = {}
        self._links: dict[bytes, bytes] = {}
        source = Plain(Slice(reader, 0, reader.size), budget)
        try:
            for member in tarheaders.members(source):
                budget.spend(tarheaders.BLOCK)
                if len(self._places) + len(self._links) >= MAX_MEMBERS:
                    warnings.add(f"more than {MAX_MEMBERS} members: the others are ignored")
                    break
                self._add(member, source.tell())
        except (tarheaders.TarError, UnpackError) as problem:
            warnings.add(f"the archive {problem} at byte {source.tell()}: the rest is ignored")

    def _add(self, member: tarheaders.Member, offset: int) -> None:
        name = _normal(member.name)
        if member.kind == tarheaders.REGULAR and not member.sparse:
            if offset + member.size <= self._reader.size:
                self._places[name] = Slice(self._reader, offset, member.size)
        elif member.kind == tarheaders.LINK:
            self._links[name] = _normal(member.target)
        elif member.kind == tarheaders.SYMLINK:
            # `docker save` writes ID/layer.tar -> ../OTHER/layer.tar for a layer that it has twice.
            self._links[name] = _normal(name.rpartition(b"/")[0] + b"/" + member.target)

    def member(self, name: str) -> Slice | None:
        """Return where the content of a member is, None if there is none of that name."""
        wanted = _normal(name.encode("utf-8", "surrogateescape"))
        for _ in range(4):
            if wanted in self._places or wanted not in self._links:
                break
            wanted = self._links[wanted]
        return self._places.get(wanted)

    def find(self, digest: str) -> Slice | None:
        """Return where a member, or the blob of that digest is, None if it is not there."""
        return self.member(f"blobs/{digest.replace(':', '/')}" if ":" in digest else digest)

    def json(self, name: str, *, array: bool = False) -> dict[str, Any]:
        """Return the JSON object that a member is, or {"list": ...} of an array.

        Raises ImageError if it is not there or not believed, TreeError if the budget is used up.
        """
        path = self._reader.path
        place = self.member(name)
        shown = clean(name, 80)
        if place is None:
            raise error(path, f"is damaged: {shown} is not in it")
        if place.size > MAX_JSON:
            raise error(path, f"is damaged: {shown} has {place.size} bytes, more than {MAX_JSON}")
        self._budget.spend(place.size)
        data = self._reader.read(place.offset, place.size)
        digits = name.rpartition("/")[2].removesuffix(".json")
        if oci.is_digest(f"sha256:{digits}") and not oci.verify(data, f"sha256:{digits}"):
            raise error(path, f"is damaged: {shown} has not the digest that it is named by")
        try:
            return load(b'{"list":' + data + b"}" if array else data)
        except DocumentError as problem:
            raise error(path, f"is damaged: {shown} {problem}") from None


class DockerImage(OciImage):
    """An image of manifest.json; the digests of its layers are names of members."""

    __slots__ = ()

    def _place(self, layer: oci.Descriptor) -> Slice | None:
        return self._blobs.find(layer.digest)


def _read_docker(archive: Archive, reader: Reader, warnings: Warnings) -> DockerImage:
    listed = archive.json("manifest.json", array=True).get("list")
    entries = (
        [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    )
    if not entries:
        raise error(reader.path, "is a Docker archive without an image")
    if len(entries) > MAX_IMAGES:
        warnings.add(f"more than {MAX_IMAGES} images in manifest.json: the rest is ignored")
    image = DockerImage("docker-archive", "Docker archive", archive, warnings)
    found: list[tuple[str, Config, list[str]]] = []
    configs: dict[str, Config] = {}
    for entry in entries[:MAX_IMAGES]:
        tags = texts(entry, "RepoTags")
        name = clean(tags[0] if tags else text(entry, "Config")[:19], 60)
        try:
            where = text(entry, "Config")
            if where not in configs:
                configs[where] = read_config(archive.json(where), warnings)
        except ImageError as problem:
            if len(entries) == 1:
                raise
            reason = str(problem).removeprefix(f"{clean(reader.path, MAX_PATH)}: ")
            warnings.add(f"image {name} {reason}")
            continue
        found.append((name, configs[where], texts(entry, "Layers")))
    if not found:
        raise error(reader.path, "is a Docker archive without an undamaged image")
    chosen = image.prefer(
        [Stated(config.architecture, "Docker configuration", config.variant)
         for _, config, _ in found],
        [name for name, _, _ in found],
    )  # fmt: skip
    _, config, names = found[chosen]
    if len(names) > oci.MAX_LAYERS:
        warnings.add(f"{len(names)} layers are more than the {oci.MAX_LAYERS} that can be run")
    image.take(config, [oci.Descriptor("", name) for name in names[: oci.MAX_LAYERS]])
    return image


def _normal(name: bytes) -> bytes:
    """Return a member's name without `.` and `..`, which do not lead out of the archive."""
    steps: list[bytes] = []
    for step in name.split(b"/"):
        if step == b"..":
            del steps[-1:]
        elif step not in (b"", b"."):
            steps.append(step)
    return b"/".join(steps)
