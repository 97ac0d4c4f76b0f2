"""The architectures and accelerators that a cluster has: what software has to be built for.

Pure functions over node classes. A node is what its features say; a node whose features name no
architecture, or several, is listed apart and not guessed at.
"""

from __future__ import annotations

from slurm_cmeta import nodefacts, vocabulary
from slurm_cmeta.cluster import hostlist
from slurm_cmeta.cluster.grouping import by_features
from slurm_cmeta.compare import most_specific
from slurm_cmeta.nodefacts import NO_NAMES, SiteNames
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.vocabulary import spellings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_cmeta.cluster import NodeClass
    from slurm_cmeta.vocabulary import Cpu
    from slurm_cmeta.vocabulary.spellings import Accelerator


class Nodes(NamedTuple):
    """Some nodes."""

    nodes: str
    """Host list."""
    node_count: int


class Target(NamedTuple):
    """One thing to build for: a CPU, alone or with an accelerator."""

    cpu: Cpu
    accelerator: Accelerator | None
    on: Nodes


class Archs(NamedTuple):
    """What read() found. Each list is sorted, and names everything once."""

    cpus: tuple[tuple[Cpu, Nodes], ...]
    accelerators: tuple[tuple[Accelerator, Nodes], ...]
    targets: tuple[Target, ...]
    """The combinations that there are."""
    unknown: Nodes
    """The nodes whose features name no architecture, or several that contradict each other."""


def read(classes: Sequence[NodeClass], names: SiteNames = NO_NAMES) -> Archs:
    """Return what the nodes are, `names` being what the site's own features mean.

    Raises ClusterError for host lists that are none.
    """
    cpus: dict[Cpu, list[NodeClass]] = {}
    accelerators: dict[Accelerator, list[NodeClass]] = {}
    targets: dict[tuple[Cpu, Accelerator | None], list[NodeClass]] = {}
    unknown: list[NodeClass] = []
    for one in by_features(classes):
        here = accelerators_of(one.features, names)
        named = cpus_of(one.features, names)
        for accelerator in here:
            accelerators.setdefault(accelerator, []).append(one)
        for cpu in named:
            cpus.setdefault(cpu, []).append(one)
            for each in here or (None,):
                targets.setdefault((cpu, each), []).append(one)
        if not named:
            unknown.append(one)
    return Archs(
        tuple(sorted(((c, _together(n)) for c, n in cpus.items()), key=lambda i: _order(i[0]))),
        tuple(sorted((a, _together(n)) for a, n in accelerators.items())),
        tuple(
            Target(cpu, accelerator, _together(members))
            for (cpu, accelerator), members in sorted(
                targets.items(), key=lambda i: (*_order(i[0][0]), i[0][1] or ())
            )
        ),
        _together(unknown),
    )


def cpus_of(features: Iterable[str], names: SiteNames = NO_NAMES) -> list[Cpu]:
    """Return the CPUs that features name: machines before levels, no ancestors of others.

    It is empty where they name none, or several architectures.
    """
    facts = nodefacts.read(features, names)
    if len(facts.families) != 1:
        return []
    found = [cpu for name in sorted(most_specific(facts.cpus)) if (cpu := vocabulary.cpu(name))]
    if not found:  # s390x and the like: archspec knows no more of them than the family
        found = [vocabulary.Cpu(name, name, frozenset(), True) for name in facts.families]
    return [cpu for cpu in found if not cpu.generic] or found


def accelerators_of(features: Iterable[str], names: SiteNames = NO_NAMES) -> list[Accelerator]:
    """Return the accelerators that features name (`sm=80`, `a100`, `gfx90a`), each once."""
    known = nodefacts.read(features, names).said("gpu.arch")
    return list(dict.fromkeys(a for name in known if (a := spellings.accelerator(name))))


def telling(features: Sequence[str]) -> list[str]:
    """Return the features without the CPU names that others among them imply."""
    named = {f: target for f in features if (target := vocabulary.feature_target(f))}
    cpus = [cpu for target in named.values() if (cpu := vocabulary.cpu(target))]
    shown = most_specific(cpus)
    families = {cpu.name for cpu in cpus}
    return [f for f in features if named.get(f) not in families - shown]


def _order(cpu: Cpu) -> tuple[str, int, str]:
    return cpu.family, len(cpu.ancestors), cpu.name


def _together(members: Sequence[NodeClass]) -> Nodes:
    spans = [span for one in members for span in hostlist.spans(one.nodes)]
    return Nodes(hostlist.join(spans), sum(one.node_count for one in members))
