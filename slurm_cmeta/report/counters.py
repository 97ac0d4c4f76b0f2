"""Counters for Prometheus, and how far the log was read for them."""

from __future__ import annotations

import json
import os
import zlib

from slurm_cmeta import wholefile
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.report import logs, totals
from slurm_cmeta.report.line import BROKEN, ERROR, IGNORED, VERDICTS, Decision, cursor, parse
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SCHEMA = "cmeta.report-state/1"

METRICS = {
    "cmeta_decisions_total": ("counter", "Submissions with a container that were decided on."),
    "cmeta_refused_total": ("counter", "Submissions that were refused."),
    "cmeta_narrowed_total": ("counter", "Jobs kept from nodes that cannot run their image."),
    "cmeta_no_evidence_total": ("counter", "Jobs with an image that nothing is known of."),
    "cmeta_faults_total": (
        "counter",
        "Submissions left as they were, for a fault of the client's.",
    ),
    "cmeta_controller_errors_total": (
        "counter",
        "Errors in cmeta.lua; the job was left as it was.",
    ),
    "cmeta_ignored_total": ("counter", "Values that were handed over and not taken."),
    "cmeta_updates_total": ("counter", "Updates by scontrol that got what an image needs again."),
    "cmeta_cache_hits_total": ("counter", "Decisions that were kept from an earlier submission."),
    "cmeta_decision_seconds": ("summary", "What the client waited for a decision."),
    "cmeta_broken_lines_total": ("counter", "Lines of the log that look like ours and are not."),
    "cmeta_last_decision_timestamp_seconds": ("gauge", "When the last decision was made."),
}
"""Name -> type and help text. docs/report.md lists the same."""

_VERDICT = 'cmeta_decisions_total{{verdict="{}"}}'
_SUM, _COUNT = "cmeta_decision_seconds_sum", "cmeta_decision_seconds_count"
_LAST = "cmeta_last_decision_timestamp_seconds"
_NOTES = {
    BROKEN: "cmeta_broken_lines_total",
    ERROR: "cmeta_controller_errors_total",
    IGNORED: "cmeta_ignored_total",
}
_HEAD = 256
"""Bytes at the start of a log by which it is told from another with its inode."""

SAMPLES = (
    *(_VERDICT.format(verdict) for verdict in sorted((*VERDICTS, "invalid"))),
    *(name for name, (kind, _) in METRICS.items() if kind != "summary" and "decisions" not in name),
    *(_SUM, _COUNT),
)


class Position(NamedTuple):
    """How far a log was read."""

    device: int = 0
    inode: int = 0
    offset: int = 0
    head: int = 0
    """CRC-32 of its first bytes, at most _HEAD and not beyond `offset`."""
    cursor: str = ""
    """The same of the journal."""


class Counters:
    """Numbers that only grow; `_SUM` is in milliseconds here."""

    def __init__(self, values: dict[str, int] | None = None) -> None:
        self.values = dict.fromkeys(SAMPLES, 0) | (values or {})

    def add(self, found: Decision | str | None) -> None:
        """Add what line.parse() returned."""
        if isinstance(found, str):
            self.values[_NOTES[found]] += 1
        if not isinstance(found, Decision):
            return
        if found.event == "update":
            self.values["cmeta_updates_total"] += 1
            return
        self.values[_VERDICT.format(found.verdict)] += 1
        self.values[_LAST] = max(self.values[_LAST], found.time)
        kind = totals.outcome(found)
        counted = {"narrowed": "cmeta_narrowed_total", "no evidence": "cmeta_no_evidence_total"}
        for name, yes in (
            ("cmeta_refused_total", found.refused),
            ("cmeta_faults_total", found.verdict == "fault"),
            ("cmeta_cache_hits_total", found.cached),
            (counted.get(kind, ""), kind in counted),
            (_COUNT, found.ms is not None),
        ):
            if yes:
                self.values[name] += 1
        self.values[_SUM] += found.ms or 0

    def render(self) -> str:
        """Return a file for the textfile collector of node_exporter."""
        text = []
        for name, (kind, words) in METRICS.items():
            text += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
            own = (name, _SUM, _COUNT) if kind == "summary" else (name,)
            for sample in SAMPLES:
                if sample.partition("{")[0] in own:
                    value = self.values[sample]
                    text.append(f"{sample} {value / 1000 if sample == _SUM else value}")
        return "\n".join(text) + "\n"


