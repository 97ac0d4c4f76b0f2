"""Run all probes on a host."""

from __future__ import annotations

from importlib import import_module

from slurm_cmeta.node import Found
from slurm_cmeta.node.host import HostError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from types import ModuleType

    from slurm_cmeta.node.host import Host

PROBES = (
    "architecture",
    "cpu",
    "page",
    "kernel",
    "libc",
    "memory",
    "nvidia",
    "amd",
    "intel",
    "network",
    "runtime",
    "mpi",
)
"""Modules of this package, in the order in which they run: later ones may use what earlier ones
found."""


def modules() -> list[ModuleType]:
    """Return the probes."""
    return [import_module(f"slurm_cmeta.node.{name}") for name in PROBES]


def look(host: Host) -> Found:
    """Return what the probes find; a probe that fails leaves its keys unknown."""
    found = Found()
    for module in modules():
        reason = "the probe did not say"
        try:
            module.probe(host, found)
        except HostError as error:
            reason = str(error)
        except Exception as error:  # a mistake of ours, or a file like none seen before
            reason = f"the probe failed: {type(error).__name__}: {clean(str(error))}"
        answered = {f.key for f in found.facts} | {u.key for u in found.unknown}
        for key in module.KEYS:
            if key not in answered:
                found.cannot_tell(key, reason)
    return found
