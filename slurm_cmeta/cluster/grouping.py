"""Nodes put together into classes, and the partitions that they belong to (pure functions).

All of it is done on spans of host lists: the cost follows the number of ranges, not of nodes.
"""

from __future__ import annotations

from bisect import bisect_left

from slurm_cmeta.cluster import NodeClass, hostlist
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from slurm_cmeta.cluster.hostlist import Span

_Key = tuple[str, int]
_Segment = tuple[int, int, tuple[str, ...]]


class Membership:
    """Which partitions a span of nodes belongs to."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._everywhere: set[int] = set()
        self._ranges: dict[_Key, list[tuple[int, int, int]]] = {}
        self._segments: dict[_Key, tuple[list[int], list[_Segment]]] = {}
        self._base: tuple[str, ...] = ()

    def add(self, name: str, spans: Iterable[Span]) -> None:
        """Put nodes into a partition; partitions are listed in the order of their first add()."""
        number = self._number(name)
        for stem, digits, first, last in spans:
            self._ranges.setdefault((stem, digits), []).append((first, last, number))

    def add_everywhere(self, name: str) -> None:
        """Put all nodes into a partition."""
        self._everywhere.add(self._number(name))
        self._base = tuple(self._names[i] for i in sorted(self._everywhere))

    def of(self, span: Span) -> list[tuple[Span, tuple[str, ...]]]:
        """Return the parts of a span, each with its partitions; to be called after the last add."""
        key = (span.stem, span.digits)
        if key not in self._segments:
            segments = list(self._cut(self._ranges.get(key, ())))
            self._segments[key] = ([last for _, last, _ in segments], segments)
        lasts, segments = self._segments[key]
        position = bisect_left(lasts, span.first)
        if position == len(segments) or segments[position][0] > span.last:
            return [(span, self._base)]
        if segments[position][0] <= span.first and span.last <= segments[position][1]:
            return [(span, segments[position][2])]
        parts, first = [], span.first
        for start, end, names in segments[position:]:
            if start > span.last:
                break
            if start > first:
                parts.append((span._replace(first=first, last=start - 1), self._base))
            begun, first = max(first, start), min(end, span.last) + 1
            parts.append((span._replace(first=begun, last=first - 1), names))
        if first <= span.last:
            parts.append((span._replace(first=first), self._base))
        return parts

    def _number(self, name: str) -> int:
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def _cut(self, ranges: Sequence[tuple[int, int, int]]) -> Iterator[_Segment]:
        """Yield (first, last, partitions) without overlaps, in order, neighbours joined."""
        events = sorted(
            [(first, 1, number) for first, _, number in ranges]
            + [(last + 1, -1, number) for _, last, number in ranges]
        )
        active: dict[int, int] = {}
        named: dict[frozenset[int], tuple[str, ...]] = {}
        begun, before, last = 0, frozenset[int](), len(events) - 1
        for index, (position, change, number) in enumerate(events):
            active[number] = active.get(number, 0) + change
            if not active[number]:
                del active[number]
            if index < last and events[index + 1][0] == position:
                continue
            now = frozenset(active)
            if now == before:
                continue
            if before:
                if before not in named:
                    members = sorted(before | self._everywhere)
                    named[before] = tuple(self._names[i] for i in members)
                yield begun, position - 1, named[before]
            begun, before = position, now


class _Group:
    """One class that is being put together."""

    __slots__ = ("count", "cpus", "features", "gres", "memory", "partitions", "spans", "states")

    def __init__(self, features: tuple[str, ...], partitions: tuple[str, ...] | None) -> None:
        self.features = features
        self.partitions = partitions
        self.spans: list[Span] = []
        self.count = 0
        self.states: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.gres: dict[str, None] = {}
        self.cpus: int | None = None


class Grouper:
    """Collects nodes into classes: equal feature sets, equal partitions."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str, ...], frozenset[str]] = {}
        self._groups: dict[tuple[frozenset[str], tuple[str, ...] | None], _Group] = {}

    def group(self, features: tuple[str, ...], partitions: tuple[str, ...] | None) -> _Group:
        """Return the class of nodes with these features in these partitions."""
        names = self._sets.get(features)
        if names is None:
            names = self._sets[features] = frozenset(features)
        found = self._groups.get((names, partitions))
        if found is None:
            found = self._groups[names, partitions] = _Group(features, partitions)
        return found

    def add(
        self,
        span: Span,
        features: tuple[str, ...],
        partitions: tuple[str, ...] | None,
        state: str,
        memory: int | None,
        gres: str,
        cpus: int | None = None,
    ) -> None:
        """Add nodes that are not in yet; an empty `state` or None say nothing."""
        group = self.group(features, partitions)
        count = span.last - span.first + 1
        group.spans.append(span)
        group.count += count
        if state:
            group.states[state] = group.states.get(state, 0) + count
        if memory is not None:
            group.memory = _widened(group.memory, (memory, memory))
        group.gres[gres] = None
        group.cpus = _fewest(group.cpus, cpus, group.count == count)

    def classes(self) -> tuple[NodeClass, ...]:
        """Return the classes in the order of their first nodes."""
        return tuple(
            NodeClass(
                hostlist.join(group.spans),
                group.count,
                group.features,
                group.partitions,
                ordered_states(group.states),
                group.memory,
                tuple(group.gres) if any(group.gres) else (),
                group.cpus,
            )
            for group in self._groups.values()
        )


def ordered_states(states: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """Return the states, those of most nodes first."""
    return tuple(sorted(states.items(), key=lambda item: (-item[1], item[0])))


def by_features(classes: Sequence[NodeClass]) -> tuple[NodeClass, ...]:
    """Return the classes with one class for each feature set, in the order of the first of each.

    What they differ in is put together: partitions that only some of the nodes belong to are
    listed, so what this returns says no more which nodes a partition holds. Raises ClusterError for
    host lists that are none, which only a snapshot may have.
    """
    groups: dict[frozenset[str], list[NodeClass]] = {}
    for one in classes:
        groups.setdefault(frozenset(one.features), []).append(one)
    if len(groups) == len(classes):
        return tuple(classes)
    return tuple(map(_merged, groups.values()))


def _merged(members: list[NodeClass]) -> NodeClass:
    first = members[0]
    if len(members) == 1:
        return first
    states: dict[str, int] = {}
    memory: tuple[int, int] | None = None
    for one in members:
        for state, count in one.states:
            states[state] = states.get(state, 0) + count
        if one.memory is not None:
            memory = _widened(memory, one.memory)
    known = [one.partitions for one in members]
    partitions = None
    if None not in known:
        partitions = tuple(dict.fromkeys(name for names in known if names for name in names))
    return NodeClass(
        hostlist.join([span for one in members for span in hostlist.spans(one.nodes)]),
        sum(one.node_count for one in members),
        first.features,
        partitions,
        ordered_states(states),
        memory,
        _all_gres(members),
        min((one.cpus for one in members if one.cpus), default=None)
        if all(one.cpus for one in members)
        else None,
    )


def _fewest(known: int | None, cpus: int | None, first: bool) -> int | None:
    """Return the CPUs that all nodes have so far; None once nobody knows those of one."""
    if first or cpus is None:
        return cpus
    return None if known is None else min(known, cpus)


def _all_gres(members: list[NodeClass]) -> tuple[str, ...]:
    found = dict.fromkeys(text for one in members for text in one.gres or ("",))
    return tuple(found) if any(found) else ()


def _widened(memory: tuple[int, int] | None, other: tuple[int, int]) -> tuple[int, int]:
    if memory is None:
        return other
    return min(memory[0], other[0]), max(memory[1], other[1])
