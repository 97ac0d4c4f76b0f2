"""Amounts that labels state, and the size of an image unpacked."""

from __future__ import annotations

import random

import pytest
from standins import Link, StandIn, check, values

from slurm_cmeta.evidence import resources
from slurm_cmeta.facts import DECLARED, OBSERVED
from slurm_cmeta.image.filetree import Budget

OWN = "io.slurm-cmeta."
OPENSHIFT = "io.openshift.min-memory"


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [
        ("16384", 16384), ("16384M", 16384), ("16G", 16384), ("16GB", 16384), ("16 GB", 16384),
        ("16GiB", 16384), ("16gi", 16384), ("16g", 16384), ("1T", 2**20), ("1.5T", 1536 * 1024),
        ("0.5G", 512), ("2048K", 2), ("1K", 1), ("1P", 2**30), ("1.", 1), ("0", 0),
        ("", None), ("G", None), ("-1", None), ("+1", None), ("16 X", None), ("16GBs", None),
        ("1e9", None), ("0x10", None), ("1.2.3", None), (".5", None), ("1,5G", None),
        ("16G per node", None), ("\u0663", None), ("1\u0661", None),
        ("9" * 24, None), ("9" * 25, None),
        ("9" * 100_000, None), ("2000000P", None), ("1025P", None), ("1024P", 2**40),
    ],
)  # fmt: skip
def test_mebibytes(text: str, mebibytes: int | None) -> None:
    assert resources.mebibytes(text) == mebibytes


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [
        ("16Gi", 16384), ("512Mi", 512), ("1Ki", 1), ("8G", 7630), ("2048M", 1954), ("1048576", 1),
        ("1048577", 2), ("100k", 1), ("1.5Gi", 1536), ("1Ti", 2**20),
        ("16GiB", None), ("16GB", None), ("16gi", None), ("1K", None), ("1ki", None), ("1m", None),
        ("1e3", None), ("16 Gi", None),
    ],
)  # fmt: skip
def test_kubernetes_quantities(text: str, mebibytes: int | None) -> None:
    assert resources.mebibytes(text, "kubernetes-quantity") == mebibytes


def test_labels() -> None:
    labels = {OWN + "memory": "64G", OWN + "disk": "1.5T", OWN + "gpus": " 4 "}
    subject = StandIn(labels=labels)
    facts = resources.read(subject)
    assert [(f.key, f.value) for f in facts] == [
        ("memory", "65536"),
        ("disk", "1572864"),
        ("gpus", "4"),
    ]
    assert all(f.evidence == DECLARED and not f.hint for f in facts)
    assert facts[0].source == f"label {OWN}memory"
    assert subject.warnings == []


def test_a_suggestion_is_a_hint_and_less_than_a_statement() -> None:
    (suggested,) = resources.read(StandIn(labels={OPENSHIFT: "8Gi"}))
    assert (suggested.key, suggested.value, suggested.hint) == ("memory", "8192", True)
    (stated,) = resources.read(StandIn(labels={OPENSHIFT: "80Gi", OWN + "memory": "2G"}))
    assert (stated.value, stated.hint) == ("2048", False)


@pytest.mark.parametrize("gpus", ["-1", "1.5", "all", "٤", "1025", "9" * 5000])
def test_what_is_no_amount_gives_a_warning(gpus: str) -> None:
    labels = {OWN + "gpus": gpus, OWN + "memory": "much\x1b[31m", OPENSHIFT: "1Gi"}
    subject = StandIn(labels=labels)
    assert [(f.key, f.value) for f in resources.read(subject)] == [("memory", "1024")]
    assert len(subject.warnings) == 2
    assert subject.warnings[0] == (
        f"label {OWN}memory says much\\x1b[31m, which is no amount: ignored"
    )
    check([], subject.warnings)


def test_none_is_needed_where_the_amount_is_zero() -> None:
    subject = StandIn(labels={OWN + "gpus": "0", OWN + "memory": "0"})
    assert resources.read(subject) == []
    assert subject.warnings == []


def test_unpacked_only_when_deep() -> None:
    files: dict[str, bytes | str] = {
        "/bin/sh": b"x" * 1000,
        "/etc/a/b": b"x" * 234,
        "/bin/bash": Link("sh"),
    }
    assert resources.read(StandIn(files)) == []
    (fact,) = resources.read(StandIn(files, deep=True))
    assert (fact.key, fact.value, fact.evidence) == ("unpacked", "1234", OBSERVED)
    assert resources.read(StandIn(deep=True)) == []
    assert resources.read(StandIn({}, deep=True)) == []


def test_unpacked_of_what_was_read_in_part_says_so() -> None:
    subject = StandIn({f"/d{n % 5}/f{n}": b"x" for n in range(100)}, deep=True)
    assert subject.tree is not None
    subject.tree.budget = Budget(10**9, 50, 60.0)
    (fact,) = resources.read(subject)
    assert 0 < int(fact.value) < 100
    assert fact.source.endswith("it has more")


def test_random_labels() -> None:
    chance = random.Random(2702)  # noqa: S311 - repeatable on purpose
    letters = "0123456789.KMGTPiBb \x1b\n-e٣"
    for _ in range(3000):
        text = "".join(chance.choices(letters, k=chance.randrange(30)))
        keys = (OWN + "memory", OWN + "disk", OWN + "gpus", OPENSHIFT)
        subject = StandIn(labels=dict.fromkeys(keys, text))
        facts = resources.read(subject)
        check(facts, subject.warnings)
        for key in ("memory", "disk", "gpus"):
            assert all(0 < int(value) <= 2**40 for value in values(facts, key))
