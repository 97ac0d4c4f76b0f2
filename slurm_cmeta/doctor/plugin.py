"""The client's and the node's half: plugstack.conf, the plugin's file, and the helper."""

from __future__ import annotations

import glob
import os
import re

from slurm_cmeta import __version__
from slurm_cmeta.doctor import COMPUTE, ERROR, NOTE, OK, WARNING, Finding
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurm_cmeta.cluster.slurmconf import SlurmConf

FILE = "cmeta_spank.so"
MARK = re.compile(rb"cmeta_spank ([0-9][0-9A-Za-z.+~-]{0,30}) for Slurm ([0-9.]{1,20})\0")
"""What spank/cmeta_spank.c puts into the plugin."""
MAX_DEPTH = 8
MAX_PLUGIN = 8 << 20


class Line(NamedTuple):
    """The plugin's line in plugstack.conf."""

    place: str
    """`FILE:LINE`."""
    plugin: str
    arguments: tuple[str, ...]

    def value(self, key: str) -> str:
        """Return the value of `key=`, empty where it is not set."""
        found = [a.partition("=")[2] for a in self.arguments if a.startswith(f"{key}=")]
        return found[-1] if found else ""


def plugstack(conf: SlurmConf) -> str:
    """Return the path of plugstack.conf."""
    named = conf.options.get("plugstackconfig")
    return named or os.path.join(os.path.dirname(conf.path), "plugstack.conf")


def lines(path: str, depth: int = 0) -> Iterator[Line]:
    """Yield our lines in a plugstack.conf and in what it includes. Raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read(1 << 20)
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) >= 2 and words[0].lower() == "include" and depth < MAX_DEPTH:
            pattern = os.path.join(os.path.dirname(path), words[1])
            for name in sorted(glob.glob(pattern)):
                yield from lines(name, depth + 1)
        elif len(words) >= 2 and words[1].rpartition("/")[2] == FILE:
            yield Line(f"{path}:{number}", words[1], tuple(words[2:]))


def look(conf: SlurmConf, roles: Sequence[str]) -> tuple[Line | None, list[Finding]]:
    """Return the plugin's line, None where there is none, and what is to be said."""
    path = plugstack(conf)
    mend = f"echo 'optional {FILE}' >> {path}"
    try:
        found = list(lines(path))
    except OSError as problem:
        why = f"{clean(path)}: {problem.strerror}: no job is matched when it is submitted here"
        return None, [Finding(ERROR, "plugin", why, mend)]
    if not found:
        why = f"{clean(path)} has no line for {FILE}: no job is matched when it is submitted here"
        return None, [Finding(ERROR, "plugin", why, mend)]
    said = [Finding(OK, "plugin", f"{clean(found[0].place)} loads {clean(found[0].plugin)}")]
    if len(found) > 1:
        why = f"{clean(found[1].place)} loads the plugin a second time"
        said.append(Finding(WARNING, "plugin", why, f"remove the line {found[1].place}"))
    said += _file(found[0], conf)
    if found[0].value("default") == "off":
        why = "it is off unless a user says --cmeta=on (default=off)"
        said.append(Finding(NOTE, "plugin", why))
    if COMPUTE in roles:
        said += _helper(found[0])
    return found[0], said


def _file(line: Line, conf: SlurmConf) -> Iterator[Finding]:
    path = _where(line.plugin, conf)
    if path is None:
        why = f"{clean(line.plugin)} is in none of Slurm's plugin directories"
        yield Finding(
            ERROR, "plugin", why, "make install, or install the package slurm-cmeta-plugin"
        )
        return
    try:
        with open(path, "rb") as file:
            mark = MARK.search(file.read(MAX_PLUGIN))
    except OSError as problem:
        yield Finding(ERROR, "plugin", f"{clean(path)}: {problem.strerror}", f"chmod a+rx {path}")
        return
    if mark is None:
        why = f"{clean(path)} does not say of which release it is"
        yield Finding(WARNING, "plugin", why, "install it anew, of the same release as the package")
        return
    version, slurm = mark[1].decode(), mark[2].decode()
    if version != __version__:
        why = f"{clean(path)} is of release {version}, the package of {__version__}"
        yield Finding(WARNING, "plugin", why, "install both of the same release")
    running = _slurm_version()
    if running and running != slurm:
        why = f"{clean(path)} is built for Slurm {slurm}, and {running} is here: it is not loaded"
        yield Finding(ERROR, "plugin", why, "build it for this Slurm: make -C spank clean install")
    elif version == __version__:
        yield Finding(OK, "plugin", f"{clean(path)}: release {version}, for Slurm {slurm}")


def _where(name: str, conf: SlurmConf) -> str | None:
    if name.startswith("/"):
        return name if os.path.exists(name) else None
    stated = conf.options.get("plugindir", "")
    usual = (
        *glob.glob("/usr/lib/*/slurm*"),
        "/usr/lib64/slurm",
        "/usr/lib/slurm",
        "/usr/local/lib/slurm",
    )
    for directory in (*stated.split(":"), *usual):
        path = f"{directory}/{name}"
        if directory and os.path.exists(path):
            return path
    return None


def _slurm_version() -> str:
    """Return `22.05` of the Slurm that is installed here, empty where that cannot be told."""
    import subprocess

    try:
        done = subprocess.run(
            ["sinfo", "--version"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"(\d+\.\d+)", done.stdout)
    return found[1] if found else ""


def _helper(line: Line) -> Iterator[Finding]:
    from slurm_cmeta.doctor.matcher import beside

    path = line.value("run") or beside("../libexec/slurm-cmeta/cmeta-run")
    if path and not os.access(path, os.X_OK):
        why = f"{clean(path)} cannot be run: no job starts inside its image here"
        yield Finding(
            ERROR,
            "plugin",
            why,
            "install slurm-cmeta-plugin here again, or correct run= in plugstack.conf",
        )
