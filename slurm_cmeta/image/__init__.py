"""What an image file is and holds. Knows nothing of Slurm or of nodes.

A format is a module with two functions: `recognises(head)` tells from a file's first bytes
whether it is of that format, `read(reader, warnings)` returns its Content. Formats know nothing of
each other; FORMATS is the only list of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_cmeta.image import sif, singularityd, unread
from slurm_cmeta.image.content import Content, Run, Signature, Stated, StoredObject, Warnings
from slurm_cmeta.image.filetree import quick_budget
from slurm_cmeta.image.reader import Identity, Reader, error

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

    from slurm_cmeta.image.filetree import Budget, FileTree

__all__ = [
    "Content",
    "Identity",
    "Image",
    "Run",
    "Signature",
    "Stated",
    "StoredObject",
    "open_image",
]

FORMATS: tuple[ModuleType, ...] = (sif,)


class Image:
    """An open image. Close it, use it in a `with` statement, or let go of it."""

    __slots__ = ("_budget", "_tree", "content", "format", "identity", "path", "reader", "warnings")

    def __init__(
        self, reader: Reader, content: Content, warnings: Warnings, budget: Budget
    ) -> None:
        self.path = reader.path
        self.format = content.format
        self.identity = reader.identity
        self.content = content
        self.warnings = warnings
        self.reader = reader
        self._budget = budget
        self._tree: FileTree | bool | None = False

    @property
    def deep(self) -> bool:
        """Whether all of the image may be read, whatever that costs."""
        return self._budget.deep

    def labels(self) -> dict[str, str]:
        """Return the image's labels; reads them when first asked, which may add warnings."""
        found = self.content.labels()
        if not found and self._has_singularity_d():
            found = singularityd.labels(self._opened(), self.warnings)
        return found

    def environment(self) -> dict[str, str]:
        """Return the variables that the image sets; reads them when asked."""
        found = self.content.environment()
        if not found and self._has_singularity_d():
            found = singularityd.environment(self._opened())
        return found

    def run(self) -> Run:
        """Return what starts when the image is run without a command; reads it when asked."""
        found = self.content.run()
        if found == Run() and self._has_singularity_d():
            found = singularityd.run(self._opened())
        return found

    def tree(self) -> FileTree | None:
        """Return the files in the image, or None where they cannot be read: a warning says why.

        Opened when first asked.
        """
        if isinstance(self._tree, bool):
            self._tree = self.content.open_tree(self._budget)
        return self._tree

    def _opened(self) -> FileTree:
        tree = self.tree()
        assert tree is not None
        return tree

    def _has_singularity_d(self) -> bool:
        tree = self.tree()
        return tree is not None and tree.find(singularityd.DIRECTORY) is not None

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


def open_image(path: str, budget: Budget | None = None) -> Image:
    """Open the image at `path` and read what it is: one read for most images.

    Raises ImageError with the one-line message `PATH: reason` if it cannot be read, is no image
    of a known format, or is damaged where the damage matters. Lesser damage (broken labels, an
    object outside the file) becomes a warning of the image. `budget` bounds what is read of the
    files in it: by default what a submission can afford.
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
                return Image(reader, content, warnings, budget or quick_budget())
        raise error(path, unread.name(head))
    except BaseException:
        reader.close()
        raise
