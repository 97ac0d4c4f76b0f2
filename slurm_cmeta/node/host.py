"""The host's files and programs, below a root.

With the root `/` this is the machine itself. With any other root it is a replayed one: absolute
links stay below the root, and no program is run, but its recorded answer is read: the file
`recorded-commands/PROGRAM ARGUMENTS` below the root (`/` in an argument is written as `_`).

Every question has one of three outcomes: an answer, Missing (it is certainly not there), or
Unreadable (it may be there, and nobody can tell).
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import time

from slurm_cmeta.text import clean

MAX_FILE = 8 << 20
"""Bytes read of one file; /proc/cpuinfo of 1,024 threads has some 1.5 MB."""

MAX_NAMES = 10_000
"""Names taken of one directory."""

MAX_LINKS = 40
"""Symbolic links followed in one path, as in Linux."""

COMMAND_SECONDS = 10.0
"""Time that a program may take. nvidia-smi takes 3 s where no persistence daemon runs."""

ALL_COMMANDS_SECONDS = 20.0
"""Time that all programs of a host may take together: hung ones add up, and a boot waits."""

MAX_OUTPUT = 8 << 20
"""Bytes that a program may print, or write to any file; nvidia-smi prints some 10 kB."""

PROGRAM_PATH = (
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/rocm/bin:/opt/apptainer/bin"
)
"""Where programs are looked for, whatever PATH says: this runs as root."""

RECORDED = "/recorded-commands"


class HostError(Exception):
    """A question to the host without an answer; the text names the object and the cause."""


class Missing(HostError):  # noqa: N818 - an outcome, as KeyError is one
    """It is certainly not there."""


class Unreadable(HostError):  # noqa: N818
    """It cannot be told: no rights, damage, a deadline."""


class Host:
    """A machine, by its files and programs."""

    def __init__(self, root: str = "/") -> None:
        """`root` is a directory; `/` for this machine."""
        self.root = os.path.realpath(root)
        self._seconds_left = ALL_COMMANDS_SECONDS

    @property
    def live(self) -> bool:
        """Return whether this is the machine itself, and no replayed one."""
        return self.root == "/"

    def real(self, path: str, barred: frozenset[str] = frozenset()) -> str:
        """Return `path` (from the root, absolute) with all links resolved, from the root.

        Paths in `barred` are not touched, so that no mount point is entered that may hang.
        Raises Missing or Unreadable.
        """
        done: list[str] = []
        todo = [name for name in reversed(path.split("/")) if name]
        links = 0
        while todo:
            name = todo.pop()
            if name == ".":
                continue
            if name == "..":
                del done[-1:]
                continue
            here = "/" + "/".join([*done, name])
            if here in barred:
                raise Unreadable(f"{clean(here)}: not looked at")
            try:
                mode = os.lstat(self._outside(here)).st_mode
            except OSError as error:
                raise _outcome(path, error) from None
            if not stat.S_ISLNK(mode):
                done.append(name)
                continue
            links += 1
            if links > MAX_LINKS:
                raise Unreadable(f"{clean(path)}: too many symbolic links")
            try:
                target = os.readlink(self._outside(here))
            except OSError as error:
                raise _outcome(path, error) from None
            if target.startswith("/"):
                done.clear()
            todo += [part for part in reversed(target.split("/")) if part]
        return "/" + "/".join(done)

    def exists(self, path: str) -> bool:
        """Return whether there is something at `path`; raises Unreadable where nobody can tell."""
        try:
            self.real(path)
        except Missing:
            return False
        return True

    def read(self, path: str, limit: int = MAX_FILE) -> str:
        """Return the first `limit` bytes of a regular file as text. Raises Missing, Unreadable."""
        return self.read_bytes(path, limit).decode("utf-8", "replace")

    def read_bytes(self, path: str, limit: int = MAX_FILE) -> bytes:
        """Return the first `limit` bytes of a regular file. Raises Missing, Unreadable."""
        where = self._outside(self.real(path))
        try:
            descriptor = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Unreadable(f"{clean(path)}: no regular file")
                parts = []
                while limit > 0 and (part := file.read(limit)):
                    parts.append(part)
                    limit -= len(part)
        except OSError as error:
            raise _outcome(path, error) from None
        return b"".join(parts)

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, sorted. Raises Missing, Unreadable."""
        where = self._outside(self.real(path))
        try:
            names = sorted(os.listdir(where))
        except OSError as error:
            raise _outcome(path, error) from None
        if len(names) > MAX_NAMES:
            raise Unreadable(f"{clean(path)}: more than {MAX_NAMES} names")
        return names

    def mode(self, path: str) -> os.stat_result:
        """Return what stat(2) says of `path`. Raises Missing, Unreadable."""
        where = self._outside(self.real(path))
        try:
            return os.stat(where, follow_symlinks=False)
        except OSError as error:
            raise _outcome(path, error) from None

    def program(self, name: str) -> str:
        """Return the path of a program from the root. Raises Missing, Unreadable."""
        for directory in PROGRAM_PATH.split(":"):
            path = f"{directory}/{name}"
            try:
                found = self.mode(path)
            except Missing:
                continue
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o111:
                return path
        raise Missing(f"{name}: no such program")

    def run(self, program: str, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Return what a program prints.

        Raises Missing where there is no such program (or no recorded answer), Unreadable when it
        fails, prints without end, or gives no answer within `seconds` or what all programs of this
        host have left of theirs; it is then ended with all its children.
        """
        if not self.live:
            name = " ".join([program, *arguments]).replace("/", "_")
            return self.read(f"{RECORDED}/{name}")
        command = [self.program(program), *arguments]
        if self._seconds_left <= 0:
            took = f"{ALL_COMMANDS_SECONDS:g} seconds"
            raise Unreadable(f"{program}: no time left, programs have already taken {took}")
        begun = time.monotonic()
        try:
            return _run(command, program, min(seconds, self._seconds_left))
        finally:
            self._seconds_left -= time.monotonic() - begun

    def _outside(self, path: str) -> str:
        return path if self.live else self.root + path


def _outcome(path: str, error: OSError) -> HostError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Missing(f"{clean(path)}: not there")
    return Unreadable(f"{clean(path)}: {error.strerror or error}")


def _run(command: list[str], program: str, seconds: float) -> str:
    import subprocess
    import tempfile

    # A file, not a pipe: a child that outlives the program keeps a pipe open for ever. The limit is
    # set before the program runs, so that whatever it starts has it, too.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=complaints,
                cwd="/",
                env={"PATH": PROGRAM_PATH, "LC_ALL": "C", "HOME": "/nonexistent"},
                start_new_session=True,
                preexec_fn=_limit_output,
            )
        except OSError as error:
            raise Unreadable(f"{program}: {error.strerror}") from None
        except subprocess.SubprocessError as error:
            raise Unreadable(f"{program}: {error}") from None
        hung = False
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            _end(child)
        if max(os.fstat(file.fileno()).st_size for file in (output, complaints)) >= MAX_OUTPUT:
            raise Unreadable(f"{program} prints without end: more than {MAX_OUTPUT >> 20} MiB")
        if hung:
            raise Unreadable(f"{program} gave no answer in {seconds:.3g} seconds")
        if child.returncode:
            complaints.seek(0)
            output.seek(0)
            said = (complaints.read(4096) or output.read(4096)).decode("utf-8", "replace")
            first = next(iter(said.strip().splitlines()), f"exit status {child.returncode}")
            raise Unreadable(f"{program} failed: {clean(first)}")
        output.seek(0)
        return output.read(MAX_FILE).decode("utf-8", "replace")


def _limit_output() -> None:
    """Let this process and its children write no file beyond MAX_OUTPUT (SIGXFSZ ends them)."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    most = MAX_OUTPUT if hard == resource.RLIM_INFINITY else min(MAX_OUTPUT, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _end(child: object) -> None:
    """End the program and whatever it has left running in its session."""
    import contextlib
    import subprocess

    assert isinstance(child, subprocess.Popen)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(1.0)  # a program in an uninterruptible wait (a hung driver) cannot be waited for
