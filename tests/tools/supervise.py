"""Start daemons for somebody who may die at any moment, and end them and all they started when he
does.

Run as a child with a pipe on standard input: `{"start": NAME, "argv": [...], "log": PATH, "env":
{...}}`, one JSON object a line; `{"stop": NAME}` ends one daemon. Answers on standard output:
`{"started": NAME, "pid": N}`, `{"ended": NAME, "code": N}`. End of input (the owner closed it, or
is gone) ends everything.

Being the subreaper, this process becomes the parent of whatever the daemons leave behind
(slurmstepd and the jobs' processes detach from slurmd), so that all of it is found by parentage and
nothing by name.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 1.0


def descendants(process: int) -> list[int]:
    """Every living process below `process`, nearest first."""
    found: list[int] = []
    waiting = [process]
    while waiting:
        parent = waiting.pop(0)
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                below = [int(word) for word in children.read_text().split()]
            except OSError:
                continue
            found += below
            waiting += below
    return found


def _signal_all(number: signal.Signals) -> bool:
    processes = descendants(os.getpid())
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
    return bool(processes)


def _reap() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if process == 0:
            return ended
        ended.append((process, os.waitstatus_to_exitcode(status)))


def end_all() -> None:
    """Ask everything to end, wait a moment, then kill what is left; processes started meanwhile
    included.
    """
    _signal_all(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        _reap()
        if time.monotonic() > deadline:
            if not _signal_all(signal.SIGKILL):
                return
        elif not descendants(os.getpid()):
            return
        time.sleep(0.01)


class Supervisor:
    """The daemons by name, and the conversation about them."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}

    def obey(self, order: Mapping[str, object]) -> None:
        if "stop" in order:
            pid = self.pids.get(str(order["stop"]))
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
            return
        name, argv, env = str(order["start"]), order["argv"], order["env"]
        assert isinstance(argv, list)
        assert isinstance(env, dict)
        try:
            with Path(str(order["log"])).open("a") as log:
                process = subprocess.Popen(
                    argv,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            answer({"ended": name, "code": 127, "why": str(error)})
            return
        self.pids[name] = process.pid
        # Reaped in one place, here, for daemons and orphans alike; Popen shall not wait for it.
        process.returncode = 0
        answer({"started": name, "pid": process.pid})

    def report(self) -> None:
        for pid, code in _reap():
            for name in [n for n, p in self.pids.items() if p == pid]:
                del self.pids[name]
                answer({"ended": name, "code": code})


def answer(message: Mapping[str, object]) -> None:
    """One line to the owner, who may be gone."""
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:
        return


def main() -> None:
    """Serve until the input ends or SIGTERM comes."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the owner, who then closes the pipe
    supervisor = Supervisor()
    pending = b""
    try:
        while True:
            readable, _, _ = select.select([0], [], [], 0.1)
            supervisor.report()
            if not readable:
                continue
            piece = os.read(0, 65536)
            if not piece:
                return
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                supervisor.obey(json.loads(line))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all()


if __name__ == "__main__":
    main()
