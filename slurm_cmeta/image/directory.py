"""Images that are directories, and the files in them: reached without ever leaving them.

A path is walked one name at a time, each opened relative to the directory before it and never
through a symbolic link (openat(2) with O_NOFOLLOW | O_PATH). Links are resolved by FileTree, which
knows no way out, so that a link to /etc means the image's own /etc, whoever changes the tree
meanwhile. Devices, FIFOs and sockets are seen and never opened.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from slurm_cmeta.image.filetree import (
    DIRECTORY,
    FILE,
    OTHER,
    SYMLINK,
    Entry,
    FileTree,
    TreeError,
    joined,
    quick_budget,
)
from slurm_cmeta.image.reader import FLAGS, Identity, Reader, error, strerror, why_not_open

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1024 * 1024
_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}


class Folder:
    """An open directory. Owns its descriptor, and those of the files given to keep()."""

    __slots__ = ("_fd", "_kept", "identity", "path")

    def __init__(self, path: str, *, beside: int | None = None) -> None:
        """Open `path`, relative to the open directory `beside` if given.

        Raises ImageError if it cannot be opened or is no directory.
        """
        self.path = path
        self._fd = -1
        self._kept: list[Folder | Reader] = []
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

    def keep(self, other: Folder | Reader) -> None:
        """Close `other` when this is closed."""
        self._kept.append(other)

    def close(self) -> None:
        """Close the directory and what was given to keep(); safe to call again."""
        for other in self._kept:
            other.close()
        self._kept.clear()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def holds(folder: Folder, path: str) -> bool:
    """Tell whether there is anything at `path` in the directory."""
    from slurm_cmeta.image.content import Warnings

    tree = DirectoryTree(folder, "the directory", Warnings(), quick_budget())
    return tree.find(path, follow=False) is not None


class DirectoryTree(FileTree):
    """The files in a directory."""

    def __init__(self, folder: Folder, what: str, warnings: Warnings, budget: Budget) -> None:
        super().__init__(warnings, budget, what)
        self._folder = folder
        self._directory = _Held()
        self._file = _Held()

    def open(self, entry: Entry | None) -> Reader | None:
        """Return an open regular file, closed with the folder; None (and a warning) if not."""
        if entry is None or entry.kind != FILE:
            return None
        try:
            reader = Reader.of(f"{self._folder.path}{entry.path}", self._open(entry))
        except TreeError as problem:
            self._lost(entry.path, problem)
            return None
        self._folder.keep(reader)
        return reader

    def _root(self) -> Entry:
        return self._entry("/", os.fstat(self._top()))

    def _top(self) -> int:
        if self._folder.fd < 0:
            raise TreeError("the image is closed")
        return self._folder.fd

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
            while True:
                with _problems():
                    item = next(found, None)
                    kind = _kind(item) if item else ""
                if item is None:
                    return
                yield item.name, kind

    def _target(self, link: Entry) -> str:
        parent, _, name = link.path.rpartition("/")
        here = self._at(parent or "/")
        with _problems():
            return os.readlink(name, dir_fd=here)

    def _open(self, file: Entry) -> int:
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
        if self._file.path != file.path or self._folder.fd < 0:
            self._top()
            self._file.take(file.path, self._open(file))
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
