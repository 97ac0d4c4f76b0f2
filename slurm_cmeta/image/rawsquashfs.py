"""A squashfs as an image of its own: enroot's, and Singularity's before 3.0.

Superblock (Documentation/filesystems/squashfs.rst, little-endian): magic "hsqs" at 0, version
major u16 at 28, bytes used u64 at 40.
"""

from __future__ import annotations

import struct

from slurm_cmeta.image.content import Content
from slurm_cmeta.image.heads import squashfs_offset
from slurm_cmeta.image.reader import error
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget, FileTree
    from slurm_cmeta.image.reader import Reader

_SUPERBLOCK = struct.Struct("<4s24xH10xQ48x")


def read(reader: Reader, warnings: Warnings, budget: Budget) -> RawSquashfs:
    """Return what the squashfs holds; raise ImageError if it cannot be mounted."""
    return RawSquashfs(reader, warnings)


class RawSquashfs(Content):
    """A root file system that is one squashfs."""

    __slots__ = ("_offset", "_reader", "_warnings")

    def __init__(self, reader: Reader, warnings: Warnings) -> None:
        super().__init__("squashfs", "squashfs")
        self._reader = reader
        self._warnings = warnings
        self._offset = squashfs_offset(reader.head())
        size = reader.size - self._offset
        if size < _SUPERBLOCK.size:
            raise error(reader.path, f"is truncated: {size} bytes end inside the superblock")
        _, version, used = _SUPERBLOCK.unpack(reader.read(self._offset, _SUPERBLOCK.size))
        if version != 4:
            raise error(reader.path, f"has squashfs version {version}, only 4 is known")
        if used > size:
            raise error(
                reader.path, f"is truncated: its squashfs has {used} bytes, the file has {size}"
            )
        self.filesystem, self.filesystem_source = "squashfs", "squashfs superblock"

    def open_tree(self, budget: Budget) -> FileTree | None:
        """Return the files in the squashfs."""
        from slurm_cmeta.image.squashfs import open_squashfs

        return open_squashfs(
            self._reader,
            self._offset,
            self._reader.size - self._offset,
            "the squashfs",
            self._warnings,
            budget,
        )
