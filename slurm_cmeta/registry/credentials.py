"""The user's credentials, from where other clients keep them.

    {"auths": {"HOST[/NAMESPACE...]": {"auth": BASE64("NAME:PASSWORD"), "identitytoken": "..."}},
     "credHelpers": {"HOST": "NAME"}, "credsStore": "NAME"}

Sources: containers-auth.json(5), docker/cli cli/config/configfile, Apptainer's
docker-config.json (apptainer registry login). A helper is the program docker-credential-NAME.
Nothing of it is ever put into a message.
"""

from __future__ import annotations

import json
import os

from slurm_cmeta.errors import ImageError
from slurm_cmeta.image.reader import Reader
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.registry.reference import HUB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from slurm_cmeta.registry.access import Access
    from slurm_cmeta.registry.reference import Reference

MAX_FILE = 1 << 20
"""Bytes of a file that is read; real ones have some hundred."""

_HUB_NAMES = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")
"""What Docker calls its own registry in its file."""


class Credentials(NamedTuple):
    """A name with a password, or a token that stands for both."""

    name: str
    password: str
    token: str = ""
    """An identity token, which a token server changes for a token (OAuth2 refresh token)."""

    def __repr__(self) -> str:
        """Show nothing of it, wherever it may be printed."""
        return "Credentials(...)"


NOBODY = Credentials("", "")


def find(reference: Reference, access: Access) -> Credentials:
    """Return the user's credentials for a repository, NOBODY where there are none."""
    for prefix in ("APPTAINER", "SINGULARITY"):
        name = os.environ.get(f"{prefix}_DOCKER_USERNAME")
        password = os.environ.get(f"{prefix}_DOCKER_PASSWORD")
        if name and password:
            return Credentials(name, password)
    for path in files():
        found = _in_file(path, reference, access)
        if found is not None:
            return found
    return NOBODY


def files() -> Iterator[str]:
    """Yield the files that may hold them, the first that has some counts."""
    given = os.environ.get("REGISTRY_AUTH_FILE")
    if given:
        yield given
        return
    home = os.environ.get("HOME", "")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    configuration = os.environ.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    docker = os.environ.get("DOCKER_CONFIG") or (home and f"{home}/.docker")
    if runtime:
        yield f"{runtime}/containers/auth.json"
    if configuration:
        yield f"{configuration}/containers/auth.json"
    if docker:
        yield f"{docker}/config.json"
    for kind in ("apptainer", "singularity"):
        own = os.environ.get(f"{kind.upper()}_CONFIGDIR") or (home and f"{home}/.{kind}")
        if own:
            yield f"{own}/docker-config.json"


def entry(own: Credentials) -> dict[str, str]:
    """Return credentials as such a file has them."""
    import base64

    pair = base64.b64encode(f"{own.name}:{own.password}".encode()).decode("ascii")
    return {"identitytoken": own.token, "auth": pair} if own.token else {"auth": pair}


def _in_file(path: str, reference: Reference, access: Access) -> Credentials | None:
    try:
        reader = Reader(path)  # which waits for no FIFO
        document = json.loads(reader.read(0, min(reader.size, MAX_FILE)))
    except (ImageError, ValueError, RecursionError):
        return None  # a file that others can read, and that they complain of
    if not isinstance(document, dict):
        return None
    helpers = document.get("credHelpers")
    auths = document.get("auths")
    store = document.get("credsStore")
    for name in _names(reference):
        if isinstance(helpers, dict) and isinstance(helpers.get(name), str):
            return _by_helper(helpers[name], name, access)
        if isinstance(auths, dict) and isinstance(auths.get(name), dict):
            entry = auths[name]
            found = _plain(entry)
            if found is not None:
                return found
            if isinstance(store, str) and store:
                return _by_helper(store, name, access)
    if isinstance(store, str) and store and not auths:
        return _by_helper(store, next(iter(_names(reference))), access)
    return None


def _names(reference: Reference) -> list[str]:
    """Return the names under which a file may have a repository, the most specific first."""
    parts = reference.repository.split("/")
    names = ["/".join((reference.host, *parts[:count])) for count in range(len(parts), 0, -1)]
    names.append(reference.host)
    return [*names, *(_HUB_NAMES if reference.host == HUB else ()), f"https://{reference.host}"]


def _plain(entry: Mapping[str, Any]) -> Credentials | None:
    import base64
    import binascii

    token = entry.get("identitytoken")
    token = token if isinstance(token, str) else ""
    text = entry.get("auth")
    try:
        pair = base64.b64decode(text if isinstance(text, str) else "").decode("utf-8")
    except (binascii.Error, ValueError):
        pair = ""
    name, colon, password = pair.rstrip("\0").partition(":")
    if token or (colon and name):
        return Credentials(name, password, token)
    name, password = entry.get("username", ""), entry.get("password", "")
    if isinstance(name, str) and isinstance(password, str) and name and password:
        return Credentials(name, password)
    return None


def _by_helper(program: str, host: str, access: Access) -> Credentials | None:
    """Ask docker-credential-NAME, which speaks JSON (docker/docker-credential-helpers)."""
    import subprocess

    if not program.replace("-", "").replace("_", "").isalnum() or not program.isascii():
        return None
    if access.left <= 0:
        return None
    try:
        done = subprocess.run(
            [f"docker-credential-{program}", "get"],
            input=host.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=access.left,
            check=False,
        )
        said = json.loads(done.stdout[:MAX_FILE]) if done.returncode == 0 else None
    except (OSError, ValueError, RecursionError, subprocess.TimeoutExpired):
        return None
    if not isinstance(said, dict):
        return None
    name, secret = said.get("Username"), said.get("Secret")
    if not isinstance(name, str) or not isinstance(secret, str):
        return None
    return Credentials("", "", secret) if name == "<token>" else Credentials(name, secret)
