"""Slurm's constraint language: read simple forms, add to them, find the shortest expression.

Pure functions. What every supported release accepts and means the same (slurmctld's
build_feature_list in 22.05, _feature_string2list in 24.11 and 26.05):

    a    a&b    a,b    a|b    (a|b)&c&(d|e)

An expression is read strictly from left to right, without precedence; parentheses do not nest.
"""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

MAX_EXPRESSION = 1024
"""Longest constraint or prefer that slurmctld takes (job_mgr.c, _test_job_desc_fields)."""

_NAME = re.compile(r"[A-Za-z0-9_.=+:/@~%-]+")
"""Names that may be written into an expression. Slurm forbids only its operators, but a blank or
a quote in a name is not worth the risk."""

_EXACT_COVER = 3
"""Names that an AND, or alternatives that a group may have to be found by trying all choices;
longer ones are found greedily."""

_EXACT_CANDIDATES = 64
"""Names of which all choices are tried: 64 names in threes are 41,664 choices, some 10 ms."""


class Simple(NamedTuple):
    """A constraint made of one operator: `a&b` (also `a,b`), `a|b`, or a single name."""

    operator: str
    names: tuple[str, ...]

    def allows(self, features: Collection[str]) -> bool:
        """Tell whether a node with these features satisfies the constraint."""
        some_or_all = any if self.operator == "|" else all
        return some_or_all(name in features for name in self.names)


class Expression(NamedTuple):
    """An AND of names, and of at most one group of alternatives."""

    names: tuple[str, ...]
    group: tuple[str, ...] = ()

    def allows(self, features: Collection[str]) -> bool:
        """Tell whether a node with these features satisfies the expression."""
        if not all(name in features for name in self.names):
            return False
        return not self.group or any(name in features for name in self.group)

    def render(self) -> str:
        """Return the expression as Slurm reads it. It is empty when there is nothing to ask."""
        group = ["(" + "|".join(self.group) + ")"] if self.group else []
        return "&".join([*self.names, *group])


def parse_simple(text: str | None) -> Simple | None:
    """Return the user's constraint when it has one of the simple forms, else None.

    None and the empty string are the constraint that everything satisfies.
    """
    if not text:
        return Simple("&", ())
    conjunction, disjunction = re.search("[&,]", text), "|" in text
    if conjunction and disjunction:
        return None
    names = tuple(text.split("|") if disjunction else re.split("[&,]", text))
    if not all(map(_NAME.fullmatch, names)):
        return None
    return Simple("|" if disjunction and len(names) > 1 else "&", names)


def add(user: Simple, text: str | None, addition: Expression) -> str:
    """Return the user's constraint `text` (parsed as `user`) with `addition` required as well.

    The user's own text is kept letter by letter. Names that it already demands are not repeated.
    """
    if not text:
        return addition.render()
    demanded = user.names if user.operator == "&" else ()
    rest = Expression(tuple(n for n in addition.names if n not in demanded), addition.group)
    if not rest.names and not rest.group:
        return text
    kept = f"({text})" if user.operator == "|" else text
    return f"{kept}&{rest.render()}"


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
    names = sorted({n for features in wanted for n in features if _NAME.fullmatch(n)})
    related = [n for n in names if rank(n) <= 1]
    for allowed in (related, names):
        found = _conjunction(wanted, unwanted, allowed, rank) or _with_group(
            wanted, unwanted, allowed, rank
        )
        if found is not None and len(found.render()) <= MAX_EXPRESSION:
            return found
    return None


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
    chosen: list[str] = []
    missing = everything
    while missing:
        chosen.append(min(candidates, key=lambda n: (-len(covers[n] & missing), cost((n,)))))
        missing -= covers[chosen[-1]]
    return tuple(chosen)
