"""The CPU that an image needs: its programs' own notes, and what labels and platform declare."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import spack
from slurm_cmeta.evidence.rules import stated
from slurm_cmeta.evidence.subject import APPLICATION, POSSIBLE
from slurm_cmeta.evidence.variants import is_variant
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from slurm_cmeta.evidence.subject import Binary, Subject

SHOWN = 60
"""Characters of a label's value that a warning shows."""


LEVELS = ((8, "x86_64_v4"), (4, "x86_64_v3"), (2, "x86_64_v2"))
"""Bits of GNU_PROPERTY_X86_ISA_1_NEEDED (x86-64 psABI, "Program Property"), highest first."""


def read(subject: Subject) -> list[Fact]:
    """Return a fact `cpu` for each target that the image's programs, labels or platform tell.

    Content wins: a target of another architecture is ignored. A target that is no more than the
    architecture gives no fact when the architecture is known. Targets of which neither implies
    the other are all kept, so that a node has to satisfy each. Directories of glibc-hwcaps tell
    nothing: the loader falls back to the plain ones.
    """
    facts = [*_noted(subject), *_platform(subject), *spack.targets(subject)]
    found: dict[str, Fact] = {}
    for fact in (*facts, *_labelled(subject)):
        if fact.value not in found or found[fact.value].hint > fact.hint:
            found[fact.value] = fact
    kept = list(found.values())
    _warn_of_contradictions(subject, kept)
    return kept


def _noted(subject: Subject) -> list[Fact]:
    """Return the levels that the ELF files' property notes demand.

    glibc's loader refuses to start a file whose note demands more than the CPU has
    (sysdeps/x86/dl-prop.h). What all applications demand is needed; what some of them demand, or
    one of several builds of the same, is a wish.
    """
    if subject.family != "x86_64":
        return []
    programs = [b for b in subject.programs() if b.elf.family == "x86_64"]
    optional = [b for b in programs if b.role in (APPLICATION, POSSIBLE)]
    least = min((_rank(b) for b in optional if not is_variant(b.entry.path)), default=0)
    found: dict[str, Fact] = {}
    for binary in programs:
        level = _level(binary.elf.isa_needed)
        hint = binary in optional and (_rank(binary) > least or is_variant(binary.entry.path))
        if level and (level not in found or found[level].hint > hint):
            source = f"ISA note of {clean(binary.entry.path, 100)}"
            found[level] = Fact("cpu", level, source, OBSERVED, hint)
    return list(found.values())


def _rank(binary: Binary) -> int:
    return max((bit for bit, _ in LEVELS if binary.elf.isa_needed & bit), default=0)


def _level(bits: int) -> str:
    return next((name for bit, name in LEVELS if bits & bit), "")


def _platform(subject: Subject) -> list[Fact]:
    """Return what the variant of the image's OCI platform stands for."""
    for stated_ in subject.image.content.architectures[:1]:
        if stated_.variant:
            target = vocabulary.oci_variant(stated_.name, stated_.variant)
            if target is None:
                shown = f"{clean(stated_.name, SHOWN)}/{clean(stated_.variant, SHOWN)}"
                subject.warnings.add(
                    f"the {stated_.source} says {shown}, which is no platform known here: ignored"
                )
            elif target != subject.family and _family(target) == subject.family:
                return [Fact("cpu", target, stated_.source)]
    return []


def _labelled(subject: Subject) -> list[Fact]:
    found = []
    for rule, value in stated(subject.labels, "cpu"):
        key = rule["key"]
        target, shown = _target(rule, value, subject.labels, subject.family)
        if target is None:
            subject.warnings.add(f"label {key} says {shown}, which is no CPU known here: ignored")
            continue
        of_target = _family(target)
        if subject.family is not None and of_target != subject.family:
            subject.warnings.add(
                f"label {key} says {shown}, a CPU of architecture {of_target}, but the image is "
                f"for {subject.family}: the label is ignored"
            )
            continue
        if target != subject.family:
            found.append(Fact("cpu", target, f"label {key}", hint=rule["strength"] == "soft"))
    return found


def _target(
    rule: Mapping[str, Any], value: str, labels: Mapping[str, str], family: str | None
) -> tuple[str | None, str]:
    """Return archspec's name of the stated CPU, or None, and the statement as a warning shows it.

    A variant belongs to the architecture beside it, which may have a CPU of its own right: then
    the contradiction with the file's architecture is seen by the caller.
    """
    if rule.get("form") != "oci-variant":
        return vocabulary.cpu_target(value), clean(value, SHOWN)
    beside = labels.get(rule["beside"], "").strip() or family or ""
    shown = f"{clean(beside, SHOWN)}/{clean(value, SHOWN)}"
    return vocabulary.oci_variant(beside, value), shown


def _family(target: str) -> str:
    cpu = vocabulary.cpu(target)
    return cpu.family if cpu else target


def _warn_of_contradictions(subject: Subject, facts: list[Fact]) -> None:
    for position, one in enumerate(facts):
        for other in facts[position + 1 :]:
            a, b = vocabulary.cpu(one.value), vocabulary.cpu(other.value)
            if a and b and a.name not in b.ancestors and b.name not in a.ancestors:
                end = "both count" if one.hint or other.hint else "a node needs both"
                subject.warnings.add(
                    f"{one.source} says {a.name}, {other.source} says {b.name}, "
                    f"and neither implies the other: {end}"
                )
