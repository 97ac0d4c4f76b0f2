"""The memory that the kernel has for programs."""

from __future__ import annotations

import re

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("memory",)

PATH = "/proc/meminfo"


def probe(host: Host, found: Found) -> None:
    """Find `memory` in MiB, rounded down, as slurmd counts RealMemory (Documentation/filesystems/
    proc.rst: `kB` there are KiB).
    """
    match = re.search(
        r"^MemTotal:[ \t]+(\d{1,15}) kB[ \t]*$", host.read(PATH), re.ASCII | re.MULTILINE
    )
    mebibytes = int(match[1]) // 1024 if match else 0
    if mebibytes:
        found.fact("memory", mebibytes, PATH)
    else:
        found.cannot_tell("memory", f"{PATH} has no sound line `MemTotal`")
