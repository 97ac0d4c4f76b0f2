"""Which of the nodes that fit are the better ones. Pure functions.

An image that was built for a machine runs best there; an image that needs nothing special leaves
GPUs, large memory and scarce machines to those who need them.
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.policy import SPARE_GPU, SPARE_MEMORY, SPARE_SCARCE
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.match import ClassVerdict
    from slurm_cmeta.policy import Policy
    from slurm_cmeta.requirement import Requirement

LARGE = 2
"""How many times the memory of the common nodes a node has that is spared for its memory."""

SCARCE = 0.05
"""The share of all nodes up to which a class is scarce."""


def best(
    fit: Sequence[ClassVerdict], requirements: Sequence[Requirement], policy: Policy
) -> tuple[list[ClassVerdict], bool]:
    """Return the classes that a job should get among those that fit; all if none is better.

    Also whether they are what the image was made for, and not merely what others need less.
    """
    if not policy.prefer:
        return list(fit), False
    machines = _machines(requirements)
    spared = _spared(fit, requirements, policy)
    made = [(one.preferred, _is_one_of(one, machines)) for one in fit]
    scores = list(zip(made, (-count for count in spared), strict=True))
    better = [one for one, score in zip(fit, scores, strict=True) if score == max(scores)]
    return better, len(set(made)) > 1


def _machines(requirements: Sequence[Requirement]) -> frozenset[str]:
    """Return the machines that the image was built for: named CPUs, no levels."""
    named = (r.value for r in requirements if r.key == "cpu")
    return frozenset(n for n in named if (cpu := vocabulary.cpu(n)) is not None and not cpu.generic)


def _is_one_of(one: ClassVerdict, machines: frozenset[str]) -> bool:
    """Tell whether the nodes are such machines, and not their successors."""
    implied = {name for cpu in one.facts.cpus for name in cpu.ancestors}
    return any(cpu.name in machines and cpu.name not in implied for cpu in one.facts.cpus)


def _spared(
    fit: Sequence[ClassVerdict], requirements: Sequence[Requirement], policy: Policy
) -> list[int]:
    """Return for each class how many things it has that the image does not need."""
    keys = {r.key for r in requirements}
    total = sum(one.nodes.node_count for one in fit)
    common = _common_memory(fit)
    counts = []
    for one in fit:
        count = 0
        if SPARE_GPU in policy.spare and not keys & {"gpu", "gpu.arch", "cuda", "rocm"}:
            count += bool(one.facts.said("gpu"))
        if SPARE_MEMORY in policy.spare and "memory" not in keys and common:
            memory = one.nodes.memory
            count += memory is not None and memory[0] >= LARGE * common
        if SPARE_SCARCE in policy.spare:
            count += one.nodes.node_count <= SCARCE * total
        counts.append(count)
    return counts


def _common_memory(fit: Sequence[ClassVerdict]) -> int:
    """Return the memory (MiB) that half of the nodes do not exceed; 0 where it is not known."""
    known = sorted((v.nodes.memory[1], v.nodes.node_count) for v in fit if v.nodes.memory)
    half, seen = sum(count for _, count in known) / 2, 0
    for memory, count in known:
        seen += count
        if seen >= half:
            return memory
    return 0
