"""Slurm's configuration, and what this host is in it."""

from __future__ import annotations

import os

from slurm_cmeta.cluster import hostlist, slurmconf
from slurm_cmeta.doctor import COMPUTE, CONTROLLER, ERROR, LOGIN, OK, Finding
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.cluster.slurmconf import SlurmConf


def look(path: str) -> tuple[SlurmConf | None, list[Finding]]:
    """Return slurm.conf, None where it cannot be read, and what is to be said of it."""
    try:
        conf = slurmconf.read(path)
    except ClusterError as problem:
        mend = f"chmod a+r {path}, or name it: cmeta doctor --slurm-conf FILE"
        return None, [Finding(ERROR, "slurm", str(problem), mend)]
    name = clean(conf.cluster_name or "without a name")
    text = f"{clean(path)}: cluster {name}, {len(conf.nodes)} lines of nodes"
    return conf, [Finding(OK, "slurm", text)]


def roles(conf: SlurmConf) -> list[str]:
    """Return what this host is by its name in slurm.conf; a login node if it is nothing else."""
    here = {os.uname().nodename, os.uname().nodename.partition(".")[0]}
    here.add(os.environ.get("SLURMD_NODENAME", "") or os.uname().nodename)
    found = []
    if here & set(_controllers(conf)):
        found.append(CONTROLLER)
    if any(_is_in(here, line.nodes) for line in conf.nodes):
        found.append(COMPUTE)
    return found or [LOGIN]


def _controllers(conf: SlurmConf) -> Iterator[str]:
    for key in ("slurmctldhost", "controlmachine", "backupcontroller"):
        host = conf.options.get(key, "").partition("(")[0]
        if host:
            yield host
            yield host.partition(".")[0]


def _is_in(names: set[str], listed: str) -> bool:
    try:
        spans = hostlist.spans(listed)
    except ClusterError:
        return False
    for name in names:
        (own,) = hostlist.spans(name)
        if any(s[:2] == own[:2] and s.first <= own.first <= s.last for s in spans):
            return True
    return False
