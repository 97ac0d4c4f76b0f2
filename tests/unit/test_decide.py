"""One submission, one decision."""

from __future__ import annotations

import pytest

from slurm_cmeta.cluster import NodeClass
from slurm_cmeta.decide import Decision, Wishes, decide, explain
from slurm_cmeta.requirement import KEYS, Requirement

V2 = "x86_64,x86_64_v2"
V3, V4 = f"{V2},x86_64_v3", f"{V2},x86_64_v3,x86_64_v4"
CLUSTER = {
    "old[1-2]": f"{V2},ivybridge",
    "new[1-3]": f"{V3},zen2",
    "top1": f"{V4},zen4,ib",
    "arm[1-2]": "aarch64,neoverse_v1,ib",
}


def classes(cluster: dict[str, str]) -> list[NodeClass]:
    counts = {"old[1-2]": 2, "new[1-3]": 3, "arm[1-2]": 2}
    return [
        NodeClass(nodes, counts.get(nodes, 1), tuple(filter(None, features.split(","))))
        for nodes, features in cluster.items()
    ]


def need(key: str, value: str, strength: str = "hard") -> Requirement:
    return Requirement(key, KEYS[key], value, strength, "declared", "a test")


X86, ARM = need("arch", "x86_64"), need("arch", "aarch64")


def run(
    *requirements: Requirement,
    constraint: str = "",
    prefer: str = "",
    cluster: dict[str, str] | None = None,
    on_mismatch: str = "reject",
    unlisted_nodes: bool = False,
) -> Decision:
    return decide(
        "/images/img.sif",
        requirements,
        classes(CLUSTER if cluster is None else cluster),
        Wishes(constraint, prefer),
        on_mismatch=on_mismatch,
        unlisted_nodes=unlisted_nodes,
    )


def outcome(decision: Decision) -> tuple[str, str, str | None, str | None, str | None]:
    d = decision
    return d.verdict, d.action, d.constraint, d.prefer, d.exclude


def test_a_job_is_narrowed_and_told_why() -> None:
    decision = run(ARM)
    assert outcome(decision) == ("match", "accept", "aarch64", None, None)
    assert decision.messages == (
        'img.sif needs aarch64 (a test): constraint "aarch64", 2 of 8 nodes',
    )


def test_a_job_that_fits_everywhere_is_left_alone_in_silence() -> None:
    decision = run(X86, cluster={"n1": V2, "n2": V3})
    assert outcome(decision) == ("match", "accept", None, None, None)
    assert decision.messages == ()


def test_an_image_without_requirements_is_unknown_and_left_alone() -> None:
    assert outcome(run()) == ("unknown", "accept", None, None, None)


def test_nodes_that_publish_nothing_never_reject() -> None:
    decision = run(ARM, cluster={"n1": "", "n2": "bigmem"})
    assert outcome(decision) == ("unknown", "accept", None, None, None)


def test_the_cpu_is_named_and_not_its_architecture_twice() -> None:
    decision = run(X86, need("cpu", "x86_64_v3"))
    assert decision.constraint == "x86_64_v3"
    assert decision.messages == (
        'img.sif needs x86_64_v3 (a test): constraint "x86_64_v3", 4 of 8 nodes',
    )


@pytest.mark.parametrize(
    ("own", "result"),
    [
        ("ib", "ib&aarch64"),
        ("aarch64", None),
        ("neoverse_v1|zen4", "(neoverse_v1|zen4)&aarch64"),
        ("ib,neoverse_v1", None),  # only nodes that fit are left: nothing to add
    ],
)
def test_the_users_constraint_is_kept(own: str, result: str | None) -> None:
    assert run(ARM, constraint=own).constraint == result


def test_a_constraint_that_leaves_no_fitting_node_is_refused() -> None:
    decision = run(ARM, constraint="zen4|zen2")
    assert outcome(decision) == ("mismatch", "reject", None, None, None)
    assert decision.messages[0] == (
        "error: img.sif needs aarch64 (a test), but none of those 4 nodes that the constraint "
        "allows can run it: new[1-3],top1 have x86_64"
    )


def test_a_constraint_that_slurm_will_refuse_is_left_to_slurm() -> None:
    assert outcome(run(ARM, constraint="ib&ivybridge"))[:3] == ("unknown", "accept", None)
    assert run(ARM, constraint="typo").constraint == "typo&aarch64"


