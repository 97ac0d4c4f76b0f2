"""The instructions that an image's programs are made of, whatever its labels say of them.

An image that was compiled for sapphirerapids ran on older machines with AVX-512, one compiled for
the older bdver4 failed nearly everywhere (F1000Research 14-1235): what was emitted decides, not the
tag. Only a deep look comes here, it reads all machine code.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, NamedTuple

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import application, machinecode
from slurm_cmeta.evidence.subject import PROGRAM, SHELL
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.text import clean

if TYPE_CHECKING:
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

SPOOL = "/var/tmp"  # noqa: S108 - the file has no name
"""Where the copy of a large file goes unless TMPDIR says otherwise: /tmp may be memory."""

CHUNK = 1024 * 1024
"""Bytes of it that are copied at once."""

VARIANTS = frozenset(
    (
        *("fma", "fma3", "fma4", "xop", "bmi2", "amx", "vnni", "knl", "skx"),
        *("haswell", "broadwell", "skylake", "skylakex", "icelake", "cascadelake"),
        *("sapphirerapids", "neoverse", "a64fx", "sve", "sve2"),
        *("zen2", "zen3", "zen4", "zen5", "znver1", "znver2", "znver3", "znver4", "znver5"),
        *("sse2", "sse3", "ssse3", "sse41", "sse42", "power8", "power9", "power10"),
    )
)
"""Words of a name that mark one of several builds, of which a wrapper or the loader takes the
fitting one."""

VARIANT_STARTS = ("avx", "sse4", "armv8", "armv9")


class _Examined(NamedTuple):
    """One ELF file, without what was read of it: an image may have thousands."""

    path: str
    role: str
    is_program: bool
    libraries: tuple[str, ...]
    """Paths of those that it is linked with."""
    emitted: Emitted


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
    programs = [e for e in examined.values() if e.is_program]
    own = [e for e in programs if e.role != SHELL]
    weights: dict[str, int] = {}
    first: dict[str, str] = {}
    total = 0
    certain: set[str] = set()
    reached: set[str] = set()
    for program in programs:
        parts = _with_libraries(program, examined)
        reached.update(part.path for part in parts)
        weight = sum(part.emitted.examined for part in parts)
        total += weight if program.role != SHELL else 0
        for flag in dict.fromkeys(flag for part in parts for flag in part.emitted.needs):
            weights[flag] = weights.get(flag, 0) + weight
            first.setdefault(flag, _where(flag, parts))
            if program.role in (PROGRAM, SHELL):
                certain.add(flag)
    certain.update(flag for flag, weight in weights.items() if weight * 2 >= total)
    wished = set(weights) - certain
    for part in examined.values():
        if part.path not in reached:
            for flag in part.emitted.needs:
                first.setdefault(flag, _where(flag, [part]))
                wished.add(flag)
    facts = [*_facts(certain, first, hint=False), *_facts(wished - certain, first, hint=True)]
    dispatched = sorted({flag for e in examined.values() for flag in e.emitted.dispatched})
    behind = [flag for flag in dispatched if flag not in certain]
    if behind:
        source = "instructions behind a choice at run time"
        facts.append(Fact("isa.dispatched", " ".join(behind), source, OBSERVED))
    if examined:
        size = sum(e.emitted.examined for e in examined.values())
        count = "one ELF file" if len(examined) == 1 else f"{len(examined)} ELF files"
        facts.append(Fact("isa.examined", str(size), count, OBSERVED))
    return Report(facts, complete and bool(own))


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


def _where(flag: str, parts: list[_Examined]) -> str:
    for part in parts:
        if flag in part.emitted.needs:
            return clean(part.path, 100)
    return ""


def _is_variant(path: str) -> bool:
    """Tell whether a file is one of several builds, by its name or those of two directories above.

    The directory that a package manager names after its target (`linux-debian12-zen4`) is none.
    """
    components = path.lower().split("/")[-3:]
    if "glibc-hwcaps" in components:
        return True
    for component in components:
        if component.startswith(("linux-", "cray-")):
            continue
        plain = component.replace("x86-64-v", "avx").replace("x86_64_v", "avx")
        words = "".join(c if c.isalnum() else " " for c in plain).split()
        if any(word in VARIANTS or word.startswith(VARIANT_STARTS) for word in words):
            return True
    return False


def _examine_all(subject: Subject) -> tuple[dict[str, _Examined], bool]:
    """Examine all programs; tell also whether that is all there is."""
    assert subject.tree is not None
    found: dict[str, _Examined] = {}
    complete = True
    binaries = [b for b in subject.programs() if b.role in (PROGRAM, SHELL)]
    for binary in itertools.chain(binaries, application.files(subject)):
        path = binary.entry.path
        if path in found or binary.elf.family != subject.family:
            continue
        if _is_variant(path):
            complete = False
            continue
        if len(found) >= MAX_FILES:
            subject.warnings.add(f"more than {MAX_FILES} programs: the others are not examined")
            return found, False
        emitted = _examine(subject, binary)
        if emitted.unread:
            complete = False
            subject.warnings.add(f"{clean(path, 100)}: {emitted.unread}")
        found[path] = _remembered(subject, binary, emitted)
    return found, complete and getattr(subject.tree, "whole", True)


def _remembered(subject: Subject, binary: Binary, emitted: Emitted) -> _Examined:
    libraries = [subject.library(soname, binary) for soname in binary.elf.needed[:MAX_LIBRARIES]]
    is_program = binary.role in (PROGRAM, SHELL) or bool(
        binary.elf.interpreter or not binary.elf.is_dynamic
    )
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
