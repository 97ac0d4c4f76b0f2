"""The architecture an image is for: its programs', else the file's codes; labels only check."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.rules import stated
from slurm_cmeta.evidence.subject import APPLICATION, INTERPRETER, POSSIBLE, PROGRAM, SHELL
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.evidence.subject import Binary, Subject
    from slurm_cmeta.image import Image

_DECISIVE = (PROGRAM, INTERPRETER, SHELL, POSSIBLE, APPLICATION)
"""Roles of the programs that tell the architecture, the best first."""


def read(subject: Subject) -> list[Fact]:
    """Return the fact `arch`, or nothing if neither content nor file tells one.

    Content wins: what the ELF header of the image's program says counts before what the file's
    codes and labels state, and each contradiction is a warning.
    """
    fact = _observed(subject) or _declared(subject.image)
    if fact is None:
        subject.warnings.add("the image states no architecture: none is required of a node")
        return []
    _check_codes(subject.image, fact)
    _check_labels(subject, fact)
    return [fact]


def _observed(subject: Subject) -> Fact | None:
    binaries = [b for role in _DECISIVE for b in subject.programs() if b.role == role]
    if not binaries:
        return None
    best = binaries[0]
    for other in binaries[1:]:
        if other.elf.family == best.elf.family:
            continue
        if vocabulary.also_runs(other.elf.family, best.elf.family):
            best = other  # a 32-bit program in a 64-bit system: a node has to run both
        elif not vocabulary.also_runs(best.elf.family, other.elf.family):
            subject.warnings.add(
                f"{_named(other)} is for {other.elf.family}, {_named(best)} for "
                f"{best.elf.family}: the image is taken to be for {best.elf.family}"
            )
            break
    return Fact("arch", clean(best.elf.family), f"ELF header of {_named(best)}", OBSERVED)


def _named(binary: Binary) -> str:
    return clean(binary.entry.path, 100)


def _declared(image: Image) -> Fact | None:
    for best in image.content.architectures:
        return Fact("arch", _family(best.name), best.source)
    return None


def _check_codes(image: Image, fact: Fact) -> None:
    for code in image.content.architectures:
        if _family(code.name) == fact.value or code.source == fact.source:
            continue
        # Apptainer starts a SIF only where its partition says (internal/pkg/image/sif.go).
        refused = image.format == "sif" and code.source.startswith("SIF partition")
        image.warnings.add(
            f"the {code.source} says {clean(code.name)}, the {fact.source} says {fact.value}: "
            + (
                f"Apptainer refuses it on {fact.value}"
                if refused
                else f"the {code.source} is ignored"
            )
        )


def _check_labels(subject: Subject, fact: Fact) -> None:
    for rule, value in stated(subject.labels, "architecture"):
        labelled = vocabulary.architecture(value)
        if labelled is not None and labelled != fact.value:
            subject.warnings.add(
                f"label {rule['key']} says {clean(value, 60)}, the {fact.source} says "
                f"{fact.value}: the label is ignored"
            )


def _family(name: str) -> str:
    """Return archspec's spelling, or the name as it is: an unknown one fits no known node."""
    return vocabulary.architecture(name) or clean(name)
