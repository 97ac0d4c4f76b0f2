"""Readers of evidence: an image's content turned into facts. One module for each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_cmeta.evidence import architecture, cpu, description, libc
from slurm_cmeta.evidence.subject import Subject

if TYPE_CHECKING:
    from slurm_cmeta.facts import Fact
    from slurm_cmeta.image import Image

__all__ = ["read"]


def read(image: Image) -> list[Fact]:
    """Return all facts about `image`, those that become requirements first.

    What contradicts better evidence or cannot be understood gives no fact but a warning of the
    image. An image opened with `deep` is read whole, which may take minutes. Raises ImageError if
    the file cannot be read any more.
    """
    subject = Subject(image)
    facts = architecture.read(subject)
    subject.family = facts[0].value if facts else None
    for module in (cpu, libc, description):
        facts += module.read(subject)
    return facts
