"""The slurm.conf of a throw-away cluster: all daemons on this machine, nodes that claim what they
like. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import hostlist

NODE_CPUS = 4
NODE_MEMORY_MIB = 4000


class Node(NamedTuple):
    """One NodeName line."""

    names: str
    """A hostlist such as `n[1-2]`."""
    features: str = ""
    """Comma-separated, as after Features=."""
    running: bool = True
    """False: no slurmd is started; the node is declared, and down."""
    extra: str = ""
    """Further settings of the line, such as `RealMemory=64000 Weight=10`; they win over the
    defaults.
    """


class Layout(NamedTuple):
    """Where the parts of a cluster lie, all below its directory."""

    directory: Path

    @property
    def conf(self) -> Path:
        return self.directory / "etc/slurm.conf"

    @property
    def plugstack(self) -> Path:
        return self.directory / "etc/plugstack.conf"

    @property
    def job_submit(self) -> Path:
        return self.directory / "etc/job_submit.lua"

    @property
    def logs(self) -> Path:
        return self.directory / "log"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    @property
    def work(self) -> Path:
        """The working directory of jobs; every user may write to it."""
        return self.directory / "work"

    @property
    def munge(self) -> Path:
        return self.directory / "munge"

    @property
    def munge_socket(self) -> Path:
        return self.munge / "socket"


class Ports(NamedTuple):
    """TCP ports of the daemons: the controller's, and one per running node."""

    controller: int
    nodes: Mapping[str, int]


def render(
    layout: Layout,
    nodes: Sequence[Node],
    ports: Ports,
    owner: str,
    *,
    job_submit: bool = False,
    extra: Sequence[str] = (),
) -> str:
    """The whole slurm.conf. A line of `extra` replaces our setting of the same name, else it is
    added.
    """
    settings = _settings(layout, ports, owner)
    if job_submit:
        settings["JobSubmitPlugins"] = "lua"
    added: list[str] = []
    lines = [*extra]
    for line in lines:
        name, separator, value = line.partition("=")
        known = next((k for k in settings if k.lower() == name.strip().lower()), None)
        if known and separator:
            settings[known] = value.strip()
        else:
            added.append(line)
    body = [f"{name}={value}" for name, value in settings.items()]
    body += [line for node in nodes for line in node_lines(node, ports)]
    if not any(line.lower().startswith("partitionname=") for line in added):
        names = ",".join(node.names for node in nodes)
        body.append(f"PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP")
    return "\n".join([*body, *added, ""])


def node_lines(node: Node, ports: Ports) -> list[str]:
    """A line per running node, as each has its own port; one line for all nodes of a hostlist
    that do not run.
    """
    common = f"CPUs={NODE_CPUS} RealMemory={NODE_MEMORY_MIB}"
    for setting in node.extra.split():
        name = setting.partition("=")[0].lower()
        common = " ".join(s for s in common.split() if s.partition("=")[0].lower() != name)
    common = f"{common} {node.extra}".strip()
    if node.features:
        common += f" Features={node.features}"
    here = "NodeAddr=127.0.0.1 NodeHostname=localhost"
    if not node.running:
        return [f"NodeName={node.names} {here} {common} State=DOWN Reason=not-started"]
    return [
        f"NodeName={name} {here} Port={ports.nodes[name]} {common} State=UNKNOWN"
        for name in hostlist.expand(node.names)
    ]


def _settings(layout: Layout, ports: Ports, owner: str) -> dict[str, str]:
    return {
        "ClusterName": "cmeta",
        "SlurmctldHost": "localhost(127.0.0.1)",
        "SlurmctldPort": str(ports.controller),
        "SlurmUser": owner,
        "SlurmdUser": owner,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.munge_socket}",
        "StateSaveLocation": str(layout.state),
        "SlurmdSpoolDir": f"{layout.spool}/%n",
        "SlurmctldLogFile": str(layout.logs / "slurmctld.log"),
        "SlurmdLogFile": f"{layout.logs}/slurmd.%n.log",
        "SlurmctldPidFile": str(layout.state / "slurmctld.pid"),
        "SlurmdPidFile": f"{layout.state}/slurmd.%n.pid",
        "SlurmctldDebug": "verbose",
        "SlurmdDebug": "verbose",
        "PlugStackConfig": str(layout.plugstack),
        # No cgroups, no accounting, no mail: nothing that needs more than these daemons.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "AccountingStorageType": "accounting_storage/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "MailProg": "/bin/true",
        # Several jobs per node; the machine's real processors do not count.
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SlurmdParameters": "config_overrides",
        "SchedulerType": "sched/backfill",
        # slurmctld starts batch jobs from a loop that runs once a second, whatever is set here.
        "SchedulerParameters": (
            "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1"
        ),
        "LaunchParameters": "use_interactive_step",
        "ReturnToService": "2",
        "InactiveLimit": "0",
        "KillWait": "2",
        # Finished jobs can be asked about for an hour.
        "MinJobAge": "3600",
        "SlurmdTimeout": "300",
    }
