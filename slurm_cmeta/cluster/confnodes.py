"""The node classes that slurm.conf states: nodes grouped, partitions and node sets resolved."""

from __future__ import annotations

import itertools
import re

from slurm_cmeta.cluster import NodeClass, Partition, hostlist, slurmconf
from slurm_cmeta.cluster.grouping import Grouper, Membership
from slurm_cmeta.cluster.slurmconf import mistake
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.cluster.hostlist import Span
    from slurm_cmeta.cluster.slurmconf import NodeLine, SlurmConf

_FUNCTION = re.compile(r"([A-Za-z_]+)\{([^{}]*)\}")
"""A hostlist function of 24.11: `feature{zen4}`, `block{b1}`, `switch{s1}`."""

_Lines = list[tuple["NodeLine", list["Span"]]]


def node_classes(conf: SlurmConf) -> list[NodeClass]:
    """Return the nodes of `conf` grouped by feature set and partitions, in the order of the file.

    FUTURE nodes are left out. Raises ClusterError for a host list that is none and, as slurmctld
    does, for a node that is named twice.
    """
    return read(conf)[0]


def read(conf: SlurmConf) -> tuple[list[NodeClass], tuple[Partition, ...]]:
    """Return the node classes and the partitions of `conf`. Raises ClusterError as above."""
    try:
        lines = _expanded(conf)
    except ClusterError:  # with the numbers of the very lines that it is about
        lines = _expanded(slurmconf.read(conf.path, exact=True))
    membership = Membership()
    partitions = tuple(
        Partition(name, line.default, _resolve(name, line.nodes, conf, lines, membership))
        for name, line in conf.partitions.items()
    )
    grouper = Grouper()
    for line, spans in lines:
        state = _state(line)
        for span in spans:
            for part, names in membership.of(span):
                grouper.add(
                    part, line.features, names, state, line.real_memory, line.gres, line.cpus
                )
    return list(grouper.classes()), partitions


def _state(line: NodeLine) -> str:
    """Return the state that the line sets; UNKNOWN, which asks the node, sets none."""
    return "" if line.state.upper() == "UNKNOWN" else line.state.lower()


def _expanded(conf: SlurmConf) -> _Lines:
    """Return the lines of nodes that are there, each with its nodes."""
    lines: _Lines = []
    taken: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    total = 0
    for number, line in enumerate(conf.nodes):
        try:
            spans = hostlist.spans(line.nodes)
        except ClusterError as error:
            raise ClusterError(f"{clean(line.path)}:{line.line}: {error}") from None
        for stem, digits, first, last in spans:
            total += last - first + 1
            taken.setdefault((stem, digits), []).append((first, last, number))
        if total > hostlist.MAX_HOSTS:
            raise mistake(line.path, line.line, f"more than {hostlist.MAX_HOSTS} nodes")
        if not line.future:
            lines.append((line, spans))
    _refuse_twins(conf, taken)
    return lines


def _refuse_twins(
    conf: SlurmConf, taken: dict[tuple[str, int], list[tuple[int, int, int]]]
) -> None:
    for (stem, digits), ranges in taken.items():
        ranges.sort()
        for (_, end, before), (first, _, number) in itertools.pairwise(ranges):
            if first <= end:
                name = f"{stem}{first:0{digits}d}" if digits else stem
                line = conf.nodes[max(before, number)]
                raise mistake(line.path, line.line, f"node {clean(name)} is named twice")


def _resolve(name: str, nodes: str, conf: SlurmConf, lines: _Lines, membership: Membership) -> bool:
    """Put the nodes of a partition's Nodes= into it; False when not all of it could be resolved."""
    if nodes.upper() == "ALL":
        membership.add_everywhere(name)
        return True
    exact = True
    membership.add(name, ())
    for function, argument in _FUNCTION.findall(nodes):
        if function == "feature" and "," not in argument:
            membership.add(name, _with_feature(argument, lines))
        else:
            exact = False
    listed = _spans(_FUNCTION.sub(",", nodes))
    if listed is None:
        return False
    membership.add(name, listed)
    for set_name, nodeset in conf.nodesets.items():
        if not _covers(listed, set_name):
            continue
        if nodeset.feature:
            membership.add(name, _with_feature(nodeset.feature, lines))
        if nodeset.nodes.upper() == "ALL":
            membership.add_everywhere(name)
            continue
        members = _spans(nodeset.nodes)
        membership.add(name, members or ())
        exact = exact and members is not None
    return exact


def _spans(nodes: str) -> list[Span] | None:
    if "{" in nodes or "}" in nodes:
        return None
    try:
        return hostlist.spans(nodes)
    except ClusterError:
        return None


def _covers(spans: Sequence[Span], name: str) -> bool:
    try:
        (wanted,) = hostlist.spans(name)
    except (ClusterError, ValueError):
        return False
    return any(span[:2] == wanted[:2] and span.first <= wanted.first <= span.last for span in spans)


def _with_feature(feature: str, lines: _Lines) -> list[Span]:
    return [span for line, spans in lines if feature in line.features for span in spans]
