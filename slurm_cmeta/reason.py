"""A decision in one word and what it was about, for the log (docs/report.md). Pure functions."""

from __future__ import annotations

from slurm_cmeta import compare
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.requirement import HARD, KEYS
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_cmeta.decide import Decision
    from slurm_cmeta.match import Reason
    from slurm_cmeta.requirement import Requirement
    from slurm_cmeta.submission import ImageReport

NARROWED = "narrowed"
FITS = "fits"
NO_NODE = "no-node"
OWN_OPTIONS = "own-options"
NO_EVIDENCE = "no-evidence"
NOT_COMPARED = "not-compared"
UNREACHED = "unreached"
ELSEWHERE = "elsewhere"
FAULT = "fault"

MAX_REASON = 400
"""Characters; spank/answer.c takes no more than four bytes for each."""


def of(decision: Decision, requirements: Sequence[Requirement]) -> str:
    """Return the decision's code, and after a blank the needs that made it: `no-node cpu>=zen5`."""
    classes = decision.classes
    unfit = [v.reasons for v in classes if v.verdict != compare.MATCH]
    if decision.verdict == compare.MATCH:
        code = NARROWED if decision.constraint or decision.exclude else FITS
        needs = _failed(unfit) if code == NARROWED else []
    elif not requirements:
        code, needs = NO_EVIDENCE, []
    elif unfit and len(unfit) == len(classes):
        code, needs = NO_NODE, _failed(unfit)
    elif decision.verdict == compare.MISMATCH:
        code, needs = OWN_OPTIONS, _failed(unfit)
    elif classes and all(r.verdict == compare.UNCHECKED for v in classes for r in v.reasons):
        code, needs = NOT_COMPARED, list(dict.fromkeys(map(_said, classes[0].reasons)))
    else:
        code, needs = UNREACHED, []
    return clean(" ".join((code, "; ".join(needs))).rstrip(), MAX_REASON)


def identity(report: ImageReport) -> str | None:
    """Return `DEVICE:INODE:SIZE:MTIME` (nanoseconds) of the image's file, or its digest.

    None for a directory, or a file that was read in part.
    """
    if report.pinned:
        return report.pinned.rpartition("@")[2]
    if report.sources is None or not report.sources.files:
        return None
    file = report.sources.files[0]
    return f"{file.device}:{file.inode}:{file.size}:{file.mtime_ns}"


def _failed(unfit: Sequence[Sequence[Reason]]) -> list[str]:
    """Return the needs that none of these nodes meets; where each meets some, all."""
    each = [
        dict.fromkeys(
            _said(r) for r in reasons if r.strength == HARD and r.verdict == compare.MISMATCH
        )
        for reasons in unfit
    ]
    common = [one for one in (each[0] if each else ()) if all(one in other for other in each)]
    return common or _once(each)


def _once(each: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(one for some in each for one in some))


def _said(reason: Reason) -> str:
    return f"{reason.key}{KEYS.get(reason.key, '=')}{clean(reason.needs, 80)}"
