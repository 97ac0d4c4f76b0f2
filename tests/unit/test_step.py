"""Steps in an allocation, and what stays demanded when the user changes the constraint."""

from __future__ import annotations

import pytest

from slurm_cmeta.cluster import Cluster, NodeClass, Partition
from slurm_cmeta.decide import Wishes, decide
from slurm_cmeta.lasting import lasting
from slurm_cmeta.nodefacts import NO_NAMES
from slurm_cmeta.policy import WARN, Policy
from slurm_cmeta.requirement import Requirement
from slurm_cmeta.step import decide_step

ZEN4 = [Requirement("cpu", "=", "zen4", "hard", "declared", "a label")]
CLASSES = (
    NodeClass("mid[1-4]", 4, ("x86_64", "zen3"), ("other",)),
    NodeClass("top[1-2]", 2, ("x86_64", "zen4", "big"), ("other",)),
    NodeClass("arm1", 1, ("aarch64", "big"), ("other",)),
)
CLUSTER = Cluster(CLASSES, False, "here", (Partition("default", True), Partition("other")))


@pytest.mark.parametrize(
    ("nodes", "exclude", "verdict", "action", "said"),
    [
        ("top1", "", "match", "accept", ""),
        ("top[1-2]", "", "match", "accept", ""),
        ("mid1", "", "mismatch", "reject", "error: img.sif needs zen4"),
        ("mid[1-3],arm1", "", "mismatch", "reject", "error: img.sif needs zen4"),
        ("mid1,top1", "", "match", "accept", "warning: img.sif needs zen4"),
        ("mid1,top1", "mid1", "match", "accept", ""),
        ("mid1,top1", "top1", "mismatch", "reject", "error: "),
        ("unknown[1-9]", "", "unknown", "accept", ""),
        ("", "", "unknown", "accept", ""),
        ("n[", "", "unknown", "accept", ""),
    ],
)
def test_a_step_is_compared_with_its_nodes(
    nodes: str, exclude: str, verdict: str, action: str, said: str
) -> None:
    decision = decide_step("/img.sif", ZEN4, CLUSTER, nodes, exclude)
    assert (decision.verdict, decision.action) == (verdict, action)
    assert (decision.constraint, decision.prefer, decision.exclude) == (None, None, None)
    assert len(decision.messages) == bool(said)
    assert "".join(decision.messages).startswith(said)


def test_the_site_or_doubt_may_let_a_step_go() -> None:
    warned = decide_step("/img.sif", ZEN4, CLUSTER, "mid1", policy=Policy(on_mismatch=WARN))
    assert (warned.verdict, warned.action) == ("mismatch", "accept")
    stale = decide_step("/img.sif", ZEN4, CLUSTER._replace(unlisted_nodes=True), "mid1")
    assert (stale.action, stale.messages[0][:9]) == ("accept", "warning: ")


@pytest.mark.parametrize(
    ("constraint", "added", "demanded"),
    [
        ("", "zen4", "zen4"),
        ("zen4", None, "zen4"),  # no node is left to keep out, but later there may be
        ("x86_64&big", None, "zen4"),
        ("big", "big&zen4", "zen4"),
    ],
)
def test_what_lasts_is_true_of_all_nodes(constraint: str, added: str | None, demanded: str) -> None:
    wishes = Wishes(constraint, partitions="other")
    decision = decide("/img.sif", ZEN4, CLUSTER, wishes)
    assert decision.constraint == added
    assert lasting(ZEN4, decision, wishes, False, NO_NAMES) == demanded


def test_nothing_lasts_where_all_nodes_fit_or_none() -> None:
    for nodes in (CLASSES[1:2], CLASSES[:1]):
        wishes = Wishes("x86_64", partitions="other")
        decision = decide("/img.sif", ZEN4, CLUSTER._replace(classes=nodes), wishes)
        assert lasting(ZEN4, decision, wishes, False, NO_NAMES) is None
