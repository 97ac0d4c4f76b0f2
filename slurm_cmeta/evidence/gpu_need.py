"""Clues that an image uses a GPU, and what they come to together."""

from __future__ import annotations

from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_cmeta.image.content import Warnings

VENDORS = ("nvidia", "amd", "intel")

ANY = ""
"""A GPU of whatever vendor."""


class Clue(NamedTuple):
    """One thing that tells of a GPU."""

    vendor: str
    """`nvidia`, `amd`, `intel` or ANY."""
    source: str
    hard: bool = False
    """Whether the image cannot do without it."""
    evidence: str = OBSERVED


def facts(clues: Iterable[Clue], refused: bool, warnings: Warnings) -> list[Fact]:
    """Return the facts `gpu`, one for each vendor that comes into question.

    Whoever states a need outdoes those that only hint at one. Several vendors are alternatives of
    each other: an image with the libraries of two runs on either. `refused`: the image says that it
    wants no GPU, so that hints count for nothing.
    """
    hard: dict[str, Clue] = {}
    soft: dict[str, Clue] = {}
    for clue in clues:
        (hard if clue.hard else soft).setdefault(clue.vendor, clue)
    unnamed = hard.pop(ANY, None)
    if len(hard) > 1:
        warnings.add(
            " and ".join(f"{clue.source} asks for a GPU of {clue.vendor}" for clue in hard.values())
            + ": either is taken"
        )
    if hard:
        return _facts(hard, hint=False)
    if unnamed and soft:
        named = {
            vendor: clue._replace(source=f"{unnamed.source} and {clue.source}")
            for vendor, clue in soft.items()
        }
        return _facts(named, hint=False)
    if unnamed:
        others = tuple((("gpu", "=", vendor),) for vendor in VENDORS[1:])
        return [Fact("gpu", VENDORS[0], unnamed.source, unnamed.evidence, alternatives=others)]
    return [] if refused else _facts(soft, hint=True)


def _facts(clues: dict[str, Clue], hint: bool) -> list[Fact]:
    return [
        Fact(
            "gpu",
            vendor,
            clue.source,
            clue.evidence,
            hint,
            alternatives=tuple((("gpu", "=", other),) for other in clues if other != vendor),
        )
        for vendor, clue in clues.items()
    ]
