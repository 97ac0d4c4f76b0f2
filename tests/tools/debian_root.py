"""Make a Debian root with Slurm, a compiler, Lua, Python and Apptainer in it, below the project's
.build folder.

The machine itself gets nothing installed: mmdebstrap, which makes the root, is fetched and unpacked
into .build as well when the machine has none, and runs in namespaces of its own (see
namespaces.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import namespaces
from mirror import archive_line, host_sources
from root_view import PROJECT
from trouble import ToolError, say

SUITES = ("bookworm", "trixie", "sid")
BUILD = PROJECT / ".build"
TOOLS = Path(__file__).resolve().parent

PROFILES = {
    # What `make test` and `make demo` need; everything the tests start is named here, not found by
    # luck.
    "full": (
        "slurmctld slurmd slurm-client slurm-wlm-basic-plugins libslurm-dev munge liblua5.1-0 "
        "slurmrestd "
        "gcc libc6-dev make pkg-config binutils patchelf squashfs-tools siftool uidmap "
        "lua5.1 lua5.2 lua5.3 lua5.4 lua-check mandoc "
        "libsquashfs1 libsquashfs-dev liblzo2-2 python3-cffi-backend qemu-user-static "
        "debhelper dh-python zsh fish "
        "rpm umoci skopeo podman oras docker-registry zstd libzstd1 "
        "python3 python3-yaml python3-venv python3-dev libffi-dev git ca-certificates "
        "procps iproute2 mount tzdata"
    ),
    # Only a cluster: quicker to make, for the demonstration.
    "cluster": (
        "slurmctld slurmd slurm-client slurm-wlm-basic-plugins libslurm-dev munge liblua5.1-0 "
        "gcc libc6-dev make patchelf squashfs-tools siftool uidmap "
        "libsquashfs1 python3-cffi-backend "
        "python3 python3-yaml python3-venv ca-certificates procps mount tzdata"
    ),
}
MISSING = {
    "bookworm": frozenset({"oras"}),
    "trixie": frozenset({"lua5.2"}),
    "sid": frozenset({"lua5.2"}),
}
"""Packages that a suite does not have."""

UNREAD = ("doc", "man", "info", "locale", "lintian", "bug")
"""Folders of /usr/share that no test reads."""


SMALL_IMAGE = ("base-files", "busybox-static", "dash", "libc6")
LARGE_IMAGE = (
    *("libopenmpi40|libopenmpi3", "openmpi-bin", "libmpich12", "librocrand1?"),
    *("libpmix2t64|libpmix2", "libucx0", "libfabric1", "libibverbs1", "libopenblas0-pthread"),
    *("python3-numpy", "python3.13-minimal|python3.11-minimal", "coreutils", "bash"),
)
"""Debian packages of which test images are made, see packages.sh."""


class Extra(NamedTuple):
    """Something that a script of ours puts into the root, where the mirror has it."""

    name: str
    script: str
    prefix: Path
    """Where it lies inside the root."""
    arguments: tuple[str, ...]
    proof: Path
    """A file that is there when all of it is."""
    suite: str | None
    """The suite it comes from; None: the root's own."""


EXTRAS = (
    Extra(
        "Apptainer",
        "apptainer.sh",
        Path("/opt/apptainer"),
        (),
        Path("/opt/apptainer/bin/apptainer"),
        "sid",
    ),
    *(
        Extra(
            f"packages for {architecture} test images",
            "packages.sh",
            Path("/opt/packages"),
            (architecture, *SMALL_IMAGE, *more),
            Path(f"/opt/packages/{architecture}/usr/bin/dash"),
            suite,
        )
        for architecture, more, suite in (
            ("amd64", LARGE_IMAGE, None),
            ("arm64", ("libmpich12",), None),
            ("ppc64el", ("libmpich12",), None),
            ("riscv64", (), "sid"),  # not in Debian 12
        )
    ),
)

