"""Layers on top of each other, as a container engine would show them as one tree.

A name in an upper layer hides that in the lower ones, two directories become one, and whiteouts
take names away: `.wh.NAME` removes NAME of the layers below, `.wh..wh..opq` in a directory all
names below it (image-spec layer.md, "Whiteouts"). Layers that were made for overlayfs, as those of
OCI-SIF, have a character device 0/0 in the place of a name that is removed (Linux
Documentation/filesystems/overlayfs.rst); any device is taken for one here, because no reader of
evidence has a use for a real one. overlayfs marks an opaque directory by an attribute
(trusted.overlay.opaque), which cannot be seen here: what such a directory hides still shows.
"""

from __future__ import annotations

from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import squashfs, tarheaders, unpack
from slurm_cmeta.image.filetree import DIRECTORY, OTHER, Entry, FileTree, TreeError, joined
from slurm_cmeta.image.tarlayer import Shared, TarTree
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget
    from slurm_cmeta.image.oci import Slice

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

MAX_NAMES = 100_000
"""Names of one directory that are merged."""

_SKIPPED = ("ext3", "extfs")
"""Ends of the media types of the writable overlay on top of an OCI-SIF (SingularityCE 4.2)."""


class Part(NamedTuple):
    """One layer."""

    what: str
    media_type: str
    place: Slice | None
    """None if it is not in the image."""


def open_stack(parts: Sequence[Part], warnings: Warnings, budget: Budget) -> FileTree | None:
    """Return the tree of the layers `parts`, upper ones first, None where it cannot be read.

    Below a layer that cannot be read to its end nothing is shown: it might be hidden.
    """
    if not budget.deep and any(_packing(part) for part in parts):
        warnings.add("the layers are packed and were not looked into; --deep does")
        return None
    shared = Shared(warnings, deep=budget.deep)
    trees: list[FileTree] = []
    whole, lost = True, False
    for part in parts:
        if part.media_type.endswith(_SKIPPED):
            lost = True
            warnings.add(f"{part.what} is a writable overlay (ext3), which is not looked into")
            continue
        reason = _unreadable(part)
        if not reason:
            try:
                tree = _open(part, warnings, budget, shared)
            except (squashfs.NotReadableError, unpack.UnpackError, ImageError) as problem:
                reason = (
                    "cannot be read" if isinstance(problem, ImageError) else clean(str(problem))
                )
            else:
                if tree is None:
                    continue
                trees.append(tree)
                if isinstance(tree, TarTree) and not tree.complete:
                    whole = False
                    break
        if reason:
            warnings.add(f"{part.what} {reason}: it and what is below are not looked into")
            whole = False
            break
    if not trees:
        return None
    if not whole and not budget.deep:
        warnings.add(
            "not all layers can be read: what is in the others is looked into by --deep only"
        )
        return None
    if len(trees) == 1 and not isinstance(trees[0], TarTree):
        tree = trees[0]
    else:
        tree = LayeredTree(trees, warnings, budget, "the image")
    if lost or not whole:
        tree.lose()
    return tree


def _head(part: Part) -> bytes:
    if part.place is None:
        return b""
    try:
        return part.place.reader.read(part.place.offset, min(part.place.size, tarheaders.BLOCK))
    except ImageError:
        return b""


def _packing(part: Part) -> str:
    return "" if "+encrypted" in part.media_type else unpack.packing(_head(part))


def _unreadable(part: Part) -> str:
    if part.place is None:
        return "is not in the image"
    return "is encrypted" if "+encrypted" in part.media_type else ""


def _open(part: Part, warnings: Warnings, budget: Budget, shared: Shared) -> FileTree | None:
    """Return the tree of one layer, None if it is empty; raise if it cannot be read."""
    assert part.place is not None
    head = _head(part)
    if head.startswith(squashfs.MAGIC):
        reader, offset, size = part.place
        return squashfs.SquashfsTree(reader, offset, size, part.what, warnings, budget)
    packing = unpack.packing(head)
    if not packing and not head.strip(b"\0"):
        return None
    if not packing and not tarheaders.looks_like_tar(head):
        raise unpack.UnpackError(f"is of an unknown kind ({part.media_type or 'unnamed'})")
    return TarTree(part.place, packing, part.what, warnings, budget, shared)


class LayeredTree(FileTree):
    """A stack of trees, upper ones first. Handles: (number of tree, its entry), for directories
    all that are merged.
    """

    def __init__(
        self, trees: Sequence[FileTree], warnings: Warnings, budget: Budget, what: str
    ) -> None:
        super().__init__(warnings, budget, what)
        self._trees = tuple(trees)

    @property
    def whole(self) -> bool:
        """False once something of the image was lost, in this tree or in one of its layers."""
        return self._whole and all(tree.whole for tree in self._trees)

    def _root(self) -> Entry:
        found = [(number, tree._look_up_root()) for number, tree in enumerate(self._trees)]
        return Entry("/", DIRECTORY, 0, found[0][1].mode, self._until_opaque(found))

    def _until_opaque(self, found: list[tuple[int, Entry]]) -> list[tuple[int, Entry]]:
        for position, (number, entry) in enumerate(found):
            if self._trees[number]._child(entry, OPAQUE) is not None:
                return found[: position + 1]
        return found

    def _child(self, directory: Entry, name: str) -> Entry | None:
        if name.startswith(WHITEOUT):
            return None
        found: list[tuple[int, Entry]] = []
        merged: list[tuple[int, Entry]] = directory.handle
        for position, (number, entry) in enumerate(merged):
            if position:  # who asks has paid for one
                self.budget.spend()
            tree = self._trees[number]
            child = tree._child(entry, name)
            if child is not None:
                if child.kind == DIRECTORY:
                    found.append((number, child))
                elif found or child.kind == OTHER:
                    break
                else:
                    return child._replace(path=joined(directory, name), handle=(number, child))
            if tree._child(entry, WHITEOUT + name) is not None:
                break
        if not found:
            return None
        path, mode = joined(directory, name), found[0][1].mode
        return Entry(path, DIRECTORY, 0, mode, self._until_opaque(found))

    def _names(self, directory: Entry) -> Iterator[tuple[str, str]]:
        settled: set[str] = set()
        for number, entry in directory.handle:
            gone: set[str] = set()
            for name, kind in self._trees[number]._names(entry):
                if len(settled) + len(gone) >= MAX_NAMES:
                    raise TreeError(f"holds more than {MAX_NAMES} names")
                if name.startswith(WHITEOUT):
                    gone.add(name[len(WHITEOUT) :])
                elif name not in settled:
                    settled.add(name)
                    if kind != OTHER:
                        yield name, kind
            settled |= gone

    def _number(self, directory: Entry) -> object:
        numbers = []
        for number, entry in directory.handle:
            below = self._trees[number]._number(entry)
            if below is None:
                return None
            numbers.append((number, below))
        return tuple(numbers)

    def _target(self, link: Entry) -> str:
        number, entry = _one(link)
        return self._trees[number]._target(entry)

    def _read(self, file: Entry, offset: int, size: int) -> bytes:
        number, entry = _one(file)
        return self._trees[number]._read(entry, offset, size)


def _one(entry: Entry) -> tuple[int, Entry]:
    number: int
    below: Entry
    number, below = entry.handle
    return number, below
