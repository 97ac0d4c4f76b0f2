"""Why an image runs on a node or does not, and why a job waits. Pure functions."""

from __future__ import annotations

import os

from slurm_cmeta import compare, match, nearest, words
from slurm_cmeta.cluster import hostlist
from slurm_cmeta.cluster.grouping import by_features
from slurm_cmeta.cluster.reach import reach
from slurm_cmeta.constraint.grammar import parse
from slurm_cmeta.decide import UNKNOWN
from slurm_cmeta.errors import ClusterError, UsageError
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_cmeta.cluster import Cluster, NodeClass
    from slurm_cmeta.cluster.job import Job
    from slurm_cmeta.match import ClassVerdict
    from slurm_cmeta.nearest import Change
    from slurm_cmeta.nodefacts import SiteNames
    from slurm_cmeta.requirement import Requirement

FREE = frozenset(("idle",))
BUSY = frozenset(("allocated", "mixed", "completing", "planned", "reserved", "blocked"))
"""States of nodes that a job may wait for; all others need an administrator (sinfo.1)."""

WANTING = ("None", "Resources", "Priority", "ReqNodeNotAvail", "Nodes_required", "BadConstraints")
"""How Slurm's reasons begin that nodes of the right kind may be behind; with others (a hold, a
dependency, a limit) the job would wait on any cluster."""

MAX_LISTED = 100
"""Characters of a list of nodes in a sentence."""

IMAGE, STATE, OPTIONS, OTHER = "image", "state", "options", "other"


class NodeAnswer(NamedTuple):
    """What becomes of an image on one node."""

    name: str
    one: ClassVerdict
    verdict: str
    """`match`, `mismatch`, or `unknown` when nothing could be compared."""
    partition: str
    """The partitions that the job would go to; empty where that is not known."""
    in_partition: bool | None
    """Whether the node is in one of them; None where the source does not tell."""
    allowed: bool | None
    """Whether the job's own constraint leaves the node; None where that cannot be told."""
    changes: tuple[Change, ...]


class Group(NamedTuple):
    """Nodes with equal features in one state, of the job's partitions."""

    one: ClassVerdict
    state: str
    """Slurm's word; empty where it is not known."""
    left_out: str
    """The option of the job that keeps it off these nodes: `--constraint`, `--exclude`,
    `--nodelist`; empty when none does."""

    @property
    def fits(self) -> bool:
        """Return whether the image runs there, as far as anybody knows."""
        return self.one.verdict != compare.MISMATCH


class JobAnswer(NamedTuple):
    """Why a job waits."""

    held_by: str | None
    """`image`: its needs; `state`: the nodes that would do are taken or out of service; `options`:
    the job's own options; `other`: nothing of these; None when it does not wait."""
    lines: tuple[str, ...]
    """That in words for people."""
    groups: tuple[Group, ...]
    nearest: ClassVerdict | None
    """The nodes that come nearest, where the image's needs hold it back."""
    changes: tuple[Change, ...]
    """What would let those run it."""
    hopeless: bool = False
    """Whether no node will do, free or not."""


def node(
    name: str,
    requirements: Sequence[Requirement],
    cluster: Cluster,
    names: SiteNames,
    partition: str = "",
    constraint: str = "",
) -> NodeAnswer:
    """Return what becomes of an image with these requirements on the node `name`.

    Raises UsageError for what is not one node's name, and ClusterError for a node that the cluster
    does not list.
    """
    try:
        listed = hostlist.count(name)
    except ClusterError:
        listed = 0
    if listed != 1 or "[" in name:
        raise UsageError(f"{clean(name)!r} is not the name of one node")
    everywhere = reach(cluster._replace(partitions=None), nodelist=name).demanded
    if not everywhere:
        more = ", which may not list all nodes" if cluster.unlisted_nodes else ""
        raise ClusterError(f"no node {clean(name)} in {cluster.source}{more}")
    one = match.judge(requirements, everywhere[0], names)
    known = {p.name for p in cluster.partitions or ()}
    wanted = partition or cluster.default_partition or ""
    unsure = one.nodes.partitions is None or not known.issuperset(wanted.split(","))
    user = parse(constraint)
    compared = any(r.verdict != compare.UNCHECKED for r in one.reasons)
    return NodeAnswer(
        name,
        one,
        one.verdict if compared or not requirements else UNKNOWN,
        wanted,
        None if not wanted or unsure else bool(reach(cluster, wanted, name).demanded),
        user.allows(one.nodes.features) if constraint and user is not None else None,
        nearest.changes(one, requirements),
    )


def job(
    one: Job, image: str, requirements: Sequence[Requirement], cluster: Cluster, names: SiteNames
) -> JobAnswer:
    """Return why a job with this image waits. Each class of `cluster` has nodes of one state."""
    groups = _groups(one, requirements, cluster, names)
    if not one.pending:
        where = f" on {clean(one.nodes, MAX_LISTED)}" if one.nodes else ""
        return JobAnswer(None, (f"it does not wait: {one.state}{where}",), groups, None, ())
    open_to = [g for g in groups if g.fits and not g.left_out]
    demanded = reach(cluster, one.partition, one.nodelist).demanded
    named = [match.judge(requirements, nodes, names) for nodes in demanded]
    wrong = [v for v in named if v.verdict == compare.MISMATCH]
    if wrong or not open_to:
        return _impossible(one, image, requirements, cluster, groups, names, wrong)
    other = not one.reason.startswith(WANTING)
    free = [g for g in open_to if g.state in FREE or not g.state]
    if other or free:
        return JobAnswer(OTHER, tuple(_not_ours(one, image, open_to, free)), groups, None, ())
    lines = [f"{_nodes(open_to)} would do: {_listed(open_to)}"]
    barred = [g.one for g in groups if g.state in FREE and not g.fits]
    if not barred:
        return JobAnswer(STATE, (*lines, *_out_of_service(open_to)), groups, None, ())
    said = words.no_node(image, requirements, barred, "that are idle")
    closest = nearest.ranked(_merged(barred, requirements, names))[0]
    changes = nearest.changes(closest, requirements)
    return JobAnswer(IMAGE, (said, *lines, *_out_of_service(open_to)), groups, closest, changes)


