"""The JSON of `cmeta why`: docs/schema/cmeta.why-1.json."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.cluster.job import Job
    from slurm_cmeta.match import ClassVerdict
    from slurm_cmeta.requirement import Requirement
    from slurm_cmeta.submission import ImageReport
    from slurm_cmeta.why import JobAnswer, NodeAnswer

SCHEMA = "cmeta.why/1"


def of_node(
    report: ImageReport, cluster: Cluster, answer: NodeAnswer, constraint: str, runs: bool
) -> dict[str, Any]:
    """Return the object for one node; `runs` is what the exit status says."""
    nodes = answer.one.nodes
    return {
        "schema": SCHEMA,
        "image": report.path,
        "node": answer.name,
        "source": cluster.source,
        "features": list(nodes.features),
        "partitions": None if nodes.partitions is None else list(nodes.partitions),
        "verdict": answer.verdict,
        "runs": runs,
        "partition": answer.partition or None,
        "in_partition": answer.in_partition,
        "constraint": constraint or None,
        "allowed": answer.allowed,
        "reasons": _reasons(report.requirements, answer.one),
        "changes": [change._asdict() for change in answer.changes],
    }


def of_job(one: Job, report: ImageReport, answer: JobAnswer) -> dict[str, Any]:
    """Return the object for one job, or one component or task."""
    return {
        **_facts(one),
        "image": report.path,
        "held_by": answer.held_by,
        "messages": list(answer.lines),
        "nodes": [
            {
                "nodes": group.one.nodes.nodes,
                "count": group.one.nodes.node_count,
                "state": group.state or None,
                "features": list(group.one.nodes.features),
                "verdict": group.one.verdict,
                "left_out": group.left_out or None,
                "reasons": _reasons(report.requirements, group.one),
            }
            for group in answer.groups
        ],
        "nearest": answer.nearest.nodes.nodes if answer.nearest else None,
        "changes": [change._asdict() for change in answer.changes],
    }


def of_plain_job(one: Job) -> dict[str, Any]:
    """Return the object for a job without container."""
    nothing: dict[str, Any] = {"image": None, "held_by": None, "messages": [], "nodes": []}
    return {**_facts(one), **nothing, "nearest": None, "changes": []}


def _facts(one: Job) -> dict[str, Any]:
    return {
        "id": one.id,
        "state": one.state,
        "slurm_reason": one.reason or None,
        "partition": one.partition or None,
        "constraint": one.constraint or None,
        "prefer": one.prefer or None,
        "nodelist": one.nodelist or None,
        "exclude": one.exclude or None,
        "runs_on": one.nodes or None,
    }


def _reasons(requirements: Sequence[Requirement], one: ClassVerdict) -> list[dict[str, Any]]:
    return [
        {
            "key": asked.key,
            "op": asked.op,
            "needs": asked.value,
            "alternatives": [[list(c) for c in each] for each in asked.alternatives],
            "has": reason.has,
            "verdict": reason.verdict,
            "strength": asked.strength,
            "evidence": asked.evidence,
            "source": asked.source,
        }
        for asked, reason in zip(requirements, one.reasons, strict=True)
    ]
