"""What all readers of evidence share: one image, and what was looked up in it once."""

from __future__ import annotations

from slurm_cmeta.evidence import elf, ldcache
from slurm_cmeta.evidence.places import (
    DEFAULT_LIBRARY_DIRECTORIES,
    LIBRARY_DIRECTORIES,
    PROGRAM_DIRECTORIES,
    TRIPLETS,
)
from slurm_cmeta.evidence.started import Starts
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from slurm_cmeta.evidence.elf import Elf
    from slurm_cmeta.image import Image
    from slurm_cmeta.image.filetree import Entry, FileTree

PROGRAM = "program"
"""What the image surely runs by itself: of its runscript, or its OCI entry point."""
POSSIBLE = "possible program"
"""What its runscript may run, if a condition holds."""
INTERPRETER = "interpreter"
"""The distribution's program that runs a script of the image."""
SHELL = "shell"
LOADER = "loader"
LIBC = "libc"
APPLICATION = "application"
"""A file that is not the distribution's."""

MAX_APPLICATIONS = 6
"""Programs outside the distribution's directories that a quick look takes."""

MAX_LISTED = 64
"""Names of one directory of programs that a quick look takes."""

MAX_LIBRARY_NAMES = 2048
"""Names of one directory of libraries that are taken."""

CHUNK = 64 * 1024
"""Bytes of a program that are read and kept at once: half a squashfs block."""


OWN_ROLES = (PROGRAM, APPLICATION, POSSIBLE)
"""Roles of the files that the image is there for."""


class Binary(NamedTuple):
    """One ELF file of the image."""

    entry: Entry
    elf: Elf
    role: str
    """PROGRAM, POSSIBLE, INTERPRETER, SHELL, LOADER, LIBC or APPLICATION."""