USERS = """
set -e
useradd --create-home --uid 1000 --shell /bin/bash alice
useradd --create-home --uid 1001 --shell /bin/bash bob
for file in /etc/subuid /etc/subgid; do
  printf '%s\\n' root:300000:65536 alice:100000:65536 bob:200000:65536 >"$file"
done
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
chmod 711 /root
ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime
ln -s /opt/apptainer/bin/apptainer /usr/local/bin/apptainer
ln -s /opt/apptainer/bin/singularity /usr/local/bin/singularity
"""
"""Run inside: accounts with subordinate ids; no daemon is ever started by a package."""


def default_suite() -> str:
    """This machine's own suite when it is Debian 12 or 13, else bookworm."""
    with contextlib.suppress(OSError):
        for line in Path("/etc/os-release").read_text().splitlines():
            name, _, value = line.partition("=")
            if name == "VERSION_CODENAME" and value.strip('"') in ("bookworm", "trixie"):
                return value.strip('"')
    return "bookworm"


def root_of(suite: str) -> Path:
    """Where the finished root of a suite lies."""
    return BUILD / suite / "root"


def made_root(suite: str) -> Path:
    """The finished root of a suite; ToolError when there is none yet."""
    if not (BUILD / suite / "stamp").is_file() or not root_of(suite).is_dir():
        raise ToolError(
            f"no {suite} root yet: make it with python3 tests/tools/root.py make --suite {suite}"
        )
    return root_of(suite)


def packages(suite: str, profile: str) -> list[str]:
    """The packages that a root of this suite and profile holds."""
    return [p for p in PROFILES[profile].split() if p not in MISSING.get(suite, ())]


def recipe(suite: str, profile: str) -> str:
    """A hash of everything that decides what is in the root: it is made again when this changes."""
    script = b"".join(
        (TOOLS / name).read_bytes()
        for name in ("debian_root.py", *(extra.script for extra in EXTRAS))
    )
    return hashlib.sha256(repr((suite, profile)).encode() + script).hexdigest()


def make(suite: str, profile: str = "full") -> Path:
    """Make the root unless it is there and up to date; its path. A half-made one is never used."""
    if os.geteuid() != 0:
        raise ToolError("making a Debian root needs root: run this as root or with sudo")
    folder = BUILD / suite
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(suite, fcntl.LOCK_SH):
        if _is_current(suite, profile) and all(_has(suite, extra) for extra in EXTRAS):
            say(f"the {suite} root is there and up to date: {root_of(suite)}")
            return root_of(suite)
    with _locked(suite, fcntl.LOCK_EX):
        if not _is_current(suite, profile):
            _make_anew(suite, profile)
        for extra in EXTRAS:
            if not _has(suite, extra):
                _add_extra(root_of(suite), folder, extra, suite)
    return root_of(suite)


@contextlib.contextmanager
def in_use(suite: str) -> Iterator[Path]:
    """The finished root of a suite, which nobody makes anew meanwhile; ToolError if none is."""
    made_root(suite)
    with _locked(suite, fcntl.LOCK_SH):
        yield made_root(suite)


def _is_current(suite: str, profile: str) -> bool:
    stamp = BUILD / suite / "stamp"
    known = stamp.read_text() if stamp.is_file() else ""
    return known == recipe(suite, profile) and root_of(suite).is_dir()


def _has(suite: str, extra: Extra) -> bool:
    return (root_of(suite) / extra.proof.relative_to("/")).is_file()


def _make_anew(suite: str, profile: str) -> None:
    folder, root = BUILD / suite, root_of(suite)
    half = folder / "root.half-made"
    line = archive_line(suite, host_sources(), os.environ)
    (folder / "stamp").unlink(missing_ok=True)
    for old in (half, root, folder / "tmp"):
        _remove(old)
    say(f"making a Debian {suite} root in {root} (about a minute; log: {folder / 'make.log'})")
    begun = time.monotonic()
    _bootstrap(suite, profile, line, half)
    half.rename(root)
    _write_whole(folder / "stamp", recipe(suite, profile))
    say(f"{suite} root made in {time.monotonic() - begun:.0f} s")


