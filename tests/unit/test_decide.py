"""One submission, one decision."""

from __future__ import annotations

import time
from typing import Any

import pytest

from slurm_cmeta.cluster import Cluster, NodeClass, Partition
from slurm_cmeta.decide import Decision, Wishes, decide
from slurm_cmeta.nodefacts import SiteNames
from slurm_cmeta.policy import Policy
from slurm_cmeta.requirement import KEYS, Requirement
from slurm_cmeta.shape import Shape
from slurm_cmeta.words import explain

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
    nodes = tuple(classes(CLUSTER if cluster is None else cluster))
    return decide(
        "/images/img.sif",
        requirements,
        Cluster(nodes, unlisted_nodes, "a test"),
        Wishes(constraint, prefer),
        Policy(on_mismatch=on_mismatch, spare=()),
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
    assert outcome(run(ARM, constraint="typo"))[:3] == ("unknown", "accept", None)


@pytest.mark.parametrize(
    ("own", "note"),
    [
        ("ib*2", "the job's own expression cannot carry it"),
        ("[ib*1&zen2*1]", "the job's own expression cannot carry it"),
        ("a b", "the job's own expression is kept as it is"),
        ("(ib)zen2", "the job's own expression is kept as it is"),
    ],
)
def test_forms_that_cannot_carry_more_get_an_exclude_list(own: str, note: str) -> None:
    decision = run(ARM, constraint=own)
    assert outcome(decision) == ("match", "accept", None, None, "old[1-2],new[1-3],top1")
    assert note in decision.messages[0]


@pytest.mark.parametrize(
    ("own", "constraint"),
    [
        ("[zen2|neoverse_v1]", "[zen2|neoverse_v1]&aarch64"),
        ("(ib|zen2)&aarch64", None),  # it demands it already
        ("ib|zen2", "(ib|zen2)&aarch64"),
        ("(ib&zen4)|neoverse_v1", "(ib&zen4)|neoverse_v1&aarch64"),
    ],
)
def test_other_forms_carry_it(own: str, constraint: str | None) -> None:
    unfit = None
    assert outcome(run(ARM, constraint=own))[2:] == (constraint, None, unfit)


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
    decision = run(ARM, prefer="ib*2")
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
    cluster = Cluster(tuple(classes(CLUSTER)), False, "a test")
    decision = decide("/images/a\nb\x1b.sif", [bad], cluster, Wishes())
    assert all(m.isprintable() for m in decision.messages)
    assert all(line.isprintable() for line in explain([bad], decision))


# --- partitions, and what the user names or excludes --------------------------------------------

SITE = Cluster(
    (
        NodeClass("old[1-2]", 2, ("x86_64", "ivybridge"), ("all", "debug")),
        NodeClass("new[1-3]", 3, ("x86_64", "x86_64_v3", "zen2"), ("all",)),
        NodeClass("gpu1", 1, ("x86_64", "x86_64_v3", "zen2", "a100"), ("all", "gpu")),
        NodeClass("arm[1-2]", 2, ("aarch64", "neoverse_v1"), ("arm",)),
    ),
    False,
    "a test",
    (Partition("all", True), Partition("debug"), Partition("gpu"), Partition("arm")),
)


def at_site(*requirements: Requirement, policy: Policy | None = None, **wishes: Any) -> Decision:
    return decide("/i/img.sif", requirements, SITE, Wishes(**wishes), policy)


V3_NEED = need("cpu", "x86_64_v3")


def test_nodes_of_other_partitions_are_no_reason_to_accept() -> None:
    decision = at_site(ARM)  # the default partition has no aarch64
    assert outcome(decision)[:2] == ("mismatch", "reject")
    assert "none of those 6 nodes in partition all can run it" in decision.messages[0]
    assert outcome(at_site(ARM, partitions="arm"))[:3] == ("match", "accept", None)


def test_where_a_filter_may_choose_the_partition_all_of_them_count() -> None:
    """A job_submit plugin may send the job to `arm`: it is slurmctld's to say no."""
    routed = SITE._replace(routed=True)
    decision = decide("/i/img.sif", [ARM], routed, Wishes())
    assert outcome(decision)[:3] == ("match", "accept", "aarch64")
    decision = decide("/i/img.sif", [ARM], routed, Wishes(partitions="all"))
    assert outcome(decision)[:2] == ("mismatch", "reject")


def test_nodes_of_other_partitions_are_no_reason_to_narrow() -> None:
    assert outcome(at_site(V3_NEED, partitions="gpu"))[2] is None
    assert outcome(at_site(V3_NEED))[2] == "x86_64_v3"


def test_a_job_in_several_partitions_may_go_to_any_of_them() -> None:
    assert outcome(at_site(ARM, partitions="debug,arm"))[:3] == ("match", "accept", "aarch64")


def test_an_unknown_partition_is_left_to_slurm() -> None:
    assert outcome(at_site(ARM, partitions="typo"))[:3] == ("match", "accept", "aarch64")


def test_excluded_nodes_do_not_count() -> None:
    decision = at_site(V3_NEED, exclude="new[1-3],gpu1")
    assert outcome(decision)[:2] == ("mismatch", "reject")
    assert "those 2 nodes in partition all and outside of --exclude" in decision.messages[0]
    assert outcome(at_site(V3_NEED, exclude="new2"))[:3] == ("match", "accept", "x86_64_v3")
    assert outcome(at_site(V3_NEED, exclude="old[1-2]"))[2] is None


def test_a_node_that_the_user_demands_has_to_fit() -> None:
    decision = at_site(V3_NEED, nodelist="new1,old2")
    assert outcome(decision)[:2] == ("mismatch", "reject")
    assert "a node that --nodelist names cannot run it: old2 has ivybridge" in decision.messages[0]
    assert outcome(at_site(V3_NEED, nodelist="new[1-2]"))[:2] == ("match", "accept")


@pytest.mark.parametrize("text", ["/home/a/nodes.txt", "n[1-", "no-such-node", ","])
def test_a_node_list_that_is_none_limits_nothing(text: str) -> None:
    assert outcome(at_site(V3_NEED, nodelist=text, exclude=text))[:3] == (
        *("match", "accept", "x86_64_v3"),
    )


# --- what is preferred ---------------------------------------------------------------------------


def test_an_image_that_needs_no_gpu_leaves_them_to_others() -> None:
    cluster = {"c[1-4]": "x86_64,cpuonly", "g1": "x86_64,nvidia,a100"}
    nodes = Cluster(tuple(classes(cluster)), False, "a test")
    decision = decide("/i/img.sif", [X86], nodes, Wishes())
    assert decision.prefer == "cpuonly"
    assert decision.messages == ('img.sif needs no special node: prefer "cpuonly"',)
    assert decide("/i/img.sif", [X86], nodes, Wishes(), Policy(spare=())).prefer is None
    assert decide("/i/img.sif", [X86], nodes, Wishes(prefer="g1")).prefer is None
    assert decide("/i/img.sif", [need("gpu", "nvidia")], nodes, Wishes()).prefer is None


def test_large_and_scarce_nodes_are_spared_where_the_site_wants_it() -> None:
    nodes = (
        NodeClass("c[1-40]", 40, ("x86_64", "common"), memory=(256_000, 256_000)),
        NodeClass("big[1-40]", 40, ("x86_64", "bigmem"), memory=(1_024_000, 1_024_000)),
        NodeClass("rare1", 1, ("x86_64", "rare"), memory=(256_000, 256_000)),
    )
    cluster = Cluster(nodes, False, "a test")

    def preferred(*spare: str) -> str | None:
        return decide("/i/img.sif", [X86], cluster, Wishes(), Policy(spare=spare)).prefer

    assert preferred() is None
    assert preferred("memory") == "(rare|common)"
    assert preferred("memory", "scarce") == "common"
    large = [X86, need("memory", "500000", "soft")]
    assert decide("/i/img.sif", large, cluster, Wishes(), Policy()).prefer == "bigmem"


def test_an_image_built_for_a_machine_prefers_it_among_its_successors() -> None:
    cluster = {"a[1-2]": "x86_64,zen3", "b1": "x86_64,zen4", "c1": "x86_64,haswell"}
    decision = run(need("cpu", "zen3"), cluster=cluster)
    assert decision.constraint == "(zen3|zen4)"
    assert decision.prefer == "zen3"
    cluster["b1"] = "x86_64,zen,zen2,zen3,zen4"
    cluster["a[1-2]"] = "x86_64,zen,zen2,zen3"
    decision = run(need("cpu", "zen3"), cluster=cluster)
    assert (decision.constraint, decision.prefer) == ("zen3", None)  # Slurm has no NOT


def test_a_level_is_no_machine_to_prefer() -> None:
    cluster = {"a1": "x86_64_v3", "b1": "x86_64_v4", "c1": "x86_64_v2"}
    assert run(need("cpu", "x86_64_v3"), cluster=cluster).prefer is None


def test_no_preference_where_the_site_wants_none() -> None:
    nodes = Cluster(tuple(classes(CLUSTER)), False, "a test")
    wish = [need("cpu", "zen4", "soft")]
    assert decide("/i/img.sif", wish, nodes, Wishes()).prefer == "zen4"
    assert decide("/i/img.sif", wish, nodes, Wishes(), Policy(prefer=False)).prefer is None


# --- memory and GPUs ------------------------------------------------------------------------------

MEMORY = need("memory", "64000", "soft")


def test_memory_that_the_image_asks_for_is_asked_of_slurm() -> None:
    large = NodeClass("n1", 1, ("x86_64",), memory=(128_000, 128_000))
    small = NodeClass("n2", 1, ("x86_64",), memory=(32_000, 32_000))
    nodes = Cluster((large, small), False, "a test")
    decision = decide("/i/img.sif", [MEMORY], nodes, Wishes())
    assert decision.memory == 64000
    assert "img.sif asks for memory (a test): --mem=64000M" in decision.messages
    # More than any node has, slurmctld refuses.
    none = nodes._replace(classes=(small,))
    decision = decide("/i/img.sif", [MEMORY], none, Wishes())
    assert decision.memory is None
    assert "--mem=64000M asks for it" in decision.messages[-1]
    assert decide("/i/img.sif", [MEMORY], nodes, Wishes(memory=True)).memory is None
    assert decide("/i/img.sif", [MEMORY], nodes, Wishes(), Policy(memory="ignore")).memory is None


def test_who_asks_for_no_gpu_is_advised_or_given_one() -> None:
    cluster = Cluster((NodeClass("g1", 1, ("nvidia",), gres=("gpu:2",)),), False, "a test")
    gpu = [need("gpu", "nvidia")]

    def done(wishes: Wishes = Wishes(), **policy: str) -> tuple[str | None, tuple[str, ...]]:  # noqa: B008
        decision = decide("/i/img.sif", gpu, cluster, wishes, Policy(**policy))  # type: ignore[arg-type]
        return decision.gres, decision.messages

    advice = "img.sif needs a GPU (a test), and the job asks for none: --gpus=1"
    assert done() == (None, (advice,))
    assert done(gpu_request="ignore") == (None, ())
    assert done(gpu_request="add") == ("gpu:1", ("img.sif needs a GPU: --gres=gpu:1",))
    assert done(Wishes(gpus=True), gpu_request="add") == (None, ())


def test_no_gpu_is_added_that_slurm_would_refuse() -> None:
    cluster = Cluster((NodeClass("g1", 1, ("nvidia",)),), False, "a test")
    decision = decide(
        "/i/img.sif", [need("gpu", "nvidia")], cluster, Wishes(), Policy(gpu_request="add")
    )
    assert decision.gres is None
    assert "the job asks for none: --gpus=1" in decision.messages[-1]


def test_memory_is_not_set_where_the_site_has_a_default() -> None:
    nodes = Cluster(tuple(classes(CLUSTER)), False, "a test", default_memory=True)
    decision = decide("/i/img.sif", [MEMORY], nodes, Wishes())
    assert decision.memory is None
    assert decision.messages[-1] == (
        "img.sif asks for 64000 MiB of memory (a test), and the job for none: --mem=64000M asks "
        "for it"
    )


# --- what nothing tells ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "action", "message"),
    [
        ("accept", "accept", ()),
        ("warn", "accept", ("warning: nothing that img.sif needs could be compared",)),
        ("reject", "reject", ("error: nothing that img.sif needs could be compared",)),
    ],
)
def test_where_nothing_could_be_compared_the_site_decides(
    policy: str, action: str, message: tuple[str, ...]
) -> None:
    cluster = Cluster((NodeClass("n1", 1, ("bigmem",)),), False, "a test")
    decision = decide("/i/img.sif", [ARM], cluster, Wishes(), Policy(on_unknown=policy))
    assert (decision.verdict, decision.action) == ("unknown", action)
    assert len(decision.messages) == len(message)
    assert all(m.startswith(wanted) for m, wanted in zip(decision.messages, message, strict=True))


