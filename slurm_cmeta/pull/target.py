"""For whom the best variant is sought: this host, a node, nodes by features, a cluster, a CPU.

host               this host, as cmeta-features sees it
node:NAME          a node of the cluster
class:FEATURE,...  a node with these features, whether there is one or not
cluster            all node classes of the cluster
PLATFORM           `linux/arm64`, `amd64/v3`, or a CPU as archspec names it: `zen4`
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.cluster import NodeClass
from slurm_cmeta.errors import ClusterError, UsageError
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_cmeta.cluster import Cluster

HOST, CLUSTER = "host", "cluster"


class Target(NamedTuple):
    """Whom a variant is for."""

    name: str
    """In words for people."""
    classes: tuple[NodeClass, ...]
    """One, save for a cluster."""
    whole: bool = False
    """Whether it is a cluster, all of whose classes are to be served."""


def resolve(text: str, cluster: Callable[[], Cluster]) -> Target:
    """Return the target that `text` names; `cluster` reads the cluster where it is needed.

    Raises UsageError for what is no target, ClusterError where there is no such node.
    """
    kind, colon, rest = text.partition(":")
    if text == HOST:
        return Target("this host", (host(),))
    if text == CLUSTER:
        found = cluster()
        return Target(f"the cluster ({found.source})", found.classes, True)
    if colon and kind == "node" and rest:
        return Target(f"node {clean(rest)}", (_node(rest, cluster()),))
    if colon and kind == "class" and rest:
        features = tuple(filter(None, rest.split(",")))
        return Target(f"nodes with {clean(rest)}", (NodeClass("such", 1, features),))
    cpu = vocabulary.cpu_target(text)
    if cpu is None:
        raise UsageError(
            f"--for {clean(text, 100)}: neither host, node:NAME, class:FEATURE,..., cluster, nor a "
            "platform such as linux/arm64, amd64/v3 or zen4"
        )
    return Target(clean(text), (NodeClass(cpu, 1, (cpu,)),))


def host() -> NodeClass:
    """Return this host as a node. Raises ClusterError where the site's own files are broken."""
    import os

    from slurm_cmeta.node import features, probes, site
    from slurm_cmeta.node.host import Host, HostError

    try:
        wishes = site.read(site.DIRECTORY, required=False)
        found = site.with_facts(probes.look(Host("/")), wishes)
    except HostError as problem:
        raise ClusterError(str(problem)) from None
    names = tuple(feature.name for feature in features.features(found))
    return NodeClass(clean(os.uname().nodename), 1, names)


def _node(name: str, cluster: Cluster) -> NodeClass:
    from slurm_cmeta.cluster.reach import reach

    found = reach(cluster._replace(partitions=None), "", name).demanded
    if len(found) != 1 or found[0].node_count != 1:
        raise ClusterError(f"{cluster.source} has no node {clean(name, 100)}")
    return found[0]