def _bootstrap(suite: str, profile: str, line: str, target: Path) -> None:
    folder = target.parent
    scratch = folder / "tmp"
    scratch.mkdir()
    # sid's Release file is past its date on mirrors that lag, and in frozen copies of a mirror.
    options = ['APT::Sandbox::User "root"', 'Acquire::Languages "none"', 'Acquire::Retries "2"']
    options += [
        'Acquire::Check-Valid-Until "false"',
        'Acquire::Check-Date "false"',
        *_network_options(),
    ]
    command = [
        *_mmdebstrap(line, suite, folder),
        "--mode=root",
        "--variant=apt",
        "--format=directory",
    ]
    command += [f"--aptopt={o}" for o in options]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNREAD]
    command += [f"--include={','.join(packages(suite, profile))}", suite, str(target), line]
    _logged(command, folder / "make.log", scratch, f"the {suite} root")
    for name in ("resolv.conf", "hosts", "hostname"):  # this machine's, copied by mmdebstrap
        (target / "etc" / name).unlink(missing_ok=True)
    run_inside = [*_launcher("run"), "--root", str(target), "--"]
    _logged(
        [*run_inside, "sh", "-c", USERS],
        folder / "make.log",
        scratch,
        "the users of the root",
        contained=False,
    )
    _remove(scratch)


def _add_extra(root: Path, folder: Path, extra: Extra, suite: str) -> None:
    """Not every mirror has these, and no test may fail for want of one: say so and go on."""
    begun = time.monotonic()
    try:
        line = archive_line(extra.suite or suite, host_sources(), os.environ)
    except ToolError as trouble:
        say(f"no {extra.name} in this root, the tests that need it will skip: {trouble}")
        return
    command = [*_launcher("run"), "--root", str(root), "--"]
    command += ["env", f"APT_LINE={line}", "sh", str(TOOLS / extra.script)]
    command += [str(extra.prefix), *extra.arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        close_fds=False,
    )
    (folder / f"{extra.name.replace(' ', '-')}.log").write_text(done.stdout + done.stderr)
    if done.returncode == 0:
        say(f"{extra.name} added in {time.monotonic() - begun:.0f} s")
        return
    (root / extra.proof.relative_to("/")).unlink(missing_ok=True)
    why = next(iter(reversed(done.stderr.strip().splitlines())), "no reason given")
    say(f"no {extra.name} in this root, the tests that need it will skip: {why}")


def _launcher(action: str) -> list[str]:
    """How to start root.py for a step of ours, so that the step ends when we are killed."""
    return [sys.executable, str(TOOLS / "root.py"), action, "--die-with-parent"]


def _mmdebstrap(line: str, suite: str, folder: Path) -> list[str]:
    """How to start mmdebstrap: the machine's own, or one unpacked into .build (it is a single
    Perl script).
    """
    if shutil.which("mmdebstrap"):
        return ["mmdebstrap"]
    for needed in ("perl", "apt-get", "dpkg"):
        if not shutil.which(needed):
            raise ToolError(
                f"no {needed} on this machine: "
                "this needs Debian with git (which brings perl) installed"
            )
    unpacked = folder / "mmdebstrap"
    script = unpacked / "usr/bin/mmdebstrap"
    if not script.is_file():
        scratch = folder / "tmp"
        for name in ("lists/partial", "cache/archives/partial"):
            (scratch / name).mkdir(parents=True, exist_ok=True)
        (scratch / "status").touch()
        (scratch / "sources.list").write_text(line + "\n")
        settings = {
            "Dir::Etc::SourceList": scratch / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": scratch / "lists",
            "Dir::Cache": scratch / "cache",
            "Dir::State::status": scratch / "status",
            "APT::Default-Release": "",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::Check-Valid-Until": "false",
            "Acquire::Check-Date": "false",
        }
        apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
        log = folder / "make.log"
        _logged([*apt, "update"], log, scratch, "the package lists")
        _logged([*apt, "download", "mmdebstrap"], log, scratch, "mmdebstrap", cwd=scratch)
        package = next(scratch.glob("mmdebstrap_*.deb"))
        half = folder / "mmdebstrap.half"
        _remove(half)
        _logged(["dpkg", "-x", str(package), str(half)], log, scratch, "mmdebstrap")
        _remove(unpacked)
        half.rename(unpacked)
    return ["perl", str(script)]


