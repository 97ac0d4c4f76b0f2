"""Node classes as slurmctld knows them now: by sinfo, or by pyslurm where that fits the cluster.

`sinfo --all` shows partitions that are hidden from the user, too; a node in no partition is not
shown, and no job can get it. sinfo prints a line for each partition and kind of node; a node in
several partitions is counted in the line of one of them.
"""

from __future__ import annotations

import os
import time

from slurm_cmeta.cluster import Cluster, Partition, hostlist
from slurm_cmeta.cluster.grouping import Grouper, Membership
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import NamedTuple
from slurm_cmeta.text import clean

DEADLINE = 10.0
"""Seconds that sinfo may take."""

COMMAND = ("sinfo", "--all", "--noheader", "--exact", "--format=%N|%R|%P|%T|%m %c|%G|%b")
"""The features come last: they alone may hold a `|`. They are the active ones, by which slurmctld
places jobs."""

_FIELDS = 7
_STATE_FLAGS = "*~#!%$@^-+"
"""What sinfo adds to a state: not responding, powered down, powering up, and so on (sinfo.1)."""

_NULL = "(null)"


class Row(NamedTuple):
    """What one line of sinfo says of some nodes in one partition."""

    spans: list[hostlist.Span]
    partition: str
    default: bool
    state: str
    memory: int | None
    gres: str
    features: tuple[str, ...]
    cpus: int | None = None


class Question:
    """A sinfo that was started, so that other work can be done until it answers."""

    def __init__(self, slurm_conf: str | None = None) -> None:
        """Start sinfo, with `slurm_conf` as its configuration. Raises ClusterError."""
        import subprocess

        self._started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [_program(), *COMMAND[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="surrogateescape",
                env=_environment(slurm_conf),
            )
        except FileNotFoundError:
            raise ClusterError("sinfo is not in PATH; name a file with --slurm-conf") from None
        except OSError as error:
            raise ClusterError(f"sinfo cannot be run: {error.strerror}") from None

    def answer(self, deadline: float = DEADLINE) -> Cluster:
        """Return the cluster, `deadline` seconds after the start at the latest.

        An answer that is ready is read even then. Raises ClusterError.
        """
        return parse(self.output(deadline))

    def output(self, deadline: float = DEADLINE) -> str:
        """Return what sinfo prints; see answer()."""
        import subprocess

        left = max(deadline - (time.monotonic() - self._started), 0.05)
        try:
            output, errors = self._process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            self.cancel()
            raise ClusterError(f"sinfo gave no answer in {deadline:g} seconds") from None
        if self._process.returncode:
            reason = errors.strip().splitlines() or [f"exit status {self._process.returncode}"]
            raise ClusterError(f"sinfo failed: {clean(reason[0])}")
        return output

    def cancel(self) -> None:
        """End sinfo; nobody waits for its answer any more."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def from_controller(
    deadline: float = DEADLINE, *, pyslurm: bool = False, slurm_conf: str | None = None
) -> Cluster:
    """Return the node classes as slurmctld knows them now. Raises ClusterError.

    With `pyslurm`, that is asked where it is installed and its release is the cluster's; by sinfo
    else, or when pyslurm fails. sinfo may take `deadline` seconds.
    """
    if pyslurm:
        from slurm_cmeta.cluster import bypyslurm

        found = bypyslurm.from_controller()
        if found is not None:
            return found
    return Question(slurm_conf).answer(deadline)


def parse(output: str) -> Cluster:
    """Return what sinfo printed as a cluster. Raises ClusterError for lines of another form."""
    return from_rows(_rows(output), "sinfo")


def parse_by_state(output: str) -> Cluster:
    """Return the same, with the nodes of a class in different states as different classes."""
    rows = _rows(output)
    classes = [
        one
        for state in dict.fromkeys(row.state for row in rows)
        for one in from_rows([row for row in rows if row.state == state], "sinfo").classes
    ]
    return from_rows(rows, "sinfo")._replace(classes=tuple(classes))


def _rows(output: str) -> list[Row]:
    rows = [_row(line) for line in output.splitlines() if line]
    return [row for row in rows if row.spans or row.partition]


def from_rows(rows: list[Row], source: str) -> Cluster:
    """Return the cluster that rows describe in which each node stands once for each partition."""
    membership = Membership()
    partitions: dict[str, Partition] = {}
    for row in rows:
        membership.add(row.partition, row.spans)
        partitions.setdefault(row.partition, Partition(row.partition, row.default))
    grouper = Grouper()
    for row in rows:
        for span in row.spans:
            for part, names in membership.of(span):
                if names[0] == row.partition:
                    grouper.add(
                        part, row.features, names, row.state, row.memory, row.gres, row.cpus
                    )
    classes = grouper.classes()
    return Cluster(classes, False, source, tuple(partitions.values()), time=int(time.time()))


def _row(line: str) -> Row:
    fields = line.split("|", _FIELDS - 1)
    if len(fields) != _FIELDS:
        raise ClusterError(f"sinfo printed what is no node: {clean(line)!r}")
    nodes, partition, marked, state, memory, gres, features = (field.strip() for field in fields)
    names = () if features == _NULL else tuple(dict.fromkeys(filter(None, features.split(","))))
    size, _, cpus = (word.rstrip("+") for word in memory.partition(" "))
    return Row(
        hostlist.spans("" if nodes == _NULL else nodes),
        partition,
        marked == partition + "*",
        bare_state(state),
        int(size) if size.isascii() and size.isdigit() else None,
        "" if gres == _NULL else gres,
        names,
        int(cpus) if cpus.isascii() and cpus.isdigit() else None,
    )


def bare_state(state: str) -> str:
    """Return Slurm's word for a state, in lower case, without the signs that sinfo adds."""
    return state.rstrip(_STATE_FLAGS).lower()


def _program() -> str:
    """Return sinfo: the one in PATH, or beside the command that submits.

    The plugin runs the matcher with a PATH of its own; where Slurm is installed elsewhere, sinfo
    stands beside sbatch, which is the parent.
    """
    import shutil

    if shutil.which(COMMAND[0]):
        return COMMAND[0]
    try:
        parent = os.readlink(f"/proc/{os.getppid()}/exe")
    except OSError:
        return COMMAND[0]
    beside = os.path.join(os.path.dirname(parent), COMMAND[0])
    return beside if os.access(beside, os.X_OK) else COMMAND[0]


def _environment(slurm_conf: str | None) -> dict[str, str]:
    """Return the environment without what would narrow or change sinfo's answer."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name != "SLURM_CLUSTERS" and not name.startswith("SINFO_")
    }
    if slurm_conf:
        found["SLURM_CONF"] = slurm_conf
    return found