def test_with_a_node_features_plugin_nothing_but_a_plain_and_is_written() -> None:
    cluster = Cluster(tuple(classes(CLUSTER)), False, "a test", changeable=True)
    assert decide("/i/i.sif", [ARM], cluster, Wishes("ib")).constraint == "ib&aarch64"
    decision = decide("/i/i.sif", [ARM], cluster, Wishes("ib|zen2"))
    assert (decision.constraint, decision.exclude) == (None, "old[1-2],new[1-3],top1")
    decision = decide("/i/i.sif", [ARM], cluster, Wishes("cache"))  # a feature to be set by reboot
    assert decision.constraint == "cache&aarch64"


def test_an_exclude_list_that_is_too_long_becomes_a_wider_expression(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("slurm_cmeta.decide.MAX_EXCLUDE", 5)
    cluster = {"a1": "good", "b1": "good,x86_64", "c[1-2]": "x86_64,bad"}
    decision = run(ARM, cluster=cluster)
    assert (decision.constraint, decision.exclude) == ("good", None)
    assert decision.messages[-1].startswith("warning: 1 nodes that cannot run img.sif")


# --- what is said --------------------------------------------------------------------------------


def test_requirements_are_said_by_name_and_value() -> None:
    cluster = {"g1": "nvidia,cuda=12.2", "g2": "nvidia,cuda=11.8", "c1": "x86_64,cmeta=1"}
    decision = run(need("gpu", "nvidia"), need("cuda", "12.4"), cluster=cluster)
    assert decision.messages[0] == (
        "error: img.sif needs gpu nvidia (a test), cuda >= 12.4 (a test), but none of the 3 nodes "
        "can run it: g1 has cuda 12.2; g2 has cuda 11.8; c1 has no GPU, no CUDA"
    )


def test_what_made_the_difference_is_said_by_the_constraint() -> None:
    """Not `zen4`, which happens to be the CPU of the nodes with the newer driver."""
    cluster = {"g1": "x86_64,zen2,a100,cuda=11.8", "h1": "x86_64,zen4,h100,cuda=12.4"}
    assert run(need("cuda", "12.2"), cluster=cluster).constraint == "cuda=12.4"
    assert run(need("gpu.arch", "sm_90"), cluster=cluster).constraint == "h100"
    cluster = {"g1": "x86_64,zen2,gpu_old", "h1": "x86_64,zen4,gpu_new,rack1"}
    names = SiteNames(means={"gpu_new": ("nvidia", "sm=90"), "gpu_old": ("nvidia", "sm=70")})
    nodes = Cluster(tuple(classes(cluster)), False, "a test")
    wanted = [need("gpu.arch", "sm_90")]
    decision = decide("/i/i.sif", wanted, nodes, Wishes(gpus=True), Policy(names=names))
    assert decision.constraint == "gpu_new"


# --- a preference must not cost the job -----------------------------------------------------------

SIZED = Cluster(
    (
        NodeClass("z[1-2]", 2, ("x86_64", "zen3"), ("all",), cpus=16, memory=(64_000, 64_000)),
        NodeClass("y[1-8]", 8, ("x86_64", "zen4"), ("all",), cpus=64, memory=(256_000, 256_000)),
    ),
    False,
    "a test",
    (Partition("all", True),),
)


@pytest.mark.parametrize(
    ("wishes", "prefer"),
    [
        (Wishes(), "zen3"),
        (Wishes(shape=Shape(nodes=2, tasks=32)), "zen3"),
        (Wishes(shape=Shape(nodes=3)), None),  # slurmctld asks whether they could hold the job
        (Wishes(shape=Shape(tasks=33)), None),
        (Wishes(shape=Shape(cpus=17)), None),
        (Wishes(shape=Shape(memory=64_001)), None),
        (Wishes(shape=Shape(odd=True)), None),
        (Wishes(gpus=True), None),
        (Wishes(nodelist="y1"), None),
        (Wishes(partitions="all"), "zen3"),
    ],
)
def test_only_what_could_hold_the_job_is_preferred(wishes: Wishes, prefer: str | None) -> None:
    wish = [need("cpu", "zen3")]
    decision = decide("/i/img.sif", wish, SIZED, wishes)
    assert (decision.action, decision.prefer) == ("accept", prefer)


def test_where_the_partition_is_not_known_there_must_be_room_in_each() -> None:
    wish = [need("cpu", "zen3")]
    routed = SIZED._replace(routed=True)
    assert decide("/i/i.sif", wish, routed, Wishes()).prefer == "zen3"
    two = routed._replace(partitions=(Partition("all", True), Partition("other")))
    assert decide("/i/i.sif", wish, two, Wishes()).prefer is None
    assert decide("/i/i.sif", wish, two, Wishes(partitions="all")).prefer == "zen3"
    unsure = routed._replace(partitions=(Partition("all", True, exact=False),))
    assert decide("/i/i.sif", wish, unsure, Wishes()).prefer is None


def test_a_preference_of_the_users_that_nothing_can_meet_prefers_nothing() -> None:
    """slurmctld refuses a job whose preference no node can ever meet."""
    decision = decide("/i/i.sif", [need("cpu", "zen4")], SIZED, Wishes(prefer="zen3"))
    assert (decision.constraint, decision.prefer) == ("zen4", "zen4")
    decision = decide("/i/i.sif", [need("cpu", "zen4")], SIZED, Wishes(prefer="zen4"))
    assert decision.prefer is None
    decision = decide("/i/i.sif", [X86], SIZED, Wishes(prefer="a|[b"))
    assert decision.prefer is None


def test_names_that_have_nothing_to_do_with_it_are_not_preferred_in_dozens() -> None:
    cluster = {f"n{i}": f"x86_64,q{i}" for i in range(30)} | {"g1": "x86_64,nvidia"}
    nodes = Cluster(tuple(classes(cluster)), False, "a test")
    assert decide("/i/i.sif", [X86], nodes, Wishes()).prefer is None


def test_nodes_of_a_class_that_differ_in_gres_are_not_taken_for_each_other() -> None:
    node = NodeClass("n[1-3]", 3, ("x86_64",), gres=("gpu:v100:4", "gpu:4", ""))
    nodes = Cluster((node,), False, "a test")
    decision = decide("/i/i.sif", [need("gpu.arch", "sm_80")], nodes, Wishes())
    assert decision.action == "accept"
    alone = nodes._replace(classes=(node._replace(gres=("gpu:v100:4",)),))
    assert decide("/i/i.sif", [need("gpu.arch", "sm_80")], alone, Wishes()).action == "reject"


def test_thousands_of_classes_of_their_own_take_no_time() -> None:
    features = [("x86_64", f"own{i}", *(["nvidia"] if i % 10 == 0 else [])) for i in range(4000)]
    nodes = tuple(NodeClass(f"n{i}", 1, names) for i, names in enumerate(features))
    begun = time.monotonic()
    decision = decide("/i/i.sif", [X86], Cluster(nodes, False, "a test"), Wishes())
    assert decision.prefer is None
    assert time.monotonic() - begun < 5  # it was 12 s


def test_what_is_not_known_is_not_refused_where_nodes_may_be_missing() -> None:
    cluster = Cluster((NodeClass("n1", 1, ("bigmem",)),), True, "a test")
    decision = decide("/i/i.sif", [ARM], cluster, Wishes(), Policy(on_unknown="reject"))
    assert decision.action == "accept"
    whole = cluster._replace(unlisted_nodes=False)
    decision = decide("/i/i.sif", [], whole, Wishes(), Policy(on_unknown="reject"))
    assert decision.messages == ("error: nothing is known of what i.sif needs",)
