"""Images that are directories, and the files in them: reached without ever leaving them.

A path is walked one name at a time, each opened relative to the directory before it and never
through a symbolic link (openat(2) with O_NOFOLLOW | O_PATH). Links are resolved by FileTree, which
knows no way out, so that a link to /etc means the image's own /etc, whoever changes the tree
meanwhile. Devices, FIFOs and sockets are seen and never opened.
"""

from __future__ import annotations

import os
import stat

from slurm_cmeta.image.filetree import (
    DIRECTORY,
    FILE,
    OTHER,
    SYMLINK,
    Entry,
    FileTree,
    OutOfBudgetError,
    TreeError,
    joined,
)
from slurm_cmeta.image.metadata import MAX_JSON, DocumentError, load
from slurm_cmeta.image.reader import FLAGS, Identity, Reader, error, strerror, why_not_open
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget

MAX_OPEN = 16
"""Blobs of one image that are open at once. A submission may have 64 descriptors (libs/cmeta.c
bounds its helper), and an image 127 layers."""

MAX_SORTED = 100_000
"""Names of one directory that are put in order; more come in the order of several such lots."""

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1024 * 1024
_NAMES_A_STEP = 1000
_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}


class _Pool:
    """Open files by path, those last used; the others are closed."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def get(self, path: str) -> int:
        """Return the descriptor of `path`, -1 if it is not open."""
        fd = self._open.pop(path, -1)
        if fd >= 0:
            self._open[path] = fd  # the last used one is the last in the dictionary
        return fd

    def put(self, path: str, fd: int) -> None:
        """Own the open file `fd`."""
        self.drop(path)
        self._open[path] = fd
        if len(self._open) > MAX_OPEN:
            self.drop(next(iter(self._open)))

    def drop(self, path: str) -> None:
        """Close `path` if it is open."""
        fd = self._open.pop(path, -1)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Close all."""
        while self._open:
            os.close(self._open.popitem()[1])


class Folder:
    """An open directory. Owns its descriptor, those of blobs in it, and what keep() was given."""

    __slots__ = ("_fd", "_kept", "identity", "path", "pool")

    def __init__(self, path: str, *, beside: int | None = None) -> None:
        """Open `path`, relative to the open directory `beside` if given.

        Raises ImageError if it cannot be opened or is no directory.
        """
        self.path = path
        self._fd = -1
        self._kept: list[Folder] = []
        self.pool = _Pool()
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            self._fd = os.open(path, flags, dir_fd=beside)
            info = os.fstat(self._fd)
        except OSError as problem:
            raise error(path, why_not_open(path, problem)) from None
        except ValueError:
            raise error(path, "is no path: it holds a NUL or cannot be encoded") from None
        self.identity = Identity(
            info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
        )

    @property
    def fd(self) -> int:
        """The open file descriptor (O_PATH), -1 once closed."""
        return self._fd

    def read(self, offset: int, size: int) -> bytes:
        """Raise ImageError, as a Reader does for what the file has not: there are no bytes."""
        raise error(self.path, f"is a directory: it has no {size} bytes at offset {offset}")

    def identify_with(self, other: Identity) -> None:
        """Let the identity change with that of `other`, too: the file that says what is inside.

        A directory's own times change only when names in it come or go. What changes deeper inside
        cannot be seen without a look at everything.
        """
        own = self.identity
        self.identity = Identity(
            own.device,
            own.inode,
            other.size,
            max(own.mtime_ns, other.mtime_ns),
            max(own.ctime_ns, other.ctime_ns),
        )

    def keep(self, other: Folder) -> None:
        """Close `other` when this is closed."""
        self._kept.append(other)

    def close(self) -> None:
        """Close the directory and what was given to keep(); safe to call again."""
        for other in self._kept:
            other.close()
        self._kept.clear()
        self.pool.close()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class Blob(Reader):
    """A regular file in a directory, open only while it is one of those last read."""

    __slots__ = ("_entry", "_tree")

    def __init__(self, tree: DirectoryTree, entry: Entry) -> None:
        """Open the file; raise TreeError if that cannot be done."""
        self.path = f"{tree.folder.path}{entry.path}"
        self._fd = -1
        self._window = b""
        self._tree = tree
        self._entry = entry
        fd = tree.open_file(entry)
        self._is_of(os.fstat(fd))
        tree.folder.pool.put(entry.path, fd)

    def _descriptor(self) -> int:
        pool = self._tree.folder.pool
        fd = pool.get(self._entry.path)
        if fd < 0:
            try:
                fd = self._tree.open_file(self._entry)
            except TreeError as problem:
                raise error(self.path, f"cannot be read: {problem}") from None
            before = self.identity
            self._is_of(os.fstat(fd))
            if self.identity != before:
                self.identity = before
                os.close(fd)
                raise error(self.path, "was changed while it was read")
            pool.put(self._entry.path, fd)
        return fd

    def release(self) -> None:
        """Close the file; it is opened again when it is read again."""
        self._tree.folder.pool.drop(self._entry.path)

    def close(self) -> None:
        """Close the file, as release() does."""
        self.release()

    def __del__(self) -> None:
        """Leave the file to the pool, where another reader of it may have opened it."""


