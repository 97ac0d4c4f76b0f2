"""The shortest expression over existing features that selects exactly the classes that fit.

Pure functions. Written are only forms that every supported release reads alike: `a&b`, `(a|b)`,
`a&(b|c)`.
"""

from __future__ import annotations

from itertools import combinations

from slurm_cmeta.constraint.grammar import MAX_EXPRESSION, is_name
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

_EXACT_COVER = 3
"""Names that an AND, or alternatives that a group may have to be found by trying all choices;
longer ones are found greedily."""

_EXACT_CANDIDATES = 64
"""Names of which all choices are tried: 64 names in threes are 41,664 choices, some 10 ms."""


class Expression(NamedTuple):
    """An AND of names, and of at most one group of alternatives."""

    names: tuple[str, ...]
    group: tuple[str, ...] = ()

    def allows(self, features: Collection[str]) -> bool:
        """Tell whether a node with these features satisfies the expression."""
        if not all(name in features for name in self.names):
            return False
        return not self.group or any(name in features for name in self.group)

    def without(self, names: Collection[str]) -> Expression:
        """Return the expression without names that are demanded anyway."""
        kept = tuple(name for name in self.names if name not in names)
        group = () if any(name in names for name in self.group) else self.group
        return Expression(kept, group)

    def render(self) -> str:
        """Return the expression as Slurm reads it. It is empty when there is nothing to ask."""
        group = ["(" + "|".join(self.group) + ")"] if self.group else []
        return "&".join([*self.names, *group])


def select(
    wanted: Sequence[Collection[str]],
    unwanted: Sequence[Collection[str]],
    rank: Callable[[str], int],
) -> Expression | None:
    """Return the shortest expression that all of `wanted` and none of `unwanted` satisfy.

    Each item is the feature set of one node class. `rank` orders names: 0 for those that say what
    is required, more for others; an expression of names with rank 0 and 1 is taken before any that
    needs another name, because it stays true when the cluster grows. Equal costs are decided by
    length, then by the alphabet: the same cluster always gives the same expression. None when the
    features cannot tell the two apart.
    """
    if not unwanted:
        return Expression(())
    if not wanted:
        return None
    names = sorted({n for features in wanted for n in features if is_name(n)})
    related = [n for n in names if rank(n) <= 1]
    for allowed in (related, names):
        found = _conjunction(wanted, unwanted, allowed, rank) or _with_group(
            wanted, unwanted, allowed, rank
        )
        if found is not None and len(found.render()) <= MAX_EXPRESSION:
            return found
    return None


def widest(
    wanted: Sequence[Collection[str]],
    unwanted: Sequence[Collection[str]],
    rank: Callable[[str], int],
) -> Expression:
    """Return an AND of names that all of `wanted` satisfy, and as few of `unwanted` as possible.

    For where select() finds nothing. It may be empty.
    """
    common = sorted(n for n in wanted[0] if is_name(n) and all(n in f for f in wanted))
    left = list(unwanted)
    chosen: list[str] = []
    while left and common:
        name = min(common, key=lambda n: (sum(n in f for f in left), rank(n), len(n), n))
        rest = [features for features in left if name in features]
        if len(rest) == len(left):
            break
        chosen.append(name)
        left = rest
    return Expression(tuple(chosen))


def _conjunction(
    wanted: Sequence[Collection[str]],
    unwanted: Sequence[Collection[str]],
    allowed: Iterable[str],
    rank: Callable[[str], int],
) -> Expression | None:
    """Return the shortest AND of names that all of `wanted` have in common."""
    common = [n for n in allowed if all(n in features for features in wanted)]
    excludes = {n: frozenset(i for i, f in enumerate(unwanted) if n not in f) for n in common}
    names = _cover(excludes, len(unwanted), rank)
    return Expression(names) if names else None


def _with_group(
    wanted: Sequence[Collection[str]],
    unwanted: Sequence[Collection[str]],
    allowed: Sequence[str],
    rank: Callable[[str], int],
) -> Expression | None:
    """Return the shortest AND with one group of alternatives."""
    common = [n for n in allowed if all(n in features for features in wanted)]
    left = [f for f in unwanted if all(n in f for n in common)]
    covers = {
        n: frozenset(i for i, f in enumerate(wanted) if n in f)
        for n in allowed
        if not any(n in features for features in left)
    }
    group = _cover(covers, len(wanted), rank)
    if group is None:
        return None
    still = [f for f in unwanted if any(n in f for n in group)]
    if not still:
        return Expression((), group)
    beside = _conjunction(wanted, still, common, rank)
    return None if beside is None else Expression(beside.names, group)


def _cover(
    covers: dict[str, frozenset[int]], size: int, rank: Callable[[str], int]
) -> tuple[str, ...] | None:
    """Return the cheapest names whose sets together hold 0..size-1, or None."""

    def cost(names: Sequence[str]) -> tuple[int, int, int, tuple[str, ...]]:
        return len(names), sum(map(rank, names)), sum(map(len, names)), tuple(names)

    best: dict[frozenset[int], str] = {}
    for name in sorted(covers, key=lambda n: cost((n,))):
        if covers[name]:
            best.setdefault(covers[name], name)
    candidates = list(best.values())
    everything = frozenset(range(size))
    if frozenset().union(*(covers[n] for n in candidates)) != everything:
        return None
    for count in range(1, _EXACT_COVER + 1):
        fitting = [
            names
            for names in combinations(candidates[:_EXACT_CANDIDATES], count)
            if frozenset().union(*(covers[n] for n in names)) == everything
        ]
        if fitting:
            return min(fitting, key=cost)
    most = max(len(covers[name]) for name in candidates)
    shortest = min(map(len, candidates)) + 1
    if -(-size // most) * shortest > MAX_EXPRESSION:
        return None  # so many names cannot be short enough, whichever they are
    chosen: list[str] = []
    missing = everything
    while missing:
        if sum(map(len, chosen)) + len(chosen) > MAX_EXPRESSION:
            return None
        chosen.append(min(candidates, key=lambda n: (-len(covers[n] & missing), cost((n,)))))
        missing -= covers[chosen[-1]]
    return tuple(chosen)
