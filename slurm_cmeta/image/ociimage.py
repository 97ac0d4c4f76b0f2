"""What an image by OCI's specification tells, whatever its blobs are kept in."""

from __future__ import annotations

import os

from slurm_cmeta.image import metadata, oci
from slurm_cmeta.image.content import Content, Run, Stated
from slurm_cmeta.image.document import text
from slurm_cmeta.image.reader import error
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget, FileTree

_CONFIG = "OCI configuration"
_SHOWN = 4


class Config(NamedTuple):
    """What is used of an image's configuration."""

    architecture: str = ""
    variant: str = ""
    created: int | None = None
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    environment: dict[str, str] = {}  # noqa: RUF012
    words: tuple[str, ...] = ()


def read_config(document: dict[str, Any], warnings: Warnings) -> Config:
    """Return what is used of a configuration (image-spec config.md)."""
    return Config(
        text(document, "architecture"),
        text(document, "variant"),
        seconds(text(document, "created")),
        metadata.labels(document, _CONFIG, warnings),
        metadata.oci_environment(document),
        metadata.entry_point(document),
    )


class OciImage(Content):
    """One image of those that `found` holds."""

    __slots__ = ("_blobs", "_config", "_labels", "_layers", "_warnings")

    def __init__(self, format_name: str, title: str, blobs: oci.Blobs, warnings: Warnings) -> None:
        super().__init__(format_name, title)
        self._blobs = blobs
        self._warnings = warnings
        self._config = Config()
        self._labels: dict[str, str] = {}
        self._layers: tuple[oci.Descriptor, ...] = ()

    def choose(self, path: str, index: dict[str, Any], budget: Budget) -> None:
        """Be the image among those of `index` that is meant here; raise ImageError if none is.

        The only one; else the first of this machine's architecture; else the first.
        """
        allowance = oci.Allowance(budget)
        found = oci.Found(self._blobs, self._warnings, allowance)
        found.follow(index)
        if not found.manifests:
            more = f": {found.problems[0]}" if found.problems else " in its index"
            raise error(path, f"is {_article(self.title)} without an image{more}")
        manifests = found.manifests
        configs = Configs(self._blobs, self._warnings, allowance)
        platforms = [_platform(manifest, configs) for manifest in manifests[1:] and manifests]
        manifest = manifests[self.prefer(platforms, [manifest.name for manifest in manifests])]
        self.be(manifest, configs.of(manifest))

    def be(self, manifest: oci.Manifest, config: Config) -> None:
        """Be that image, which has this configuration."""
        self.digest = manifest.digest
        self.take(config, manifest.layers, _listed(manifest.descriptor))
        self._labels = {**manifest.annotations, **config.labels}

    def take(
        self, config: Config, layers: Sequence[oci.Descriptor], listed: Stated | None = None
    ) -> None:
        """Be the image of that configuration and these layers, lowest first."""
        self._config = config
        self._layers = tuple(layers)
        self._labels = config.labels
        stated = []
        if config.architecture:
            stated.append(Stated(config.architecture, _CONFIG, config.variant))
        if listed is not None:
            if config.architecture and not config.variant and listed.name == config.architecture:
                stated[0] = stated[0]._replace(variant=listed.variant)
            stated.append(listed)
        self.architectures = tuple(stated)
        self.created, self.created_source = config.created, _CONFIG
        self.filesystem_source = "OCI manifest"
        if layers and all(layer.media_type.endswith(".squashfs") for layer in layers):
            self.filesystem = "squashfs"
        if any("+encrypted" in layer.media_type for layer in layers):
            self.encrypted = True

    def labels(self) -> dict[str, str]:
        """Return the configuration's labels, then what the annotations add to them."""
        return self._labels

    def environment(self) -> dict[str, str]:
        """Return the variables of the configuration."""
        return self._config.environment

    def run(self) -> Run:
        """Return the configuration's Entrypoint and Cmd."""
        return Run(words=self._config.words)

    def open_tree(self, budget: Budget) -> FileTree | None:
        """Return the layers on top of each other. Packed ones are read by a deep look only."""
        from slurm_cmeta.image import layers

        total = len(self._layers)
        parts = [
            layers.Part(f"layer {number} of {total}", layer.media_type, self._place(layer))
            for number, layer in enumerate(self._layers, 1)
        ]
        return layers.open_stack(parts[::-1], self._warnings, budget)

    def _place(self, layer: oci.Descriptor) -> oci.Slice | None:
        return self._blobs.find(layer.digest) if oci.is_digest(layer.digest) else None

    def prefer(self, platforms: Sequence[Stated], names: Sequence[str]) -> int:
        """Return which of several images is meant: the first of this machine's architecture, else
        the first. Notes all their platforms, and warns of what is not looked into.
        """
        if len(platforms) < 2:
            return 0
        self.platforms = tuple(platforms)
        chosen = _preferred(platforms)
        shown = [_platform_name(stated) for stated in platforms]
        if len(set(shown)) < len(shown):
            shown = [f"{clean(n, 60)} ({s})" for n, s in zip(names, shown, strict=True)]
        others = shown[:chosen] + shown[chosen + 1 :]
        listed = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        self._warnings.add(
            f"there are {len(shown)} images in it: {shown[chosen]} is looked into, not {listed}"
        )
        return chosen


