"""One installed container runtime, and which abilities the rules give it.

vocabulary/runtime.json has the rules: for each ability the alternatives, from the runtimes' own
sources and change logs. All of it is about an ordinary user who gives no option.
"""

from __future__ import annotations

import re
import stat

from slurm_cmeta import vocabulary
from slurm_cmeta.node import runtime_host
from slurm_cmeta.node.host import HostError, Missing, Unreadable
from slurm_cmeta.node.runtime_host import Answer, every, some
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from slurm_cmeta.node.host import Host

ABILITIES = ("encrypted", "ext3", "oci-sif")
"""The values of an image's requirement `runtime` (evidence/description.py)."""

SETUID, USERNS, ANY = "setuid", "userns", "any"

_OWN = "own:"

MAX_CONFIG = 256 * 1024
"""Bytes of a configuration file; that of a package has 20 kB."""

_SAYS = re.compile(r"([a-z-]+) version v?([0-9]+(?:\.[0-9]+){1,3})(?![0-9.])\S*\s*", re.I)
_VARIABLE = re.compile(r"([A-Z_]+)=(.*)")
_SETTING = re.compile(r"\s*([a-zA-Z _-]+?)[ \t]*=[ \t]*(.*)")


class Install(NamedTuple):
    """A runtime that the host has."""

    name: str
    """`apptainer` or `singularity`."""
    path: str
    version: str
    """`1.4.1`."""
    libexec: str
    """Its own programs lie in `bin` below this directory."""
    built_setuid: bool
    """Whether it was built, or installed, with a setuid starter."""
    settings: dict[str, str]
    config: str
    """The file that the settings are from."""


def version(name: str, said: str) -> str:
    """Return the version from what `--version` prints, empty if it is that of another program.

    Raises Unreadable where it is no such line.
    """
    match = _SAYS.fullmatch(said.strip())
    if match is None:
        raise Unreadable(f"{name} --version says `{clean(said.strip(), 80)}`")
    return match[2] if match[1].lower() in _program(name)["says"] else ""


def install(host: Host, name: str, path: str, release: str) -> Install:
    """Return the installation, asked of the program itself. Raises Missing, Unreadable."""
    row = _program(name)
    lines = host.run(name, "buildcfg").splitlines()
    variables = {m[1]: m[2].strip() for line in lines if (m := _VARIABLE.fullmatch(line))}
    try:
        libexec, suid, config = (variables[key] for key in ("LIBEXECDIR", row["suid"], row["conf"]))
    except KeyError as key:
        raise Unreadable(f"{name} buildcfg does not tell {key.args[0]}") from None
    paths = libexec.startswith("/") and config.startswith("/") and (libexec + config).isprintable()
    if not paths or suid not in ("0", "1"):
        raise Unreadable(f"{name} buildcfg says what cannot be")
    settings = _settings(host, config)
    return Install(
        name, path, release, f"{libexec}/{row['libexec']}", suid == "1", settings, config
    )


def _program(name: str) -> dict[str, Any]:
    rows = vocabulary.load("runtime")["programs"]
    return next(dict(row) for row in rows if row["name"] == name)


def _settings(host: Host, path: str) -> dict[str, str]:
    """Return the settings of a configuration file; of one given twice the first counts.

    Source: apptainer/apptainer pkg/util/apptainerconf/parser.go. Lines that are no setting, which
    the runtimes pass over, raise Unreadable: such a file is not what it should be.
    """
    try:
        text = host.read(path, MAX_CONFIG)
    except Missing as missing:
        raise Unreadable(str(missing)) from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _SETTING.fullmatch(line)
        if match is None:
            raise Unreadable(f"{clean(path)}: line {number} is no setting")
        value = match[2].strip()
        if value:
            found.setdefault(match[1].strip(), value.split(",")[0].strip())
    return found


# --- how it starts a container ------------------------------------------------------------------


def setuid(host: Host, what: Install) -> Answer:
    """Return whether users' containers are started by the setuid starter."""
    if not what.built_setuid:
        return Answer(False, f"{what.name} {what.version} is installed without setuid starter")
    allowed = what.settings.get("allow setuid", "yes")
    if allowed != "yes":
        return Answer(
            False if allowed == "no" else None, f"{what.config}: allow setuid = {allowed}"
        )
    return runtime_host.setuid(host, f"{what.libexec}/bin/starter-suid")


def user_namespaces(host: Host, what: Install) -> Answer:
    """Return whether its containers can run in user namespaces."""
    allowed = what.settings.get("allow user ns", "yes")
    if allowed != "yes":
        return Answer(
            False if allowed == "no" else None, f"{what.config}: allow user ns = {clean(allowed)}"
        )
    return runtime_host.user_namespaces(host, what.name)


