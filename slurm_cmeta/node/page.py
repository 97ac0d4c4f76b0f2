"""The size of the kernel's memory pages.

Some families' kernels are built for one of several sizes. Of a replayed host tell it: what getconf
said, the kernel's configuration, or the size of a huge page (Linux on Arm: a table of pages has
page/8 entries, so that a huge page has page * page/8 bytes).
"""

from __future__ import annotations

import os
import re
import zlib
from functools import partial

from slurm_cmeta import vocabulary
from slurm_cmeta.node.host import HostError, Missing
from slurm_cmeta.node.kernel import release
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("page",)

HUGE = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

MAX_CONFIG = 2 << 20
"""Bytes of a kernel's configuration; real ones have 150 to 300 kB."""

_SIZES = frozenset(1 << shift for shift in range(12, 19))
"""4 KiB to 256 KiB: all that Linux has been built for."""

_SHIFT = re.compile(r"^CONFIG_(?:ARM64_|PPC_)?PAGE_SHIFT=(\d{1,2})$", re.ASCII | re.MULTILINE)
_CHOICE = re.compile(
    r"^CONFIG_(?:(?:ARM64|PPC)_(\d{1,3})K_PAGES|PAGE_SIZE_(\d{1,3})KB)=y$", re.ASCII | re.MULTILINE
)


def probe(host: Host, found: Found) -> None:
    """Find `page` in bytes."""
    if host.live:
        found.fact("page", os.sysconf("SC_PAGE_SIZE"), "getconf PAGESIZE")
        return
    family = found.value("arch")
    reasons: list[str] = []
    for source, ask in _ways(host, family):
        try:
            text = ask()
        except Missing:
            continue
        except HostError as error:
            reasons.append(str(error))
            continue
        size = _size(source, text)
        if size in _SIZES:
            found.fact("page", size, source)
            return
        reasons.append(f"{source} names no page size ({clean(text.strip(), 40)})")
    only = vocabulary.page_size(family or "")
    if only is not None:
        found.fact("page", only, f"the only size of {family}")
        return
    several = f"kernels of {family} have pages of several sizes" if family else ""
    reasons.append(several or "the architecture is unknown")
    found.cannot_tell("page", "; ".join(reasons))


def _ways(host: Host, family: str | None) -> list[tuple[str, Callable[[], str]]]:
    kernel, _ = release(host)
    ways: list[tuple[str, Callable[[], str]]] = [
        ("getconf PAGESIZE", partial(host.run, "getconf", "PAGESIZE")),
        ("/proc/config.gz", partial(_unpacked, host, "/proc/config.gz")),
    ]
    if kernel is not None:
        for path in (f"/boot/config-{kernel}", *(f"{d}/{kernel}/config" for d in _MODULES)):
            ways.append((path, partial(host.read, path, MAX_CONFIG)))
    if family == "aarch64":
        ways.append((HUGE, partial(host.read, HUGE, 4096)))
    return ways


_MODULES = ("/lib/modules", "/usr/lib/modules")
"""Where RPM distributions have the configuration of each kernel."""


def _size(source: str, text: str) -> int:
    """Return the size in bytes that an answer names, 0 where it names none."""
    if source.startswith("getconf") or source == HUGE:
        number = int(text) if re.fullmatch(r"\s*[0-9]{1,12}\s*", text) else 0
        if source != HUGE:
            return number
        return next((size for size in _SIZES if size * size // 8 == number), 0)
    shift = _SHIFT.search(text)
    if shift:
        return 1 << int(shift[1])
    choice = _CHOICE.search(text)
    return int(choice[1] or choice[2]) * 1024 if choice else 0


def _unpacked(host: Host, path: str) -> str:
    """Return the text of a gzip file, as far as it is sound, empty where it is none."""
    stream = zlib.decompressobj(wbits=31)
    try:
        data = stream.decompress(host.read_bytes(path, MAX_CONFIG), MAX_CONFIG)
    except zlib.error:
        return ""
    return data.decode("utf-8", "replace")
