"""Build small real SIF images for the tests and the demonstration.

With Apptainer where there is one, else with mksquashfs and siftool. Each holds a static busybox and
the file /etc/image with the image's name; runs inside the root of root.py, or where busybox-static,
squashfs-tools and siftool are installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = Path("/opt/packages")
"""Debian packages of several architectures, one tree for each (Debian's spelling); packages.sh."""

BUSYBOX = {
    "amd64": (PACKAGES / "amd64/usr/bin/busybox", Path("/bin/busybox"), Path("/usr/bin/busybox")),
    "arm64": (PACKAGES / "arm64/usr/bin/busybox",),
}
"""Where a static busybox of each architecture may lie."""

APPLETS = (
    *("cat", "chmod", "cp", "echo", "env", "false", "grep", "hostname", "id", "kill", "ls"),
    *("mkdir", "nproc", "printf", "ps", "pwd", "readlink", "sed", "seq", "sh"),
    *("sleep", "stat", "test", "touch", "tr", "true", "uname", "wc", "yes"),
)

SIF_CODES = {
    "386": 1,
    "amd64": 2,
    "arm": 3,
    "arm64": 4,
    "ppc64": 5,
    "ppc64le": 6,
    "s390x": 11,
    "riscv64": 12,
}
"""siftool's --partarch numbers (pkg/sif/arch.go)."""


class CannotBuildError(Exception):
    """A program that building needs is missing, or failed; the message says which."""


def have_apptainer() -> bool:
    """Tell whether a real Apptainer is here."""
    return shutil.which("apptainer") is not None


def build(
    path: Path,
    architecture: str = "amd64",
    labels: Mapping[str, str] | None = None,
    *,
    apptainer: bool | None = None,
) -> Path:
    """Build a SIF for an architecture (OCI's spelling) with these labels; return its path.

    `apptainer` chooses the builder; by default Apptainer where it is installed and a busybox of
    that architecture is here: Apptainer takes the architecture from the ELF files in the image.
    """
    busybox = next((p for p in BUSYBOX.get(architecture, ()) if p.is_file()), None)
    if apptainer is None:
        apptainer = have_apptainer() and busybox is not None
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        fill(tree, path.name, busybox)
        if apptainer:
            _with_apptainer(path, tree, labels or {}, Path(name), architecture)
        else:
            _with_siftool(path, tree, labels or {}, Path(name), architecture)
    path.chmod(0o644)
    return path


def from_tree(
    path: Path,
    tree: Path,
    architecture: str = "amd64",
    labels: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Build a SIF of a directory with siftool, its squashfs with these options of mksquashfs."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        _with_siftool(path, tree, labels or {}, Path(name), architecture, options)
    return path


def fill(tree: Path, name: str, busybox: Path | None) -> None:
    """Make a root file system of a busybox, which says its name in /etc/image."""
    for directory in (
        "bin",
        "dev",
        "etc",
        "home",
        "proc",
        "root",
        "sys",
        "tmp",
        "var/tmp",
        "usr/bin",
    ):
        (tree / directory).mkdir(parents=True)
    tree.chmod(0o755)
    (tree / "etc/image").write_text(f"{name}\n")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    (tree / "etc/hosts").touch()
    (tree / "etc/resolv.conf").touch()
    if busybox is None:
        return
    shutil.copy(busybox, tree / "bin/busybox")
    (tree / "bin/busybox").chmod(0o755)
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise CannotBuildError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise CannotBuildError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def _with_apptainer(
    path: Path, tree: Path, labels: Mapping[str, str], work: Path, architecture: str
) -> None:
    definition = work / "image.def"
    lines = ["Bootstrap: localimage", f"From: {tree}"]
    if labels:
        lines += ["", "%labels"] + [f"    {key} {value}" for key, value in labels.items()]
    definition.write_text("\n".join(lines) + "\n")
    _run(
        "apptainer",
        "--quiet",
        "build",
        "--force",
        "--arch",
        architecture,
        str(path),
        str(definition),
    )


def _with_siftool(
    path: Path,
    tree: Path,
    labels: Mapping[str, str],
    work: Path,
    architecture: str,
    options: Sequence[str] = (),
) -> None:
    squashfs, metadata = work / "root.squashfs", work / "inspect-metadata.json"
    quiet = ("-quiet", "-no-progress", "-all-root")
    _run("mksquashfs", str(tree), str(squashfs), *quiet, *options)
    attributes = {"labels": dict(labels)} if labels else {}
    metadata.write_text(json.dumps({"data": {"attributes": attributes}, "type": "container"}))
    path.unlink(missing_ok=True)
    _run("siftool", "new", str(path))
    _run(
        *("siftool", "add", "--datatype", "6", "--groupid", "1"),
        *("--filename", "inspect-metadata.json", str(path), str(metadata)),
    )
    _run(
        *(
            "siftool",
            "add",
            "--datatype",
            "4",
            "--groupid",
            "1",
            "--parttype",
            "2",
            "--partfs",
            "1",
        ),
        *("--partarch", str(SIF_CODES[architecture]), str(path), str(squashfs)),
    )
    os.utime(path)
