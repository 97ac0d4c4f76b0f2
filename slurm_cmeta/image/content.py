"""What every image format tells about itself, in the same words whatever the format."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from slurm_cmeta.image.filetree import Budget, FileTree

MAX_WARNINGS = 20
"""Warnings kept for one image. A hostile file can earn one for each of its objects and labels."""


class Warnings(list[str]):
    """Warnings about one image: each said once, and not more than a person will read."""

    __slots__ = ("passing",)

    def __init__(self) -> None:
        super().__init__()
        self.passing = False
        """Whether the image could not be read for a reason that may be gone another time."""

    def add(self, text: str, *, passing: bool = False) -> None:
        """Keep `text`, unless it was said before or too much was said already."""
        self.passing = self.passing or passing
        if text in self:
            return
        if len(self) < MAX_WARNINGS:
            self.append(text)
        elif len(self) == MAX_WARNINGS:
            self.append("more warnings about this image are left out")


class Stated(NamedTuple):
    """An architecture that the image states, as OCI (GOARCH) spells it."""

    name: str
    source: str
    variant: str = ""
    """OCI's platform variant (`v3`), empty if none is stated."""


class StoredObject(NamedTuple):
    """One object inside an image file."""

    number: int
    """Its number as the format's own tools show it; unique only in honest images."""
    kind: str
    name: str
    group: int | None
    link: str
    """What it is about, in words: `object 3`, `group 1`, or empty."""
    offset: int
    size: int
    """Offset and size in bytes, as stated: only those of `readable` objects lie in the file."""
    readable: bool


class Signature(NamedTuple):
    """A signature that the image carries. Nobody has checked it: it may be forged or stale."""

    number: int
    hash: str
    fingerprint: str
    """Fingerprint of the signing key as 40 hexadecimal digits; empty where none is stated."""
    link: str


class Run(NamedTuple):
    """What starts when the image is run without a command."""

    script: str = ""
    """Text of Apptainer's runscript, its first kilobytes."""
    words: tuple[str, ...] = ()
    """OCI's Entrypoint followed by Cmd."""


class Content:
    """Base of what a format module returns; the defaults stand for `not stated`."""

    __slots__ = (
        "architectures",
        "created",
        "created_source",
        "digest",
        "encrypted",
        "filesystem",
        "filesystem_source",
        "format",
        "objects",
        "platforms",
        "signatures",
        "title",
        "uuid",
    )

    def __init__(self, format_name: str, title: str) -> None:
        self.format = format_name
        self.title = title
        """The format's name in sentences."""
        self.architectures: tuple[Stated, ...] = ()
        """Best evidence first; where there are several images in one, that of the one that is
        looked into."""
        self.platforms: tuple[Stated, ...] = ()
        """All platforms that an image for several has, in its order; empty for one of one only."""
        self.filesystem = ""
        self.filesystem_source = ""
        self.encrypted = False
        self.created: int | None = None
        """Seconds since 1970, UTC."""
        self.created_source = f"{title} header"
        self.uuid = ""
        self.digest = ""
        """`sha256:...` of the manifest that the image is, where the format has one."""
        self.objects: tuple[StoredObject, ...] = ()
        self.signatures: tuple[Signature, ...] = ()

    def labels(self) -> dict[str, str]:
        """Return the image's labels. Reads them when first asked."""
        return {}

    def deffile(self) -> str:
        """Return the text of the definition file, empty if there is none. Reads it when asked."""
        return ""

    def environment(self) -> dict[str, str]:
        """Return the variables that the image sets. Reads them when first asked."""
        return {}

    def run(self) -> Run:
        """Return what starts when the image is run without a command. Reads it when asked."""
        return Run()

    def open_tree(self, budget: Budget) -> FileTree | None:
        """Return the files in the image, or None where they cannot be read: a warning says why."""
        return None
