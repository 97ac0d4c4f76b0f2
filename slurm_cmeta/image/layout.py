"""An OCI image layout: a directory with oci-layout, index.json and blobs/ALGORITHM/DIGEST.

Source: opencontainers/image-spec image-layout.md.
"""

from __future__ import annotations

from slurm_cmeta.image.directory import DirectoryTree, read_document
from slurm_cmeta.image.oci import Slice
from slurm_cmeta.image.ociimage import OciImage
from slurm_cmeta.image.reader import error
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.directory import Folder
    from slurm_cmeta.image.filetree import Budget


def read(folder: Folder, warnings: Warnings, budget: Budget) -> OciImage:
    """Return what the layout holds; raise ImageError if there is no image in it."""
    tree = DirectoryTree(folder, "the OCI layout", warnings, budget)
    found = read_document(tree, "index.json", "is a damaged OCI layout: index.json")
    if found is None:
        raise error(folder.path, "is an OCI layout without index.json")
    index, identity = found
    folder.identify_with(identity)
    image = OciImage("oci-layout", "OCI layout", Blobs(tree), warnings)
    image.choose(folder.path, index, budget)
    return image


class Blobs:
    """The blobs of a layout: regular files in it, or links to such."""

    def __init__(self, tree: DirectoryTree) -> None:
        self._tree = tree
        self._known: dict[str, Slice | None] = {}

    def find(self, digest: str) -> Slice | None:
        """Return where the blob of that digest is, None if it is not in this image."""
        if digest not in self._known:
            algorithm, _, digits = digest.partition(":")
            blob = self._tree.blob(f"blobs/{algorithm}/{digits}")
            self._known[digest] = None if blob is None else Slice(blob, 0, blob.size)
        return self._known[digest]
