"""Where this machine gets Debian packages from, read from its own apt configuration.

No mirror's name is written into the project: whatever the host uses, the test roots use as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from trouble import ToolError

ARCHIVE_SUITES = frozenset(
    [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "sid",
        "oldoldstable",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    ]
)
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)


class Source(NamedTuple):
    """One package source as apt reads it (sources.list(5)); `signed_by` only when it is a file's
    path.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


def parse_one_line(text: str) -> list[Source]:
    """The sources of a sources.list in the one-line form: `deb [option=value ...] URI SUITE
    COMPONENT...`.
    """
    sources = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if match:
            options = dict(o.split("=", 1) for o in (match[1] or "").split() if "=" in o)
            sources.append(
                _source(
                    match[2],
                    [match[3]],
                    match[4].split(),
                    options.get("signed-by", ""),
                    options.get("trusted", ""),
                )
            )
    return sources


def parse_deb822(text: str) -> list[Source]:
    """The sources of a .sources file (deb822 stanzas)."""
    sources = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + "\n" + line.strip()
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
        ):
            continue
        for uri in fields.get("uris", "").split():
            sources.append(
                _source(
                    uri,
                    fields.get("suites", "").split(),
                    fields.get("components", "").split(),
                    fields.get("signed-by", ""),
                    fields.get("trusted", ""),
                )
            )
    return sources


def _source(
    uri: str, suites: Iterable[str], components: Iterable[str], signed_by: str, trusted: str
) -> Source:
    key = signed_by if re.fullmatch(r"/\S+", signed_by) else ""
    return Source(uri, tuple(suites), tuple(components), key, trusted.lower() in ("yes", "true"))


def host_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """All package sources of this machine, in apt's order."""
    sources = []
    if (etc_apt / "sources.list").is_file():
        sources += parse_one_line((etc_apt / "sources.list").read_text(errors="replace"))
    for path in sorted((etc_apt / "sources.list.d").glob("*")):
        if path.suffix in (".list", ".sources"):
            parse = parse_one_line if path.suffix == ".list" else parse_deb822
            sources += parse(path.read_text(errors="replace"))
    return sources


def archive_line(suite: str, sources: Iterable[Source], environ: Mapping[str, str]) -> str:
    """The one-line source of `suite` at this machine's Debian mirror; MIRROR in the environment
    wins.

    The mirror of another suite of Debian's main archive serves as well. Raises ToolError when there
    is none.
    """
    candidates = [
        s for s in sources if "main" in s.components and ARCHIVE_SUITES.intersection(s.suites)
    ]
    best = next((s for s in candidates if suite in s.suites), next(iter(candidates), None))
    uri = environ.get("MIRROR") or (best.uri if best else "")
    if not uri:
        raise ToolError(
            "no Debian mirror in /etc/apt: set MIRROR to the address of one and try again"
        )
    if best and uri == best.uri and best.trusted:
        return f"deb [trusted=yes] {_plain(uri)} {suite} main"
    key = (
        best.signed_by
        if best and best.signed_by
        else next((str(k) for k in KEYRINGS if k.exists()), "")
    )
    if not key:
        raise ToolError(
            "no Debian archive keys on this machine: install the package debian-archive-keyring"
        )
    return f"deb [signed-by={key}] {_plain(uri)} {suite} main"


def _plain(uri: str) -> str:
    """The first mirror of a `mirror+file:` list, as cloud images have; such a list is not there
    inside the roots.
    """
    if not uri.startswith("mirror+file:"):
        return uri
    path = Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    first = next(
        (line.split()[0] for line in lines if line.strip() and not line.startswith("#")), ""
    )
    if not first:
        raise ToolError(
            f"the mirror list {path} holds no mirror: "
            "set MIRROR to the address of one and try again"
        )
    return first