def update(path: str, log: str | None) -> None:
    """Write the textfile at `path`: what it counted before, and what `log` has got since.

    Without a log, the journal is read. Raises ClusterError.
    """
    state = _state_of(path)
    counters, position = _load(state)
    if log is None:
        position = _count_journal(counters, position)
    else:
        position = _count_log(counters, log, position)
    # In this order: a textfile that could not be written is made up for the next time.
    kept = {"schema": SCHEMA, "counters": counters.values, "position": position._asdict()}
    wholefile.write(state, json.dumps(kept) + "\n")
    wholefile.write(path, counters.render())


def _state_of(path: str) -> str:
    """Return where the position is kept: the collector reads *.prom alone."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.state")


def _load(state: str) -> tuple[Counters, Position]:
    try:
        with open(state, "rb") as file:
            found: Any = json.loads(file.read(1 << 16))
        counters = {key: int(found["counters"].get(key, 0)) for key in SAMPLES}
        position = Position(**found["position"])
        numbers = all(isinstance(n, int) for n in (*counters.values(), *position[:4]))
        if found["schema"] != SCHEMA or not numbers or not isinstance(position.cursor, str):
            raise ValueError
    except FileNotFoundError:
        return Counters(), Position()
    except OSError as error:
        raise ClusterError(f"{clean(state)}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ClusterError(
            f"{clean(state)}: not the state of `cmeta report --textfile`; remove it to count anew"
        ) from None
    return Counters(counters), position


def _count_journal(counters: Counters, position: Position) -> Position:
    last = position.cursor
    options = [f"--after-cursor={last}"] if last else []
    for raw in logs.journal(*options):
        last = cursor(raw) or last
        counters.add(parse(raw))
    return position._replace(cursor=last)


def _count_log(counters: Counters, log: str, position: Position) -> Position:
    try:
        for rotated in _missed(log, position):
            for raw in rotated:
                counters.add(parse(raw))
        with open(log, "rb") as file:
            status = os.fstat(file.fileno())
            start = position.offset if _is_at(log, position) else 0
            file.seek(start)
            offset = start
            for raw, end in logs.lines(file, whole=True):
                counters.add(parse(raw))
                offset = start + end
            file.seek(0)
            head = zlib.crc32(file.read(min(offset, _HEAD)))
    except OSError as error:
        raise ClusterError(f"{clean(log)}: the log cannot be read: {error.strerror}") from None
    return position._replace(device=status.st_dev, inode=status.st_ino, offset=offset, head=head)


def _is_at(path: str, position: Position) -> bool:
    """Tell whether this is the file that was read up to the position, and no shorter now."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        same = (status.st_dev, status.st_ino) == (position.device, position.inode)
        if not same or status.st_size < position.offset:
            return False
        return zlib.crc32(file.read(min(position.offset, _HEAD))) == position.head


def _missed(log: str, position: Position) -> Iterator[Iterator[bytes]]:
    """Yield the lines that came into files which were rotated away since: of that where the
    position is, and of those after it. Where it is gone, or compressed, nothing is known of it."""
    if not position.inode or _is_at(log, position):
        return
    older = [path for path in logs.with_rotated(log) if path != log]
    for number, path in enumerate(older):
        if _is_at(path, position):
            yield _rest(path, position.offset)
            yield from map(logs.read, older[number + 1 :])
            return


def _rest(path: str, offset: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(offset)
        yield from (raw for raw, _ in logs.lines(file))
