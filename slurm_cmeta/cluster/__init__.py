"""Where node classes come from: slurm.conf, the live controller, or a snapshot file."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from slurm_cmeta.kept.sources import Sources


class NodeClass(NamedTuple):
    """Nodes with equal features in the same partitions, whatever the node count.

    The matcher decides on features alone: grouping.by_features() puts classes together that differ
    only in what it does not look at.
    """

    nodes: str
    """The nodes as a compressed hostlist: `n[1-4,7]`."""
    node_count: int
    features: tuple[str, ...]
    """The features as the nodes carry them, in the order of the first node."""
    partitions: tuple[str, ...] | None = None
    """The partitions that all of these nodes belong to, and no other ones (save partitions that are
    not `exact`); None where the source does not tell."""
    states: tuple[tuple[str, int], ...] = ()
    """Slurm's word for a state -> nodes, the most frequent first. The controller tells all of them;
    slurm.conf only what State= says, which leaves nodes out."""
    memory: tuple[int, int] | None = None
    """RealMemory in MiB of the nodes that state it, smallest and largest."""
    gres: tuple[str, ...] = ()
    """The different Gres texts among the nodes, as Slurm writes them: `gpu:a100:4`; an empty one
    among them says that some of the nodes have none."""
    cpus: int | None = None
    """CPUs that each of the nodes has at least; None where the source does not tell."""


class Partition(NamedTuple):
    """A partition by name; the classes say which nodes it holds."""

    name: str
    default: bool = False
    exact: bool = True
    """False when its Nodes= says what only slurmctld can resolve: classes may lack its name."""


class Cluster(NamedTuple):
    """The node classes of a cluster."""

    classes: tuple[NodeClass, ...]
    unlisted_nodes: bool
    """True when nodes may exist that `classes` does not show (dynamic nodes)."""
    source: str
    """Where the classes were read, in words for people."""
    partitions: tuple[Partition, ...] | None = None
    """None where the source does not tell."""
    name: str | None = None
    """ClusterName in lower case, where it is known."""
    time: int | None = None
    """When the classes were read from slurm.conf or the controller: seconds since 1970."""
    stale: str = ""
    """Why this may be out of date, in words for people; empty when it is not."""
    changeable: bool = False
    """True when a NodeFeatures plugin can change the features of nodes (NodeFeaturesPlugins)."""
    routed: bool = False
    """True when a filter of the site may choose the partition (JobSubmitPlugins, CliFilterPlugins):
    that a job names none does not mean then that it goes to the default one."""
    default_memory: bool = False
    """True when a job that asks for no memory gets a default one (DefMemPerNode and the like)."""

    sources: Sources | None = None
    """The files that all of this was read from; None where it is true of this moment only."""

    def partition_of(self, named: str) -> str:
        """Return the partition (or several, by commas) of a job that names `named`.

        Empty where none is named, and it cannot be told which one the job gets.
        """
        return named or ("" if self.routed else self.default_partition or "")

    @property
    def default_partition(self) -> str | None:
        """Return the partition of a job that names none."""
        return next((p.name for p in self.partitions or () if p.default), None)
