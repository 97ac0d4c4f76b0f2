"""One line of a log: a decision, or something else that slurm-cmeta wrote there. Pure functions.

Users choose most of what is in a decision, and slurmctld logs other things that users choose. So a
line counts only when nothing but the logger's own words stand before ours: what slurmctld puts
there in every LogTimeFormat (src/common/log.c, set_idbuf: all of it in brackets), what syslog puts
there, or nothing.
"""

from __future__ import annotations

import json
import re

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from typing import Any

MAX_LINE = 65_536
"""Bytes of a line that are looked at; ours have at most 8,192, in journald's JSON a few more."""

VERDICTS = frozenset(("match", "mismatch", "unknown", "fault", "off", "missing"))

OURS = b"cmeta"
"""A line without it is none of ours."""

_SLURM = rb"\[(?:[^\[\]]|\[\d{1,10}\]){1,120}\] "
_DATE = (
    rb"(?:[A-Z][a-z]{2} [ \d]\d [\d:.]{8,15}"  # RFC 3164, and short-precise of journalctl
    rb"|\d{4}-\d\d-\d\dT[\d:.,]{8,15}(?:Z|[+-][\d:]{4,6})?"
    rb"|[A-Z][a-z]{2} \d{4}-\d\d-\d\d [\d:.]{8,15} \S{1,8})"  # short-full
)
_SYSLOG = rb"(?:<\d{1,3}>)?(?:" + _DATE + rb" \S{1,255} )?(?:slurmctld|cmeta)(?:\[\d{1,10}\])?: "
_BEFORE = rb"(?:" + _SYSLOG + rb")?(?:" + _SLURM + rb")?(?:job_submit/)?(?:lua: )?"
_DECISION = re.compile(_BEFORE + rb"cmeta decision (\{.*\})\s*\Z")
_ERROR = re.compile(_BEFORE + rb"cmeta: error, the job is left as it is")
_IGNORED = re.compile(_BEFORE + rb"cmeta: ignored a handed-over ")

_IDENTIFIERS = frozenset(("slurmctld", "cmeta"))

MAX_TEXT = {"name": 64, "partition": 64, "image": 512, "identity": 128, "reason": 64}
"""Characters of a value: what we write, and no more of what others wrote. The rest: 1,024."""

BROKEN = "broken"
ERROR = "error"
IGNORED = "ignored"


class Decision(NamedTuple):
    """One line. Texts are clean, and empty where there is nothing."""

    event: str
    """`submit`, `step` (of an allocation), or `update` (scontrol)."""
    time: int
    """Seconds since 1970."""
    user: int | None
    verdict: str
    """One of VERDICTS; `invalid` for another word; empty for an update."""
    refused: bool
    name: str = ""
    partition: str = ""
    image: str = ""
    identity: str = ""
    reason: str = ""
    detail: str = ""
    before: str = ""
    after: str = ""
    exclude: str = ""
    ms: int | None = None
    cached: bool = False
    job: int | None = None


def parse(raw: bytes) -> Decision | str | None:
    """Return the decision in a line; BROKEN, ERROR or IGNORED; None for a line of somebody else's.

    ERROR is a fault of the controller's half, IGNORED something handed over that was not taken.
    """
    if OURS not in raw:
        return None
    line = _of_journal(raw) if raw.startswith(b"{") else raw
    if line is None:
        return None
    match = _DECISION.match(line)
    if match:
        return _decision(match[1]) or BROKEN
    if _ERROR.match(line):
        return ERROR
    return IGNORED if _IGNORED.match(line) else None


def _of_journal(raw: bytes) -> bytes | None:
    """Return the message of an entry of `journalctl -o json`, when it is slurmctld's or ours."""
    entry = _object(raw)
    if entry is None or str(entry.get("SYSLOG_IDENTIFIER")) not in _IDENTIFIERS:
        return None
    message = entry.get("MESSAGE")  # a list of bytes where it is no text, as none of ours is
    return message.encode("utf-8", "replace") if isinstance(message, str) else None


def cursor(raw: bytes) -> str:
    """Return where an entry of `journalctl -o json` stands; empty when it does not say."""
    found = (_object(raw) or {}).get("__CURSOR")
    return found if isinstance(found, str) else ""


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _decision(raw: bytes) -> Decision | None:
    found = _object(raw)
    if found is None or found.get("v") != 1:
        return None
    event, refused = found.get("event"), found.get("refused")
    time = _number(found.get("time"))
    if event not in ("submit", "step", "update") or not isinstance(refused, bool) or time is None:
        return None
    verdict = _text(found, "verdict")
    if event != "update" and verdict not in VERDICTS:
        verdict = "invalid"
    return Decision(
        event,
        time,
        _number(found.get("user")),
        verdict,
        refused,
        _text(found, "name"),
        _text(found, "partition"),
        _text(found, "image"),
        _text(found, "identity"),
        _text(found, "reason"),
        _text(found, "detail"),
        _text(found, "before"),
        _text(found, "after"),
        _text(found, "exclude"),
        _number(found.get("ms")),
        found.get("from") == "cache",
        _number(found.get("job")),
    )


def _number(value: object) -> int | None:
    """Return a whole number that a counter can take; dates until the year 9999."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < 253_402_300_800 else None


def _text(found: dict[str, Any], key: str) -> str:
    value = found.get(key)
    return clean(value, MAX_TEXT.get(key, 1024)) if isinstance(value, str) else ""
