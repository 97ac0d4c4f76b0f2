"""What a probe found, in a form to compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_cmeta.node import Found
from slurm_cmeta.node.host import Host, HostError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def look(probe: ModuleType, root: Path) -> Found:
    """Run one probe as probes.look() does, but let its mistakes out."""
    found = Found()
    reason = "the probe did not say"
    try:
        probe.probe(Host(str(root)), found)
    except HostError as error:
        reason = str(error)
    answered = {f.key for f in found.facts} | {u.key for u in found.unknown}
    for key in probe.KEYS:
        if key not in answered:
            found.cannot_tell(key, reason)
    assert {f.key for f in found.facts} <= set(probe.KEYS)
    return found


def facts(found: Found) -> dict[str, list[str]]:
    """Return the values of each key."""
    values: dict[str, list[str]] = {}
    for fact in found.facts:
        values.setdefault(fact.key, []).append(fact.value)
    return values


def unknown(found: Found) -> dict[str, str]:
    """Return why each unknown key is unknown: the first reason."""
    return {each.key: each.reason for each in reversed(found.unknown)}