def _impossible(
    one: Job,
    image: str,
    requirements: Sequence[Requirement],
    cluster: Cluster,
    groups: tuple[Group, ...],
    names: SiteNames,
    wrong: list[ClassVerdict],
) -> JobAnswer:
    """Return the answer for a job that no node will do for.

    `wrong` are nodes that the job demands, and that cannot run the image.
    """
    place = reach(cluster, one.partition).limited
    fit = [g for g in groups if g.fits]
    lines = []
    if wrong:
        lines.append(words.no_node(image, requirements, wrong, words.among("", True, False)))
    left_out = [g for g in fit if g.left_out]
    if left_out:
        options = _either(dict.fromkeys(g.left_out for g in left_out))
        leaves = f"the job's {options} leaves out {_listed(left_out)}"
        lines.append(f"{_nodes(left_out)} would do, but {leaves}")
    if lines and fit:
        closest = nearest.ranked(wrong)[0] if wrong else None
        changes = nearest.changes(closest, requirements) if closest else ()
        return JobAnswer(OPTIONS, tuple(lines), groups, closest, changes, hopeless=True)
    if not groups:
        where = place or "that Slurm shows"
        return JobAnswer(OTHER, (f"there is no node {clean(where)}",), groups, None, (), True)
    unfit = _merged([g.one for g in groups], requirements, names)
    said = words.no_node(image, requirements, unfit, words.among(place, False, False))
    closest = nearest.ranked(unfit)[0]
    changes = nearest.changes(closest, requirements)
    return JobAnswer(IMAGE, (said,), groups, closest, changes, hopeless=True)


def _not_ours(one: Job, image: str, open_to: list[Group], free: list[Group]) -> Iterable[str]:
    reason = clean(one.reason) or "none"
    name = clean(os.path.basename(image) or image)
    yield f"{name} does not hold it back; Slurm's reason is {reason}"
    yield f"{_nodes(open_to)} would do: {_listed(free or open_to)}" + (
        f", and {_nodes([g for g in open_to if g not in free])} more"
        if free and len(free) < len(open_to)
        else ""
    )
    if free and one.reason == "Resources":
        yield "it asks for more (nodes, CPUs, memory, GPUs, time) than is free there"


def _out_of_service(open_to: Sequence[Group]) -> Iterable[str]:
    if not any(g.state in FREE | BUSY for g in open_to):
        one = sum(g.one.nodes.node_count for g in open_to) == 1
        yield f"{'it starts' if one else 'they start'} no job in that state: `sinfo -R` tells why"


def _groups(
    one: Job, requirements: Sequence[Requirement], cluster: Cluster, names: SiteNames
) -> tuple[Group, ...]:
    """Return the nodes of the job's partitions, by state, features, and what leaves them out."""
    user = parse(one.constraint)
    known = {feature for each in cluster.classes for feature in each.features}
    unsure = user is None or cluster.changeable or not known.issuperset(user.names)
    named = _count(one.nodelist)
    parts: dict[tuple[str, str], list[NodeClass]] = {}
    for each in cluster.classes:
        alone = cluster._replace(classes=(each,))
        state = each.states[0][0] if each.states else ""
        allowed = unsure or user is None or user.allows(each.features)
        kept = reach(alone, one.partition, "", one.exclude).classes
        out = reach(alone, one.partition, one.exclude).demanded
        parts.setdefault((state, "--exclude"), []).extend(out)
        for rest in kept:
            if not allowed:
                parts.setdefault((state, "--constraint"), []).append(rest)
            elif named and one.node_count <= named:
                within = cluster._replace(classes=(rest,), partitions=None)
                inside = reach(within, nodelist=one.nodelist).demanded
                outside = reach(within, exclude=one.nodelist).classes
                parts.setdefault((state, ""), []).extend(inside)
                parts.setdefault((state, "--nodelist"), []).extend(outside)
            else:
                parts.setdefault((state, ""), []).append(rest)
    return tuple(
        Group(match.judge(requirements, nodes, names), state, left_out)
        for (state, left_out), classes in parts.items()
        for nodes in by_features(classes)
    )


def _merged(
    verdicts: Sequence[ClassVerdict], requirements: Sequence[Requirement], names: SiteNames
) -> list[ClassVerdict]:
    classes = by_features([v.nodes for v in verdicts])
    return [match.judge(requirements, one, names) for one in classes]


def _count(nodes: str) -> int:
    try:
        return hostlist.count(nodes)
    except ClusterError:
        return 0


def _nodes(groups: Sequence[Group]) -> str:
    count = sum(g.one.nodes.node_count for g in groups)
    return f"{count} node{'' if count == 1 else 's'}"


def _listed(groups: Sequence[Group]) -> str:
    """Return `top1 (drained), mid[1-2] (allocated)`."""
    by_state: dict[str, list[str]] = {}
    for g in groups:
        by_state.setdefault(g.state or "state not known", []).append(g.one.nodes.nodes)
    return ", ".join(
        f"{clean(','.join(nodes), MAX_LISTED)} ({clean(state)})"
        for state, nodes in by_state.items()
    )


def _either(options: Iterable[str]) -> str:
    return " or ".join(options)
