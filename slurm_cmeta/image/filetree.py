"""The files inside an image, whatever holds them: a squashfs, a directory, a stack of layers.

A tree never raises for what an image holds: what is not there, cannot be read or is damaged is
answered as if it were not there, and the image gets a warning where something was lost. Symbolic
links are followed inside the image only, as they would be after chroot(2).
"""

from __future__ import annotations

import os
import time

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from slurm_cmeta.image.content import Warnings

FILE = "file"
DIRECTORY = "directory"
SYMLINK = "symlink"
OTHER = "other"

MAX_LINKS = 40
"""Symbolic links followed in one path, as in Linux (include/linux/namei.h, MAXSYMLINKS)."""

MAX_PATH = 4096
"""Linux's PATH_MAX."""

MAX_DEPTH = 64
"""Directories below each other that walk() enters: real trees have about 25."""

MAX_NAMES = 4096
"""Names that one directory gives by default; what lists more says so."""

PROGRESS_SECONDS = 0.25
"""Seconds between two reports of progress."""

MAX_CACHED = 20_000
"""Looked-up entries that are remembered, about 5 MB."""


class TreeError(Exception):
    """Damage inside a tree. Raised by implementations, never seen outside of them."""


class OutOfBudgetError(TreeError):
    """The budget is used up; nothing more is read from the image."""


class Entry(NamedTuple):
    """One file inside an image."""

    path: str
    """From the image's root, without links in it: `/usr/bin/dash`."""
    kind: str
    """`file`, `directory`, `symlink` or `other` (devices, sockets, FIFOs)."""
    size: int
    """Bytes of a file, as stated; of anything else not meaningful."""
    mode: int
    """Permission bits (0o755)."""
    handle: Any
    """The implementation's own."""


class Budget:
    """How much may be read from one image: every bound that keeps a hostile one harmless."""

    __slots__ = (
        "bytes",
        "deadline",
        "deep",
        "operations",
        "progress",
        "seconds",
        "started",
        "told",
    )

    def __init__(self, total: int, operations: int, seconds: float, *, deep: bool = False) -> None:
        """`total` bytes of unpacked content, `operations` look-ups, `seconds` from now on.

        `deep` says that all of the image may be read, whatever that costs.
        """
        self.bytes = total
        self.operations = operations
        self.seconds = seconds
        self.deep = deep
        self.started = self.told = time.monotonic()
        self.deadline = self.started + seconds
        self.progress: Callable[[float, int], None] | None = None
        """Told now and then how many seconds it took so far, and how many operations are left."""

    def spend(self, size: int = 0) -> None:
        """Take one operation and `size` bytes; raise OutOfBudgetError when there is no more."""
        self.operations -= 1
        self.bytes -= size
        if self.bytes < 0:
            raise OutOfBudgetError("too much would have to be read")
        if self.operations < 0:
            raise OutOfBudgetError("too many files would have to be looked at")
        now = time.monotonic()
        if now > self.deadline:
            raise OutOfBudgetError(f"reading took more than {self.seconds:g} s")
        if self.progress is not None and now - self.told > PROGRESS_SECONDS:
            self.told = now
            self.progress(now - self.started, self.operations)


def quick_budget(seconds: float = 5.0) -> Budget:
    """Return the budget of a submission and of a plain `cmeta inspect`.

    Real images need 50 to 300 look-ups and 1 to 5 MB, in about 10 ms.
    """
    return Budget(64 * 1024 * 1024, 20_000, seconds)


def deep_budget() -> Budget:
    """Return the budget of `cmeta inspect --deep`: 40 GB, 20 million steps, an hour."""
    return Budget(40 * 1024**3, 20_000_000, 3600.0, deep=True)


