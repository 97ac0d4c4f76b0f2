"""The programs that fetch: Apptainer, which makes SIFs, and skopeo, which copies into layouts."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress

from slurm_cmeta.pull.landing import FetchError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry import credentials
from slurm_cmeta.registry.access import authorities
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slurm_cmeta.pull.landing import Place
    from slurm_cmeta.registry.access import Access
    from slurm_cmeta.registry.reference import Reference

RUNTIMES = ("apptainer", "singularity")
OPTION_PLACES = "/usr/local/bin:/usr/bin:/bin:/opt/apptainer/bin"
"""Where else the runtime is looked for, as cmeta-run does."""

CHOSEN_RUNTIME = "CMETA_RUN_RUNTIME"
"""The site's own (plugstack key `runtime`), in the environment of cmeta-run (spank/run.h)."""

MEMORY = "256M"
"""What mksquashfs may take in a job. By itself it takes a quarter of the machine's memory
(mksquashfs.1, -mem), and the job may have far less."""

LAST_WORDS = 400
"""Characters of what a tool said before it failed."""

MAX_BUNDLE = 4 << 20
"""Bytes of a file of certificates; a system's own has some 200 KiB."""

TICK = 0.5
"""Seconds after which who waits is told that work goes on."""

PATIENCE = 5
"""Seconds that a tool has to clean up, when it is to end."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TROUBLE = re.compile(r"\b(fatal|error)\b", re.IGNORECASE)
_HEAD = re.compile(r"^(?:(?:FATAL|ERROR)\s*:\s*|time=.*?\bmsg=)")
"""What Apptainer and skopeo write before the words of an error."""

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def runtime() -> str:
    """Return the path of Apptainer or Singularity. Raises FetchError where there is none."""
    if chosen := os.environ.get(CHOSEN_RUNTIME):
        return chosen
    for path in (os.environ.get("PATH"), OPTION_PLACES):
        for name in RUNTIMES:
            if found := shutil.which(name, path=path):
                return found
    raise FetchError(
        "a SIF is made by Apptainer, which is not installed here: install it, or take --format oci"
    )


def skopeo() -> str:
    """Return the path of skopeo. Raises FetchError where there is none."""
    found = shutil.which("skopeo")
    if found is None:
        raise FetchError("an OCI layout is made by skopeo, which is not installed here")
    return found


def frugal() -> dict[str, str]:
    """Return the variables that make a build fit into a job: its memory, its own processors."""
    words = f"-mem {MEMORY} -processors {len(os.sched_getaffinity(0))}"
    names = [f"{name.upper()}_MKSQUASHFS_ARGS" for name in RUNTIMES]
    return {name: os.environ.get(name, words) for name in names}


def as_we_do(reference: Reference, access: Access, place: str) -> dict[str, str]:
    """Return the variables by which tools reach a registry as it was reached here.

    Each tool looks for credentials in files of its own, and not in all of them; Apptainer does not
    look into /etc/containers/certs.d. Their command lines can be seen by everybody, their
    environment by the user alone, as `place` can.
    """
    return _credentials(reference, access, place) | _authorities(reference.server, place)


def _credentials(reference: Reference, access: Access, place: str) -> dict[str, str]:
    own = credentials.find(reference, access)
    if own == credentials.NOBODY:
        return {}
    file = f"{place}/auth.json"
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        json.dump({"auths": {reference.host: credentials.entry(own)}}, written)
    found = {"REGISTRY_AUTH_FILE": file}  # skopeo's
    if own.name and own.password:
        for prefix in ("APPTAINER", "SINGULARITY"):
            found[f"{prefix}_DOCKER_USERNAME"] = own.name
            found[f"{prefix}_DOCKER_PASSWORD"] = own.password
    return found


def _authorities(server: str, place: str) -> dict[str, str]:
    own = authorities(server)
    if not own:
        return {}
    import ssl

    known = ssl.get_default_verify_paths()
    bundle = f"{place}/authorities.pem"
    with open(bundle, "wb") as written:
        for path in filter(None, (known.cafile or known.openssl_cafile, *own)):
            try:
                with open(path, "rb") as file:
                    written.write(file.read(MAX_BUNDLE) + b"\n")
            except OSError:
                continue
    return {"SSL_CERT_FILE": bundle}


def run(
    words: Sequence[str],
    access: Access,
    place: Place,
    variables: Mapping[str, str],
    tell: Callable[[], None] | None = None,
) -> None:
    """Run a tool in the directory `place` until the time is out.

    It is a process group of its own, so that its children (mksquashfs) end with it, and is told to
    end when we are killed: Slurm may find it no more then.

    `tell` is called now and then meanwhile. Raises FetchError with the tool's last words.
    """
    directory = place.path
    own = dict.fromkeys(("TMPDIR", "APPTAINER_TMPDIR", "SINGULARITY_TMPDIR"), directory)
    libc = ctypes.CDLL(None)
    with open(f"{directory}/said", "w+b") as said:
        try:
            tool = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=directory,
                env={**os.environ, **own, **variables},
                pass_fds=(place.lock,),
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        except OSError as problem:
            raise FetchError(f"cannot start {clean(words[0])}: {problem.strerror}") from None
        try:
            code = _ended(tool, access, tell)
        except BaseException:
            _stop(tool)
            raise
        if code is None:
            raise FetchError(f"{_name(words)} was not ready in time")
        if code:
            said.seek(max(0, said.seek(0, os.SEEK_END) - 65536))
            raise FetchError(f"{_name(words)} failed: {_last_words(said.read())}")


def _ended(
    tool: subprocess.Popen[bytes], access: Access, tell: Callable[[], None] | None
) -> int | None:
    """Return the exit code, None where the tool had to be stopped because the time is out."""
    while access.left > 0:
        try:
            return tool.wait(min(TICK if tell else access.left, access.left))
        except subprocess.TimeoutExpired:
            if tell is not None:
                tell()
    _stop(tool)
    return None


def _stop(tool: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(tool.pid, number)
        with suppress(subprocess.TimeoutExpired):
            tool.wait(PATIENCE)


def _name(words: Sequence[str]) -> str:
    return f"{os.path.basename(words[0])} {words[1]}"


def _last_words(said: bytes) -> str:
    """Return the last line in which a tool tells of an error, without colours and time stamps."""
    text = _COLOUR.sub("", said.decode("utf-8", "replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _TROUBLE.search(line)]
    line = (telling or lines or ["no reason given"])[-1]
    return clean(_HEAD.sub("", line).strip(' "'), LAST_WORDS)
