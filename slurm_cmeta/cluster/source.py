"""Read the node classes from slurm.conf, from the live controller, or from a snapshot file."""

from __future__ import annotations

import os

from slurm_cmeta.cluster import Cluster, NodeClass, hostlist, slurmconf
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.text import clean

DEFAULT_SLURM_CONF = "/etc/slurm/slurm.conf"
CONFIGLESS_SLURM_CONF = "/run/slurm/conf/slurm.conf"
"""Where slurmd and sackd keep what a configless controller sends (read_config.c)."""

SNAPSHOT_SCHEMA = "cmeta.nodes/1"
MAX_SNAPSHOT = 16 << 20
"""Largest snapshot read, in bytes; 10,000 nodes in 200 classes take some 100 kB."""

LIVE_DEADLINE = 10.0
"""Seconds that sinfo may take."""


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
    conf = slurmconf.read(find_slurm_conf(path))
    classes = tuple(slurmconf.node_classes(conf))
    count = sum(c.node_count for c in classes)
    return Cluster(classes, (conf.max_node_count or 0) > count, clean(conf.path))


def from_controller() -> Cluster:
    """Return the node classes as slurmctld knows them now, by sinfo. Raises ClusterError."""
    import subprocess

    # %N first: a host list has no `|`, a feature could have one.
    command = ["sinfo", "--noheader", "--exact", "--format=%N|%f"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LIVE_DEADLINE
        )
    except FileNotFoundError:
        raise ClusterError("sinfo is not in PATH; name a file with --slurm-conf") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"sinfo gave no answer in {LIVE_DEADLINE:.0f} seconds") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ClusterError(f"sinfo failed: {clean(reason[0])}")
    features: dict[str, tuple[str, ...]] = {}
    for line in done.stdout.splitlines():
        nodes, separator, listed = line.partition("|")
        if not separator:
            raise ClusterError(f"sinfo printed what is no node: {clean(line)!r}")
        names = () if listed == "(null)" else tuple(dict.fromkeys(filter(None, listed.split(","))))
        for node in hostlist.expand(nodes.strip()):
            features[node] = names
    return Cluster(_grouped(features), False, "sinfo")


def from_snapshot(path: str) -> Cluster:
    """Return the node classes of a snapshot file (docs/schema/cmeta.nodes-1.json).

    Raises ClusterError for a file that cannot be read or is no snapshot.
    """
    import json

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            text = file.read(MAX_SNAPSHOT + 1)
    except OSError as error:
        raise ClusterError(f"{clean(path)}: {error.strerror}") from None
    if len(text) > MAX_SNAPSHOT:
        raise ClusterError(f"{clean(path)}: larger than {MAX_SNAPSHOT} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ClusterError(f"{clean(path)}: not JSON") from None
    if not isinstance(value, dict) or value.get("schema") != SNAPSHOT_SCHEMA:
        raise ClusterError(f"{clean(path)}: not a snapshot ({SNAPSHOT_SCHEMA})")
    listed = value.get("classes")
    if not isinstance(listed, list) or not all(map(_is_class, listed)):
        raise ClusterError(f"{clean(path)}: a node class needs nodes, count and features")
    classes = [NodeClass(c["nodes"], c["count"], tuple(c["features"])) for c in listed]
    return Cluster(tuple(classes), bool(value.get("unlisted_nodes", False)), clean(path))


def _is_class(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    features = value.get("features")
    return (
        isinstance(value.get("nodes"), str)
        and type(value.get("count")) is int
        and isinstance(features, list)
        and all(isinstance(feature, str) for feature in features)
    )


def _grouped(features: dict[str, tuple[str, ...]]) -> tuple[NodeClass, ...]:
    groups: dict[frozenset[str], list[str]] = {}
    first: dict[frozenset[str], tuple[str, ...]] = {}
    for node, names in features.items():
        key = frozenset(names)
        groups.setdefault(key, []).append(node)
        first.setdefault(key, names)
    return tuple(
        NodeClass(hostlist.compress(nodes), len(nodes), first[key]) for key, nodes in groups.items()
    )
