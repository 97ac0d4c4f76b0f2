"""The instructions that an image's programs are made of, whatever its labels say of them.

An image that was compiled for sapphirerapids ran on older machines with AVX-512, one compiled for
the older bdver4 failed nearly everywhere (F1000Research 14-1235): what was emitted decides, not the
tag. Only a deep look comes here, it reads all machine code.
"""

from __future__ import annotations

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

MAX_FILES = 20_000
"""ELF files that are examined; the largest known images have about 8,000."""

MAX_FILE = 1024 * 1024 * 1024
"""Bytes of one file that is examined: it is held in memory or in a temporary file meanwhile."""

IN_MEMORY = 16 * 1024 * 1024
"""Bytes of a file that are held in memory; a larger one is mapped from a temporary file."""

CHUNK = 1024 * 1024
"""Bytes of it that are copied at once."""

VARIANTS = (
    *("sse4", "avx", "fma4", "x86-64-v", "x86_64_v", "hwcaps", "haswell", "broadwell", "skylake"),
    *("icelake", "cascadelake", "sapphirerapids", "znver", "zen2", "zen3", "zen4", "zen5"),
    *("-v256", "neoverse", "a64fx", "sve", "armv8.", "armv9", "power9", "power10"),
)
"""Parts of a path that mark one of several builds, of which a wrapper takes the fitting one."""


class _Examined(NamedTuple):
    binary: Binary
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
    programs = [e for e in examined.values() if _is_program(e.binary)]
    own = [e for e in programs if e.binary.role != SHELL]
    weights: dict[str, int] = {}
    first: dict[str, str] = {}
    total = 0
    certain: set[str] = set()
    reached: set[str] = set()
    for program in programs:
        parts = _with_libraries(subject, program, examined)
        reached.update(part.binary.entry.path for part in parts)
        weight = sum(part.emitted.examined for part in parts)
        total += weight if program.binary.role != SHELL else 0
        for flag in dict.fromkeys(flag for part in parts for flag in part.emitted.needs):
            weights[flag] = weights.get(flag, 0) + weight
            first.setdefault(flag, _where(flag, parts))
            if program.binary.role in (PROGRAM, SHELL):
                certain.add(flag)
    certain.update(flag for flag, weight in weights.items() if weight * 2 >= total)
    wished = set(weights) - certain
    for part in examined.values():
        if part.binary.entry.path not in reached:
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
        facts.append(
            Fact(
                "isa.examined",
                str(size),
                "one ELF file" if len(examined) == 1 else f"{len(examined)} ELF files",
                OBSERVED,
            )
        )
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
            return clean(part.binary.entry.path, 100)
    return ""


def _is_program(binary: Binary) -> bool:
    return binary.role in (PROGRAM, SHELL) or bool(
        binary.elf.interpreter or not binary.elf.is_dynamic
    )


def _is_variant(path: str) -> bool:
    lowered = path.lower()
    return any(mark in lowered for mark in VARIANTS)


def _examine_all(subject: Subject) -> tuple[dict[str, _Examined], bool]:
    assert subject.tree is not None
    found: dict[str, _Examined] = {}
    complete = True
    binaries = [b for b in subject.programs() if b.role in (PROGRAM, SHELL)]
    for binaries_ in (binaries, application.files(subject)):
        for binary in binaries_:
            path = binary.entry.path
            if path in found or binary.elf.family != subject.family or _is_variant(path):
                continue
            if len(found) >= MAX_FILES:
                subject.warnings.add(f"more than {MAX_FILES} programs: the others are not examined")
                return found, False
            emitted = _examine(subject, binary)
            if emitted.unread:
                complete = False
                subject.warnings.add(f"{clean(path, 100)}: {emitted.unread}")
            found[path] = _Examined(binary, emitted)
    return found, complete


def _examine(subject: Subject, binary: Binary) -> Emitted:
    tree, entry, family = subject.tree, binary.entry, subject.family
    assert tree is not None
    assert family is not None
    if entry.size > MAX_FILE:
        return machinecode.Emitted({}, frozenset(), 0, f"more than {MAX_FILE} bytes, not examined")
    if entry.size <= IN_MEMORY:
        return machinecode.examine(tree.read(entry), family)
    import mmap
    import tempfile

    with tempfile.TemporaryFile() as file:
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


def _with_libraries(
    subject: Subject, program: _Examined, examined: dict[str, _Examined]
) -> list[_Examined]:
    """Return a program and the examined libraries that are loaded with it."""
    parts = {program.binary.entry.path: program}
    waiting = [program]
    while waiting:
        part = waiting.pop()
        for soname in part.binary.elf.needed:
            library = subject.library(soname, part.binary.elf)
            if library is None or library.path in parts:
                continue
            known = examined.get(library.path)
            if known is not None:
                parts[library.path] = known
                waiting.append(known)
    return list(parts.values())
