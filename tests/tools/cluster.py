"""A throw-away Slurm cluster on this machine, for tests and for the demonstration.

    python3 tests/tools/cluster.py --directory DIR --node 'n[1-2]:x86_64,zen3' ... -- CMD

starts it, runs CMD (an interactive shell when there is none) with SLURM_CONF set, and stops it.
From Python:

    with Cluster(directory, [Node("n[1-2]", "x86_64,zen3"), Node("n3", "aarch64")]) as cluster:
        job = cluster.submit("--wrap", "hostname")
        assert cluster.wait(job)["JobState"] == "COMPLETED"

Real munged, slurmctld and slurmd; nothing outside `directory` is written, and any number of
clusters can run side by side. The daemons belong to a supervisor (supervise.py) that ends them when
this process ends, even by SIGKILL. Started by root, other users' jobs work as well (run(...,
user="alice")).
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import pwd
import random
import re
import secrets
import select
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import hostlist
import slurm_conf
from slurm_conf import Layout, Node, Ports
from trouble import ToolError, say

__all__ = ["Cluster", "Node"]

LONGEST_DIRECTORY = 90
"""Bytes: munge's socket below it must fit into the 108 of a socket address."""
FINISHED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    ]
)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLL_SECONDS = 0.03


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody uses now, below the range from which the kernel gives ports to
    clients.
    """
    try:
        top = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        top = 32768
    bottom = 10000 if top > 12000 else 1024
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", random.randrange(bottom, top)))  # noqa: S311
            except OSError:
                candidate.close()
                continue
            held.append(candidate)
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def parse_fields(line: str) -> dict[str, str]:
    """The `Name=value` fields of one line of `scontrol -o show`; values may hold spaces."""
    pieces = re.split(r"(?:^|\s+)([A-Z][A-Za-z/:_]*)=", line.strip())
    return {name: value.strip() for name, value in zip(pieces[1::2], pieces[2::2], strict=True)}


class Cluster:
    """One cluster. A context manager; start() and stop() may be called by hand, stop() any number
    of times.
    """

    def __init__(
        self,
        directory: Path,
        nodes: Sequence[Node],
        *,
        plugstack: Sequence[str] = (),
        job_submit: str | None = None,
        conf: Sequence[str] = (),
        oci_conf: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`conf`: lines of slurm.conf, which win over ours; `env`: variables for daemons and
        clients.
        """
        self.layout = Layout(Path(directory).resolve())
        if len(os.fsencode(self.layout.directory)) > LONGEST_DIRECTORY:
            raise ToolError(
                f"{self.layout.directory} is too long for a cluster's directory: "
                f"at most {LONGEST_DIRECTORY} bytes, as sockets lie in it"
            )
        self.nodes = list(nodes)
        self._plugstack = list(plugstack)
        self._job_submit = job_submit
        self._job_submit_time = 0
        self._conf = list(conf)
        self._oci_conf = oci_conf
        self._env = dict(env or {})
        self._ports = Ports(0, {})
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._answers = b""
        self._ended: dict[str, str] = {}
        self._version: tuple[int, int] | None = None

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def conf_path(self) -> Path:
        return self.layout.conf

    @property
    def plugstack_path(self) -> Path:
        return self.layout.plugstack

    @property
    def env(self) -> dict[str, str]:
        """The variables that make a client talk to this cluster, together with those given to the
        constructor.
        """
        return self._env | {"SLURM_CONF": str(self.conf_path)}

    @property
    def version(self) -> tuple[int, int]:
        """Slurm's release, such as (22, 5) for 22.05."""
        if self._version is None:
            said = subprocess.run(
                [_program("slurmctld"), "-V"], capture_output=True, text=True, check=False
            ).stdout
            match = re.search(r"(\d+)\.(\d+)", said)
            if not match:
                raise ToolError(f"slurmctld -V does not tell a release: {said.strip()!r}")
            self._version = (int(match[1]), int(match[2]))
        return self._version

    def start(self, timeout: float = 30.0) -> None:
        """Start all daemons and return when every running node is idle; raises ToolError with the
        log's reason.
        """
        if self._supervisor is not None:
            return
        for needed in ("munged", "slurmctld", "slurmd", "sinfo"):
            _program(needed)
        deadline = time.monotonic() + timeout
        self._lay_out()
        self._supervisor = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("supervise.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._start_munge(deadline)
            self._start_daemon("slurmctld", [_program("slurmctld"), "-D"])
            self._until(self._controller_answers, "slurmctld", deadline)
            running = self._running_names()
            for name in running:
                self._start_daemon(f"slurmd.{name}", [_program("slurmd"), "-D", "-N", name])
            self._until(lambda: self._all_idle(running), "slurmd", deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all daemons and everything that jobs started; the directory with its logs stays."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        assert supervisor.stdin
        assert supervisor.stdout
        supervisor.stdin.close()
        supervisor.wait()
        supervisor.stdout.close()
        self._ended.clear()
        self._answers = b""

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a client command, with its output; `cwd` defaults to a folder that every user may
        write to.
        """
        environ = os.environ | {"PATH": _path()} | self.env
        account: dict[str, int | str | list[int]] = {}
        if user is not None:
            entry = pwd.getpwnam(user)
            self._check_open_to_others()
            environ |= {"HOME": entry.pw_dir, "USER": user, "LOGNAME": user}
            if entry.pw_uid != os.geteuid():
                groups = os.getgrouplist(user, entry.pw_gid)
                account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            list(argv),
            env=environ | dict(env or {}),
            cwd=cwd or self.layout.work,
            timeout=timeout,
            # Never the terminal: srun would read what belongs to the tests.
            **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}),
            capture_output=True,
            text=True,
            errors="surrogateescape",  # Slurm prints what users wrote as it is
            check=False,
            **account,
        )

    def submit(
        self, *argv: str, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> int:
        """sbatch with these arguments; the job's number. Raises ToolError with sbatch's words
        when it refuses.
        """
        done = self.run(["sbatch", "--parsable", *argv], user=user, env=env)
        if done.returncode != 0:
            raise ToolError(f"sbatch refused ({done.returncode}): {done.stderr.strip()}")
        return int(done.stdout.split(";")[0].split()[-1])

    def job(self, job_id: int) -> dict[str, str]:
        """The fields of `scontrol -o show job`, of the first record when there are several."""
        done = self.run(["scontrol", "-o", "show", "job", str(job_id)])
        if done.returncode != 0:
            raise ToolError(f"no job {job_id}: {done.stderr.strip()}")
        return parse_fields(done.stdout.splitlines()[0])

    def wait(self, job_id: int, timeout: float = 30) -> dict[str, str]:
        """The job's fields when it has finished, however it ended. Raises ToolError when it does
        not in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            fields = self.job(job_id)
            if fields["JobState"] in FINISHED:
                return fields
            if time.monotonic() > deadline:
                raise ToolError(
                    f"job {job_id} is {fields['JobState']} after {timeout:g} s "
                    f"(reason: {fields.get('Reason', 'none')})"
                )
            time.sleep(POLL_SECONDS)

    def output(self, job_id: int) -> str:
        """What a batch job has written to its standard output."""
        return Path(self.job(job_id)["StdOut"]).read_text(errors="replace")

    def node_states(self) -> dict[str, str]:
        """The state of each node as sinfo tells it: idle, mixed, allocated, down, drained..."""
        done = self.run(["sinfo", "-h", "-N", "-o", "%N %T"])
        return dict(row.split()[:2] for row in done.stdout.splitlines())

    def set_plugstack(self, lines: Sequence[str]) -> None:
        """Replace plugstack.conf; clients and new job steps read it at once."""
        self._plugstack = list(lines)
        _write(self.plugstack_path, "".join(f"{line}\n" for line in lines))

    def set_job_submit(self, text: str) -> None:
        """Replace job_submit.lua. slurmctld loads the plugin only when the cluster was started
        with one.
        """
        if text == self._job_submit and self.layout.job_submit.exists():
            return
        self._job_submit = text
        _write(self.layout.job_submit, text)
        # slurmctld loads a script that is newer, by whole seconds, than the one it has.
        self._job_submit_time = max(self._job_submit_time + 1, int(time.time()))
        os.utime(self.layout.job_submit, (self._job_submit_time, self._job_submit_time))

    def set_slurm_conf_lines(self, lines: Sequence[str]) -> None:
        """Replace the lines given as `conf`; call reconfigure() for the daemons to read them."""
        self._conf = list(lines)
        self._write_slurm_conf()

    def reconfigure(self) -> None:
        """Let all daemons read the configuration again, and wait until the controller answers."""
        done = self.run(["scontrol", "reconfigure"])
        if done.returncode != 0:
            raise ToolError(f"scontrol reconfigure: {done.stderr.strip()}")
        self._until(self._controller_answers, "slurmctld", time.monotonic() + 20)

    def restart_controller(self, *options: str) -> None:
        """Stop slurmctld, start it again with `options`, and wait until it answers."""
        self.run(["scontrol", "shutdown", "slurmctld"])
        deadline = time.monotonic() + 30
        while "slurmctld" not in self._ended:
            self._hear()
            if time.monotonic() > deadline:
                raise ToolError("slurmctld did not end in time")
            time.sleep(POLL_SECONDS)
        del self._ended["slurmctld"]
        self._start_daemon("slurmctld", [_program("slurmctld"), "-D", *options])
        self._until(self._controller_answers, "slurmctld", deadline)

    def start_dynamic_node(self, name: str, conf: str) -> None:
        """Start a slurmd that registers a node of its own, as `slurmd -Z --conf` does; the cluster
        needs MaxNodeCount, and a free SlurmdPort. Returns when the node is idle.
        """
        argv = [_program("slurmd"), "-D", "-Z", "-N", name, "--conf", conf]
        self._start_daemon(f"slurmd.{name}", argv)
        self._until(lambda: self._all_idle([name]), f"slurmd.{name}", time.monotonic() + 30)

    def slurmctld_log(self) -> str:
        return _read(self.layout.logs / "slurmctld.log")

    def slurmd_log(self, node: str) -> str:
        return _read(self.layout.logs / f"slurmd.{node}.log")

    def _running_names(self) -> list[str]:
        return [name for node in self.nodes if node.running for name in hostlist.expand(node.names)]

    def _lay_out(self) -> None:
        layout = self.layout
        # A state of an earlier start, with other ports and nodes, would only confuse.
        for old in (layout.state, layout.spool, layout.munge):
            shutil.rmtree(old, ignore_errors=True)
        layout.directory.mkdir(parents=True, exist_ok=True)
        layout.directory.chmod(0o755)
        for folder, mode in (
            (layout.conf.parent, 0o755),
            (layout.logs, 0o755),
            (layout.spool, 0o755),
            (layout.munge, 0o755),
            (layout.state, 0o700),
            (layout.work, 0o1777),
        ):
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
        running = self._running_names()
        for name in running:
            (layout.spool / name).mkdir()
            (layout.spool / name).chmod(0o755)
        controller, *others = free_ports(1 + len(running))
        self._ports = Ports(controller, dict(zip(running, others, strict=True)))
        key = layout.munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        _write(layout.conf.with_name("cgroup.conf"), self._cgroup_conf())
        if self._oci_conf is not None:
            _write(layout.conf.with_name("oci.conf"), self._oci_conf)
        if self._job_submit is not None:
            self.set_job_submit(self._job_submit)
        self.set_plugstack(self._plugstack)
        self._write_slurm_conf()

    def _cgroup_conf(self) -> str:
        # Left alone, slurmd looks for cgroups and ends where it finds none. 22.05 has no word for
        # "none", but the first version's plugin touches nothing unless another plugin asks it to.
        choice = "disabled" if self.version >= (23, 11) else "cgroup/v1"
        return f"CgroupPlugin={choice}\n"

    def _write_slurm_conf(self) -> None:
        text = slurm_conf.render(
            self.layout,
            self.nodes,
            self._ports,
            getpass.getuser() if os.geteuid() else "root",
            job_submit=self._job_submit is not None,
            extra=self._conf,
        )
        _write(self.conf_path, text)

    def _start_munge(self, deadline: float) -> None:
        munge = self.layout.munge
        self._start_daemon(
            "munged",
            [
                *(_program("munged"), "--foreground", "--num-threads=2"),
                # --force: munge wants every folder above its files to be root's; a checkout's often
                # is not.
                "--force",
                f"--key-file={munge / 'key'}",
                f"--socket={self.layout.munge_socket}",
                f"--pid-file={munge / 'pid'}",
                f"--log-file={self.layout.logs / 'munged.log'}",
                f"--seed-file={munge / 'seed'}",
            ],
        )
        self._until(lambda: _accepts(self.layout.munge_socket), "munged", deadline)

    def _start_daemon(self, name: str, argv: Sequence[str]) -> None:
        assert self._supervisor
        assert self._supervisor.stdin
        environ = os.environ | {"PATH": _path()} | self.env
        order = {
            "start": name,
            "argv": list(argv),
            "env": environ,
            "log": str(self.layout.logs / f"{name}.out"),
        }
        self._supervisor.stdin.write(json.dumps(order).encode() + b"\n")
        self._supervisor.stdin.flush()

    def _until(self, condition: Callable[[], bool], daemon: str, deadline: float) -> None:
        """Wait for a condition; ToolError with the reason when a daemon ends or time runs out."""
        while not condition():
            self._hear()
            for name, why in self._ended.items():
                raise ToolError(
                    f"{name} ended while the cluster started ({why}): {self._reason(name)}"
                )
            if time.monotonic() > deadline:
                raise ToolError(f"{daemon} is not ready in time: {self._reason(daemon)}")
            time.sleep(POLL_SECONDS)

    def _hear(self) -> None:
        """Take in what the supervisor says, without waiting."""
        assert self._supervisor
        assert self._supervisor.stdout
        handle = self._supervisor.stdout.fileno()
        while select.select([handle], [], [], 0)[0]:
            piece = os.read(handle, 65536)
            if not piece:
                self._ended["supervise.py"] = "see above"
                return
            *lines, self._answers = (self._answers + piece).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "ended" in message:
                    self._ended[message["ended"]] = message.get("why") or f"exit {message['code']}"

    def _controller_answers(self) -> bool:
        return _accepts(("127.0.0.1", self._ports.controller)) and (
            self.run(["scontrol", "ping"]).returncode == 0
        )

    def _all_idle(self, names: Sequence[str]) -> bool:
        states = self.node_states()
        return all(states.get(name) == "idle" for name in names)

    def _reason(self, daemon: str) -> str:
        """The last lines of a daemon's logs that say what is wrong, else simply the last ones."""
        rows: list[str] = []
        for path in sorted(self.layout.logs.glob(f"{daemon}*")):
            rows += _read(path).splitlines()
        telling = [row for row in rows if re.search(r"fatal|error", row, re.IGNORECASE)]
        return " / ".join((telling or rows)[-4:]) or f"nothing in {self.layout.logs}"

    def _check_open_to_others(self) -> None:
        for folder in (self.layout.directory, *self.layout.directory.parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                raise ToolError(
                    f"other users cannot reach {self.layout.directory}: "
                    f"open it with chmod o+x {folder}"
                )


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}".lstrip(":")


def _program(name: str) -> str:
    found = shutil.which(name, path=_path())
    if not found:
        raise ToolError(
            f"{name} is not installed here: "
            "use python3 tests/tools/root.py run, or install Slurm and munge"
        )
    return found


def _accepts(address: Path | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex(str(address) if isinstance(address, Path) else address) == 0


def _write(path: Path, text: str) -> None:
    """Write by rename, so that no daemon or client reads half of it; readable by everyone."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _parse_node(text: str, *, running: bool) -> Node:
    names, _, features = text.partition(":")
    return Node(names, features, running)


def main() -> int:
    """The command line; the exit status is CMD's."""
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="cluster.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--directory", type=Path, required=True)
    add("--node", action="append", default=[], metavar="NAMES[:FEATURES]")
    add(
        "--down-node",
        action="append",
        default=[],
        metavar="NAMES[:FEATURES]",
        help="declared, not started",
    )
    add("--plugstack", action="append", default=[], metavar="LINE")
    add("--conf", action="append", default=[], metavar="LINE", help="a line of slurm.conf")
    add("--job-submit", type=Path, metavar="FILE", help="a job_submit.lua")
    add("--oci-conf", type=Path, metavar="FILE")
    add("argv", nargs="*", metavar="CMD")
    arguments = parser.parse_args()
    nodes = [_parse_node(text, running=True) for text in arguments.node]
    nodes += [_parse_node(text, running=False) for text in arguments.down_node]
    try:
        cluster = Cluster(
            arguments.directory,
            nodes or [Node("n[1-4]")],
            plugstack=arguments.plugstack,
            conf=arguments.conf,
            job_submit=arguments.job_submit.read_text() if arguments.job_submit else None,
            oci_conf=arguments.oci_conf.read_text() if arguments.oci_conf else None,
        )
        with cluster:
            argv = arguments.argv or [os.environ.get("SHELL", "/bin/bash")]
            code = subprocess.run(argv, env=os.environ | cluster.env, check=False).returncode
            return code if code >= 0 else 128 - code
    except (ToolError, OSError) as trouble:
        say(str(trouble))
        return 125
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
