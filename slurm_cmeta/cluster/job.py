"""A job as slurmctld knows it: `scontrol --oneliner show job`.

The line is made for people (src/api/job_info.c, slurm_sprint_job_info): values are not quoted, and
the job's name, comment and paths are what the user wrote. So each value is looked for beside the
keys that Slurm always prints with it, in their order, and the container at the end, where it stands
in all releases. Who names a job so that it reads like such a line gets a wrong answer about that
job, and nothing else.
"""

from __future__ import annotations

import re

from slurm_cmeta.cluster import scontrol
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import NamedTuple
from slurm_cmeta.text import clean

DEADLINE = 10.0
"""Seconds that scontrol may take."""

COMMAND = ("--oneliner", "show", "job")

IDENTIFIER = re.compile(r"[0-9]{1,10}(?:_[0-9]{1,10}|\+[0-9]{1,10})?")
"""`12`, a task of an array `12_3`, a component of a heterogeneous job `12+1`."""

MAX_RECORDS = 200
"""Records read of one answer; an array of which many tasks run has one for each."""

_RECORD = re.compile(r"^(?=JobId=\d+ )", re.MULTILINE)
_HEAD = re.compile(
    r"JobId=(?P<id>\d+) (?:ArrayJobId=(?P<array>\d+) ArrayTaskId=(?P<task>\S+) )?"
    r"(?:ArrayTaskThrottle=\d+ )?(?:HetJobId=(?P<het>\d+) HetJobOffset=(?P<offset>\d+) )?"
)
_STATE = re.compile(
    r" JobState=([A-Z_]+) Reason=(.*?) (?:FailedNode=\S* )?Dependency=.*?"
    r" Partition=(\S*) AllocNode:Sid=\S*"
    r" ReqNodeList=(\S*) ExcNodeList=(\S*) NodeList=(\S*) .*?"
    r"NumNodes=(\d+)\S* .*?"
    r" Features=(\S*) DelayBoot=\S* (?:ClusterFeatures=\S* )?(?:Prefer=(\S*) )?",
    re.DOTALL,
)
_CONTAINER = re.compile(
    r".* Container=(.*?)(?: ContainerID=\S*)?(?: SELinuxContext=\S*)?(?: ResvPorts=\S*)?\s*",
    re.DOTALL,
)
_BEFORE = re.compile(r" (?:StdErr|StdIn|StdOut|Power|TresPerTask|MailUser|NtasksPerTRES)=")
"""What stands before the container: where it follows, `Container=` was part of a comment."""


class Job(NamedTuple):
    """What counts here of one job, or of one component or task of one; empty means not given."""

    id: str
    """As users write it: `12`, `12_3`, `12_[4-9]`, `12+1`."""
    state: str
    """Slurm's word: `PENDING`."""
    reason: str
    container: str
    constraint: str
    prefer: str
    partition: str
    """Names, separated by commas."""
    nodelist: str
    exclude: str
    nodes: str
    """Where it runs or ran."""
    node_count: int
    """How many nodes it asks for at least."""

    @property
    def pending(self) -> bool:
        """Return whether it waits for nodes."""
        return self.state == "PENDING"


def read(identifier: str, deadline: float = DEADLINE) -> list[Job]:
    """Ask the controller for a job: one Job for each component, and for an array each kind of task.

    Raises ClusterError where there is no such job, or no answer within `deadline` seconds.
    """
    try:
        output = scontrol.run(*COMMAND, identifier, deadline=deadline)
    except scontrol.RefusedError as error:
        if "Invalid job id" in str(error) or "not found" in str(error):
            raise ClusterError(unknown(identifier)) from None
        raise
    jobs = parse(output)
    if not jobs:
        raise ClusterError(unknown(identifier))
    return jobs


def unknown(identifier: str) -> str:
    """Return what is said of a job that the controller does not know."""
    return (
        f"job {clean(identifier)}: Slurm knows no such job (it forgets jobs some minutes after "
        "their end, and a job that was refused has no number: see `cmeta match IMAGE`)"
    )


def parse(output: str) -> list[Job]:
    """Return the jobs of what scontrol printed. Raises ClusterError for a record of another form.

    Tasks of one array that differ in nothing that counts here are told once.
    """
    found: dict[Job, Job] = {}
    for record in _RECORD.split(output)[: MAX_RECORDS + 1]:
        if record.strip():
            job = _job(record)
            same = job._replace(id=job.id.partition("_")[0], nodes="") if "_" in job.id else job
            found.setdefault(same, job)
    return list(found.values())


def _job(record: str) -> Job:
    head = _HEAD.match(record)
    body = _STATE.search(record)
    if head is None or body is None:
        raise ClusterError(f"scontrol printed what is no job: {clean(record.strip())!r}")
    state, reason, partition, wanted, excluded, nodes, count, features, prefer = map(
        _given, body.groups()
    )
    return Job(
        _id(head),
        state,
        reason,
        _container(record[body.end() :]),
        features,
        prefer,
        partition,
        wanted,
        excluded,
        nodes,
        int(count[:9]),
    )


def _container(rest: str) -> str:
    match = _CONTAINER.fullmatch(" " + rest)
    if match is None or _BEFORE.search(match[1]):
        return ""
    return _given(match[1])


def _id(head: re.Match[str]) -> str:
    if head["array"]:
        task = head["task"]
        return f"{head['array']}_{task if task.isdecimal() else f'[{task}]'}"
    return f"{head['het']}+{head['offset']}" if head["het"] else head["id"]


def _given(value: str | None) -> str:
    return "" if value in (None, "(null)", "None assigned") else str(value)
