"""An OCI image layout: a directory with oci-layout, index.json and blobs/ALGORITHM/DIGEST.

Source: opencontainers/image-spec image-layout.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_cmeta.image.directory import DirectoryTree
from slurm_cmeta.image.filetree import quick_budget
from slurm_cmeta.image.metadata import MAX_JSON, DocumentError, load
from slurm_cmeta.image.oci import Slice
from slurm_cmeta.image.ociimage import OciImage
from slurm_cmeta.image.reader import error

if TYPE_CHECKING:
    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.directory import Folder


def read(folder: Folder, warnings: Warnings) -> OciImage:
    """Return what the layout holds; raise ImageError if there is no image in it."""
    tree = DirectoryTree(folder, "the OCI layout", warnings, quick_budget())
    reader = tree.open(tree.find("index.json"))
    if reader is None:
        raise error(folder.path, "is an OCI layout without index.json")
    if reader.size > MAX_JSON:
        raise error(folder.path, f"has an index.json of {reader.size} bytes, more than {MAX_JSON}")
    try:
        index = load(reader.read(0, reader.size))
    except DocumentError as problem:
        raise error(folder.path, f"is a damaged OCI layout: index.json {problem}") from None
    folder.identify_with(reader.identity)
    image = OciImage("oci-layout", "OCI layout", Blobs(tree), warnings)
    image.choose(folder.path, index)
    return image


class Blobs:
    """The blobs of a layout: regular files in it, or links to such."""

    def __init__(self, tree: DirectoryTree) -> None:
        self._tree = tree
        self._open: dict[str, Slice | None] = {}

    def find(self, digest: str) -> Slice | None:
        """Return where the blob of that digest is, None if it is not in this image."""
        if digest not in self._open:
            algorithm, _, digits = digest.partition(":")
            reader = self._tree.open(self._tree.find(f"blobs/{algorithm}/{digits}"))
            self._open[digest] = None if reader is None else Slice(reader, 0, reader.size)
        return self._open[digest]
