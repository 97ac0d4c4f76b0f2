"""How much of a cluster a job asks for, as far as a preference has to know it. Pure functions.

slurmctld asks at submit whether the job could ever start, with `prefer` in the place of the
constraint, and refuses the job where the preferred nodes alone could not hold it (seen in 22.05,
24.11 and 26.05). So a preference is given only where they surely can.
"""

from __future__ import annotations

from slurm_cmeta.pattern import Pattern
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm_cmeta.cluster import NodeClass

_SIZE = Pattern(r"([0-9]{1,12})([KMGT]?)B?")
_UNITS = {"K": 0, "M": 1, "": 1, "G": 1024, "T": 1024 * 1024}


class Shape(NamedTuple):
    """What the options of sbatch ask for."""

    nodes: int = 1
    """The least number of nodes."""
    tasks: int = 1
    cpus: int = 1
    """CPUs for each task."""
    memory: int = 0
    """MiB on each node; 0 where it is not asked for."""
    odd: bool = False
    """Something else is asked for, or something that is not understood: nobody knows then."""


PLAIN = Shape()


def read(options: Mapping[str, str]) -> Shape:
    """Return the shape that `nodes`, `ntasks`, `cpus` and `mem` state, as sbatch has them.

    `odd` tells that another option of the kind is set. What is missing is not asked for.
    """
    nodes = _number(options.get("nodes", "").split("-")[0] or "1")
    tasks, cpus = (_number(options.get(key) or "1") for key in ("ntasks", "cpus"))
    memory = _mebibytes(options.get("mem", ""))
    if None in (nodes, tasks, cpus, memory) or options.get("odd") == "yes":
        return Shape(odd=True)
    return Shape(nodes or 1, tasks or 1, cpus or 1, memory or 0)


def fits(shape: Shape, classes: Sequence[NodeClass]) -> bool:
    """Tell whether a job of this shape surely has room on these nodes alone, were they all free."""
    if shape.odd:
        return False
    small = shape.tasks == shape.cpus == 1
    nodes = places = 0
    for one in classes:
        if shape.memory and (one.memory is None or one.memory[0] < shape.memory):
            continue
        here = 1 if small else (one.cpus or 0) // shape.cpus
        if here:
            nodes += one.node_count
            places += one.node_count * here
    return nodes >= shape.nodes and places >= shape.tasks


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _mebibytes(text: str) -> int | None:
    if not text:
        return 0
    found = _SIZE.fullmatch(text.upper())
    if not found:
        return None
    return int(found[1]) // 1024 if found[2] == "K" else int(found[1]) * _UNITS[found[2]]
