"""The files in one layer that is a tar archive, packed or not.

An archive has no table of contents, so that all of its headers are read once. Of one that is not
packed, file contents are read later where they lie. A packed one is unpacked from front to back,
and the contents that somebody may want are put aside on disk: programs and libraries (ELF) whole,
small files whole, the beginning of all others.

The index is made for many files: about 200 bytes for each, in one dictionary and a few arrays.
"""

from __future__ import annotations

import os
from array import array

from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import tarheaders
from slurm_cmeta.image.filetree import (
    DIRECTORY,
    FILE,
    MAX_PATH,
    OTHER,
    SYMLINK,
    Entry,
    FileTree,
    OutOfBudgetError,
    TreeError,
    joined,
)
from slurm_cmeta.image.reader import strerror
from slurm_cmeta.image.tarheaders import TarError, members
from slurm_cmeta.image.unpack import Plain, Unpacked, UnpackError
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget
    from slurm_cmeta.image.oci import Slice
    from slurm_cmeta.image.tarheaders import Member

MAX_ENTRIES = 200_000
"""Files of all layers together that are remembered, in 40 MB: images of CUDA and PyTorch have some
150,000."""

MAX_QUICK = 15_000
"""The same for a quick look, which leaves most of its budget to the readers of evidence."""

MAX_SPOOL = 8 * 1024**3
"""Bytes put aside on disk for one image, and never more than half of what is free there."""

MAX_SMALL = 1024 * 1024
"""A file of up to so many bytes is put aside whole, whatever it is."""

MAX_TABLE = 32 * 1024 * 1024
"""The same for files in TABLES: lists of packages, the cache of the library search."""

TABLES = (b"etc", b"var/lib/dpkg", b"lib/apk", b"usr/lib/apk")

MAX_RPM = 256 * 1024 * 1024
"""The same for RPM's database; that of a large image has 200 MB."""

RPM = (b"var/lib/rpm/rpmdb.sqlite", b"usr/lib/sysimage/rpm/rpmdb.sqlite")

MAX_SPACK = 64 * 1024 * 1024
"""The same for what Spack lists of what it installed, wherever that is; of 500 packages 3 MB."""

SPACK = (b"/.spack-db/index.json", b"/spack.lock")

MAX_HEAD = 4096
"""Bytes of all other files that are put aside, enough to tell what they are."""

_PIECE = 256 * 1024
_ELF = b"\x7fELF"
_KINDS = (FILE, DIRECTORY, SYMLINK, OTHER)
_FILE, _DIRECTORY, _SYMLINK, _OTHER = range(4)
_CODES = {
    tarheaders.REGULAR: _FILE,
    tarheaders.DIRECTORY: _DIRECTORY,
    tarheaders.SYMLINK: _SYMLINK,
    tarheaders.OTHER: _OTHER,
}


