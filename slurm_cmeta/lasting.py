"""What an image demands of a job's nodes, whatever constraint the user gives it later.

`scontrol update` changes a constraint when nobody can look at the image. Pure function.
"""

from __future__ import annotations

from slurm_cmeta import compare
from slurm_cmeta.constraint.select import select
from slurm_cmeta.decide import Rank
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.decide import Decision, Wishes
    from slurm_cmeta.nodefacts import SiteNames
    from slurm_cmeta.requirement import Requirement


def lasting(
    requirements: Sequence[Requirement],
    decision: Decision,
    wishes: Wishes,
    changeable: bool,
    names: SiteNames,
) -> str | None:
    """Return the shortest expression that is true of exactly the reachable nodes that fit, or None.

    A constraint's addition may be shorter, since the user's own constraint leaves fewer nodes to
    tell apart. None also where every node fits, and where no expression tells them apart.
    """
    if decision.verdict != compare.MATCH:
        return None
    if not wishes.constraint:
        return decision.constraint
    fit = [v for v in decision.classes if v.verdict == compare.MATCH]
    unfit = [v for v in decision.classes if v.verdict != compare.MATCH]
    if not fit or not unfit:
        return None
    found = select(
        [frozenset(v.nodes.features) for v in fit],
        [frozenset(v.nodes.features) for v in unfit],
        Rank(requirements, decision.classes, names),
    )
    # A NodeFeatures plugin's names in an OR are read by other rules (constraint/addition.py).
    return found.render() if found and not (changeable and found.group) else None
