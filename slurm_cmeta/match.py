"""Requirements against node classes: verdicts with reasons. Pure functions, no I/O.

What a node is, is told by its features alone. A fact that no feature tells is unknown, and unknown
is not absent: it never makes a node unfit, unless the node carries `cmeta=1`, which says that its
features are complete.
"""

from __future__ import annotations

from slurm_cmeta import compare, nodefacts
from slurm_cmeta.compare import MATCH, MISMATCH, UNCHECKED
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.requirement import HARD, SOFT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.cluster import NodeClass
    from slurm_cmeta.nodefacts import NodeFacts, SiteNames
    from slurm_cmeta.requirement import Requirement


class Reason(NamedTuple):
    """Why one requirement is, or is not, met by a node class."""

    key: str
    needs: str
    has: str | None
    """What the node's features say; None when they say nothing of it."""
    verdict: str
    """`match`, `mismatch` or `unchecked`."""
    source: str
    strength: str


class ClassVerdict(NamedTuple):
    """What became of one node class."""

    nodes: NodeClass
    verdict: str
    """`match` or `mismatch`."""
    preferred: bool
    """True when a soft requirement is known to be met and none is known not to be."""
    reasons: tuple[Reason, ...]
    facts: NodeFacts
    """What its features say."""


def judge(
    requirements: Sequence[Requirement],
    node_class: NodeClass,
    names: SiteNames = nodefacts.NO_NAMES,
) -> ClassVerdict:
    """Return whether nodes of this class can run an image with these requirements, and why."""
    return judge_any((requirements,), node_class, names)


def judge_any(
    variants: Sequence[Sequence[Requirement]],
    node_class: NodeClass,
    names: SiteNames = nodefacts.NO_NAMES,
) -> ClassVerdict:
    """Return the same of an image with several variants, of which nodes take the one that suits.

    The reasons are those of the variant that fits, or that comes nearest to it; the first of those
    that are equal in this.
    """
    # Where the nodes of a class differ in their Gres, none of it is true of all of them.
    gres = node_class.gres if len(node_class.gres) == 1 else ()
    facts = nodefacts.read(node_class.features, names, gres)
    if node_class.memory is not None:
        facts = facts.with_memory(node_class.memory)
    found = [_verdict(requirements, node_class, facts) for requirements in variants]
    return found[0] if len(found) == 1 else max(found, key=_suits)


def _suits(verdict: ClassVerdict) -> tuple[bool, int, bool]:
    failed = sum(r.strength == HARD and r.verdict == MISMATCH for r in verdict.reasons)
    return verdict.verdict == MATCH, -failed, verdict.preferred


def _verdict(
    requirements: Sequence[Requirement], node_class: NodeClass, facts: NodeFacts
) -> ClassVerdict:
    reasons = tuple(_reason(r, facts) for r in requirements)
    unfit = any(r.strength == HARD and r.verdict == MISMATCH for r in reasons)
    soft = [r.verdict for r in reasons if r.strength == SOFT]
    preferred = not unfit and MATCH in soft and MISMATCH not in soft
    return ClassVerdict(node_class, MISMATCH if unfit else MATCH, preferred, reasons, facts)


def _reason(requirement: Requirement, facts: NodeFacts) -> Reason:
    asked = (requirement.key, requirement.op, requirement.value)
    answer = compare.any_of(asked, requirement.alternatives, facts)
    return Reason(
        requirement.key,
        requirement.value,
        answer.has,
        answer.verdict,
        requirement.source,
        requirement.strength,
    )


def never_compared(verdicts: Sequence[ClassVerdict]) -> list[Reason]:
    """Return the reasons that are `unchecked` for every class: nothing was compared with them."""
    silent: dict[tuple[str, str], Reason] = {}
    compared = set()
    for verdict in verdicts:
        for reason in verdict.reasons:
            asked = (reason.key, reason.needs)
            silent.setdefault(asked, reason)
            if reason.verdict != UNCHECKED:
                compared.add(asked)
    return [reason for asked, reason in silent.items() if asked not in compared]