class FileTree:
    """Base of all trees. Implementations give the five methods with an underscore."""

    def __init__(self, warnings: Warnings, budget: Budget, what: str) -> None:
        """`what` names the tree in warnings: `the squashfs in partition 3`."""
        self.warnings = warnings
        self.budget = budget
        self.what = what
        self._at_root: Entry | None = None
        self._known: dict[tuple[str, str | bool], Entry | None] = {}
        """By path and whether links were followed, and by directory and name."""
        self._stopped = False
        self._whole = True

    @property
    def whole(self) -> bool:
        """False once something of the image was lost, so that what was found may not be all.

        That is: the budget was used up, directories were too deep to be entered, something could
        not be read or was not understood, or there was no room to remember it or put it aside.
        What a caller's own limit leaves out is not lost, nor is that of a large file in a packed
        layer only the beginning is kept, where that was enough for who read it.
        """
        return self._whole

    def lose(self) -> None:
        """Say that something of the image is not in this tree, of which whole speaks."""
        self._whole = False

    def _root(self) -> Entry:
        raise NotImplementedError

    def _child(self, directory: Entry, name: str) -> Entry | None:
        """Return the entry `name` of a directory, not following it."""
        raise NotImplementedError

    def _names(self, directory: Entry) -> Iterator[tuple[str, str]]:
        """Yield name and kind of all entries of a directory."""
        raise NotImplementedError

    def _target(self, link: Entry) -> str:
        """Return where a symbolic link points."""
        raise NotImplementedError

    def _read(self, file: Entry, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`; both lie inside the size that the file states."""
        raise NotImplementedError

    def _number(self, directory: Entry) -> object:
        """Return what is the same for the same directory met again, None where none can be.

        A damaged file system may hold a directory in itself.
        """
        return None

    def find(self, path: str, *, follow: bool = True) -> Entry | None:
        """Return what is at `path` (from the image's root), or None.

        With `follow`, a symbolic link at the end is followed, too; links on the way always are.
        """
        try:
            return self._find(path, follow)
        except TreeError as problem:
            self._lost(path, problem)
            return None

    def list(
        self, path: str, limit: int = MAX_NAMES, *, quiet: bool = False
    ) -> list[tuple[str, str]]:
        """Return name and kind of the first `limit` entries of the directory at `path`.

        The kind of a symbolic link is `symlink`. Nothing if there is no such directory. That it
        has more names is a warning, unless `quiet`: for who wants a few of however many.
        """
        found: list[tuple[str, str]] = []
        try:
            directory = self._find(path, True)
            if directory is None or directory.kind != DIRECTORY:
                return found
            for name, kind in self._names(directory):
                if name in (".", "..", "") or "/" in name:
                    continue
                if len(found) == limit:
                    if not quiet:
                        self.warnings.add(
                            f"{clean(directory.path)} in {self.what} holds more than {limit} "
                            "names: the others are not looked at"
                        )
                    break
                found.append((name, kind))
        except TreeError as problem:
            self._lost(path, problem)
        return found

    def entries(self, path: str) -> Sequence[Entry]:
        """Return the files and directories in the directory at `path`, in one pass over it.

        That is cheaper than to find() what list() gives, which looks through the directory again
        for each name. Links are left out. Nothing if there is no such directory.
        """
        directory = self.find(path)
        if directory is None or directory.kind != DIRECTORY or self._stopped:
            return ()
        return self._children(directory)

    def step(self) -> bool:
        """Take one step of the budget, for who works long on what was read; False if it is used up.

        Then there is a warning, as for any other step.
        """
        try:
            self.budget.spend()
        except OutOfBudgetError as problem:
            self._lost("/", problem)
            return False
        return True

    def read(self, entry: Entry | None, offset: int = 0, size: int | None = None) -> bytes:
        """Return up to `size` bytes of a file (to its end by default), fewer at its end.

        Nothing if `entry` is None or no file, or if it cannot be read.
        """
        if entry is None or entry.kind != FILE or offset < 0 or offset >= entry.size:
            return b""
        left = entry.size - offset
        length = left if size is None else min(size, left)
        if length <= 0:
            return b""
        try:
            self.budget.spend(length)
            return self._read(entry, offset, length)
        except TreeError as problem:
            self._lost(entry.path, problem)
            return b""

    def text(self, path: str, limit: int) -> str:
        """Return the first `limit` bytes of the file at `path` as text, empty if there is none."""
        return self.read(self.find(path), 0, limit).decode("utf-8", "replace")

    def walk(self, path: str = "/", skip: frozenset[str] = frozenset()) -> Iterator[Entry]:
        """Yield every regular file below `path`, not entering the directories in `skip`.

        Symbolic links are not followed, so that every file comes once. Stops with a warning when
        the budget is used up.
        """
        start = self.find(path)
        if start is None:
            return
        if start.kind == FILE:
            yield start
        stack = [(start, 0)] if start.kind == DIRECTORY else []
        entered: set[object] = set()
        while stack and not self._stopped:
            directory, depth = stack.pop()
            number = self._number(directory)
            if number is not None:
                if number in entered:
                    self._whole = False  # it may as well be another one of the same number
                    self.warnings.add(f"{self.what} has a directory in more than one place")
                    continue
                entered.add(number)
            deeper: list[tuple[Entry, int]] = []
            for entry in self._children(directory):
                if entry.kind == FILE:
                    yield entry
                elif entry.kind == DIRECTORY and entry.path not in skip:
                    if depth < MAX_DEPTH:
                        deeper.append((entry, depth + 1))
                    else:
                        self._whole = False
                        self.warnings.add(
                            f"{self.what} has directories more than {MAX_DEPTH} deep: "
                            "they are not looked at"
                        )
            stack += reversed(deeper)

    def _children(self, directory: Entry) -> Sequence[Entry]:
        """Return files and directories of one directory, looked up one by one.

        An implementation that gets the entries with the names overrides it.
        """
        found = []
        try:
            for name, kind in self._names(directory):
                if kind not in (FILE, DIRECTORY) or name in (".", "..", "") or "/" in name:
                    continue
                self.budget.spend()
                entry = self._child(directory, name)
                if entry is not None and entry.kind == kind:
                    found.append(entry)
                else:
                    self._whole = False
        except TreeError as problem:
            self._lost(directory.path, problem)
        return found

    def _find(self, path: str, follow: bool) -> Entry | None:
        if len(path) > MAX_PATH or "\0" in path:
            return None
        key = (path, follow)
        if key in self._known:
            return self._known[key]
        if self._stopped:
            return None
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            return None  # no file has such a name
        entry = self._resolve(path, follow)
        if len(self._known) < MAX_CACHED:
            self._known[key] = entry
        return entry

    def _resolve(self, path: str, follow: bool) -> Entry | None:
        trail = [self._look_up_root()]
        steps = [step for step in path.split("/") if step not in ("", ".")]
        steps.reverse()
        links = 0
        while steps:
            step = steps.pop()
            here = trail[-1]
            if here.kind != DIRECTORY:
                return None
            if step == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            entry = self._look_up(here, step)
            if entry is None:
                return None
            if entry.kind == SYMLINK and (steps or follow):
                links += 1
                target = self._target(entry)
                if links > MAX_LINKS or len(target) > MAX_PATH or len(steps) > MAX_PATH:
                    return None
                if target.startswith("/"):
                    del trail[1:]
                steps += reversed([s for s in target.split("/") if s not in ("", ".")])
                continue
            trail.append(entry)
        return trail[-1]

    def _look_up_root(self) -> Entry:
        if self._at_root is None:
            self.budget.spend()
            self._at_root = self._root()
        return self._at_root

    def _look_up(self, directory: Entry, name: str) -> Entry | None:
        """Return a child, and remember it by its directory and name."""
        key = (directory.path, name)
        if key in self._known:
            return self._known[key]
        self.budget.spend()
        entry = self._child(directory, name)
        if len(self._known) < MAX_CACHED:
            self._known[key] = entry
        return entry

    def _lost(self, path: str, problem: TreeError) -> None:
        self._whole = False
        if isinstance(problem, OutOfBudgetError):
            if not self._stopped:
                self._stopped = True
                text = f"{self.what} was read in part only: {problem}"
                self.warnings.add(text, passing=True)
            return
        text = f"{clean(path)} in {self.what} cannot be read: {clean(str(problem))}"
        self.warnings.add(text, passing=True)


def joined(directory: Entry, name: str) -> str:
    """Return the path of `name` in `directory`."""
    return f"/{name}" if directory.path == "/" else f"{directory.path}/{name}"
