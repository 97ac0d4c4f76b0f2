"""Stand-ins for an image under examination: files in memory, ELF files without bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from slurm_cmeta.evidence import gpu
from slurm_cmeta.evidence.elf import Elf, Section
from slurm_cmeta.evidence.subject import Binary, Subject
from slurm_cmeta.facts import Fact
from slurm_cmeta.image.content import Warnings
from slurm_cmeta.image.filetree import DIRECTORY, FILE, Entry, FileTree, joined, quick_budget

HARD, SOFT = False, True
Said = list[tuple[str, str, str, bool]]
"""Key, operator, value and whether it is a hint."""


class Memory(FileTree):
    """A tree of regular files: path -> content."""

    def __init__(self, files: Mapping[str, bytes], warnings: Warnings) -> None:
        super().__init__(warnings, quick_budget(), "the tree of the test")
        self.files = files

    def _root(self) -> Entry:
        return Entry("/", DIRECTORY, 0, 0o755, None)

    def _child(self, directory: Entry, name: str) -> Entry | None:
        path = joined(directory, name)
        if path in self.files:
            return Entry(path, FILE, len(self.files[path]), 0o755, None)
        if any(other.startswith(path + "/") for other in self.files):
            return Entry(path, DIRECTORY, 0, 0o755, None)
        return None

    def _names(self, directory: Entry) -> Iterator[tuple[str, str]]:
        start = joined(directory, "")
        for name in sorted(
            {p[len(start) :].split("/")[0] for p in self.files if p.startswith(start)}
        ):
            child = self._child(directory, name)
            assert child is not None
            yield name, child.kind

    def _read(self, file: Entry, offset: int, size: int) -> bytes:
        return self.files[file.path][offset : offset + size]


class StandIn(Elf):
    """An ELF file with the sections and needs that a test gives it."""

    def __init__(
        self,
        needed: Sequence[str] = (),
        sections: Mapping[str, tuple[int, int]] | None = None,
        family: str = "x86_64",
    ) -> None:
        self.family = family
        self.little = True
        self.needed = tuple(needed)
        self._stated = {
            name: Section(offset, size, 0, 1) for name, (offset, size) in (sections or {}).items()
        }

    def sections(self) -> Mapping[str, Section]:
        return self._stated


class Examined(Subject):
    """A subject without an image."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        programs: Sequence[tuple[str, str, StandIn]] = (),
        libraries: Mapping[str, str] | None = None,
        application: Sequence[tuple[str, StandIn]] = (),
        deep: bool = False,
    ) -> None:
        """`programs` are path, role and ELF file, `application` path and ELF file."""
        self.deep = deep
        self.warnings = Warnings()
        self.labels = labels or {}
        self.environment = environment or {}
        self.tree = Memory(files or {}, self.warnings)
        self.family = "x86_64"
        self._programs = [self._binary(path, elf, role) for path, role, elf in programs]
        self._application = [self._binary(path, elf, "application") for path, elf in application]
        self._libraries = libraries or {}

    def _binary(self, path: str, elf: Elf, role: str) -> Binary:
        assert self.tree is not None
        entry = self.tree.find(path) or Entry(path, FILE, 0, 0o755, None)
        return Binary(entry, elf, role)

    def programs(self) -> list[Binary]:
        return self._programs

    def libraries(self) -> Mapping[str, str]:
        return self._libraries

    def library(self, soname: str) -> Entry | None:
        path = self._libraries.get(soname)
        return Entry(path, FILE, 0, 0o755, None) if path else None

    def application(self) -> Iterator[Binary]:
        assert self.deep
        yield from self._application


def program(*needed: str, sections: Mapping[str, tuple[int, int]] | None = None) -> StandIn:
    """Return an ELF file that needs these libraries."""
    return StandIn(needed, sections)


def gpu_facts(subject: Examined, key: str) -> list[Fact]:
    """Return the facts of one key."""
    return [fact for fact in gpu.read(subject) if fact.key == key]


def gpu_requirements(subject: Examined) -> Said:
    """Return what can become a requirement."""
    keys = ("gpu", "gpu.arch", "cuda", "driver", "rocm")
    return [(f.key, f.op, f.value, f.hint) for f in gpu.read(subject) if f.key in keys]