def modes(host: Host, what: Install) -> dict[str, Answer]:
    """Return whether each mode is that in which an ordinary user's container starts.

    The runtimes do not try the other one when the first fails: an installation with a setuid
    starter that is not setuid starts nothing.
    """
    by_setuid = setuid(host, what)
    expects = what.built_setuid and what.settings.get("allow setuid", "yes") == "yes"
    by_userns = user_namespaces(host, what)
    if expects:
        by_userns = Answer(False, by_setuid.why)
    return {SETUID: by_setuid, USERNS: by_userns, ANY: some((by_setuid, by_userns))}


# --- what it can do -----------------------------------------------------------------------------


def ability(host: Host, what: Install, name: str) -> tuple[Answer, list[str]]:
    """Return whether it has the ability, and the forms in which it surely has."""
    table = vocabulary.load("runtime")
    asked = [
        row
        for row in table["abilities"]
        if row["runtime"] == what.name
        and row["ability"] == name
        and _newer(what.version, row["since"])
        and not ("before" in row and _newer(what.version, row["before"]))
    ]
    if not asked:
        return _without_rule(what, name), []
    answers = [_alternative(host, what, row) for row in asked]
    pairs = zip(asked, answers, strict=True)
    forms = [str(row["form"]) for row, answer in pairs if answer.is_so]
    return some(answers), list(dict.fromkeys(forms))


def _without_rule(what: Install, name: str) -> Answer:
    for row in vocabulary.load("runtime")["absent"]:
        if (row["runtime"], row["ability"]) == (what.name, name):
            if not _newer(what.version, row["before"]):
                return Answer(False, f"{what.name} {what.version} cannot run it")
            return Answer(None, f"{what.name} {what.version} is newer than what is known of it")
    return Answer(False, f"{what.name} {what.version} is too old for it")


def _alternative(host: Host, what: Install, row: dict[str, Any]) -> Answer:
    answer = every(
        (
            modes(host, what)[row["mode"]],
            *_asked_settings(host, what, row),
            *(_found(host, what, names) for names in row["programs"]),
            *(_NEEDS[need](host, what) for need in row["needs"]),
        )
    )
    if answer.is_so and "partly" in row:
        return Answer(None, f"{what.name}: {row['partly']}")
    return answer


def _asked_settings(host: Host, what: Install, row: dict[str, Any]) -> Iterator[Answer]:
    for setting in row["settings"]:
        key = setting["key"]
        value = what.settings.get(key, setting["default"])
        said = f"{what.config}: {key} = {clean(value, 60)}"
        if not setting["is"]:
            yield _is_program(host, value) if value else Answer(False, said)
        elif value in setting["is"]:
            yield Answer(True, what.config)
        else:
            yield Answer(False if value in ("yes", "no", "iflimited") else None, said)


def _found(host: Host, what: Install, names: str) -> Answer:
    """Return whether one of the programs is there, the runtime's own or the system's."""
    return some(_program_of(host, what, name) for name in names.split("|"))


def _program_of(host: Host, what: Install, name: str) -> Answer:
    own = _is_program(host, f"{what.libexec}/bin/{name.removeprefix(_OWN)}")
    if own.is_so is not False or name.startswith(_OWN):
        return own
    try:
        return Answer(True, host.program(name))
    except Missing as missing:
        return Answer(False, str(missing))
    except HostError as error:
        return Answer(None, str(error))


def _is_program(host: Host, path: str) -> Answer:
    try:
        mode = host.mode(path).st_mode
    except Missing as missing:
        return Answer(False, str(missing))
    except HostError as error:
        return Answer(None, str(error))
    is_so = stat.S_ISREG(mode) and bool(mode & 0o111)
    return Answer(is_so, clean(path) if is_so else f"{clean(path)} is no program")


_NEEDS: dict[str, Callable[[Host, Install], Answer]] = {
    "device-mapper": lambda host, _: runtime_host.device_mapper(host),
    "fuse": lambda host, _: runtime_host.fuse(host),
    "fuse-in-userns": lambda host, _: runtime_host.fuse_in_user_namespace(host),
    "subids": lambda host, _: runtime_host.subordinate_ids(host),
    "userns": user_namespaces,
}


def _newer(one: str, other: str) -> bool:
    """Return whether version `one` is `other` or a later one."""
    return _numbers(one) >= _numbers(other)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [int(part[:9]) for part in text.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
