"""Where node classes come from: slurm.conf, the live controller, or a snapshot file."""

from __future__ import annotations

from typing import NamedTuple


class NodeClass(NamedTuple):
    """Nodes whose features are equal: what the matcher decides on, whatever the node count."""

    nodes: str
    """The nodes as a compressed hostlist: `n[1-4,7]`."""
    node_count: int
    features: tuple[str, ...]
    """The features as the nodes carry them, in the order of the first node."""


class Cluster(NamedTuple):
    """The node classes of a cluster."""

    classes: tuple[NodeClass, ...]
    unlisted_nodes: bool
    """True when nodes may exist that `classes` does not show (dynamic nodes)."""
    source: str
    """Where the classes were read, in words for people."""
