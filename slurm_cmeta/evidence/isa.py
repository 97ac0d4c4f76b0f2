"""The instructions that an image's programs are made of, whatever its labels say of them.

An image that was compiled for sapphirerapids ran on older machines with AVX-512, one compiled for
the older bdver4 failed nearly everywhere (F1000Research 14-1235): what was emitted decides, not the
tag. Only a deep look comes here, it reads all machine code.
"""

from __future__ import annotations

import itertools
import os

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import application, machinecode
from slurm_cmeta.evidence.places import DISTRIBUTION_DIRECTORIES
from slurm_cmeta.evidence.subject import INTERPRETER, POSSIBLE, PROGRAM, SHELL
from slurm_cmeta.evidence.variants import is_variant
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.image.filetree import FILE
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_cmeta.evidence.machinecode import Emitted
    from slurm_cmeta.evidence.subject import Binary, Subject
    from slurm_cmeta.image.filetree import Entry, FileTree

MAX_FILES = 20_000
"""ELF files that are examined; the largest known images have about 8,000."""

MAX_LIBRARIES = 1000
"""Libraries of one file that are followed; real ones ask for up to 300."""

MAX_FILE = 1024 * 1024 * 1024
"""Bytes of one file that is examined: it is held in memory or in a temporary file meanwhile."""

IN_MEMORY = 16 * 1024 * 1024
"""Bytes of a file that are held in memory; a larger one is mapped from a temporary file."""

PROGRAM_PLACES = ("/bin", "/sbin", "/usr/bin", "/usr/sbin")

SPOOL = "/var/tmp"  # noqa: S108 - the file has no name
"""Where the copy of a large file goes unless TMPDIR says otherwise: /tmp may be memory."""

CHUNK = 1024 * 1024
"""Bytes of it that are copied at once."""


class _Examined(NamedTuple):
    """One ELF file, without what was read of it: an image may have thousands."""

    path: str
    role: str
    is_program: bool
    libraries: tuple[str, ...]
    """Paths of those that it is linked with."""
    emitted: Emitted

    @property
    def needs(self) -> Iterable[str]:
        """The flags that its own code needs."""
        return self.emitted.needs


class _Whole(NamedTuple):
    """A program with the libraries that are loaded with it."""

    file: _Examined
    parts: list[_Examined]

    @property
    def weight(self) -> int:
        """Bytes of machine code."""
        return sum(part.emitted.examined for part in self.parts)

    @property
    def needs(self) -> set[str]:
        """The flags that its code needs."""
        return {flag for part in self.parts for flag in part.needs}


_CERTAIN = (PROGRAM, SHELL, INTERPRETER)
"""Roles of what surely runs."""


class Report(NamedTuple):
    """What the machine code of an image tells."""

    facts: list[Fact]
    complete: bool
    """Whether all code of the application was examined, so that no tag needs to be believed."""


def read(subject: Subject) -> Report:
    """Return the facts isa, isa.dispatched and isa.examined (bytes of code) of a deep look."""
    if subject.tree is None or subject.family is None:
        return Report([], False)
    examined, complete = _examine_all(subject)
    programs = [_Whole(e, _with_libraries(e, examined)) for e in examined.values() if e.is_program]
    certain = {
        flag for p in programs if p.file.role in _CERTAIN for part in p.parts for flag in part.needs
    }
    certain |= _of_the_larger_part([p for p in programs if _is_own(p.file)])
    first: dict[str, str] = {}
    for part in (*(part for p in programs for part in p.parts), *examined.values()):
        for flag in part.needs:
            first.setdefault(flag, clean(part.path, 100))
    facts = [
        *_facts(certain, first, hint=False),
        *_facts(first.keys() - certain, first, hint=True),
    ]
    dispatched = sorted({flag for e in examined.values() for flag in e.emitted.dispatched})
    behind = [flag for flag in dispatched if flag not in certain]
    if behind:
        source = "instructions behind a choice at run time"
        facts.append(Fact("isa.dispatched", " ".join(behind), source, OBSERVED))
    if examined:
        size = sum(e.emitted.examined for e in examined.values())
        count = "one ELF file" if len(examined) == 1 else f"{len(examined)} ELF files"
        facts.append(Fact("isa.examined", str(size), count, OBSERVED))
    return Report(facts, complete and any(_is_own(p.file) for p in programs))


def _is_own(file: _Examined) -> bool:
    """Tell whether a program is one that the image is there for."""
    if file.role in (SHELL, INTERPRETER):
        return False
    return not file.path.startswith(DISTRIBUTION_DIRECTORIES) or file.role not in _CERTAIN


def _of_the_larger_part(programs: list[_Whole]) -> set[str]:
    """Return the flags that programs with two thirds of all their machine code need.

    Programs beside each other whose names begin alike (`solver`, `solver512`) are taken for builds
    of one: together they need what each of them needs, and none is needed that may not run.
    """
    builds: dict[tuple[str, str], list[_Whole]] = {}
    for program in programs:
        directory, _, name = program.file.path.rpartition("/")
        stem = "".join(itertools.takewhile(str.isalpha, name.lower()))
        key = ("", "possible") if program.file.role == POSSIBLE else (directory, stem)
        builds.setdefault(key, []).append(program)
    weights: dict[str, int] = {}
    total = 0
    for group in builds.values():
        weight = max(p.weight for p in group)
        total += weight
        for flag in set.intersection(*(p.needs for p in group)):
            weights[flag] = weights.get(flag, 0) + weight
    return {flag for flag, weight in weights.items() if weight * 3 >= total * 2}


