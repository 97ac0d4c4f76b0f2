"""What all readers of evidence share: one image, and what was looked up in it once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slurm_cmeta.evidence.elf import Elf
    from slurm_cmeta.image import Image
    from slurm_cmeta.image.filetree import Entry, FileTree

PROGRAM = "program"
"""What the image runs by itself: of its runscript, or its OCI entry point."""
SHELL = "shell"
LOADER = "loader"
LIBC = "libc"
APPLICATION = "application"
"""A file that is not the distribution's."""


class Binary(NamedTuple):
    """One ELF file of the image."""

    entry: Entry
    elf: Elf
    role: str
    """`program`, `shell`, `loader`, `libc` or `application`."""


class Subject:
    """An image under examination.

    labels:      the image's labels
    environment: the variables that it sets
    tree:        its files, None where they cannot be read
    deep:        whether everything may be read, whatever it costs
    family:      archspec's name of its architecture; None until that is known
    warnings:    the image's own; add(text) says each thing once
    """

    def __init__(self, image: Image, *, deep: bool) -> None:
        self.image = image
        self.deep = deep
        self.warnings = image.warnings
        self.labels: Mapping[str, str] = image.labels()
        self.environment: Mapping[str, str] = image.environment()
        self.tree: FileTree | None = image.tree(deep=deep)
        self.family: str | None = None

    def programs(self) -> list[Binary]:
        """Return the few ELF files that tell what the image needs: a handful, looked up once."""
        raise NotImplementedError

    def libraries(self) -> Mapping[str, str]:
        """Return soname -> path of the shared libraries that the image's loader would find."""
        raise NotImplementedError

    def library(self, soname: str) -> Entry | None:
        """Return the shared library that the image's loader would take for `soname`."""
        raise NotImplementedError

    def application(self) -> Iterator[Binary]:
        """Yield every ELF file that is not the distribution's; only where `deep`."""
        raise NotImplementedError
