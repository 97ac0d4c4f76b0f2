"""Facts about an image turned into requirements on a node."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slurm_cmeta.facts import Condition, Fact

HARD = "hard"
SOFT = "soft"
IGNORE = "ignore"

KEYS = {
    "arch": "=",
    "cpu": ">=",
    "isa": ">=",
    "gpu": "=",
    "gpu.arch": "=",
    "cuda": ">=",
    "driver": ">=",
    "rocm": ">=",
    "mpi": "=",
    "glibc": "<=",
    "kernel": ">=",
    "page": "<=",
    "memory": ">=",
    "runtime": "=",
}
"""Requirement keys in the order in which they are shown, each with its usual operator: what the
node has stands on the left (`kernel >= 3.2.0`, `page <= 65536`). docs/requirements.md has the
meaning of each."""

SOFT_KEYS = frozenset(("glibc", "memory", "mpi"))
"""Keys that are soft whatever the evidence (design, section 5)."""


class Requirement(NamedTuple):
    """What one fact about the image asks of a node (design: one row of docs/requirements.md)."""

    key: str
    op: str
    value: str
    strength: str
    """`hard`: a node without it cannot run the image. `soft`: a node with it is preferred."""
    evidence: str
    source: str
    alternatives: tuple[tuple[Condition, ...], ...] = ()
    """Conjunctions of conditions, any of which would do as well; see facts.Fact."""


def from_facts(
    facts: Iterable[Fact], strengths: Mapping[str, str] | None = None
) -> list[Requirement]:
    """Return what `facts` ask of a node, in the order of KEYS.

    `strengths` is the site's policy: key -> `hard`, `soft` or `ignore`; it overrides the default,
    which is hard unless the fact is a mere hint. A CPU that another, at least equally strong
    requirement implies is left out, as is a CPU target that names only an architecture.
    """
    known = list(facts)
    found: list[Requirement] = []
    for fact in known:
        if fact.key not in KEYS or not _asks(fact, known):
            continue
        soft = fact.hint or fact.key in SOFT_KEYS
        strength = (strengths or {}).get(fact.key) or (SOFT if soft else HARD)
        if strength == IGNORE:
            continue
        requirement = Requirement(
            fact.key,
            fact.op or KEYS[fact.key],
            fact.value,
            strength,
            fact.evidence,
            fact.source,
            fact.alternatives,
        )
        if not any(_same(requirement, other) for other in found):
            found.append(requirement)
    order = list(KEYS)
    kept = [r for r in found if not any(_implies(other, r) for other in found)]
    return sorted(kept, key=lambda r: (order.index(r.key), r.strength, r.value))


def _asks(fact: Fact, known: Sequence[Fact]) -> bool:
    """Tell whether a fact of a requirement's key asks anything of a node."""
    if fact.key == "cpu":
        return not _is_family(fact.value)
    if fact.key == "glibc":  # asks something of host libraries only where a runtime injects them
        return any(other.key == "gpu" and other.value in ("nvidia", "amd") for other in known)
    if fact.key == "page":
        return any(o.key == "arch" and vocabulary.page_size(o.value) is None for o in known)
    return True


def _is_family(value: str) -> bool:
    cpu = vocabulary.cpu(value)
    return cpu is not None and cpu.family == cpu.name


def _same(a: Requirement, b: Requirement) -> bool:
    return (a.key, a.op, a.value, a.strength, a.alternatives) == (
        *(b.key, b.op, b.value, b.strength, b.alternatives),
    )


def _implies(stronger: Requirement, weaker: Requirement) -> bool:
    """Tell whether a node that satisfies `stronger` always satisfies `weaker`, too."""
    if stronger is weaker or stronger.key != weaker.key:
        return False
    if stronger.strength != HARD and weaker.strength == HARD:
        return False
    if stronger.key == "cpu" and stronger.value != weaker.value:
        a, b = vocabulary.cpu(stronger.value), vocabulary.cpu(weaker.value)
        return a is not None and b is not None and a.runs(b)
    if stronger.strength == weaker.strength:
        return False
    return stronger[:3] == weaker[:3] and stronger.alternatives == weaker.alternatives
