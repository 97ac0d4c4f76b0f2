"""The kernel's release, as `uname -r` prints it."""

from __future__ import annotations

import os
import re

from slurm_cmeta.node.host import HostError, Missing
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("kernel",)

PATH = "/proc/sys/kernel/osrelease"

_RELEASE = re.compile(r"\d{1,4}\.\d{1,6}[A-Za-z0-9._+~-]{0,60}", re.ASCII)
"""What Linux calls itself, in at most 64 characters (include/uapi/linux/utsname.h)."""


def probe(host: Host, found: Found) -> None:
    """Find `kernel`, the full release (`6.1.0-28-amd64`)."""
    text, source = release(host)
    if text is None:
        found.cannot_tell("kernel", source)
    else:
        found.fact("kernel", text, source)


def release(host: Host) -> tuple[str | None, str]:
    """Return the release and its source, or None and why it cannot be told."""
    reason = ""
    for source in (PATH, "uname -r"):
        try:
            text = _ask(host, source).strip()
        except Missing as error:
            reason = reason or str(error)
            continue
        except HostError as error:
            reason = str(error)
            continue
        if _RELEASE.fullmatch(text):
            return text, source
        reason = f"{source} says {clean(text, 60) or 'nothing'}: no release of Linux"
    return None, reason


def _ask(host: Host, source: str) -> str:
    if source == PATH:
        return host.read(PATH, 4096)
    return os.uname().release if host.live else host.run("uname", "-r")