@pytest.mark.parametrize("own", ["[zen2|neoverse_v1]", "ib*2", "(ib|zen2)&aarch64", "a b"])
def test_forms_that_cannot_carry_more_get_an_exclude_list(own: str) -> None:
    decision = run(ARM, constraint=own)
    assert outcome(decision) == ("match", "accept", None, None, "old[1-2],new[1-3],top1")
    assert "own expression is kept" in decision.messages[0]


def test_nodes_that_no_expression_tells_apart_are_excluded() -> None:
    decision = run(ARM, cluster={"n1": "bigmem", "n2": "bigmem,x86_64"})
    assert outcome(decision) == ("match", "accept", None, None, "n2")


def test_no_node_fits() -> None:
    decision = run(need("arch", "ppc64le"))
    assert outcome(decision) == ("mismatch", "reject", None, None, None)
    assert decision.messages == (
        "error: img.sif needs ppc64le (a test), but none of the 8 nodes can run it: "
        "old[1-2],new[1-3],top1 have x86_64; arm[1-2] have aarch64",
    )


def test_no_node_fits_but_the_site_only_warns() -> None:
    decision = run(need("arch", "ppc64le"), on_mismatch="warn")
    assert outcome(decision) == ("mismatch", "accept", None, None, None)
    assert decision.messages[0].startswith("warning: ")


def test_a_cluster_with_dynamic_nodes_refuses_nothing() -> None:
    decision = run(need("arch", "ppc64le"), unlisted_nodes=True)
    assert outcome(decision)[:2] == ("unknown", "accept")


def test_an_empty_cluster_refuses_nothing() -> None:
    assert outcome(run(ARM, cluster={}))[:2] == ("unknown", "accept")


def test_a_wish_becomes_a_preference_with_the_constraint_in_it() -> None:
    decision = run(X86, need("cpu", "zen4", "soft"))
    assert outcome(decision)[2:] == ("x86_64", "x86_64&zen4", None)
    assert 'prefer "x86_64&zen4"' in decision.messages[0]


def test_a_wish_alone_leaves_the_constraint() -> None:
    decision = run(X86, need("cpu", "zen4", "soft"), constraint="zen2|zen4")
    assert outcome(decision)[2:] == (None, "(zen2|zen4)&zen4", None)
    assert decision.messages == ('img.sif is made for zen4 (a test): prefer "(zen2|zen4)&zen4"',)


def test_the_users_own_preference_is_kept_and_made_safe() -> None:
    wish = need("cpu", "zen4", "soft")
    assert run(ARM, prefer="ib").prefer == "ib&aarch64"
    assert run(X86, wish, prefer="ib").prefer == "ib&x86_64"
    assert run(X86, wish, prefer="ib", cluster={"n1": "x86_64,zen4,ib"}).prefer is None


def test_a_preference_that_cannot_carry_more_gets_an_exclude_list() -> None:
    decision = run(ARM, prefer="[ib|zen2]")
    assert outcome(decision)[2:] == (None, None, "old[1-2],new[1-3],top1")


def test_an_expression_too_long_for_slurm_becomes_an_exclude_list() -> None:
    own = "&".join(["ib"] * 340)
    decision = run(ARM, constraint=own, cluster={"n1": "ib,aarch64", "n2": "ib,x86_64"})
    assert len(own) + len("&aarch64") > 1024
    assert outcome(decision)[2:] == (None, None, "n2")


def test_explain_names_every_requirement_and_every_class() -> None:
    requirements = [ARM]
    lines = explain(requirements, run(*requirements))
    assert lines[0] == "requires arch = aarch64 (hard, declared: a test)"
    assert "arm[1-2] (2): match: arch needs aarch64, has aarch64: match" in lines
    assert "old[1-2] (2): mismatch: arch needs aarch64, has x86_64: mismatch" in lines
    assert lines[-1] == "verdict match"


def test_hostile_names_reach_no_message() -> None:
    bad = Requirement("arch", "=", "ppc64le", "hard", "declared", "label a\x1b[2J\nx")
    decision = decide("/images/a\nb\x1b.sif", [bad], classes(CLUSTER), Wishes())
    assert all(m.isprintable() for m in decision.messages)
    assert all(line.isprintable() for line in explain([bad], decision))
