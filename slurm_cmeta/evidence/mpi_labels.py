"""What labels say about MPI, where the content does not say it better."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.rules import stated
from slurm_cmeta.facts import Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from typing import Any

    from slurm_cmeta.evidence.subject import Subject

SHOWN = 60
"""Characters of a label's value that a warning shows."""

MAX_VERSION = 40
"""Characters of a version; real ones have up to 20."""


def add(facts: list[Fact], fact: Fact) -> None:
    """Append `fact` unless its key and value are there: the first source is the best one."""
    if not any((f.key, f.value) == (fact.key, fact.value) for f in facts):
        facts.append(fact)


def complete(subject: Subject, facts: list[Fact]) -> None:
    """Add what the labels state to `facts`, which hold what the content tells.

    A label that contradicts the content is ignored with a warning.
    """
    observed = _values(facts, "mpi")
    for rule, value in stated(subject.labels, "mpi"):
        _family_label(subject, facts, observed, rule, value)
    versions = _values(facts, "mpi.version")
    for rule, value in stated(subject.labels, "mpi-version"):
        _version_label(subject, facts, observed, versions, rule, value)
    for rule, value in stated(subject.labels, "mpi-portability"):
        add(facts, Fact(rule["fact"], clean(value), f"label {rule['key']}"))
    _fabrics(subject, facts)


def _values(facts: list[Fact], key: str) -> list[str]:
    return [fact.value for fact in facts if fact.key == key]


def _family_label(
    subject: Subject, facts: list[Fact], observed: list[str], rule: dict[str, Any], value: str
) -> None:
    name = value.lower()
    if name == "unknown":  # one of the three values that Canon & Younge define
        return
    source = f"label {rule['key']}"
    implementation, family = _named(name)
    if not family:
        subject.warnings.add(
            f"{source} says {clean(value, SHOWN)}, which is no MPI known here: ignored"
        )
        return
    if observed and family not in observed:
        subject.warnings.add(
            f"{source} says {clean(value, SHOWN)}, but the image has MPI of the family "
            f"{' and '.join(observed)}: the label is ignored"
        )
        return
    if not observed:
        add(facts, Fact("mpi", family, source, hint=True))
    known = [v for v in _values(facts, "mpi.implementation") if _named(v)[1] == family]
    if rule.get("form") == "implementation" and not known and family != "mpi-abi":
        add(facts, Fact("mpi.implementation", implementation, source, hint=True))
    elif rule.get("form") == "implementation" and known and implementation not in known:
        subject.warnings.add(
            f"{source} says {clean(value, SHOWN)}, but the image has {' and '.join(known)}: "
            "the label is ignored"
        )


def _version_label(
    subject: Subject,
    facts: list[Fact],
    observed: list[str],
    versions: list[str],
    rule: dict[str, Any],
    value: str,
) -> None:
    source = f"label {rule['key']}"
    if len(value) > MAX_VERSION or not value[0].isdigit() or not value.isprintable():
        subject.warnings.add(f"{source} says {clean(value, SHOWN)}, which is no version: ignored")
        return
    family = rule.get("family", "")
    if family and observed and family not in observed:
        subject.warnings.add(
            f"{source} says {clean(value, SHOWN)}, but the image has MPI of the family "
            f"{' and '.join(observed)}: the label is ignored"
        )
        return
    if versions:
        if not any(f"{value}.".startswith(f"{v}.") or f"{v}.".startswith(f"{value}.")
                   for v in versions):  # fmt: skip
            subject.warnings.add(
                f"{source} says {clean(value, SHOWN)}, but the image has version "
                f"{' and '.join(versions)}: the label is ignored"
            )
        return
    if family and not observed:
        add(facts, Fact("mpi", family, source, hint=True))
    add(facts, Fact("mpi.version", value, source, hint=True))


def _named(name: str) -> tuple[str, str]:
    """Return implementation and family of a label's spelling, empty if nobody knows it."""
    for implementation, row in vocabulary.load("mpi")["names"]["implementations"].items():
        if name in row["spellings"]:
            return implementation, row["family"]
    return "", ""


def _fabrics(subject: Subject, facts: list[Fact]) -> None:
    for rule, value in stated(subject.labels, "fabric"):
        for row in vocabulary.load("mpi")["fabrics"]:
            if value.lower() in row["names"]:
                add(facts, Fact("fabric", row["value"], f"label {rule['key']}"))
