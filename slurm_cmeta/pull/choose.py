"""The best of several variants for one kind of node. Pure functions.

A variant that a node cannot run is out. Among the others, in this order:

1. fewer hard needs that nobody can check on that node; an image that states no architecture has one
2. the nearest CPU target: of those that the node runs, the one with the most ancestors in archspec;
   an image for another architecture that the node runs, too (x86 on x86_64), is the farthest
3. it uses the GPU that the node has
4. its MPI is one that the node offers
5. it asks for memory that the node is known to have
6. more of its other wishes are met
7. the first in the index
"""

from __future__ import annotations

from slurm_cmeta import match, vocabulary, words
from slurm_cmeta.compare import MATCH, MISMATCH, UNCHECKED
from slurm_cmeta.nodefacts import NO_NAMES
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.requirement import HARD, SOFT
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.cluster import NodeClass
    from slurm_cmeta.match import ClassVerdict, Reason
    from slurm_cmeta.nodefacts import SiteNames
    from slurm_cmeta.pull.variant import Variant

_GPU = ("gpu", "gpu.arch", "cuda", "driver", "rocm")
_RANKED = ("arch", "cpu", "mpi", "memory", *_GPU)


class Score(NamedTuple):
    """How well a variant suits a node; the greater the better, from left to right."""

    fits: bool
    unchecked: int
    """Minus the number of hard needs that could not be checked, an unstated architecture among
    them."""
    cpu: int
    """Ancestors of the nearest CPU target that the variant is built for and the node runs; -1 for
    a mere wish that is not met, and for another architecture that the node runs, too."""
    gpu: int
    mpi: int
    memory: int
    others: int
    """For these four: needs that are known to be met, minus wishes that are known not to be."""

    def __str__(self) -> str:
        """Return it as `cpu 3, gpu 1`: what is not zero."""
        named = zip(self._fields[1:], self[1:], strict=True)
        return ", ".join(f"{name} {number}" for name, number in named if number) or "0"


class Rated(NamedTuple):
    """A variant, as rated for one kind of node."""

    variant: Variant
    verdict: ClassVerdict
    score: Score
    reason: str
    """Why it is out, or what speaks for it, in words for people."""


def rate(
    variants: Sequence[Variant], node_class: NodeClass, names: SiteNames = NO_NAMES
) -> list[Rated]:
    """Return all variants with their scores, in their own order."""
    return [
        _rated(variant, match.judge(variant.requirements, node_class, names))
        for variant in variants
    ]


def best(rated: Sequence[Rated]) -> Rated | None:
    """Return the best of those that fit, None where none does. Of equals the first."""
    return max((one for one in rated if one.score.fits), key=lambda one: one.score, default=None)


def nearest(rated: Sequence[Rated]) -> Rated | None:
    """Return the one that comes nearest where none fits: it fails the fewest hard needs."""
    usable = [one for one in rated if not one.variant.problem]
    return min(usable, key=lambda one: len(_failed(one.verdict)), default=None)


def _rated(variant: Variant, verdict: ClassVerdict) -> Rated:
    reasons = verdict.reasons
    fits = verdict.verdict == MATCH and not variant.problem
    unchecked = sum(r.strength == HARD and r.verdict == UNCHECKED for r in reasons)
    unchecked += not any(r.key == "arch" for r in reasons)
    score = Score(
        fits,
        -unchecked,
        -1 if _is_foreign(verdict) else _cpu(reasons),
        sum(_met(r) for r in reasons if r.key in _GPU),
        sum(_met(r) for r in reasons if r.key == "mpi"),
        sum(_met(r) for r in reasons if r.key == "memory"),
        sum(_met(r) for r in reasons if r.key not in _RANKED),
    )
    return Rated(variant, verdict, score, clean(variant.problem, 200) or _words(verdict, fits))


def _cpu(reasons: Sequence[Reason]) -> int:
    depths = [0]
    for reason in reasons:
        cpu = vocabulary.cpu(reason.needs) if reason.key == "cpu" else None
        if cpu is not None and reason.verdict == MATCH:
            depths.append(len(cpu.ancestors))
        elif cpu is not None and reason.verdict == MISMATCH and reason.strength == SOFT:
            depths.append(-1)
    return -1 if max(depths) == 0 and -1 in depths else max(depths)


def _is_foreign(verdict: ClassVerdict) -> bool:
    own = verdict.facts.families
    return bool(own) and any(r.key == "arch" and r.needs not in own for r in verdict.reasons)


def _met(reason: Reason) -> int:
    if reason.verdict == MATCH:
        return 1
    return -1 if reason.verdict == MISMATCH else 0


def _failed(verdict: ClassVerdict) -> list[Reason]:
    return [r for r in verdict.reasons if r.strength == HARD and r.verdict == MISMATCH]


def _words(verdict: ClassVerdict, fits: bool) -> str:
    if not fits:
        return "; ".join(
            f"{r.key} needs {clean(r.needs, 60)}, has {words.has(r) if r.has else 'none'}"
            for r in _failed(verdict)
        )
    met = [
        words.said(r.key, "=", r.needs)
        for r in verdict.reasons
        if r.verdict == MATCH and not (r.key == "arch" and _has_cpu(verdict))
    ]
    open_ = [clean(r.key) for r in verdict.reasons if r.verdict == UNCHECKED and r.strength == HARD]
    wrong = [
        f"not {clean(r.needs, 60)}"
        for r in verdict.reasons
        if r.verdict == MISMATCH and r.strength == SOFT
    ]
    parts = [*met, *wrong, *([f"unchecked: {', '.join(open_)}"] if open_ else [])]
    return "; ".join(dict.fromkeys(parts)) or "needs nothing that was found"


def _has_cpu(verdict: ClassVerdict) -> bool:
    return any(r.key == "cpu" and r.verdict == MATCH for r in verdict.reasons)
