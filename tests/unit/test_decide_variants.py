"""One submission of an image with several variants, of which each node takes its own."""

from __future__ import annotations

import pytest
from test_decide import ARM, CLUSTER, X86, classes, need, outcome

from slurm_cmeta.cluster import Cluster, NodeClass
from slurm_cmeta.decide import Decision, Wishes, decide
from slurm_cmeta.lasting import lasting
from slurm_cmeta.match import judge_any, never_compared
from slurm_cmeta.nodefacts import NO_NAMES
from slurm_cmeta.policy import Policy
from slurm_cmeta.requirement import Requirement
from slurm_cmeta.step import decide_step
from slurm_cmeta.words import explain

Need = list[Requirement]
V3 = [X86, need("cpu", "x86_64_v3")]
V4 = [X86, need("cpu", "x86_64_v4")]
GPU = [X86, need("gpu", "nvidia")]
POWER = [need("arch", "ppc64le")]


def run(*variants: Need, constraint: str = "", cluster: dict[str, str] = CLUSTER) -> Decision:
    return decide(
        "docker://h.x/app:1.0",
        variants[0],
        Cluster(tuple(classes(cluster)), False, "a test"),
        Wishes(constraint),
        Policy(spare=()),
        variants[1:],
    )


@pytest.mark.parametrize(
    ("variants", "constraint"),
    [
        ([V3, [ARM]], "(aarch64|x86_64_v3)"),
        ([V4, [ARM]], "(aarch64|x86_64_v4)"),
        ([V3, V4], "x86_64_v3"),
        ([V4, POWER], "x86_64_v4"),
        ([[X86], [ARM], V4], None),
        ([[], POWER], None),
    ],
)
def test_nodes_that_run_any_variant_are_taken(variants: list[Need], constraint: str | None) -> None:
    for order in (variants, variants[::-1]):
        decision = run(*order)
        assert decision.action == "accept"
        found = (decision.constraint or "").strip("()").split("|")
        assert sorted(found) == (constraint or "").strip("()").split("|")


def test_what_each_variant_needs_is_said() -> None:
    (line,) = run(V3, [ARM]).messages
    assert line.startswith("app:1.0 needs x86_64_v3 (a test) or aarch64 (a test): constraint ")
    assert line.endswith(", 6 of 8 nodes")


def test_where_no_variant_fits_all_are_named_but_not_without_end() -> None:
    (line,) = run(V4, POWER, cluster={"old[1-2]": CLUSTER["old[1-2]"]}).messages
    assert line == (
        "error: app:1.0 needs x86_64_v4 (a test) or ppc64le (a test), but none of the 2 nodes can "
        "run it: old[1-2] have ivybridge"
    )
    names = ("s390x", "riscv64", "ppc64", "ppc64le", "mips", "mips64")
    decision = run(*([need("arch", name)] for name in names))
    assert outcome(decision)[:2] == ("mismatch", "reject")
    assert " or one of 2 others, but none" in decision.messages[0]


def test_the_reasons_are_those_of_the_variant_that_comes_nearest() -> None:
    old = NodeClass("old1", 1, ("x86_64", "x86_64_v2", "cmeta=1"))
    verdict = judge_any(([ARM, need("gpu", "nvidia")], V3), old)
    assert verdict.verdict == "mismatch"
    assert [r.needs for r in verdict.reasons] == ["x86_64", "x86_64_v3"]
    fits = judge_any((V3, [X86]), old)
    assert (fits.verdict, len(fits.reasons)) == ("match", 1)


def test_a_gpu_is_asked_for_only_where_all_variants_need_one() -> None:
    nodes = {"g1": "x86_64,nvidia", "c1": "x86_64,cmeta=1"}
    assert not run(GPU, [X86], cluster=nodes).messages
    assert "--gpus=1" in run(GPU, GPU, cluster=nodes).messages[-1]


def test_what_stays_demanded_is_what_any_variant_needs() -> None:
    wishes = Wishes("x86_64|aarch64")
    cluster = Cluster(tuple(classes(CLUSTER)), False, "a test")
    decision = decide("app", V3, cluster, wishes, Policy(spare=()), ([ARM],))
    kept = lasting([*V3, ARM], decision, wishes, False, NO_NAMES)
    assert kept in ("(aarch64|x86_64_v3)", "(x86_64_v3|aarch64)")


def test_a_step_is_started_where_any_variant_runs() -> None:
    cluster = Cluster(tuple(classes(CLUSTER)), False, "a test")
    assert decide_step("app", V3, cluster, "arm1", others=([ARM],)).verdict == "match"
    refused = decide_step("app", V3, cluster, "old1", others=([ARM],))
    assert refused.action == "reject"
    assert " or aarch64 (a test)" in refused.messages[0]


def test_every_variant_is_explained_and_silence_is_told_once() -> None:
    other = [ARM, need("kernel", "5.4")]
    decision = run(V3, other)
    lines = explain(V3, decision, (other,))
    assert "variant 1 requires cpu >= x86_64_v3 (hard, declared: a test)" in lines
    assert "variant 2 requires arch = aarch64 (hard, declared: a test)" in lines
    assert [r.key for r in never_compared(decision.classes)] == ["kernel"]
