"""What an image file is and holds. Knows nothing of Slurm or of nodes.

A format is a module with two functions: `recognises(head)` tells from a file's first bytes
whether it is of that format, `read(reader, warnings)` returns its Content. Formats know nothing of
each other; FORMATS is the only list of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_cmeta.image import filetree, sif, unread
from slurm_cmeta.image.content import Content, Signature, Stated, StoredObject, Warnings
from slurm_cmeta.image.reader import Identity, Reader, error

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

__all__ = [
    "Content",
    "Identity",
    "Image",
    "Signature",
    "Stated",
    "StoredObject",
    "open_image",
]

FORMATS: tuple[ModuleType, ...] = (sif,)


class Image:
    """An open image. Close it, use it in a `with` statement, or let go of it."""

    __slots__ = ("_tree", "content", "format", "identity", "path", "reader", "warnings")

    def __init__(self, reader: Reader, content: Content, warnings: Warnings) -> None:
        self.path = reader.path
        self.format = content.format
        self.identity = reader.identity
        self.content = content
        self.warnings = warnings
        self.reader = reader
        self._tree: filetree.FileTree | None | bool = False

    def labels(self) -> dict[str, str]:
        """Return the image's labels; reads them when first asked, which may add warnings."""
        return self.content.labels()

    def environment(self) -> dict[str, str]:
        """Return the variables that the image sets; reads them when first asked."""
        return self.content.environment()

    def tree(self, *, deep: bool = False) -> filetree.FileTree | None:
        """Return the files in the image, or None where they cannot be read: a warning says why.

        Opened when first asked, with the budget of a submission or that of a `deep` look.
        """
        if isinstance(self._tree, bool):
            budget = filetree.deep_budget() if deep else filetree.quick_budget()
            self._tree = self.content.open_tree(budget)
        return self._tree

    def close(self) -> None:
        """Close the file. What was not read by then cannot be read any more."""
        self.reader.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_image(path: str) -> Image:
    """Open the image at `path` and read what it is: one read for most images.

    Raises ImageError with the one-line message `PATH: reason` if it cannot be read, is no image
    of a known format, or is damaged where the damage matters. Lesser damage (broken labels, an
    object outside the file) becomes a warning of the image.
    """
    reader = Reader(path)
    try:
        head = reader.head()
        if not head:
            raise error(path, "is empty")
        for module in FORMATS:
            if module.recognises(head):
                warnings = Warnings()
                content: Content = module.read(reader, warnings)
                return Image(reader, content, warnings)
        raise error(path, unread.name(head))
    except BaseException:
        reader.close()
        raise
