"""Run a command in mount and PID namespaces of its own that end together with their launcher.

Three processes take part: the launcher, which stays in the caller's namespaces and waits; the
first process of the PID namespace, which mounts, reaps and forwards signals; and the command.
When the first process ends, the kernel kills everything else in the namespace; when the launcher
ends, however it ends, the kernel kills the first process. So nothing is ever left behind.

Linux only, root only. See unshare(2), pid_namespaces(7), mount_namespaces(7), pivot_root(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trouble import ToolError, say

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
SI_KERNEL = 128

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
WATCHED = (*FORWARDED, signal.SIGCHLD)

OUR_FAULT = 125
"""Exit status when the command could not even be tried; 126 and 127 mean what they mean in a
shell.
"""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    converted = [os.fsencode(a) if isinstance(a, (str, Path)) else a for a in arguments]
    if getattr(_libc, name)(*converted) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(
    source: str | Path, target: Path, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """mount(2); the error names both ends."""
    try:
        _call("mount", source, target, kind and kind.encode(), ctypes.c_ulong(flags), data)
    except OSError as error:
        raise ToolError(
            f"cannot mount {source} on {target}: {os.strerror(error.errno or 0)}"
        ) from error


def bind(source: Path, target: Path, *, read_only: bool = False, recursive: bool = True) -> None:
    """Make `source` appear at `target`, which is created when it is missing."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(exist_ok=True)
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        mount(source, target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def _to_true_root() -> None:
    """Leave any chroot: joining the mount namespace we are already in resets root and cwd to its
    real root.
    """
    try:
        handle = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    except OSError as error:
        raise ToolError(
            "/proc is not mounted here; mount it first: mount -t proc proc /proc"
        ) from error
    try:
        _call("setns", handle, CLONE_NEWNS)
    finally:
        os.close(handle)


def own_mounts() -> None:
    """Enter a new mount namespace from which nothing propagates back, also when we sit in a plain
    chroot.

    In a chroot "/" need not be a mount point, so its propagation cannot be changed from inside:
    step out to the true root, make the whole tree private there, and step back in.
    """
    cwd = os.getcwd()
    _call("unshare", CLONE_NEWNS)
    seen_root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    _to_true_root()
    mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    os.fchdir(seen_root)
    os.chroot(".")
    os.close(seen_root)
    os.chdir(cwd)


def pivot(new_root: Path) -> None:
    """Make `new_root`, a mount point, the root of this mount namespace and drop the old one.

    Not chroot: programs that make mounts of their own (Apptainer) fail in a plain chroot.
    """
    handle = os.open(new_root, os.O_PATH | os.O_DIRECTORY)
    _to_true_root()
    os.fchdir(handle)
    os.close(handle)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chroot(".")
    os.chdir("/")


def need_root() -> None:
    """ToolError unless we are root."""
    if os.geteuid() != 0:
        raise ToolError("mounting file systems needs root: run this as root or with sudo")


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    parent = os.getppid()
    _call("prctl", PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(OUR_FAULT)


def run_contained(
    enter: Callable[[], None], argv: Sequence[str], env: Mapping[str, str], user: User | None = None
) -> int:
    """Run `argv` in new namespaces and give its exit status (128+N when signal N ended it).

    `enter` runs as the first process of the new PID namespace, before the command: it makes the
    mounts. Modules must be imported before, as the Python library may be out of sight once it has
    pivoted. Call it from a process that does nothing else: it changes the signal mask and the PID
    namespace of its children.
    """
    need_root()
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        _call("unshare", CLONE_NEWPID)
    except OSError as error:
        raise ToolError(
            f"the kernel refuses a new PID namespace ({os.strerror(error.errno or 0)}): "
            "inside a container, start that container with --privileged or --cap-add SYS_ADMIN"
        ) from error
    alive_read, alive_write = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(alive_write)
        os._exit(_first_process(alive_read, enter, argv, env, user))
    os.close(alive_read)
    status = _wait_for(first)
    os.close(alive_write)
    return status


class User:
    """An account, read from the passwd and group files of the root that the command will see."""

    def __init__(self, root: Path, name: str) -> None:
        entry = next(
            (f for f in _colon_file(root / "etc/passwd") if f[0] == name and len(f) >= 7), None
        )
        if entry is None:
            raise ToolError(
                f"no user {name} in {root}/etc/passwd: the test root has root, alice and bob"
            )
        self.name, self.uid, self.gid, self.home = name, int(entry[2]), int(entry[3]), entry[5]
        groups = [
            int(f[2])
            for f in _colon_file(root / "etc/group")
            if len(f) >= 4 and name in f[3].split(",")
        ]
        self.groups = sorted({self.gid, *groups})

    def become(self) -> None:
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


def _colon_file(path: Path) -> list[list[str]]:
    return [line.split(":") for line in path.read_text(errors="replace").splitlines()]


def _first_process(
    launcher_alive: int,
    enter: Callable[[], None],
    argv: Sequence[str],
    env: Mapping[str, str],
    user: User | None,
) -> int:
    try:
        _call("prctl", PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        poll = select.poll()
        poll.register(launcher_alive, 0)
        if poll.poll(0):  # the launcher ended before it was watched
            return OUR_FAULT
        enter()
        command = os.fork()
        if command == 0:
            _become_command(argv, env, user)
        return _wait_for(command)
    except (ToolError, OSError) as error:
        say(_refusal(error) if isinstance(error, OSError) else str(error))
        return OUR_FAULT


def _refusal(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return (
            f"the kernel refuses what a private root needs ({error}): "
            "inside a container, start it with --privileged"
        )
    return f"cannot enter the private root: {error}"


def _become_command(argv: Sequence[str], env: Mapping[str, str], user: User | None) -> None:
    try:
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored_by_python, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        if user:
            user.become()
        os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606 - the purpose
    except OSError as error:
        say(f"cannot run {argv[0]}: {os.strerror(error.errno or 0)}")
        os._exit(127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126)


def _wait_for(process: int) -> int:
    """Reap children and pass signals on until `process` has ended; its exit status, 128+N for
    signal N.

    A signal from the terminal has already gone to the whole foreground group, the command included:
    only those that were sent to us alone are passed on.
    """
    while True:
        news = signal.sigwaitinfo(WATCHED)
        if news.si_signo != signal.SIGCHLD:
            if news.si_code != SI_KERNEL:
                os.kill(process, news.si_signo)
            continue
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if ended == 0:
                break
            if ended == process:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
