"""Which variants a cluster needs so that each of its nodes is served best. Pure functions."""

from __future__ import annotations

from itertools import combinations
from math import comb

from slurm_cmeta import archs, vocabulary
from slurm_cmeta.cluster.grouping import by_features
from slurm_cmeta.nodefacts import NO_NAMES
from slurm_cmeta.pull import choose
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.archs import Target
    from slurm_cmeta.cluster import NodeClass
    from slurm_cmeta.nodefacts import SiteNames
    from slurm_cmeta.pull.choose import Rated
    from slurm_cmeta.pull.variant import Variant
    from slurm_cmeta.vocabulary import Cpu


MAX_TRIED = 10_000
"""Sets of variants that are tried to find one that is smaller than what greed finds."""


class Served(NamedTuple):
    """Nodes, and what they would run."""

    nodes: NodeClass
    best: Rated | None
    """None where no variant runs there."""
    nearest: Rated | None
    """Where none does: what comes nearest."""


class Cover(NamedTuple):
    """How a cluster is served."""

    classes: tuple[Served, ...]
    enough: tuple[Variant, ...]
    """The fewest variants that serve all classes that can be served, in the order of the index.

    None is superfluous; of dozens that overlap there may be a smaller set."""
    best: tuple[Variant, ...]
    """Those that are the best one somewhere, in the order of the index."""
    missing: tuple[Target, ...]
    """What would have to be built for the nodes that no variant serves."""
    common: tuple[Cpu, ...]
    """For each architecture among those the greatest CPU target that all of its nodes run."""


def cover(
    variants: Sequence[Variant], classes: Sequence[NodeClass], names: SiteNames = NO_NAMES
) -> Cover:
    """Return which variants serve which nodes. Raises ClusterError for host lists that are none."""
    served, fitting = [], []
    for one in by_features(classes):
        rated = choose.rate(variants, one, names)
        best = choose.best(rated)
        served.append(Served(one, best, None if best else choose.nearest(rated)))
        if best is not None:
            fitting.append(_places(rated))
    unserved = [one.nodes for one in served if one.best is None]
    chosen = {one.best.variant.digest for one in served if one.best}
    missing = archs.read(unserved, names).targets
    return Cover(
        tuple(served),
        tuple(variants[i] for i in sorted(fewest(fitting))),
        tuple(v for v in variants if v.digest in chosen),
        missing,
        _common(missing),
    )


def _places(rated: Sequence[Rated]) -> dict[int, int]:
    """Return number -> how many suit these nodes better, for each variant that fits."""
    scores = {number: r.score for number, r in enumerate(rated) if r.score.fits}
    return {n: sum(other > score for other in scores.values()) for n, score in scores.items()}


def fewest(classes: Sequence[dict[int, int]]) -> set[int]:
    """Return few numbers of which each class has one.

    With the nested targets of CPUs greed finds the fewest. GPUs and MPIs do not nest: there all
    smaller sets are tried, as long as they are not more than MAX_TRIED.
    """
    found = _greedily(classes)
    for size in range(2, len(found)):
        smaller = _of_size(size, classes)
        if smaller:
            return smaller
    for number in sorted(found, reverse=True):
        if all((found - {number}) & one.keys() for one in classes):
            found.remove(number)
    return found


def _of_size(size: int, classes: Sequence[dict[int, int]]) -> set[int]:
    """Return the `size` numbers that suit best, of which each class has one; empty if none do."""
    serves: dict[int, frozenset[int]] = {
        number: frozenset(n for n, one in enumerate(classes) if number in one)
        for number in sorted({number for one in classes for number in one})
    }
    useful = [n for n, own in serves.items() if not any(own < other for other in serves.values())]
    if comb(len(useful), size) > MAX_TRIED:
        return set()
    enough = (
        numbers
        for numbers in combinations(useful, size)
        if all(any(n in one for n in numbers) for one in classes)
    )
    return set(
        min(
            enough,
            key=lambda numbers: sum(min(one[n] for n in numbers if n in one) for one in classes),
            default=(),
        )
    )


def _greedily(classes: Sequence[dict[int, int]]) -> set[int]:
    """Return numbers of which each class has one: always what serves most of those left.

    Of those that serve equally many, the one that suits them best is taken.
    """
    left = list(classes)
    found: set[int] = set()
    while left:
        serves: dict[int, list[int]] = {}
        for one in left:
            for number, place in one.items():
                serves.setdefault(number, []).append(place)
        most = min(serves, key=lambda n: (-len(serves[n]), sum(serves[n]), n))
        found.add(most)
        left = [one for one in left if most not in one]
    return found


def _common(targets: Sequence[Target]) -> tuple[Cpu, ...]:
    shared: dict[str, frozenset[str]] = {}
    for target in targets:
        own = target.cpu.ancestors | {target.cpu.name}
        shared[target.cpu.family] = shared.get(target.cpu.family, own) & own
    greatest = (
        max(
            (cpu for name in names if (cpu := vocabulary.cpu(name))),
            key=lambda cpu: (len(cpu.ancestors), cpu.name),
            default=None,
        )
        for names in shared.values()
    )
    return tuple(sorted((cpu for cpu in greatest if cpu), key=lambda cpu: cpu.name))
