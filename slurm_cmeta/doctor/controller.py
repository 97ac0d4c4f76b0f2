"""The controller's half: job_submit.lua and the module that it loads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from slurm_cmeta import __version__
from slurm_cmeta.doctor import CONTROLLER, ERROR, NOTE, OK, WARNING, Finding
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurm_cmeta.cluster.slurmconf import SlurmConf

MODULES = ("cmeta", "cmeta_expression", "cmeta_log", "cmeta_nodes")
MAX_SCRIPT = 1 << 20
MAX_LOG = 4 << 20
_PATH = re.compile(r"""package\.path\s*=\s*["']([^"']+)["']""")
_STUB = "the six lines of job_submit.lua in slurm-cmeta(8)"
_LUAS = ("lua5.4", "lua5.3", "lua5.2", "lua5.1", "lua")


def look(conf: SlurmConf, roles: Sequence[str]) -> Iterator[Finding]:
    """Yield what is to be said of the controller's half, on the controller itself."""
    plugins = conf.options.get("jobsubmitplugins", "").split(",")
    if "lua" not in plugins:
        why = "JobSubmitPlugins has no lua: decisions are not checked, REST jobs not looked at"
        yield Finding(NOTE, "controller", why, f"add JobSubmitPlugins=lua to {conf.path}")
        return
    if CONTROLLER not in roles:
        yield Finding(NOTE, "controller", "job_submit.lua is looked at on the controller only")
        return
    script = os.path.join(os.path.dirname(conf.path), "job_submit.lua")
    try:
        with open(script, encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_SCRIPT)
    except OSError as problem:
        why = f"{clean(script)}: {problem.strerror}: slurmctld refuses all jobs without it"
        yield Finding(ERROR, "controller", why, f"write {script}: {_STUB}")
        return
    if "cmeta.ensure" not in text:
        why = f"{clean(script)} does not call cmeta.ensure: decisions are not checked"
        yield Finding(WARNING, "controller", why, f"add {_STUB}")
        return
    if "cmeta.modify" not in text:
        why = f"{clean(script)} does not call cmeta.modify: scontrol update may undo a constraint"
        yield Finding(WARNING, "controller", why, f"add {_STUB}")
    found = _PATH.search(text)
    yield from _modules(script, found[1].partition(";")[0] if found else "")
    yield from _log(conf)


def _modules(script: str, pattern: str) -> Iterator[Finding]:
    if not pattern.endswith("?.lua"):
        why = f"{clean(script)} sets no package.path that could be understood"
        yield Finding(NOTE, "controller", why)
        return
    directory = pattern.removesuffix("?.lua").rstrip("/")
    for name in MODULES:
        path = f"{directory}/{name}.lua"
        if not os.access(path, os.R_OK):
            why = f"{clean(path)} is missing: jobs are left as the client sent them"
            yield Finding(
                ERROR,
                "controller",
                why,
                "install slurm-cmeta on the controller again (its package, or make install)",
            )
            return
    lua = next((found for name in _LUAS if (found := shutil.which(name))), None)
    if lua is None:
        yield Finding(NOTE, "controller", f"{clean(directory)}: not loaded here, for want of a lua")
        return
    code = (
        "slurm = {} package.path = os.getenv('CMETA_PATH') local m = require('cmeta') "
        "assert(m.ensure and m.modify) print(m.version)"
    )
    try:
        done = subprocess.run(
            [lua, "-e", code],
            env={**os.environ, "CMETA_PATH": f"{directory}/?.lua"},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    if done.returncode:
        last = clean((done.stderr.strip().splitlines() or ["no word"])[0], 200)
        why = f"{clean(directory)}/cmeta.lua cannot be loaded ({last}): jobs are left as they are"
        yield Finding(
            ERROR,
            "controller",
            why,
            "install slurm-cmeta on the controller again (its package, or make install)",
        )
    elif done.stdout.strip() not in ("", __version__):
        version = clean(done.stdout.strip(), 40)
        why = f"{clean(directory)}/cmeta.lua is of release {version}, the package of {__version__}"
        yield Finding(WARNING, "controller", why, "install both of the same release")
    else:
        yield Finding(OK, "controller", f"{clean(script)} loads {clean(directory)}/cmeta.lua")


def _log(conf: SlurmConf) -> Iterator[Finding]:
    """Yield the last trouble that slurmctld's log has of us since it was started."""
    path = conf.options.get("slurmctldlogfile", "")
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_LOG))
            text = file.read(MAX_LOG).decode("utf-8", "replace")
    except OSError:
        return
    text = text[max(text.rfind("slurmctld version"), 0) :]
    trouble = [one for one in text.splitlines() if "cmeta: " in one and "error" in one.lower()]
    if trouble:
        why = f"{clean(path)}: {clean(trouble[-1], 300)}"
        yield Finding(WARNING, "controller", why, "see docs/troubleshooting.md for the message")
