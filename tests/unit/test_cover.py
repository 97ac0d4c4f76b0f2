"""Which variants a cluster needs, and what would have to be built for it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from test_choose import CUDA, PLAIN, TARGETS, built_for, variant
from test_match import need

from slurm_cmeta.cluster import NodeClass
from slurm_cmeta.pull import choose
from slurm_cmeta.pull.cover import Cover, cover


def nodes(**features: str) -> list[NodeClass]:
    return [
        NodeClass(name, 2, tuple(filter(None, (*text.split(","), "cmeta=1"))))
        for name, text in features.items()
    ]


def names(found: Cover) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return enough, best, missing and common."""
    return (
        [v.digest for v in found.enough],
        [v.digest for v in found.best],
        [t.cpu.name for t in found.missing],
        [c.name for c in found.common],
    )


def test_each_class_gets_its_best_and_few_are_enough() -> None:
    found = cover(
        [built_for(t) for t in ("x86_64", "x86_64_v3", "x86_64_v4", "aarch64")],
        nodes(a="nehalem", b="zen2", c="zen4", d="neoverse_v1"),
    )
    best = {one.nodes.nodes: one.best.variant.digest for one in found.classes if one.best}
    assert best == {"a": "x86_64", "b": "x86_64_v3", "c": "x86_64_v4", "d": "aarch64"}
    assert names(found) == (
        ["x86_64", "aarch64"],
        ["x86_64", "x86_64_v3", "x86_64_v4", "aarch64"],
        [],
        [],
    )


def test_what_no_variant_serves_is_to_be_built() -> None:
    found = cover(
        [built_for("x86_64_v4")],
        nodes(a="zen2", b="haswell", c="zen4", d="neoverse_v1", e="power9le", f=""),
    )
    assert names(found) == (
        ["x86_64_v4"],
        ["x86_64_v4"],
        ["neoverse_v1", "power9le", "zen2", "haswell"],
        ["neoverse_v1", "power9le", "x86_64_v3"],
    )
    unserved = {one.nodes.nodes: one.nearest for one in found.classes if one.best is None}
    assert sorted(unserved) == ["a", "b", "d", "e", "f"]
    assert all(near and near.reason for near in unserved.values())


def test_of_what_serves_equally_many_the_best_is_enough() -> None:
    built = [built_for(t) for t in ("x86_64", "x86_64_v3", "x86_64_v2", "zen2", "haswell")]
    found = cover(built, nodes(a="zen2", b="haswell"))
    assert names(found)[:2] == (["x86_64_v3"], ["zen2", "haswell"])


def test_nodes_that_differ_in_nothing_that_counts_are_one() -> None:
    classes = [NodeClass(n, 1, ("zen3",), partitions=(n,)) for n in ("n1", "n2", "n3")]
    (only,) = cover([built_for("x86_64")], classes).classes
    assert (only.nodes.nodes, only.nodes.node_count) == ("n[1-3]", 3)


def test_gpu_nodes_are_served_by_what_uses_them() -> None:
    found = cover([PLAIN, CUDA], nodes(c="zen3", g="zen3,nvidia,cuda=12.4"))
    best = {one.nodes.nodes: one.best.variant.digest for one in found.classes if one.best}
    assert best == {"c": "plain", "g": "cuda"}
    assert names(found)[:2] == (["plain"], ["plain", "cuda"])


def test_no_variant_and_no_node() -> None:
    broken = variant("b", need("arch", "x86_64"), problem="is damaged")
    (only,) = cover([broken], nodes(a="zen3")).classes
    assert (only.best, only.nearest) == (None, None)
    assert cover([broken], []) == Cover((), (), (), (), ())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(TARGETS), unique=True),
    st.lists(st.sampled_from(TARGETS), unique=True),
)
def test_what_is_enough_serves_all_that_can_be_served(built: list[str], on: list[str]) -> None:
    variants = [built_for(t) for t in built]
    found = cover(variants, nodes(**{f"n{i}": t for i, t in enumerate(on)}))
    for one in found.classes:
        served = choose.best(choose.rate(found.enough, one.nodes))
        assert (served is None) == (one.best is None)
    assert all(v in variants for v in found.enough)
    assert len(found.enough) <= len(found.best)
    without = [[v for v in found.enough if v != each] for each in found.enough]
    for fewer in without:
        assert any(
            one.best and choose.best(choose.rate(fewer, one.nodes)) is None for one in found.classes
        ), "none of them is superfluous"