def holds(folder: Folder, path: str, budget: Budget) -> bool:
    """Tell whether there is anything at `path` in the directory.

    Raises TreeError, with the directory in question, where that cannot be told.
    """
    from slurm_cmeta.image.content import Warnings

    tree = DirectoryTree(folder, "the directory", Warnings(), budget)
    try:
        return tree.look(path, follow=False) is not None
    except OutOfBudgetError:
        raise
    except TreeError as problem:
        above = path.rpartition("/")[0]
        raise TreeError(f"{above}: {problem}" if above else str(problem)) from None


def read_document(
    tree: DirectoryTree, name: str, wrong: str
) -> tuple[dict[str, Any], Identity] | None:
    """Return the JSON object in the file `name` of a directory, and what tells it from others.

    None if there is no such file. Raises TreeError if it cannot be read; and ImageError, which says
    `wrong` (`is a damaged OCI layout`), if it is not to be believed.
    """
    entry = tree.look(name)
    if entry is None or entry.kind != FILE:
        return None
    path = tree.folder.path
    try:
        blob = Blob(tree, entry)
    except TreeError as problem:
        raise TreeError(f"{name}: {problem}") from None
    try:
        if blob.size > MAX_JSON:
            raise error(path, f"has a {name} of {blob.size} bytes, more than {MAX_JSON}")
        tree.budget.spend(blob.size)
        return load(blob.read(0, blob.size)), blob.identity
    except DocumentError as problem:
        raise error(path, f"{wrong} {problem}") from None
    finally:
        blob.release()


