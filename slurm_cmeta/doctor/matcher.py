"""The matcher: whether it can be run, what it lacks, and what it answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from slurm_cmeta import __version__
from slurm_cmeta.doctor import ERROR, OK, WARNING, Finding
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.doctor.plugin import Line

DEADLINE = 10.0
"""Seconds; the plugin itself waits 2 by default."""
SLOW = 1.0


def beside(name: str) -> str:
    """Return what is installed beside this command, empty where this is no installed command."""
    here = os.path.dirname(os.path.realpath(sys.argv[0]))
    return os.path.normpath(f"{here}/{name}") if os.path.basename(here) in ("bin", "sbin") else ""


def look(line: Line | None, slurm_conf: str) -> Iterator[Finding]:
    """Yield what is to be said of the matcher that the plugin runs."""
    program = (
        (line.value("matcher") if line else "")
        or beside("cmeta-decide")
        or "/usr/local/bin/cmeta-decide"
    )
    try:
        done = _run(program, "--version")
    except OSError as problem:
        why = f"{clean(program)} cannot be run ({problem.strerror}): jobs are submitted as they are"
        yield Finding(
            ERROR,
            "matcher",
            why,
            "install slurm-cmeta here again, or correct matcher= in plugstack.conf",
        )
        return
    except subprocess.TimeoutExpired:
        yield Finding(ERROR, "matcher", f"{clean(program)} does not answer", f"{program} --version")
        return
    said = done.stdout.strip()
    if done.returncode or not said.startswith("cmeta-decide "):
        last = clean((done.stderr.strip().splitlines() or ["no word"])[-1], 200)
        yield Finding(ERROR, "matcher", f"{clean(program)} fails: {last}", f"{program} --version")
        return
    version = said.removeprefix("cmeta-decide ")
    if version != __version__:
        why = f"{clean(program)} is of release {clean(version, 40)}, this command of {__version__}"
        yield Finding(WARNING, "matcher", why, "install both of the same release")
    yield from _modules(program)
    yield from _answer(program, slurm_conf)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)


def _modules(program: str) -> Iterator[Finding]:
    """Yield what the matcher's own Python lacks."""
    from slurm_cmeta.image import squashfs

    try:
        squashfs._library()
    except squashfs.NotReadableError as problem:
        why = f"images are not looked into: the squashfs {clean(str(problem), 200)}"
        mend = (
            "apt install libsquashfs1 python3-cffi-backend (EPEL: squashfs-tools-ng python3-cffi)"
        )
        yield Finding(WARNING, "matcher", why, mend)


def _answer(program: str, slurm_conf: str) -> Iterator[Finding]:
    """Yield what becomes of an image that is none: an answer, and soon."""
    with tempfile.TemporaryDirectory() as place:
        image = f"{place}/doctor.sif"
        with open(image, "wb") as file:
            file.write(b"no image")
        begun = time.monotonic()
        try:
            done = _run(program, "--image", image, "--slurm-conf", slurm_conf)
        except (OSError, subprocess.TimeoutExpired):
            yield Finding(
                ERROR, "matcher", f"{clean(program)} gives no answer", f"{program} --help"
            )
            return
        spent = time.monotonic() - begun
    if not done.stdout.startswith("cmeta 1\n") or not done.stdout.endswith("\nend\n"):
        yield Finding(
            ERROR, "matcher", f"{clean(program)} gives no valid answer", f"{program} --help"
        )
        return
    if spent > SLOW:
        why = f"{clean(program)} takes {spent:.1f} s; the plugin waits for 2 s by default"
        yield Finding(
            WARNING, "matcher", why, "put the package on a local disk, or raise deadline="
        )
    else:
        yield Finding(OK, "matcher", f"{clean(program)} answers in {spent * 1000:.0f} ms")
