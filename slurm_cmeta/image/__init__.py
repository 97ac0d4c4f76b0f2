"""What an image file is and holds. Knows nothing of Slurm or of nodes.

A format is a module with a function `read(source, warnings, budget)`, which returns its Content, or
None where a closer look shows another format. It is imported when an image is recognised by its
content: a file by its first bytes, a directory by what it holds. FORMATS is the only list of them.
"""

from __future__ import annotations

import os
import sys

from slurm_cmeta.image import heads, sif, singularityd, unread
from slurm_cmeta.image.content import Content, Run, Signature, Stated, StoredObject, Warnings
from slurm_cmeta.image.filetree import OutOfBudgetError, TreeError, quick_budget
from slurm_cmeta.image.reader import Identity, Reader, error
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType, TracebackType

    from slurm_cmeta.image.directory import Folder
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


class Format(NamedTuple):
    """How an image is recognised, and the module in this package that reads it."""

    module: str
    recognises: Callable[[bytes], bool] | None = None
    """Tells from a file's first bytes; None for formats that are directories."""
    entry: str = ""
    """What a directory of this format holds."""


FORMATS: tuple[Format, ...] = (
    Format("sif", sif.recognises),
    Format("rawsquashfs", heads.is_squashfs),
    Format("archive", heads.is_tar),
    Format("layout", entry="oci-layout"),
    Format("sandbox", entry=".singularity.d"),
    Format("bundle", entry="config.json"),
    Format("sandbox", entry="bin/sh"),
    Format("sandbox", entry="usr/bin"),
    Format("sandbox", entry="etc/os-release"),
)
"""In the order in which they are tried: a root file system may hold a config.json of its own."""


class Image:
    """An open image. Close it, use it in a `with` statement, or let go of it."""

    __slots__ = (
        *("_budget", "_labels", "_tree"),
        *("content", "format", "identity", "path", "reader", "warnings"),
    )

    def __init__(
        self, source: Reader | Folder, content: Content, warnings: Warnings, budget: Budget
    ) -> None:
        self.path = source.path
        self.format = content.format
        self.identity = source.identity
        """Changes when the image does; of a directory, when its index or configuration or the
        directory itself does: what changes deeper inside cannot be seen so cheaply."""
        self.content = content
        self.warnings = warnings
        self.reader = source
        self._budget = budget
        self._tree: FileTree | bool | None = False
        self._labels: dict[str, str] | None = None

    @property
    def deep(self) -> bool:
        """Whether all of the image may be read, whatever that costs."""
        return self._budget.deep

    def labels(self) -> dict[str, str]:
        """Return the image's labels; reads them when first asked, which may add warnings."""
        if self._labels is None:
            found = self.content.labels()
            if not found and (kept := self._kept_inside()):
                found = kept[0].labels(kept[1], self.warnings)
            self._labels = found
        return self._labels

    def environment(self) -> dict[str, str]:
        """Return the variables that the image sets; reads them when asked."""
        found = self.content.environment()
        if not found and (kept := self._kept_inside()):
            found = kept[0].environment(kept[1])
        return found

    def run(self) -> Run:
        """Return what starts when the image is run without a command; reads it when asked."""
        found = self.content.run()
        if found == Run() and (kept := self._kept_inside()):
            found = kept[0].run(kept[1])
        return found

    def tree(self) -> FileTree | None:
        """Return the files in the image, or None where they cannot be read: a warning says why.

        Opened when first asked.
        """
        if isinstance(self._tree, bool):
            self._tree = self.content.open_tree(self._budget)
        return self._tree

    def _kept_inside(self) -> tuple[ModuleType, FileTree] | None:
        """Return the module that knows what the image's files tell of the image, if one does."""
        tree = self.tree()
        if tree is None:
            return None
        if tree.find(singularityd.DIRECTORY) is not None:
            return singularityd, tree
        if self.format in ("squashfs", "sandbox"):
            from slurm_cmeta.image import enroot

            if enroot.is_in(tree):
                return enroot, tree
        return None

    def close(self) -> None:
        """Close the file or directory. What was not read by then cannot be read any more."""
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
    object outside the file) becomes a warning of the image. `budget` bounds all that is read of
    it, from its first byte on: by default what a submission can afford.
    """
    warnings = Warnings()
    budget = budget or quick_budget()
    source: Reader | Folder
    if os.path.isdir(path):
        from slurm_cmeta.image.directory import Folder

        source = Folder(path)
    else:
        source = Reader(path)
    try:
        content = _read(source, warnings, budget)
    except BaseException:
        source.close()
        raise
    return Image(source, content, warnings, budget)


def _read(source: Reader | Folder, warnings: Warnings, budget: Budget) -> Content:
    head, unseen = b"", ""
    if isinstance(source, Reader):
        head = source.head()
        if not head:
            raise error(source.path, "is empty")
    for kind in FORMATS:
        try:
            if _recognises(kind, source, head, budget):
                content: Content | None = _module(kind.module).read(source, warnings, budget)
                if content is not None:
                    return content
        except OutOfBudgetError as problem:
            raise error(source.path, f"cannot be looked into: {problem}") from None
        except TreeError as problem:  # it may be of another format still
            unseen = unseen or str(problem)
    if unseen:
        raise error(source.path, f"cannot be looked into: {clean(unseen)}")
    raise error(source.path, unread.name(head) if head else unread.DIRECTORY)


def _recognises(kind: Format, source: Reader | Folder, head: bytes, budget: Budget) -> bool:
    if isinstance(source, Reader):
        return kind.recognises is not None and kind.recognises(head)
    from slurm_cmeta.image.directory import holds

    return bool(kind.entry) and holds(source, kind.entry, budget)


def _module(name: str) -> ModuleType:
    full = f"{__name__}.{name}"
    __import__(full)
    return sys.modules[full]