class Subject:
    """An image under examination.

    labels:      the image's labels
    environment: the variables that it sets
    tree:        its files, None where they cannot be read
    deep:        whether everything may be read, whatever it costs
    family:      archspec's name of its architecture; None until that is known
    warnings:    the image's own; add(text) says each thing once
    """

    owned: frozenset[str] | bool | None = False
    """What application.owned() found; False until it is asked."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.deep = image.deep
        self.warnings = image.warnings
        self.tree: FileTree | None = image.tree()
        self.labels: Mapping[str, str] = image.labels()
        self.environment: Mapping[str, str] = image.environment()
        self.family: str | None = None
        self._programs: list[Binary] | None = None
        self._libraries: dict[str, str] | None = None
        self._cache: dict[str, str] | None = None
        self._elves: dict[str, Elf | None] = {}

    def elf(self, entry: Entry | None) -> Elf | None:
        """Return the ELF file at `entry`, None if it is none; each is read once."""
        if entry is None or self.tree is None:
            return None
        if entry.path not in self._elves:
            self._elves[entry.path] = elf.open_elf(reading(self.tree, entry), entry.size)
        return self._elves[entry.path]

    def programs(self) -> list[Binary]:
        """Return the few ELF files that tell what the image needs: a handful, looked up once."""
        if self._programs is None:
            found: dict[str, Binary] = {}
            for role, entry in self._candidates():
                binary = self.elf(entry)
                if binary is not None and entry.path not in found:
                    found[entry.path] = Binary(entry, binary, role)
            for binary_ in list(found.values()):
                self._add_loader_and_libc(binary_, found)
            self._programs = list(found.values())
        return self._programs

    def library(self, soname: str, of: Binary | None = None) -> Entry | None:
        """Return the shared library that the image's loader would take for `soname`.

        `of` is the file that asks for it: its own search path counts, in the order of ld.so(8).
        """
        if self.tree is None or "/" in soname:
            return None
        own = of.elf if of else None
        for directory in (
            *(resolved(own.rpath, of) if own else ()),
            *self._library_path(),
            *(resolved(own.runpath, of) if own else ()),
        ):
            entry = self._file(f"{directory}/{soname}")
            if entry is not None:
                return entry
        path = self._known_to_loader().get(soname)
        entry = self._file(path) if path else None
        if entry is not None:
            return entry
        for directory in self._default_directories(own.family if own else self.family):
            entry = self._file(f"{directory}/{soname}")
            if entry is not None:
                return entry
        return None

    def _file(self, path: str) -> Entry | None:
        entry = self.tree.find(path) if self.tree is not None else None
        return entry if entry is not None and entry.kind == "file" else None

    def libraries(self) -> Mapping[str, str]:
        """Return soname -> path of the shared libraries that a loader in the image would find."""
        if self._libraries is None:
            found: dict[str, str] = {}
            if self.tree is not None:
                directories = [*self._library_path(), *LIBRARY_DIRECTORIES, *self._below_opt("lib")]
                if not self._known_to_loader():
                    directories += self._default_directories(self.family)
                for directory in dict.fromkeys(directories):
                    for name, _ in self.tree.list(directory, MAX_LIBRARY_NAMES, quiet=True):
                        if ".so" in name:
                            found.setdefault(name, f"{directory}/{name}")
                for name, path in self._known_to_loader().items():
                    found.setdefault(name, path)
            self._libraries = found
        return self._libraries

    def _known_to_loader(self) -> dict[str, str]:
        if self._cache is None:
            self._cache = {}
            if self.tree is not None:
                entry = self.tree.find(ldcache.PATH)
                self._cache = ldcache.read(self.tree.read(entry, 0, ldcache.MAX_CACHE))
        return self._cache

    def _library_path(self) -> list[str]:
        path = self.environment.get("LD_LIBRARY_PATH", "")
        return [d for d in path.split(":")[:16] if d.startswith("/") and "$" not in d]

    def _default_directories(self, family: str | None) -> list[str]:
        triplet = TRIPLETS.get(family or "")
        debian = [f"/lib/{triplet}", f"/usr/lib/{triplet}"] if triplet else []
        return [*debian, *DEFAULT_LIBRARY_DIRECTORIES]

    def _below_opt(self, name: str) -> list[str]:
        if self.tree is None:
            return []
        return [
            f"/opt/{each}/{name}"
            for each, kind in self.tree.list("/opt", MAX_LISTED, quiet=True)[:16]
            if kind in ("directory", "symlink")
        ]

    def _candidates(self) -> Iterator[tuple[str, Entry]]:
        """Yield the files that may be programs worth a look, those that matter most first."""
        if self.tree is None:
            return
        starts = list(Starts(self.tree, self.environment).of(self.image.run()))
        for start in starts:
            if start.surely:
                yield INTERPRETER if start.interpreter else PROGRAM, start.entry
        sh = self.tree.find("/bin/sh")
        if sh is not None:
            yield SHELL, sh
        for start in starts:
            if not start.surely and not start.interpreter:
                yield POSSIBLE, start.entry
        taken = 0
        for directory in (*PROGRAM_DIRECTORIES, *self._below_opt("bin")):
            for name, kind in self.tree.list(directory, MAX_LISTED, quiet=True):
                if kind == "file" and taken < MAX_APPLICATIONS:
                    entry = self.tree.find(f"{directory}/{name}")
                    if entry is not None and self.elf(entry) is not None:
                        taken += 1
                        yield APPLICATION, entry

    def _add_loader_and_libc(self, binary: Binary, found: dict[str, Binary]) -> None:
        if self.tree is None or not binary.elf.interpreter.startswith("/"):
            return
        loader = self.tree.find(binary.elf.interpreter)
        libc = self.library("libc.so.6", binary) if "libc.so.6" in binary.elf.needed else None
        for role, entry in ((LOADER, loader), (LIBC, libc)):
            read = self.elf(entry)
            if entry is not None and read is not None:
                found.setdefault(entry.path, Binary(entry, read, role))


def resolved(directories: tuple[str, ...], of: Binary | None) -> list[str]:
    """Return the absolute directories of a search path, $ORIGIN being where the file lies."""
    origin = of.entry.path.rpartition("/")[0] if of else ""
    resolved = [d.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for d in directories]
    return [d for d in resolved if d.startswith("/") and "$" not in d]


def reading(tree: FileTree, entry: Entry) -> Callable[[int, int], bytes]:
    """Return what reads a file as open_elf() wants it, remembering the chunks it has read."""
    chunks: dict[int, bytes] = {}

    def chunk(number: int) -> bytes:
        if number not in chunks:
            if len(chunks) >= 8:
                chunks.clear()
            chunks[number] = tree.read(entry, number * CHUNK, CHUNK)
        return chunks[number]

    def read(offset: int, size: int) -> bytes:
        if size > 4 * CHUNK:
            return tree.read(entry, offset, size)
        first, last = offset // CHUNK, (offset + size - 1) // CHUNK
        data = b"".join(chunk(number) for number in range(first, last + 1))
        return data[offset - first * CHUNK :][:size]

    return read