class DirectoryTree(FileTree):
    """The files in a directory."""

    def __init__(self, folder: Folder, what: str, warnings: Warnings, budget: Budget) -> None:
        super().__init__(warnings, budget, what)
        self.folder = folder
        self._directory = _Held()
        self._file = _Held()

    def look(self, path: str, *, follow: bool = True) -> Entry | None:
        """Return what is at `path`, as find() does; raise TreeError where that cannot be told."""
        return self._find(path, follow)

    def blob(self, path: str) -> Blob | None:
        """Return a reader of the regular file at `path`; None (and a warning) if it cannot be."""
        entry = self.find(path)
        if entry is None or entry.kind != FILE:
            return None
        try:
            return Blob(self, entry)
        except TreeError as problem:
            self._lost(entry.path, problem)
            return None

    def _root(self) -> Entry:
        return self._entry("/", os.fstat(self._top()))

    def _top(self) -> int:
        if self.folder.fd < 0:
            raise TreeError("the image is closed")
        return self.folder.fd

    def _at(self, path: str) -> int:
        """Return a descriptor (O_PATH) of the directory `path`, ours until the next call."""
        top = self._top()
        steps = path.split("/")[1:] if path != "/" else []
        if not steps:
            return top
        if self._directory.path != path:
            here = _Held()
            for step in steps:
                below = here.fd if here.fd >= 0 else top
                with _problems():
                    here.take(path, os.open(step, _STEP, dir_fd=below))
            self._directory = here
        return self._directory.fd

    def _entry(self, path: str, info: os.stat_result) -> Entry:
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), OTHER)
        return Entry(path, kind, info.st_size, stat.S_IMODE(info.st_mode), None)

    def _child(self, directory: Entry, name: str) -> Entry | None:
        here = self._at(directory.path)
        try:
            info = os.stat(name, dir_fd=here, follow_symlinks=False)
        except (FileNotFoundError, ValueError):
            return None
        except OSError as problem:
            raise TreeError(strerror(problem)) from None
        return self._entry(joined(directory, name), info)

    def _names(self, directory: Entry) -> Iterator[tuple[str, str]]:
        here = self._at(directory.path)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        listed = _Held()
        with _problems():
            listed.take("", os.open(".", flags, dir_fd=here))
            found = os.scandir(listed.fd)
        with found:
            more = True
            while more:
                names: list[tuple[str, str]] = []
                while more and len(names) < MAX_SORTED:
                    if len(names) % _NAMES_A_STEP == _NAMES_A_STEP - 1:
                        self.budget.spend()
                    with _problems():
                        item = next(found, None)
                        if item is None:
                            more = False
                        else:
                            names.append((item.name, _kind(item)))
                names.sort()
                yield from names

    def _target(self, link: Entry) -> str:
        parent, _, name = link.path.rpartition("/")
        here = self._at(parent or "/")
        with _problems():
            return os.readlink(name, dir_fd=here)

    def open_file(self, file: Entry) -> int:
        """Return a descriptor of a regular file; raise TreeError if that cannot be opened."""
        parent, _, name = file.path.rpartition("/")
        here = self._at(parent or "/")
        # Opening may wake a FIFO's writer or start a device: look once more, as short before as
        # can be, and once more at what was opened.
        with _problems():
            before = os.stat(name, dir_fd=here, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):
                raise TreeError("it is no regular file any more")
            fd = os.open(name, FLAGS | os.O_NOFOLLOW, dir_fd=here)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise TreeError("it is no regular file any more")
        return fd

    def _read(self, file: Entry, offset: int, size: int) -> bytes:
        if self._file.path != file.path or self.folder.fd < 0:
            self._top()
            self._file.take(file.path, self.open_file(file))
        data = bytearray()
        while len(data) < size:
            with _problems():
                wanted = min(size - len(data), _CHUNK)
                part = os.pread(self._file.fd, wanted, offset + len(data))
            if not part:
                raise TreeError("it became shorter while it was read")
            data += part
        return bytes(data)


class _problems:  # noqa: N801 - used like the functions of contextlib, without their import
    """Turn what the system refuses into TreeError."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> Literal[False]:
        if isinstance(value, OSError):
            raise TreeError(strerror(value)) from None
        if isinstance(value, ValueError):
            raise TreeError("its name cannot be encoded") from None
        return False


class _Held:
    """A descriptor that is closed when another takes its place, or nobody needs it any more."""

    __slots__ = ("fd", "path")

    def __init__(self) -> None:
        self.path = ""
        self.fd = -1

    def take(self, path: str, fd: int) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.path, self.fd = path, fd

    def __del__(self) -> None:
        self.take("", -1)


def _kind(item: os.DirEntry[str]) -> str:
    if item.is_symlink():
        return SYMLINK
    if item.is_dir(follow_symlinks=False):
        return DIRECTORY
    return FILE if item.is_file(follow_symlinks=False) else OTHER
