"""Facts about an image turned into requirements on a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from slurm_cmeta import vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slurm_cmeta.facts import Fact

HARD = "hard"
SOFT = "soft"
IGNORE = "ignore"

KEYS = {"arch": "=", "cpu": ">="}
"""Requirement keys in the order in which they are shown, each with its operator."""


class Requirement(NamedTuple):
    """What one fact about the image asks of a node (design: one row of docs/requirements.md)."""

    key: str
    op: str
    value: str
    strength: str
    """`hard`: a node without it cannot run the image. `soft`: a node with it is preferred."""
    evidence: str
    source: str


def from_facts(
    facts: Iterable[Fact], strengths: Mapping[str, str] | None = None
) -> list[Requirement]:
    """Return what `facts` ask of a node, in the order of KEYS.

    `strengths` is the site's policy: key -> `hard`, `soft` or `ignore`; it overrides the default,
    which is hard unless the fact is a mere hint. A CPU that another, at least equally strong
    requirement implies is left out, as is a CPU target that names only an architecture.
    """
    found: list[Requirement] = []
    for fact in facts:
        if fact.key not in KEYS:
            continue
        strength = (strengths or {}).get(fact.key) or (SOFT if fact.hint else HARD)
        if strength == IGNORE:
            continue
        if fact.key == "cpu" and _is_family(fact.value):
            continue
        requirement = Requirement(
            fact.key, KEYS[fact.key], fact.value, strength, fact.evidence, fact.source
        )
        if not any(_same(requirement, other) for other in found):
            found.append(requirement)
    order = list(KEYS)
    kept = [r for r in found if not any(_implies(other, r) for other in found)]
    return sorted(kept, key=lambda r: (order.index(r.key), r.strength, r.value))


def _is_family(value: str) -> bool:
    cpu = vocabulary.cpu(value)
    return cpu is not None and cpu.family == cpu.name


def _same(a: Requirement, b: Requirement) -> bool:
    return (a.key, a.value, a.strength) == (b.key, b.value, b.strength)


def _implies(stronger: Requirement, weaker: Requirement) -> bool:
    """Tell whether a node that satisfies `stronger` always satisfies `weaker`, too."""
    if stronger is weaker or stronger.key != weaker.key:
        return False
    if stronger.strength != HARD and weaker.strength == HARD:
        return False
    if stronger.key == "cpu" and stronger.value != weaker.value:
        a, b = vocabulary.cpu(stronger.value), vocabulary.cpu(weaker.value)
        return a is not None and b is not None and a.runs(b)
    return stronger.value == weaker.value and stronger.strength != weaker.strength
