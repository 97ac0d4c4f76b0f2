"""The nodes that a job can reach: those of its partitions, without those that it excludes.

All others are no reason to accept or to refuse a job. Pure functions; they work on spans of host
lists, so that the cost follows the number of ranges and not of nodes.
"""

from __future__ import annotations

from bisect import bisect_left

from slurm_cmeta.cluster import hostlist
from slurm_cmeta.cluster.grouping import by_features
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_cmeta.cluster import Cluster, NodeClass
    from slurm_cmeta.cluster.hostlist import Span


class Reach(NamedTuple):
    """The part of a cluster that counts for one job."""

    classes: tuple[NodeClass, ...]
    """One for each feature set."""
    demanded: tuple[NodeClass, ...]
    """The nodes that the job has to get (--nodelist), by feature set."""
    limited: str
    """What limits it, in words for people: `in partition debug`; empty for the whole cluster."""


def reach(cluster: Cluster, partitions: str = "", nodelist: str = "", exclude: str = "") -> Reach:
    """Return what a job reaches with these options of sbatch; empty means not given.

    What is not understood (a partition that is not listed, a file of node names) limits nothing:
    slurmctld judges it.
    """
    classes, limited = _of_partitions(cluster, partitions)
    named = _spans(exclude)
    if named:
        classes = [rest for one in classes if (rest := _without(one, named)) is not None]
        limited = " and ".join(filter(None, (limited, "outside of --exclude")))
    wanted, demanded = _spans(nodelist), []
    if wanted:
        demanded = [part for one in classes if (part := _within(one, wanted)) is not None]
    return Reach(by_features(classes), by_features(demanded), limited)


def _of_partitions(cluster: Cluster, names: str) -> tuple[list[NodeClass], str]:
    known = {partition.name: partition for partition in cluster.partitions or ()}
    wanted = [name for name in cluster.partition_of(names).split(",") if name]
    if not wanted or not all(name in known and known[name].exact for name in wanted):
        return list(cluster.classes), ""
    kept = [
        one
        for one in cluster.classes
        if one.partitions is None or any(name in one.partitions for name in wanted)
    ]
    if len(kept) == len(cluster.classes):
        return kept, ""
    word = "partition" if len(wanted) == 1 else "partitions"
    return kept, f"in {word} {','.join(wanted)}"


def _spans(text: str) -> list[Span]:
    try:
        return hostlist.spans(text) if text and "/" not in text else []
    except ClusterError:
        return []


def _without(one: NodeClass, named: Sequence[Span]) -> NodeClass | None:
    return _replaced(one, _minus(hostlist.spans(one.nodes), named))


def _within(one: NodeClass, named: Sequence[Span]) -> NodeClass | None:
    own = hostlist.spans(one.nodes)
    return _replaced(one, _minus(own, _minus(own, named)))


def _replaced(one: NodeClass, spans: list[Span]) -> NodeClass | None:
    if not spans:
        return None
    count = sum(span.last - span.first + 1 for span in spans)
    return one._replace(nodes=hostlist.join(spans), node_count=count)


def _minus(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return the nodes of `spans` that are in none of `others`."""
    taken = _merged(others)
    left: list[Span] = []
    for span in spans:
        firsts, lasts = taken.get((span.stem, span.digits), ((), ()))
        first = span.first
        for index in range(bisect_left(lasts, first), len(firsts)):
            if firsts[index] > span.last:
                break
            if firsts[index] > first:
                left.append(span._replace(first=first, last=firsts[index] - 1))
            first = max(first, lasts[index] + 1)
        if first <= span.last:
            left.append(span._replace(first=first))
    return left


def _merged(spans: Iterable[Span]) -> dict[tuple[str, int], tuple[list[int], list[int]]]:
    """Return by (stem, digits) the first and the last numbers of ranges without overlaps."""
    found: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    for stem, digits, first, last in sorted(spans):
        firsts, lasts = found.setdefault((stem, digits), ([], []))
        if lasts and first <= lasts[-1] + 1:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)
    return found
