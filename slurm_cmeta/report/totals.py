"""Decisions added up. Pure: lines in, numbers out, in bounded memory."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.report.line import BROKEN, ERROR, IGNORED, Decision

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_KEYS = 10_000
"""Different things that a tally counts; a log may name millions of images."""

MAX_USERS = 1_000
"""Users told apart for one thing."""

REFUSED = "refused"
WOULD_REFUSE = "would be refused"
OUTCOMES = {
    WOULD_REFUSE: "no node can run the image, and on_mismatch is warn",
    REFUSED: "not submitted",
    "narrowed": "kept from nodes that cannot run the image",
    "fits": "all nodes will do",
    "no evidence": "nothing is known of what the image needs",
    "not compared": "no node publishes what the image needs",
    "fault": "left as it was written",
    "off": "the user said --cmeta=off",
    "missing": "came without a decision, from a host without the plugin",
    "other": "",
}
"""What became of a submission -> what that means, in the order of the report."""

_UNKNOWN = {"no-evidence": "no evidence", "not-compared": "not compared"}


def outcome(decision: Decision) -> str:
    """Return the key of OUTCOMES that a submission belongs to."""
    if decision.refused:
        return REFUSED
    if decision.verdict == "mismatch":
        return WOULD_REFUSE
    if decision.verdict == "match":
        narrowed = decision.before != decision.after or decision.exclude
        return "narrowed" if narrowed else "fits"
    if decision.verdict == "unknown":
        return _UNKNOWN.get(decision.reason, "other")
    return decision.verdict if decision.verdict in OUTCOMES else "other"


class Row(NamedTuple):
    """One thing, and how often it was met."""

    what: str
    times: int
    users: int


class Tally:
    """Counts by name. Of more than MAX_KEYS the rarest are forgotten, but for their sum."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, set[int]]] = {}
        self.forgotten = 0

    def add(self, what: str, user: int | None) -> None:
        """Count one."""
        count, users = self._found.get(what) or (0, set())
        if user is not None and len(users) < MAX_USERS:
            users.add(user)
        self._found[what] = count + 1, users
        if len(self._found) > MAX_KEYS:
            self._forget()

    def _forget(self) -> None:
        rows = sorted(self._found.items(), key=lambda item: -item[1][0])
        self._found = dict(rows[: MAX_KEYS // 2])
        self.forgotten += sum(count for _, (count, _) in rows[MAX_KEYS // 2 :])

    def rows(self, most: int | None = None) -> list[Row]:
        """Return what was met most often first."""
        rows = [Row(what, count, len(users)) for what, (count, users) in self._found.items()]
        return sorted(rows, key=lambda row: (-row.times, row.what))[:most]


class Totals:
    """What a report shows."""

    def __init__(self, since: int = 0) -> None:
        self._since = since
        self.first: int | None = None
        self.last: int | None = None
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.verdicts: dict[str, int] = {}
        self.steps = self.updates = self.broken = self.errors = self.ignored = 0
        self.timed = self.cached = self.ms = 0
        self.tallies = {
            kind: {by: Tally() for by in ("needs", "images", "partitions", "users")}
            for kind in (WOULD_REFUSE, REFUSED)
        }
        self.narrowed, self.no_evidence, self.not_compared = Tally(), Tally(), Tally()
        self.faults = Tally()

    @property
    def decisions(self) -> int:
        """Return the number of submissions, steps that were refused included."""
        return sum(self.outcomes.values())

    def add(self, found: Decision | str | None) -> None:
        """Add what line.parse() returned."""
        if isinstance(found, Decision):
            if found.time >= self._since:
                self._add(found)
        elif found == BROKEN:
            self.broken += 1
        elif found == ERROR:
            self.errors += 1
        elif found == IGNORED:
            self.ignored += 1

    def _add(self, one: Decision) -> None:
        self.first = one.time if self.first is None else min(self.first, one.time)
        self.last = one.time if self.last is None else max(self.last, one.time)
        if one.event == "update":
            self.updates += 1
            return
        self.steps += one.event == "step"
        self.verdicts[one.verdict] = self.verdicts.get(one.verdict, 0) + 1
        if one.ms is not None:
            self.timed += 1
            self.ms += one.ms
            self.cached += one.cached
        kind = outcome(one)
        self.outcomes[kind] += 1
        if kind in self.tallies:
            tallies = self.tallies[kind]
            tallies["needs"].add(_why(one), one.user)
            tallies["images"].add(one.image or "(none)", one.user)
            tallies["partitions"].add(one.partition or "(default)", one.user)
            tallies["users"].add("unknown" if one.user is None else str(one.user), one.user)
        elif kind == "narrowed":
            _add_all(self.narrowed, _needs(one), one.user)
        elif kind == "no evidence":
            self.no_evidence.add(one.image, one.user)
        elif kind == "not compared":
            _add_all(self.not_compared, _needs(one), one.user)
        elif kind == "fault":
            self.faults.add(_cause(one), one.user)


def _add_all(tally: Tally, names: Iterable[str], user: int | None) -> None:
    for name in names:
        tally.add(name, user)


def _needs(one: Decision) -> list[str]:
    return one.detail.split("; ") if one.detail else ["(not said)"]


def _cause(one: Decision) -> str:
    """Return the cause of a fault, the same for all images that have it."""
    return one.detail.replace(one.image, "IMAGE") if one.image else one.detail or "(not said)"


def _why(one: Decision) -> str:
    """Return why a submission was, or would be, refused."""
    if one.verdict == "missing":
        return "no decision: from a host without the plugin"
    if one.reason == "fault" or one.verdict == "fault":
        return f"fault: {_cause(one)}"
    if one.reason == "own-options":
        return f"{one.detail} (met by nodes that the job's own options leave out)"
    return one.detail or one.reason or "(not said)"