class Shared:
    """What the layers of one image share: room for names, and a file for contents."""

    def __init__(self, warnings: Warnings, *, deep: bool) -> None:
        self.entries = MAX_ENTRIES if deep else MAX_QUICK
        self._warnings = warnings
        self._fd = -1
        self._used = 0
        self._limit = 0
        self._problem = ""
        """Why nothing more can be put aside, once that is so."""

    def put(self, data: bytes) -> int | None:
        """Put `data` behind what was put before; return where, None (and a warning) if it cannot
        be.
        """
        if self._fd < 0 and not self._problem:
            self._open()
        if self._problem:
            self._warnings.add(f"files of packed layers could not be put aside: {self._problem}")
            return None
        if self._used + len(data) > self._limit:
            self._warnings.add(
                f"the layers hold more than {self._limit >> 20} MiB of programs and libraries: "
                "not all could be put aside to be read"
            )
            return None
        at = self._used
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, memoryview(data)[done:], at + done)
        except OSError as problem:
            self._problem = strerror(problem)
            return self.put(data)
        self._used += len(data)
        return at

    def get(self, at: int, size: int) -> bytes:
        """Return `size` bytes that were put at `at`."""
        try:
            data = os.pread(self._fd, size, at)
        except OSError:
            data = b""
        if len(data) < size:
            raise TreeError("what was put aside of it cannot be read")
        return data

    def _open(self) -> None:
        import tempfile

        for place in (os.environ.get("TMPDIR") or "/var/tmp", None):  # noqa: S108 - unlinked, O_EXCL
            try:
                with tempfile.TemporaryFile(dir=place) as file:
                    self._fd = os.dup(file.fileno())
                free = os.fstatvfs(self._fd)
            except OSError as problem:
                self._problem = self._problem or (
                    f"no temporary file can be made in {clean(place or 'any other directory')}: "
                    f"{strerror(problem)}"
                )
                continue
            self._problem = ""
            self._limit = min(MAX_SPOOL, free.f_bavail * free.f_frsize // 2)
            return

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class Kept(NamedTuple):
    """Where the content of a file is, and how much of it."""

    at: int
    size: int


class TarTree(FileTree):
    """The files in the tar archive that `place` is, or that it unpacks to."""

    def __init__(
        self,
        place: Slice,
        packing: str,
        what: str,
        warnings: Warnings,
        budget: Budget,
        shared: Shared,
    ) -> None:
        """`packing` is what unpack.packing() says; raises UnpackError where it cannot be read."""
        super().__init__(warnings, budget, what)
        self._shared = shared
        self._place = None if packing else place
        self._ids: dict[bytes, int] = {}
        self._names_of: list[bytes] = [b""]
        self._kind = array("B", (_DIRECTORY,))
        self._mode = array("H", (0o755,))
        self._size = array("Q", (0,))
        self._kept_at = array("Q", (0,))
        self._kept_size = array("Q", (0,))
        self._first_child = array("I", (0,))
        self._next = array("I", (0,))
        self._targets: dict[int, bytes] = {}
        self.complete = False
        """Whether the archive was read to its end."""
        source = Unpacked(place, packing, budget) if packing else Plain(place, budget)
        self._index(source)

    def _index(self, source: Plain | Unpacked) -> None:
        try:
            for member in members(source):
                self.budget.spend(tarheaders.BLOCK)
                if self._shared.entries <= 0:
                    raise OutOfBudgetError("its layers hold too many files")
                self._add_member(member, source)
            self.complete = True
        except OutOfBudgetError as problem:
            self._lost("/", problem)
            self._stopped = False  # what is known of it can be asked for
        except (TarError, UnpackError, ImageError) as problem:
            self._whole = False
            reason = "cannot be read" if isinstance(problem, ImageError) else str(problem)
            self.warnings.add(
                f"{self.what} {reason} at byte {source.tell()}: what follows is not looked at"
            )

    def _add_member(self, member: Member, source: Plain | Unpacked) -> None:
        steps = [step for step in member.name.split(b"/") if step not in (b"", b".")]
        if b".." in steps or b"\0" in member.name or len(member.name) > MAX_PATH:
            self._whole = False
            self.warnings.add(
                f"{self.what} holds the impossible name {_shown(member.name)}: it is ignored"
            )
            return
        if not steps:
            return
        parent = self._make_way(steps[:-1])
        if parent is None:
            self._whole = False
            self.warnings.add(
                f"{self.what} puts {_shown(member.name)} below what is no directory: it is ignored"
            )
            return
        if member.kind == tarheaders.LINK:
            original = self._at(member.target)
            if original is None or self._kind[original] == _DIRECTORY:
                self._whole = False
                self.warnings.add(
                    f"{_shown(member.name)} in {self.what} is a hard link to "
                    f"{_shown(member.target)}, which is not there: it is ignored"
                )
                return
            number = self._add(parent, steps[-1], self._kind[original], self._mode[original])
            self._size[number] = self._size[original]
            self._kept_at[number] = self._kept_at[original]
            self._kept_size[number] = self._kept_size[original]
            if original in self._targets:
                self._targets[number] = self._targets[original]
            return
        number = self._add(parent, steps[-1], _CODES[member.kind], member.mode)
        if member.kind == tarheaders.SYMLINK:
            self._targets[number] = member.target[: MAX_PATH + 1]
        elif member.kind == tarheaders.REGULAR:
            self._size[number] = member.size
            kept = self._keep(member, source)
            self._kept_at[number], self._kept_size[number] = kept

    def _make_way(self, steps: list[bytes]) -> int | None:
        """Return the directory at `steps`, made where the archive has not named it before."""
        here = 0
        for step in steps:
            below = self._ids.get(_key(here, step))
            if below is None:
                below = self._add(here, step, _DIRECTORY, 0o755)
            elif self._kind[below] != _DIRECTORY:
                return None
            here = below
        return here

    def _add(self, parent: int, name: bytes, kind: int, mode: int) -> int:
        """Return a new entry, in the place of an older one of that name."""
        key = _key(parent, name)
        known = self._ids.get(key)
        if known is not None and kind == _DIRECTORY == self._kind[known]:
            self._mode[known] = mode
            return known
        self._shared.entries -= 1
        number = len(self._kind)
        self._ids[key] = number
        self._names_of.append(key)
        self._kind.append(kind)
        self._mode.append(mode)
        for column in (self._size, self._kept_at, self._kept_size, self._first_child):
            column.append(0)
        self._next.append(self._first_child[parent])
        self._first_child[parent] = number
        return number

    def _keep(self, member: Member, source: Plain | Unpacked) -> Kept:
        if member.sparse:
            return Kept(0, 0)
        if isinstance(source, Plain):
            return Kept(source.tell(), member.size)
        data = source.read(min(member.size, MAX_SMALL))
        left = member.size - len(data)
        table = left + len(data) <= _table_limit(member.name)
        if left and not table and not data.startswith(_ELF):
            data = data[:MAX_HEAD]
            left = 0
        if not data:
            return Kept(0, 0)
        at = self._shared.put(data)
        if at is None:
            self._whole = False
            return Kept(0, 0)
        size = len(data)
        while left > 0:
            data = source.read(min(left, _PIECE))
            if not data or self._shared.put(data) is None:
                self._whole = False
                break
            size += len(data)
            left -= len(data)
        return Kept(at, size)

    def _at(self, name: bytes) -> int | None:
        here = 0
        for step in name.split(b"/"):
            if step in (b"", b"."):
                continue
            below = self._ids.get(_key(here, step))
            if below is None:
                return None
            here = below
        return here

    def _entry(self, path: str, number: int) -> Entry:
        kind = _KINDS[self._kind[number]]
        return Entry(path, kind, self._size[number], self._mode[number], number)

    def _root(self) -> Entry:
        return self._entry("/", 0)

    def _child(self, directory: Entry, name: str) -> Entry | None:
        try:
            number = self._ids.get(_key(directory.handle, os.fsencode(name)))
        except UnicodeEncodeError:
            return None
        return None if number is None else self._entry(joined(directory, name), number)

    def _names(self, directory: Entry) -> Iterator[tuple[str, str]]:
        number = self._first_child[directory.handle]
        while number:
            key = self._names_of[number]
            if self._ids[key] == number:
                yield os.fsdecode(key[4:]), _KINDS[self._kind[number]]
            number = self._next[number]

    def _number(self, directory: Entry) -> object:
        return directory.handle

    def _target(self, link: Entry) -> str:
        return os.fsdecode(self._targets[link.handle])

    def _read(self, file: Entry, offset: int, size: int) -> bytes:
        number = file.handle
        kept = self._kept_size[number]
        if offset + size > kept:
            if offset >= kept:
                raise TreeError("its content was not put aside, or is sparse")
            self.warnings.add(
                f"of files in {self.what} larger than {MAX_SMALL} bytes that are no programs, "
                f"only the first {MAX_HEAD} bytes were put aside"
            )
            size = kept - offset
        at = self._kept_at[number] + offset
        if self._place is None:
            return self._shared.get(at, size)
        try:
            return self._place.reader.read(self._place.offset + at, size)
        except ImageError:
            raise TreeError("the image became shorter, or is closed") from None


def _key(parent: int, name: bytes) -> bytes:
    return parent.to_bytes(4, "little") + name


def _table_limit(name: bytes) -> int:
    """Return how many bytes of the file `name` are put aside because it lists what is installed."""
    name = name.lstrip(b"./")
    if name.startswith(RPM):
        return MAX_RPM
    if (b"/" + name).endswith(SPACK):
        return MAX_SPACK
    return MAX_TABLE if any(name.startswith(directory + b"/") for directory in TABLES) else 0


def _shown(name: bytes) -> str:
    return clean(os.fsdecode(name[:200]), 80)