class Configs:
    """The configurations of several images, each read once, however many name it."""

    def __init__(self, blobs: oci.Blobs, warnings: Warnings, allowance: oci.Allowance) -> None:
        self._blobs = blobs
        self._warnings = warnings
        self._allowance = allowance
        self._known: dict[str, Config] = {}

    def of(self, manifest: oci.Manifest) -> Config:
        """Return the configuration of an image; an empty one, with a warning, if it has none."""
        digest = manifest.config.digest
        if digest not in self._known:
            try:
                document = oci.document(self._blobs, digest, self._allowance)
                self._known[digest] = read_config(document, self._warnings)
            except oci.BlobError as problem:
                self._warnings.add(f"the configuration of {manifest.name} {problem}: it is ignored")
                self._known[digest] = Config()
        return self._known[digest]


def _platform(manifest: oci.Manifest, configs: Configs) -> Stated:
    """Return the platform of one of several images."""
    stated = _listed(manifest.descriptor)
    if stated is None:
        config = configs.of(manifest)
        stated = Stated(config.architecture, _CONFIG, config.variant)
    return stated


def _article(title: str) -> str:
    return f"an {title}" if title[0] in "AEIO" else f"a {title}"


def _listed(descriptor: oci.Descriptor) -> Stated | None:
    if not descriptor.architecture:
        return None
    return Stated(descriptor.architecture, "platform in the OCI index", descriptor.variant)


def _platform_name(stated: Stated) -> str:
    name = f"{stated.name}/{stated.variant}" if stated.variant else stated.name
    return clean(name or "no architecture", 40)


def _preferred(platforms: Sequence[Stated]) -> int:
    from slurm_cmeta import vocabulary

    here = os.uname().machine
    own = vocabulary.architecture(here) or here
    for number, stated in enumerate(platforms):
        if vocabulary.architecture(stated.name) == own:
            return number
    return 0


def seconds(stamp: str) -> int | None:
    """Return the seconds since 1970 of an RFC 3339 time (`2024-01-31T12:00:00.5Z`), or None."""
    import calendar

    try:
        year, month, day = (int(stamp[a:b]) for a, b in ((0, 4), (5, 7), (8, 10)))
        hour, minute, second = (int(stamp[a:b]) for a, b in ((11, 13), (14, 16), (17, 19)))
        away = stamp[19:].lstrip(".0123456789")
        if away not in ("Z", "z"):
            sign = {"+": -1, "-": 1}[away[0]]
            minute += sign * (60 * int(away[1:3]) + int(away[4:6]))
        if not (1970 <= year <= 9999 and 1 <= month <= 12):
            return None
        return calendar.timegm((year, month, day, hour, minute, second))
    except (ValueError, KeyError, IndexError, OverflowError):
        return None
