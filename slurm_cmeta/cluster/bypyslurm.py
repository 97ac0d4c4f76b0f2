"""Node classes by pyslurm, where its release is the cluster's.

pyslurm is compiled against one release of Slurm and speaks its protocol alone, so it is imported
only when the release that its package states equals what sinfo says (major.minor). For no release
in Debian can pyslurm be built from PyPI, so it has not been tried on a cluster: the tests have a
stand-in with the attributes of pyslurm 25.11 (core/node.pyx, core/partition.pyx).
"""

from __future__ import annotations

import re

from slurm_cmeta.cluster import Cluster, hostlist
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_RELEASE = re.compile(r"(\d+)\.0?(\d+)\b")


def from_controller() -> Cluster | None:
    """Return the cluster; None when pyslurm is not there, does not fit, or fails in any way."""
    if not _fits():
        return None
    try:
        import importlib

        return _read(importlib.import_module("pyslurm"))
    except Exception:  # whatever it raises, sinfo is still there to be asked
        return None


def _fits() -> bool:
    from importlib import metadata

    try:
        ours = _release(metadata.version("pyslurm"))
    except metadata.PackageNotFoundError:
        return False
    return ours is not None and ours == _cluster_release()


def _release(text: str) -> tuple[int, int] | None:
    """Return (24, 11) of `slurm-wlm 24.11.5`, (22, 5) of `22.05.8` and `22.5.3`."""
    match = _RELEASE.search(text)
    return (int(match[1]), int(match[2])) if match else None


def _cluster_release() -> tuple[int, int] | None:
    import subprocess

    try:
        done = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _release(done.stdout) if done.returncode == 0 else None


def _read(pyslurm: Any) -> Cluster | None:
    from slurm_cmeta.cluster.live import Row, bare_state, from_rows

    nodes = dict(pyslurm.Nodes.load())
    rows: list[Row] = []
    for name, partition in dict(pyslurm.Partitions.load()).items():
        default = bool(partition.is_default)
        for node_name in dict.fromkeys(hostlist.expand(partition.nodes or "")):
            node = nodes[node_name]
            gres = ",".join(f"{kind}:{count}" for kind, count in node.configured_gres.items())
            state = bare_state(str(node.state).partition("+")[0])
            features = tuple(node.available_features or ())
            spans = hostlist.spans(node_name)
            rows.append(Row(spans, name, default, state, int(node.real_memory), gres, features))
    if not rows:
        raise ClusterError("pyslurm lists no nodes")
    return from_rows(rows, "pyslurm")
