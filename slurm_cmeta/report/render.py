"""A report as text for one screen, and as JSON. Pure functions."""

from __future__ import annotations

import time

from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.report.totals import OUTCOMES, REFUSED, WOULD_REFUSE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from slurm_cmeta.report.totals import Row, Tally, Totals

SCHEMA = "cmeta.report/1"

_TITLES = {
    WOULD_REFUSE: "Would be refused",
    REFUSED: "Refused",
}


def as_text(found: Totals, top: int, name_of: Callable[[str], str]) -> list[str]:
    """Return the lines of a report, with `top` rows of each table; `name_of` tells users' names."""
    if not found.decisions:
        return ["no decision found", *_notes(found)]
    lines = [_head(found), "", f"{'JOBS':>8}  {'SHARE':>6}  OUTCOME"]
    for kind, meaning in OUTCOMES.items():
        count = found.outcomes[kind]
        if count:
            share = f"{100 * count / found.decisions:.1f} %"
            said = f": {meaning}" if meaning else ""
            lines.append(f"{count:>8}  {share:>6}  {kind}{said}")
    for kind, title in _TITLES.items():
        tallies = found.tallies[kind]
        lines += _table(f"{title}, by what nodes fail", tallies["needs"], top)
        lines += _table(f"{title}, by image", tallies["images"], top)
        for by in ("partitions", "users"):
            rows = tallies[by].rows()
            names = [(name_of(r.what) if by == "users" else r.what, r.times) for r in rows[:top]]
            more = f", {len(rows) - top} more" if len(rows) > top else ""
            if rows:
                said = ", ".join(f"{name} {count}" for name, count in names)
                lines.append(f"{by:>16}  {said}{more}")
    lines += _table("Narrowed, by what some nodes fail", found.narrowed, top)
    lines += _table("No evidence, by image", found.no_evidence, top)
    lines += _table("Not compared: no node publishes", found.not_compared, top)
    lines += _table("Faults, by cause", found.faults, top)
    return [*lines, *_notes(found)]


def _head(found: Totals) -> str:
    first, last = (
        time.strftime("%Y-%m-%d %H:%M", time.localtime(when or 0))
        for when in (found.first, found.last)
    )
    plural = "" if found.decisions == 1 else "s"
    text = f"{found.decisions} decision{plural} from {first} to {last}"
    if found.timed:
        cached = f"{100 * found.cached / found.timed:.0f} % from the cache"
        text += f", {found.ms / found.timed:.0f} ms each, {cached}"
    return text


def _table(title: str, tally: Tally, top: int) -> list[str]:
    rows = tally.rows()
    if not rows:
        return []
    lines = ["", f"{'JOBS':>8}  {'USERS':>6}  {title}"]
    lines += [f"{row.times:>8}  {row.users:>6}  {_cut(row.what)}" for row in rows[:top]]
    left = sum(row.times for row in rows[top:]) + tally.forgotten
    if left:
        lines.append(f"{left:>8}          in {len(rows) - top} or more others (--top, --json)")
    return lines


def _cut(text: str, most: int = 100) -> str:
    """Keep the end of a long text: of a path it tells more."""
    return text if len(text) <= most else f"...{text[3 - most :]}"


def _notes(found: Totals) -> list[str]:
    counts = (
        (found.updates, "updates by scontrol got what the image needs again"),
        (found.errors, "errors in cmeta.lua, which left the job as it was: see the log"),
        (found.ignored, "values were handed over and not taken: see the log"),
        (found.broken, "lines look like decisions and are none"),
    )
    lines = [f"{count:>8}  {text}" for count, text in counts if count]
    return ["", *lines] if lines else []


def as_json(found: Totals, files: Sequence[str]) -> dict[str, Any]:
    """Return the object of docs/schema/cmeta.report-1.json."""

    def by(kind: str) -> dict[str, Any]:
        return {name: _rows(tally) for name, tally in found.tallies[kind].items()}

    return {
        "schema": SCHEMA,
        "files": list(files),
        "first": found.first,
        "last": found.last,
        "decisions": found.decisions,
        "outcomes": {kind.replace(" ", "_"): count for kind, count in found.outcomes.items()},
        "verdicts": dict(sorted(found.verdicts.items())),
        "steps": found.steps,
        "updates": found.updates,
        "timed": found.timed,
        "milliseconds": found.ms,
        "cache_hits": found.cached,
        "controller_errors": found.errors,
        "ignored": found.ignored,
        "broken_lines": found.broken,
        "would_be_refused": by(WOULD_REFUSE),
        "refused": by(REFUSED),
        "narrowed": {"needs": _rows(found.narrowed)},
        "no_evidence": {"images": _rows(found.no_evidence)},
        "not_compared": {"needs": _rows(found.not_compared)},
        "faults": {"causes": _rows(found.faults)},
    }


MAX_ROWS = 1_000
"""Of each table in JSON; the counts above are of all."""


def _rows(tally: Tally) -> list[dict[str, Any]]:
    rows: list[Row] = tally.rows(MAX_ROWS)
    return [{"what": row.what, "count": row.times, "users": row.users} for row in rows]
