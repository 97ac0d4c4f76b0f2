"""Give a node its features through scontrol, and touch nobody else's.

`scontrol update` overwrites the whole list, so it is read, changed and written. Available and
Active are written together: slurmctld refuses an Available that lacks what is Active
(node_mgr.c, update_node). Features of a NodeFeatures plugin that are available and not active stay
so. Planning is pure; run() and what it calls do the talking.
"""

from __future__ import annotations

import re

from slurm_cmeta.cluster import hostlist, scontrol, slurmconf
from slurm_cmeta.cluster.source import find_slurm_conf
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.node import owned
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

SECONDS = 30.0
"""Time that one scontrol may take; it waits for a busy slurmctld by itself."""

_SHOWN = re.compile(r" AvailableFeatures=(.*?) ActiveFeatures=(.*?) Gres=")


class Node(NamedTuple):
    """The features of a node as slurmctld has them."""

    available: tuple[str, ...]
    active: tuple[str, ...]


class Plan(NamedTuple):
    """What becomes of them."""

    before: Node
    after: Node
    added: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    """Names of our vocabulary that this host does not confirm, and that stay: somebody else's, or
    what could not be told now."""

    @property
    def changes(self) -> bool:
        """Return whether there is anything to write."""
        return self.before != self.after


def plan(
    node: Node,
    wanted: Sequence[str],
    *,
    unknown: Collection[str] = (),
    remembered: Collection[str] | None = None,
    written_by_hand: Collection[str] = (),
    original: Callable[[str], str | None] = lambda name: name,
) -> Plan:
    """Return what has to change so that the node has the features `wanted`.

    `unknown` are the keys of facts that the probes could not tell: what we said of them stays.
    `remembered` are the names that we have put there before, None where nobody remembers: then only
    values in our form are ours. `written_by_hand` are the features that slurm.conf gives the node;
    a bare name among them is the admin's. `original` gives the name that our vocabulary has for a
    published one, None where it is none of ours.
    """
    target = set(wanted)
    removed, kept = [], []
    for name in dict.fromkeys((*node.available, *node.active)):
        if name in target:
            continue
        ours = original(name) or name
        key = owned.fact_key(ours)
        value = owned.is_value(ours) and original(name) is not None
        by_hand = name in written_by_hand and not value
        if by_hand or not (value if remembered is None else value or name in remembered):
            if key is not None and original(name) is not None:
                kept.append(name)
        elif key is not None and key in unknown:
            kept.append(name)
        else:
            removed.append(name)
    after = Node(
        _merged(node.available, removed, wanted),
        _merged(node.active, removed, wanted),
    )
    added = tuple(n for n in wanted if n not in node.available or n not in node.active)
    return Plan(node, after, added, tuple(removed), tuple(kept))


def ours(planned: Plan, remembered: Collection[str] | None) -> list[str]:
    """Return the names to remember: what we have put on the node, now or before."""
    before = set(remembered or ())
    there = set(planned.after.available)
    return [n for n in there if n in before or n in planned.added]


def _merged(
    before: Iterable[str], removed: Collection[str], wanted: Iterable[str]
) -> tuple[str, ...]:
    return tuple(dict.fromkeys([n for n in before if n not in removed] + list(wanted)))


def show(name: str) -> Node:
    """Return the features of a node as slurmctld has them. Raises ClusterError."""
    shown = _scontrol("--oneliner", "show", "node", name)
    found = _SHOWN.search(shown)
    if found is None or len(shown.splitlines()) != 1:
        first = next(iter(shown.strip().splitlines()), "nothing")
        raise ClusterError(f"scontrol shows no node {clean(name)!r}, but: {clean(first)}")
    return Node(_listed(found[1]), _listed(found[2]))


def write(name: str, plan: Plan) -> str:
    """Write the planned features, and see that slurmctld has taken them. Raises ClusterError.

    Returns what is left to be said: where a NodeFeatures plugin is configured, slurmctld keeps
    removed names active until it is reconfigured (seen in 22.05, 24.11 and 26.05).
    """
    if not plan.after.available or (plan.before.active and not plan.after.active):
        raise ClusterError("refusing to write an empty list of features")
    if show(name) != plan.before:
        raise ClusterError(f"the features of {clean(name)} were just changed by another; try again")
    _scontrol(
        "update",
        f"NodeName={name}",
        f"AvailableFeatures={','.join(plan.after.available)}",
        f"ActiveFeatures={','.join(plan.after.active)}",
    )
    now = show(name)
    left = set(now.active) - set(plan.after.active)
    missing = set(plan.after.active) - set(now.active)
    if missing or not left <= set(plan.removed) or set(now.available) != set(plan.after.available):
        raise ClusterError(
            f"slurmctld took the features of {clean(name)}, but shows "
            f"{clean(','.join(now.active))!r} afterwards"
        )
    if not left:
        return ""
    return (
        f"{clean(','.join(sorted(left)))} stays active on {clean(name)}: a NodeFeatures plugin is "
        "configured; `scontrol reconfigure` clears it"
    )


def written_by_hand(name: str) -> tuple[str, ...]:
    """Return the features that slurm.conf gives the node; none where it cannot be read."""
    try:
        conf = slurmconf.read(find_slurm_conf())
        for line in conf.nodes:
            if name in hostlist.expand(line.nodes):
                return line.features
    except ClusterError:
        pass
    return ()


def _listed(text: str) -> tuple[str, ...]:
    return () if text == "(null)" else tuple(filter(None, text.split(",")))


def _scontrol(*arguments: str) -> str:
    return scontrol.run(*arguments, deadline=SECONDS)
