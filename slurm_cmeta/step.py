"""A step inside an allocation: its nodes are chosen already, so there is nothing to add.

Pure function.
"""

from __future__ import annotations

from slurm_cmeta import compare, match, words
from slurm_cmeta.cluster.reach import reach
from slurm_cmeta.decide import UNKNOWN, Decision
from slurm_cmeta.policy import ACCEPT, REJECT, Policy
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.requirement import Requirement

PLACE = "of the allocation"


def decide_step(
    image: str,
    requirements: Sequence[Requirement],
    cluster: Cluster,
    nodes: str,
    exclude: str = "",
    policy: Policy | None = None,
    others: Sequence[Sequence[Requirement]] = (),
) -> Decision:
    """Return the decision for a step that gets some of `nodes` (a host list).

    Where none of them can run the image, the site's policy decides, as for a job. Where only some
    cannot, the user is warned: which of them the step gets is not known here.
    """
    policy = policy or Policy()
    # An allocation may be in any partition; its nodes are named.
    place = reach(cluster._replace(partitions=None), "", nodes, exclude)
    verdicts = tuple(
        match.judge_any((requirements, *others), c, policy.names) for c in place.demanded
    )
    unfit = [v for v in verdicts if v.verdict != compare.MATCH]
    if not unfit:
        checked = any(r.verdict != compare.UNCHECKED for v in verdicts for r in v.reasons)
        return Decision(compare.MATCH if checked else UNKNOWN, ACCEPT, classes=verdicts)
    why = words.no_node(image, requirements, unfit, PLACE, others)
    if len(unfit) < len(verdicts):
        message = f"warning: {why}; others of it can"
        return Decision(compare.MATCH, ACCEPT, classes=verdicts, messages=(message,))
    if cluster.unlisted_nodes or policy.on_mismatch != REJECT:
        return Decision(compare.MISMATCH, ACCEPT, classes=verdicts, messages=(f"warning: {why}",))
    return Decision(compare.MISMATCH, REJECT, classes=verdicts, messages=(f"error: {why}",))
