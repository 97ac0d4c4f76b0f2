"""Which variants a cluster needs so that each of its nodes is served best. Pure functions."""

from __future__ import annotations

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
    """The fewest variants that serve all classes that can be served, in the order of the index."""
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
        tuple(variants[i] for i in sorted(_fewest(fitting))),
        tuple(v for v in variants if v.digest in chosen),
        missing,
        _common(missing),
    )


def _places(rated: Sequence[Rated]) -> dict[int, int]:
    """Return number -> how many suit these nodes better, for each variant that fits."""
    scores = {number: r.score for number, r in enumerate(rated) if r.score.fits}
    return {n: sum(other > score for other in scores.values()) for n, score in scores.items()}


def _fewest(classes: Sequence[dict[int, int]]) -> set[int]:
    """Return few numbers of which each class has one: greedily, and exact for what is usual.

    The fewest are hard to find in general; with the nested targets of CPUs greed finds them. Of
    those that serve equally many classes, the one that suits them best is taken.
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
