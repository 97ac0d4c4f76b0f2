"""Readers of evidence: an image's content turned into facts. One module for each kind."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import (
    architecture,
    cpu,
    description,
    gpu,
    libc,
    mpi,
    provenance,
    resources,
)
from slurm_cmeta.evidence.subject import Subject
from slurm_cmeta.facts import DECLARED
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.evidence.software import Package
    from slurm_cmeta.facts import Fact
    from slurm_cmeta.image import Image

__all__ = ["Findings", "read"]


class Findings(NamedTuple):
    """All that was found out about an image."""

    facts: list[Fact]
    """Those that become requirements come first."""
    software: list[Package]
    """Empty unless the image was opened for a deep look."""


def read(image: Image) -> Findings:
    """Return all facts about `image`.

    What contradicts better evidence or cannot be understood gives no fact but a warning of the
    image. An image opened with a deep budget is read whole, which may take minutes. Raises
    ImageError if the file cannot be read any more.
    """
    subject = Subject(image)
    facts = architecture.read(subject)
    subject.family = facts[0].value if facts else None
    facts += cpu.read(subject)
    if subject.deep:
        facts = _believing_the_code(subject, facts)
    for module in (gpu, mpi, libc, resources, description, provenance):
        facts += module.read(subject)
    facts = _of_all_platforms(image, facts)
    if not subject.deep:
        return Findings(facts, [])
    from slurm_cmeta.evidence import software

    return Findings(facts, software.software(subject))


def _of_all_platforms(image: Image, facts: list[Fact]) -> list[Fact]:
    """Return the facts of an image for several architectures.

    Any of them will do, and what was read of one says nothing hard of the others.
    """
    here = next((f.value for f in facts if f.key == "arch"), None)
    stated = {vocabulary.architecture(p.name) or p.name for p in image.content.platforms}
    others = sorted(stated.difference((here,))) if here else []
    if not others:
        return facts
    alternatives = tuple((("arch", "=", clean(other)),) for other in others)
    return [
        f._replace(alternatives=alternatives) if f.key == "arch" else f._replace(hint=True)
        for f in facts
    ]


def _believing_the_code(subject: Subject, facts: list[Fact]) -> list[Fact]:
    """Add what the image's machine code needs.

    Where all of it was read, a CPU that somebody merely declared is no more than a wish: programs
    built for sapphirerapids ran on older machines that had the instructions in them.
    """
    from slurm_cmeta.evidence import isa

    report = isa.read(subject)
    if report.complete:
        facts = [
            f._replace(hint=True) if f.key == "cpu" and f.evidence == DECLARED else f for f in facts
        ]
    return facts + report.facts
