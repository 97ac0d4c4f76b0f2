"""C library, kernel and page size: what the image's programs ask of the system below them.

Sources: glibc's symbol versions (abilist files: version X brings the symbols GLIBC_X), the ABI note
that gcc's start files carry (glibc csu/abi-note.S: oldest kernel), and the alignment of segments
(gABI chapter 5: a file can be mapped where pages are no larger than that).
"""

from __future__ import annotations

from slurm_cmeta.evidence.places import APK
from slurm_cmeta.evidence.subject import APPLICATION, LIBC, LOADER, OWN_ROLES, POSSIBLE
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_cmeta.evidence.subject import Binary, Subject

_PREFIX = "GLIBC_"

MAX_RECORDS = 1024 * 1024
"""Bytes of apk's records that are read; those of a large Alpine image have 500 kB."""
_PAGE_SIZES = frozenset(1 << shift for shift in range(12, 30))


def read(subject: Subject) -> list[Fact]:
    """Return the facts libc, glibc or musl (their versions), glibc.needed, kernel and page."""
    programs = [b for b in subject.programs() if b.elf.family == subject.family]
    optional = [b for b in programs if b.role in (APPLICATION, POSSIBLE)]
    certain = [b for b in programs if b not in optional]
    facts = _library(programs)
    facts += _musl(subject) if any(f.value == "musl" for f in facts) else []
    facts += _needed(subject, programs, facts)
    facts += _kernel(certain, optional)
    return facts + _page(certain, optional)


def version(text: str) -> tuple[int, ...]:
    """Return `2.36` as numbers that compare, empty if it is no version of at most four numbers."""
    parts = text.split(".")
    if len(parts) > 4 or not all(p.isascii() and p.isdigit() and len(p) < 7 for p in parts):
        return ()
    return tuple(map(int, parts))


def _library(programs: list[Binary]) -> list[Fact]:
    for binary in programs:
        if binary.role == LIBC:
            source = f"symbol versions of {clean(binary.entry.path, 100)}"
            newest = highest(binary.elf.versions_defined)
            facts = [Fact("libc", "glibc", f"interpreter and {clean(binary.entry.path, 100)}")]
            return facts + ([Fact("glibc", newest, source, OBSERVED)] if newest else [])
        if binary.role == LOADER and "ld-musl" in binary.entry.path.rsplit("/", 1)[-1]:
            return [Fact("libc", "musl", f"interpreter {clean(binary.entry.path, 100)}", OBSERVED)]
    for binary in programs:
        if "ld-musl" in binary.elf.interpreter:
            name = clean(binary.elf.interpreter, 100)
            return [Fact("libc", "musl", f"interpreter {name}", OBSERVED)]
    return []


def _musl(subject: Subject) -> list[Fact]:
    """Return the version that apk's records have of musl, which has no symbol versions."""
    for path in APK:
        text = subject.tree.text(path, MAX_RECORDS) if subject.tree is not None else ""
        for stanza in text.split("\n\n"):
            fields = dict(line.split(":", 1) for line in stanza.splitlines() if ":" in line)
            if fields.get("P") == "musl":
                number = fields.get("V", "").split("-r", 1)[0]
                return [Fact("musl", number, path, OBSERVED)] if version(number) else []
    return []


def _needed(subject: Subject, programs: list[Binary], known: list[Fact]) -> list[Fact]:
    """Return the highest GLIBC_ version asked for by what is not the distribution's own."""
    has = next((f.value for f in known if f.key == "glibc"), "")
    best, source = "", ""
    for binary in programs:
        if binary.role not in OWN_ROLES:
            continue
        asked = highest(binary.elf.versions_needed.get("libc.so.6", ()))
        if asked and version(asked) > version(best):
            best, source = asked, clean(binary.entry.path, 100)
    if best and has and version(best) > version(has):
        subject.warnings.add(
            f"{source} asks for glibc {best}, the image has {has}: it cannot start in this image"
        )
    return [Fact("glibc.needed", best, f"symbols asked for by {source}", OBSERVED)] if best else []


def highest(names: Iterable[str]) -> str:
    """Return the highest of glibc's symbol versions (`GLIBC_2.36` -> `2.36`), empty if none is."""
    versions = [n[len(_PREFIX) :] for n in names if n.startswith(_PREFIX)]
    return max(filter(version, versions), key=version, default="")


def _kernel(certain: list[Binary], optional: list[Binary]) -> list[Fact]:
    """Return the newest kernel that what surely runs asks for, and what may run if that is more."""
    found: list[Fact] = []
    highest: tuple[int, ...] = ()
    for binaries, hint in ((certain, False), (optional, True)):
        best = max(binaries, key=lambda b: version(b.elf.kernel), default=None)
        if best is not None and version(best.elf.kernel) > highest:
            highest = version(best.elf.kernel)
            source = f"ABI note of {clean(best.entry.path, 100)}"
            found.append(Fact("kernel", best.elf.kernel, source, OBSERVED, hint))
    return found


def _page(certain: list[Binary], optional: list[Binary]) -> list[Fact]:
    """Return the largest page size, in bytes, with which what surely runs can be mapped, and what
    may run if that is less.
    """
    found: list[Fact] = []
    lowest = 1 << 62
    for binaries, hint in ((certain, False), (optional, True)):
        sound = [b for b in binaries if b.elf.alignment in _PAGE_SIZES]
        tightest = min(sound, key=lambda b: b.elf.alignment, default=None)
        if tightest is not None and tightest.elf.alignment < lowest:
            lowest = tightest.elf.alignment
            source = f"segments of {clean(tightest.entry.path, 100)}"
            found.append(Fact("page", str(lowest), source, OBSERVED, hint))
    return found
