"""Facts turned into requirements."""

from __future__ import annotations

import pytest

from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.requirement import from_facts


def requires(*facts: Fact, **strengths: str) -> list[tuple[str, str, str, str]]:
    return [(r.key, r.op, r.value, r.strength) for r in from_facts(facts, strengths)]


ARM = Fact("arch", "aarch64", "SIF partition descriptor 3")


def test_an_architecture_is_hard() -> None:
    assert requires(ARM) == [("arch", "=", "aarch64", "hard")]


def test_a_declared_target_is_hard_and_a_hint_is_soft() -> None:
    assert requires(Fact("cpu", "zen4", "label a")) == [("cpu", ">=", "zen4", "hard")]
    assert requires(Fact("cpu", "zen4", "label a", hint=True)) == [("cpu", ">=", "zen4", "soft")]


def test_the_site_overrides_the_strength() -> None:
    assert requires(Fact("cpu", "zen4", "x"), cpu="soft") == [("cpu", ">=", "zen4", "soft")]
    assert requires(Fact("cpu", "zen4", "x"), cpu="ignore") == []
    assert requires(Fact("cpu", "zen4", "x", hint=True), cpu="hard")[0][3] == "hard"


def test_a_cpu_that_is_only_an_architecture_asks_nothing() -> None:
    assert requires(Fact("cpu", "x86_64", "label")) == []


def test_other_facts_ask_nothing() -> None:
    assert requires(Fact("format", "sif", "x"), Fact("base", "ubuntu", "y")) == []


def test_the_stronger_target_is_kept_alone() -> None:
    facts = (Fact("cpu", "x86_64_v3", "a"), Fact("cpu", "zen4", "b"), Fact("cpu", "zen4", "c"))
    assert requires(*facts) == [("cpu", ">=", "zen4", "hard")]


def test_a_wish_never_replaces_a_need() -> None:
    facts = (Fact("cpu", "x86_64_v3", "a"), Fact("cpu", "zen4", "b", hint=True))
    assert requires(*facts) == [("cpu", ">=", "x86_64_v3", "hard"), ("cpu", ">=", "zen4", "soft")]


def test_targets_without_order_are_both_needed() -> None:
    facts = (Fact("cpu", "zen4", "a"), Fact("cpu", "icelake", "b"))
    assert [r[2] for r in requires(*facts)] == ["icelake", "zen4"]


@pytest.mark.parametrize("evidence", ["declared", OBSERVED])
def test_evidence_and_source_are_kept(evidence: str) -> None:
    (requirement,) = from_facts([Fact("cpu", "zen4", "ELF note", evidence)])
    assert (requirement.evidence, requirement.source) == (evidence, "ELF note")