def _facts(flags: set[str], first: dict[str, str], *, hint: bool) -> list[Fact]:
    """Return one fact for all flags, and one for each CPU that instructions are named after.

    archspec tells the generations of POWER apart by CPU names, not by flags.
    """
    named = sorted(flag for flag in flags if vocabulary.cpu(flag) is not None)
    facts = [_fact("cpu", name, [name], first, hint) for name in named]
    plain = sorted(flags.difference(named))
    if plain:
        facts.append(_fact("isa", " ".join(plain), plain, first, hint))
    return facts


def _fact(key: str, value: str, flags: list[str], first: dict[str, str], hint: bool) -> Fact:
    places = list(dict.fromkeys(first[flag] for flag in flags))
    source = f"instructions of {places[0]}"
    if len(places) > 1:
        source += f" and {len(places) - 1} more"
    return Fact(key, value, source, OBSERVED, hint)


def _examine_all(subject: Subject) -> tuple[dict[str, _Examined], bool]:
    """Examine all programs; tell also whether that is all there is."""
    assert subject.tree is not None
    found: dict[str, _Examined] = {}
    complete = True
    binaries = [b for b in subject.programs() if b.role in (*_CERTAIN, POSSIBLE)]
    skipped = ""
    for binary in itertools.chain(binaries, application.files(subject)):
        path = binary.entry.path
        if path in found or binary.elf.family != subject.family:
            continue
        if is_variant(path) and binary.role != PROGRAM:
            skipped = skipped or path
            continue
        if len(found) >= MAX_FILES:
            subject.warnings.add(f"more than {MAX_FILES} programs: the others are not examined")
            return found, False
        emitted = _examine(subject, binary)
        if emitted.unread:
            complete = False
            subject.warnings.add(f"{clean(path, 100)}: {emitted.unread}")
        found[path] = _remembered(subject, binary, emitted)
    if skipped:
        complete = False
        subject.warnings.add(
            f"{clean(skipped, 100)} and the like are taken for one of several builds, by their "
            "names: they are not examined"
        )
    if application.owned(subject) is None and _left_out(subject.tree, found):
        complete = False
    return found, complete and subject.tree.whole


def _left_out(tree: FileTree, found: dict[str, _Examined]) -> bool:
    """Tell whether a program lies where a distribution has its own, in an image without a list of
    those: it may be the application.
    """
    return any(
        entry.kind == FILE and entry.mode & 0o111 and entry.path not in found
        for directory in PROGRAM_PLACES
        for entry in tree.entries(directory)
    )


def _remembered(subject: Subject, binary: Binary, emitted: Emitted) -> _Examined:
    libraries = [subject.library(soname, binary) for soname in binary.elf.needed[:MAX_LIBRARIES]]
    is_program = binary.role in (*_CERTAIN, POSSIBLE) or binary.elf.is_program
    return _Examined(
        binary.entry.path,
        binary.role,
        is_program,
        tuple(library.path for library in libraries if library is not None),
        emitted,
    )


def _examine(subject: Subject, binary: Binary) -> Emitted:
    tree, entry, family = subject.tree, binary.entry, subject.family
    assert tree is not None
    assert family is not None
    if entry.size > MAX_FILE:
        return machinecode.Emitted({}, frozenset(), 0, f"more than {MAX_FILE} bytes, not examined")
    if entry.size <= IN_MEMORY:
        return machinecode.examine(tree.read(entry), family)
    try:
        return _examine_mapped(tree, entry, family)
    except OSError as problem:
        why = os.strerror(problem.errno) if problem.errno else "unknown error"
        return machinecode.Emitted({}, frozenset(), 0, f"no room for a copy of it: {why}")


def _examine_mapped(tree: FileTree, entry: Entry, family: str) -> Emitted:
    """Examine a file of which a copy is mapped from a temporary file."""
    import mmap
    import tempfile

    with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR") or SPOOL) as file:
        size = 0
        for offset in range(0, entry.size, CHUNK):
            chunk = tree.read(entry, offset, CHUNK)
            size += len(chunk)
            if chunk.strip(b"\0"):  # a hole takes no room on the disk
                file.write(chunk)
            else:
                file.seek(len(chunk), os.SEEK_CUR)
        if size < entry.size:
            return machinecode.Emitted({}, frozenset(), 0, "it cannot be read to its end")
        file.truncate(size)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return machinecode.examine(data, family)


def _with_libraries(program: _Examined, examined: dict[str, _Examined]) -> list[_Examined]:
    """Return a program and the examined libraries that are loaded with it."""
    parts = {program.path: program}
    waiting = [program]
    while waiting:
        for path in waiting.pop().libraries:
            known = examined.get(path)
            if known is not None and path not in parts:
                parts[path] = known
                waiting.append(known)
    return list(parts.values())
