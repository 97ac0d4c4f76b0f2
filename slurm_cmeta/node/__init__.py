"""What this host is: facts, read below a root that tests can move, then the features they give.

A probe is a module with KEYS (the keys that it answers) and `probe(host, found)`. For each of its
keys it adds facts, the fact `none` where it is certain that there is no such thing, or says why it
cannot tell. What a probe leaves open, or could not finish, is unknown: never absent.
"""

from __future__ import annotations

from slurm_cmeta.record import NamedTuple

NONE = "none"
"""The value of a fact that says: this host certainly has not."""


class NodeFact(NamedTuple):
    """One thing known about the host. docs/features.md lists the keys."""

    key: str
    value: str
    source: str
    """The file (without the root), the program or the table that told it."""


class Unknown(NamedTuple):
    """A key that a probe could not answer."""

    key: str
    reason: str


class Found:
    """What the probes found, in the order in which they found it."""

    def __init__(self) -> None:
        self.facts: list[NodeFact] = []
        self.unknown: list[Unknown] = []
        self.warnings: list[str] = []

    def fact(self, key: str, value: object, source: str) -> None:
        """Add a fact; the same key may have several values, each is kept once."""
        text = str(value)
        if not any(f.key == key and f.value == text for f in self.facts):
            self.facts.append(NodeFact(key, text, source))

    def cannot_tell(self, key: str, reason: object) -> None:
        """Say that `key` is unknown, or that its facts may not be all, and why."""
        self.unknown.append(Unknown(key, str(reason)))

    def warn(self, text: str) -> None:
        """Say what the admin should know, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def values(self, key: str) -> list[str]:
        """Return the values of `key`, without `none`."""
        return [f.value for f in self.facts if f.key == key and f.value != NONE]

    def value(self, key: str) -> str | None:
        """Return the first value of `key`, None where it is unknown or the host has none."""
        return next(iter(self.values(key)), None)

    def is_unknown(self, key: str) -> bool:
        """Return whether a probe said that it cannot tell (all of) `key`."""
        return any(u.key == key for u in self.unknown)
