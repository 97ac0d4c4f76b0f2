"""Requirements against node classes: verdicts with reasons. Pure functions, no I/O.

What a node is, is told by its features alone. A fact that no feature tells is unknown, and unknown
is not absent: it never makes a node unfit, unless the node carries `cmeta=1`, which says that its
features are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from slurm_cmeta import vocabulary
from slurm_cmeta.requirement import HARD, SOFT, Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_cmeta.cluster import NodeClass

MATCH = "match"
MISMATCH = "mismatch"
UNCHECKED = "unchecked"

COMPLETE_FEATURE = "cmeta=1"
"""A node that carries it says: what is not listed here, this node has not."""


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


class NodeFacts(NamedTuple):
    """What a node's features say about it."""

    families: frozenset[str]
    """Architecture families; more than one means that the features contradict each other."""
    cpus: tuple[vocabulary.Cpu, ...]
    """Every CPU target named, the architecture's own included."""
    complete: bool


def node_facts(features: Iterable[str]) -> NodeFacts:
    """Return what the features of a node say, read by archspec's names and their aliases."""
    names = list(features)
    certain: list[str] = []
    ambiguous: list[str] = []
    for feature in names:
        target = vocabulary.feature_target(feature)
        if target is not None:
            (ambiguous if vocabulary.is_ambiguous_feature(feature) else certain).append(target)
    families = {_family(target) for target in certain}
    certain += [target for target in ambiguous if _family(target) in families]
    cpus = [cpu for cpu in map(vocabulary.cpu, certain) if cpu is not None]
    return NodeFacts(frozenset(families), tuple(cpus), COMPLETE_FEATURE in names)


def judge(requirements: Sequence[Requirement], node_class: NodeClass) -> ClassVerdict:
    """Return whether nodes of this class can run an image with these requirements, and why."""
    facts = node_facts(node_class.features)
    reasons = tuple(_CHECKS.get(r.key, _not_published)(r, facts) for r in requirements)
    unfit = any(r.strength == HARD and r.verdict == MISMATCH for r in reasons)
    soft = [r.verdict for r in reasons if r.strength == SOFT]
    preferred = not unfit and MATCH in soft and MISMATCH not in soft
    return ClassVerdict(node_class, MISMATCH if unfit else MATCH, preferred, reasons)


def never_compared(verdicts: Sequence[ClassVerdict]) -> list[Reason]:
    """Return the reasons that are `unchecked` for every class: nothing was compared with them."""
    if not verdicts:
        return []
    return [
        reason
        for position, reason in enumerate(verdicts[0].reasons)
        if all(v.reasons[position].verdict == UNCHECKED for v in verdicts)
    ]


def _family(target: str) -> str:
    cpu = vocabulary.cpu(target)
    return cpu.family if cpu else target


def _reason(requirement: Requirement, has: str | None, verdict: str) -> Reason:
    return Reason(
        requirement.key,
        requirement.value,
        has,
        verdict,
        requirement.source,
        requirement.strength,
    )


def _not_published(requirement: Requirement, _: NodeFacts) -> Reason:
    return _reason(requirement, None, UNCHECKED)


def _check_arch(requirement: Requirement, facts: NodeFacts) -> Reason:
    if not facts.families:
        return _reason(requirement, None, MISMATCH if facts.complete else UNCHECKED)
    has = ", ".join(sorted(facts.families))
    wanted = [requirement.value]
    wanted += [c[0][2] for c in requirement.alternatives if len(c) == 1 and c[0][0] == "arch"]
    answers = {vocabulary.also_runs(family, value) for family in facts.families for value in wanted}
    if True in answers:
        return _reason(requirement, has, MATCH)
    if None in answers or len(facts.families) > 1:
        return _reason(requirement, has, UNCHECKED)
    return _reason(requirement, has, MISMATCH)


def _check_cpu(requirement: Requirement, facts: NodeFacts) -> Reason:
    wanted = vocabulary.cpu(requirement.value)
    if wanted is None or len(facts.families) > 1:
        return _reason(requirement, None, UNCHECKED)
    has = ", ".join(sorted(most_specific(facts.cpus))) or None
    if any(cpu.runs(wanted) for cpu in facts.cpus):
        return _reason(requirement, has, MATCH)
    if facts.complete:
        return _reason(requirement, has, MISMATCH)
    if not facts.families:
        return _reason(requirement, None, UNCHECKED)
    if wanted.family not in facts.families:
        return _reason(requirement, has or ", ".join(facts.families), MISMATCH)
    if any(not cpu.generic for cpu in facts.cpus):
        return _reason(requirement, has, MISMATCH)
    return _reason(requirement, has, _against_levels(wanted, facts.cpus))


def _against_levels(wanted: vocabulary.Cpu, levels: Sequence[vocabulary.Cpu]) -> str:
    """Judge a CPU target against a node that names only psABI levels (or nothing but its family).

    The levels do not tell the machine's name, so a named machine stays unchecked as long as the
    level it implies is there. A node that names a level but not the level needed has it not.
    """
    known = {name for level in levels for name in (level.name, *level.ancestors)}
    if known <= {wanted.family}:
        return UNCHECKED
    needed = {
        name
        for name in (wanted.name, *wanted.ancestors)
        if (cpu := vocabulary.cpu(name)) is not None and cpu.generic
    }
    return UNCHECKED if needed <= known else MISMATCH


def most_specific(cpus: Sequence[vocabulary.Cpu]) -> set[str]:
    """Return the names of the CPUs that are no ancestors of others among them."""
    implied = {ancestor for cpu in cpus for ancestor in cpu.ancestors}
    return {cpu.name for cpu in cpus} - implied


_CHECKS = {"arch": _check_arch, "cpu": _check_cpu}
