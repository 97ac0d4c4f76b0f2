"""What is mounted where: which paths are on other machines, and where setuid bits count."""

from __future__ import annotations

import re

from slurm_cmeta import vocabulary
from slurm_cmeta.node.host import Unreadable
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_cmeta.node.host import Host

PATH = "/proc/mounts"


class Mount(NamedTuple):
    """One line of /proc/mounts."""

    point: str
    type: str
    options: frozenset[str]

    @property
    def remote(self) -> bool:
        """Return whether its files may be on another machine, so that reading one may hang."""
        table = vocabulary.load("filesystems")["remote"]
        return self.type in table["types"] or self.type.startswith(tuple(table["prefixes"]))


def read(host: Host) -> tuple[Mount, ...]:
    """Return all mounts, in their order. Raises Missing, Unreadable."""
    found = []
    for line in host.read(PATH).splitlines():
        fields = line.split(" ")
        if len(fields) != 6 or not fields[1].startswith("/"):
            raise Unreadable(f"{PATH} has a line that is no mount")
        found.append(Mount(_plain(fields[1]), fields[2], frozenset(fields[3].split(","))))
    if not found:
        raise Unreadable(f"{PATH} is empty")
    return tuple(found)


def of(mounts: Iterable[Mount], path: str) -> Mount | None:
    """Return the mount that `path` is on; of two on one point, the later covers the earlier."""
    best = None
    for mount in mounts:
        below = mount.point.rstrip("/") + "/"
        covers = path == mount.point or path.startswith(below)
        if covers and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _plain(text: str) -> str:
    """Return a path as it is: the kernel writes blank, tab, newline and backslash in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
