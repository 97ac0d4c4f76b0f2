"""Lines of logs for the tests of `cmeta report`."""

from __future__ import annotations

import json

BASE = {"v": 1, "event": "submit", "time": 1_795_846_484, "user": 1000, "refused": False}

MATCH = {
    **BASE,
    "name": "train",
    "image": "/images/a.sif",
    "verdict": "match",
    "reason": "narrowed",
    "detail": "cpu>=zen4; cuda>=12.4",
    "before": "ib",
    "after": "ib&zen4",
    "ms": 80,
    "from": "matcher",
}
MISMATCH = {
    **BASE,
    "image": "/images/power.sif",
    "partition": "gpu",
    "verdict": "mismatch",
    "reason": "no-node",
    "detail": "arch=ppc64le",
    "ms": 4,
    "from": "cache",
}
FAULT = {
    **BASE,
    "image": "/images/b.sif",
    "verdict": "fault",
    "reason": "fault",
    "detail": "/images/b.sif: does not exist",
}


def said(value: object) -> str:
    """Return our part of a line."""
    return "cmeta decision " + json.dumps(value, separators=(",", ":"))


def logged(*values: object) -> bytes:
    """Return what slurmctld writes by default."""
    return b"".join(f"[2026-11-28T06:14:44.077] lua: {said(v)}\n".encode() for v in values)
