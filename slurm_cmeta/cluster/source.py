"""Which source node classes are read from: slurm.conf, the live controller, or a snapshot file."""

from __future__ import annotations

import os
import time

from slurm_cmeta.cluster import Cluster, NodeClass, Partition
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.kept.sources import Sources, of_path
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from typing import Any

    from slurm_cmeta.cluster.live import Question
    from slurm_cmeta.config import Config

DEFAULT_SLURM_CONF = "/etc/slurm/slurm.conf"
CONFIGLESS_SLURM_CONF = "/run/slurm/conf/slurm.conf"
"""Where slurmd and sackd keep what a configless controller sends (read_config.c)."""


def find_slurm_conf(path: str | None = None) -> str:
    """Return the slurm.conf in force: `path`, $SLURM_CONF, the default, or the configless one."""
    path = path or os.environ.get("SLURM_CONF")
    if path:
        return path
    if not os.path.exists(DEFAULT_SLURM_CONF) and os.path.exists(CONFIGLESS_SLURM_CONF):
        return CONFIGLESS_SLURM_CONF
    return DEFAULT_SLURM_CONF


def from_slurm_conf(path: str | None = None) -> Cluster:
    """Return the node classes that slurm.conf states. Raises ClusterError."""
    from slurm_cmeta.cluster import confnodes, slurmconf

    conf = slurmconf.read(find_slurm_conf(path))
    classes, known = confnodes.read(conf)
    count = sum(c.node_count for c in classes)
    return Cluster(
        tuple(classes),
        (conf.max_node_count or 0) > count or any(line.future for line in conf.nodes),
        clean(conf.path),
        known,
        conf.cluster_name,
        int(time.time()),
        sources=Sources(conf.files),
        **conf.hints._asdict(),
    )


def from_controller(slurm_conf: str | None = None) -> Cluster:
    """Return the node classes as slurmctld knows them now. Raises ClusterError."""
    from slurm_cmeta.cluster import live

    cluster = live.from_controller(pyslurm=True, slurm_conf=slurm_conf)
    return _with_options(cluster._replace(name=cluster_name(slurm_conf)), slurm_conf)


def from_controller_by_state() -> Cluster:
    """Return the same by sinfo, each class with nodes in one state only. Raises ClusterError."""
    from slurm_cmeta.cluster import live

    cluster = live.parse_by_state(live.Question().output())
    return _with_options(cluster._replace(name=cluster_name()), None)


def from_snapshot(path: str, max_age: int, slurm_conf: str | None = None) -> Cluster:
    """Return the node classes of a snapshot of this cluster. Raises ClusterError."""
    from slurm_cmeta.cluster import snapshot

    conf = find_slurm_conf(slurm_conf)
    here = of_path(conf)
    cluster = snapshot.read(path, max_age, cluster_name(conf))
    return cluster._replace(sources=cluster.sources and cluster.sources + here)


class Pending:
    """The source that the site configured, being read while other work is done."""

    def __init__(self, settings: Config, slurm_conf: str | None, kept: str = "") -> None:
        """Ask the controller at once, where that is the source. Raises ClusterError.

        `kept` is the directory where the user keeps what was read; empty for none.
        """
        self._settings, self._slurm_conf, self._kept = settings, slurm_conf, kept
        self._question: Question | None = None
        if settings.nodes_source == "live":
            from slurm_cmeta.cluster.live import Question

            self._question = Question(slurm_conf)

    def cluster(self, deadline: float) -> Cluster:
        """Return the cluster; a controller has `deadline` seconds from the start.

        Raises ClusterError.
        """
        if self._question is not None:
            cluster = self._question.answer(deadline)
            return _with_options(cluster, self._slurm_conf)
        if not self._kept:
            return configured(self._settings, self._slurm_conf)
        return self._from_kept()

    def _from_kept(self) -> Cluster:
        from slurm_cmeta.kept import values

        source = self._settings.nodes_source
        name = self._settings.nodes_snapshot if source == "snapshot" else ""
        key = "\0".join((find_slurm_conf(self._slurm_conf), name or ""))
        found = values.load(self._kept, "nodes", key)
        if found is not None:
            return _from_plain(found[0])._replace(sources=found[1])
        cluster = configured(self._settings, self._slurm_conf)
        if cluster.sources is not None:
            values.keep(self._kept, "nodes", key, _as_plain(cluster), cluster.sources)
        return cluster

    def cancel(self) -> None:
        """Ask no more."""
        if self._question is not None:
            self._question.cancel()


def _as_plain(cluster: Cluster) -> tuple[object, ...]:
    """Return a cluster as it can be kept: no named tuples."""
    plain: dict[str, Any] = {**cluster._asdict(), "sources": None}
    plain["classes"] = tuple(tuple(one) for one in cluster.classes)
    if cluster.partitions is not None:
        plain["partitions"] = tuple(tuple(one) for one in cluster.partitions)
    return tuple(plain.values())


def _from_plain(plain: tuple[Any, ...]) -> Cluster:
    cluster = Cluster._make(plain)
    return cluster._replace(
        classes=tuple(map(NodeClass._make, cluster.classes)),
        partitions=None
        if cluster.partitions is None
        else tuple(map(Partition._make, cluster.partitions)),
    )


def configured(settings: Config, slurm_conf: str | None = None) -> Cluster:
    """Return the node classes from the source that the site configured. Raises ClusterError."""
    if settings.nodes_source == "live":
        return from_controller(slurm_conf)
    if settings.nodes_source == "snapshot":
        return from_snapshot(str(settings.nodes_snapshot), settings.nodes_max_age, slurm_conf)
    return from_slurm_conf(slurm_conf)


def _with_options(cluster: Cluster, slurm_conf: str | None) -> Cluster:
    """Add what slurm.conf sets and the controller does not tell; nothing where it is unreadable."""
    from slurm_cmeta.cluster import slurmconf

    try:
        return cluster._replace(**slurmconf.hints(find_slurm_conf(slurm_conf))._asdict())
    except ClusterError:
        return cluster


def cluster_name(slurm_conf: str | None = None) -> str | None:
    """Return ClusterName of the slurm.conf in force; None where it cannot be read."""
    from slurm_cmeta.cluster import slurmconf

    try:
        return slurmconf.cluster_name(find_slurm_conf(slurm_conf))
    except ClusterError:
        return None