def _network_options() -> list[str]:
    """The machine's own proxy and TLS settings of apt, which mmdebstrap would not read."""
    asked = ["apt-config", "dump", "Acquire::http", "Acquire::https"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return [row.rstrip(";") for row in done.stdout.splitlines() if '""' not in row]


def _logged(
    command: Sequence[str],
    log: Path,
    scratch: Path,
    what: str,
    *,
    cwd: Path | None = None,
    contained: bool = True,
) -> None:
    """Run a step with its output in `log`, so that it and all its children end when we do."""
    if contained:
        command = [*_launcher("contain"), "--view", str(scratch / "view"), "--", *command]
    environ = os.environ | {
        "TMPDIR": str(scratch),
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    # mmdebstrap looks for its helper mmtarfilter in PATH.
    environ["PATH"] += f":{log.parent}/mmdebstrap/usr/bin"
    with log.open("a") as out:
        begun = out.tell()
        code = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environ,
            cwd=cwd,
            check=False,
            close_fds=False,
        ).returncode
    if code != 0:
        with log.open() as text:
            text.seek(begun)
            raise ToolError(_explained(what, text.read().splitlines(), log))


def _explained(what: str, lines: Sequence[str], log: Path) -> str:
    failed = (
        [row for row in lines if row.startswith(("E:", "Err:", "cmeta:")) or "rror" in row]
        or lines
        or [""]
    )
    reason = failed[0].strip().removeprefix("cmeta: ")
    network = (
        "Could not resolve",
        "Failed to fetch",
        "Temporary failure",
        "Could not connect",
        "Unable to connect",
    )
    if any(sign in row for row in lines for sign in network):
        return (
            f"cannot make {what}: the Debian mirror does not answer ({reason}): "
            "check the network or set MIRROR"
        )
    return f"cannot make {what}: {reason} (all of it in {log})"


@contextlib.contextmanager
def _locked(suite: str, kind: int) -> Iterator[None]:
    """Many commands may run in a root at a time, but only alone may it be made anew."""
    path = BUILD / suite / "lock"
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is using or making the {suite} root: waiting ({path})")
            fcntl.flock(handle, kind)
        # The steps of making inherit the lock: it is held until the last of them has ended.
        os.set_inheritable(handle.fileno(), kind == fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    """Remove a folder of ours; never through something that is mounted in it."""
    prefix = f"{path}/"
    for row in Path("/proc/self/mountinfo").read_text().splitlines():
        point = row.split()[4]
        if point == str(path) or point.startswith(prefix):
            raise ToolError(
                f"something is mounted on {point}: unmount it before {path} can be made again"
            )
    if path.exists():
        shutil.rmtree(path)


def _write_whole(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def contain(view: Path, argv: Sequence[str]) -> int:
    """Run a command that sees this machine as it is, in namespaces of its own, so that it leaves
    nothing behind.
    """
    view.mkdir(parents=True, exist_ok=True)
    cwd = Path.cwd()

    def enter() -> None:
        namespaces.own_mounts()
        namespaces.mount("/", view, flags=namespaces.MS_BIND | namespaces.MS_REC)
        namespaces.pivot(view)
        namespaces.mount("proc", Path("/proc"), "proc")
        os.chdir(cwd)

    return namespaces.run_contained(enter, argv, os.environ)
