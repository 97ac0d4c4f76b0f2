"""The architecture that the host's kernel runs programs of.

The kernel's own word counts: `uname -m`, for a replayed host what was recorded of it or
/proc/sys/kernel/arch (Linux 6.1 on). Without it, the shape of /proc/cpuinfo tells, and last the ELF
header of a program. Userland may be of a smaller architecture than the kernel: that is a warning.
"""

from __future__ import annotations

import os
from functools import partial

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.elf import HEAD, open_elf
from slurm_cmeta.node import cpuinfo
from slurm_cmeta.node.host import HostError, Missing
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("arch",)

KERNEL_ARCH = "/proc/sys/kernel/arch"

PROGRAMS = (
    *("/bin/sh", "/usr/bin/env", "/sbin/init", "/bin/ls", "/usr/lib/systemd/systemd"),
    *("/bin/busybox", "/usr/bin/python3", "/lib64/libc.so.6"),
)
"""Files that have the ELF header of the host's userland; the first one that is there counts."""


def probe(host: Host, found: Found) -> None:
    """Find `arch`, archspec's family name (`x86_64`, `aarch64`, `ppc64le`)."""
    reasons: list[str] = []
    userland, program = _userland(host, reasons)
    answer = _by_kernel(host, reasons) or _by_cpuinfo(host, reasons, userland, program)
    if answer is None and userland:
        answer = userland, f"ELF header of {program}"
    if answer is None:
        found.cannot_tell("arch", "; ".join(reasons) or "nothing of the host names it")
        return
    family, source = answer
    found.fact("arch", family, source)
    if userland and userland != family:
        found.warn(
            f"{source} says {family}, {program} is for {userland}: what the kernel runs counts, "
            f"{family}"
        )


def _by_kernel(host: Host, reasons: list[str]) -> tuple[str, str] | None:
    if host.live:
        return _named(os.uname().machine, "uname -m", reasons)
    for source in ("uname -m", KERNEL_ARCH):
        try:
            text = host.run("uname", "-m") if source == "uname -m" else host.read(source, 4096)
            answer = _named(text, source, reasons)
        except Missing:
            continue
        except HostError as error:
            reasons.append(str(error))
            continue
        if answer is not None:
            return answer
    return None


def _named(text: str, source: str, reasons: list[str]) -> tuple[str, str] | None:
    name = text.strip()
    family = vocabulary.architecture(name)
    if family is None:
        reasons.append(f"{source} says {clean(name, 60) or 'nothing'}: no known architecture")
        return None
    return family, source


def _by_cpuinfo(
    host: Host, reasons: list[str], userland: str, program: str
) -> tuple[str, str] | None:
    try:
        family = cpuinfo.CpuInfo(host.read(cpuinfo.PATH)).family()
    except HostError as error:
        reasons.append(str(error))
        return None
    if family == "power":
        # ppc64 and ppc64le look the same here; the byte order is that of the programs.
        if userland in ("ppc64", "ppc64le"):
            return userland, f"{cpuinfo.PATH} and ELF header of {program}"
        reasons.append(f"{cpuinfo.PATH} says POWER, and nothing tells its byte order")
        return None
    if family is None:
        reasons.append(f"{cpuinfo.PATH} has no form that names an architecture")
        return None
    return family, cpuinfo.PATH


def _userland(host: Host, reasons: list[str]) -> tuple[str, str]:
    """Return the family and path of the first program with an ELF header, empty if none has."""
    for path in PROGRAMS:
        try:
            data = host.read_bytes(path, HEAD)
        except Missing:
            continue
        except HostError as error:
            reasons.append(str(error))
            continue
        elf = open_elf(partial(_part, data), len(data))
        if elf is not None and vocabulary.architecture(elf.family):
            return elf.family, path
    return "", ""


def _part(data: bytes, offset: int, size: int) -> bytes:
    return data[offset : offset + size]
