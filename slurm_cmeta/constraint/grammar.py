"""Slurm's constraint language: read an expression, and tell which nodes it allows.

    expression  part { op part }            strictly from left to right, without precedence
    part        item | "[" item { op item } "]"          at most one pair of brackets
    item        name [ "*" count ] | "(" name { op name } ")" [ "*" count ]
    op          "&" | "," | "|"             the comma is an AND

What all releases accept and read alike is here, no more: slurmctld 22.05 (job_scheduler.c,
build_feature_list) also takes `(a|b)c` or `a*2&b`, which later ones refuse (_feature_string2list).
Brackets are a matching OR (`[a|b]`: all nodes of the job have the same one of these), or an XAND
(`[a*2&b*4]`: so many nodes of each). Pure functions.
"""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import TypeVar

    _T = TypeVar("_T")

MAX_EXPRESSION = 1024
"""Longest constraint or prefer that slurmctld takes (job_mgr.c, _test_job_desc_fields)."""

MAX_ALTERNATIVES = 64
"""Items that a pair of brackets may hold (MAX_FEATURES of slurmctld)."""

MAX_COUNT = 65535

_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.=+:/@~%-")
_OPERATORS = "&,|()[]*"


def is_name(text: str) -> bool:
    """Tell whether `text` may be written into an expression as a name.

    Slurm forbids only its operators, but a blank or a quote in a name is not worth the risk.
    """
    return bool(text) and _NAME.issuperset(text)


def _split(text: str) -> list[str]:
    """Return the operators of an expression, each by itself, and what stands between them."""
    found = [""]
    for character in text:
        if character in _OPERATORS:
            found += [character, ""]
        else:
            found[-1] += character
    return list(filter(None, found))


class Item(NamedTuple):
    """A name, or names in parentheses."""

    names: tuple[str, ...]
    operators: tuple[str, ...] = ()
    """`&` or `|` between the names, one less than there are names."""
    parentheses: bool = False
    times: int | None = None
    """So many nodes of the job; None where it is no count."""

    def allows(self, features: Collection[str]) -> bool:
        """Tell whether a node with these features satisfies the item."""
        return _evaluate([name in features for name in self.names], self.operators)

    def render(self) -> str:
        """Return the item as Slurm reads it."""
        text = _joined(self.names, self.operators)
        if self.parentheses:
            text = f"({text})"
        return text if self.times is None else f"{text}*{self.times}"


class Brackets(NamedTuple):
    """A matching OR, or an XAND."""

    items: tuple[Item, ...]
    counted: bool
    """True for an XAND."""

    def allows(self, features: Collection[str]) -> bool:
        """Tell whether a node with these features can be one of the job's."""
        return any(item.allows(features) for item in self.items)

    def render(self) -> str:
        """Return the brackets as Slurm reads them."""
        return "[" + ("&" if self.counted else "|").join(i.render() for i in self.items) + "]"


class Constraint(NamedTuple):
    """An expression that was understood."""

    text: str
    parts: tuple[Item | Brackets, ...]
    operators: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """Return every name in it."""
        return frozenset(name for item in self._items() for name in item.names)

    @property
    def counted(self) -> bool:
        """Return whether it holds a count.

        slurmctld then filters no node at all (node_scheduler.c, valid_feature_counts): what stands
        beside the counts is not enforced, nor is anything on nodes beyond their sum.
        """
        return any(item.times is not None for item in self._items())

    @property
    def brackets(self) -> Brackets | None:
        """Return the matching OR or XAND in it."""
        return next((part for part in self.parts if isinstance(part, Brackets)), None)

    @property
    def conjunction(self) -> bool:
        """Return whether nothing but AND joins its parts."""
        return "|" not in self.operators

    @property
    def demanded(self) -> frozenset[str]:
        """Return the names that every node has to have."""
        if not self.conjunction or self.counted:
            return frozenset()
        return frozenset(
            name
            for part in self.parts
            if isinstance(part, Item) and "|" not in part.operators
            for name in part.names
        )

    def allows(self, features: Collection[str]) -> bool:
        """Tell whether a node with these features may be one of the job's."""
        if not self.parts or self.counted:
            return True
        return _evaluate([part.allows(features) for part in self.parts], self.operators)

    def _items(self) -> Iterator[Item]:
        for part in self.parts:
            if isinstance(part, Item):
                yield part
            else:
                yield from part.items


NOTHING = Constraint("", (), ())
"""The constraint that every node satisfies."""


def parse(text: str | None) -> Constraint | None:
    """Return the expression, NOTHING for none; None where not all releases read it alike."""
    if not text:
        return NOTHING
    if len(text) > MAX_EXPRESSION:
        return None
    tokens = _Tokens(text)
    try:
        parts, operators = _sequence(tokens, _part, "")
    except _NotUnderstood:
        return None
    constraint = Constraint(text, tuple(parts), tuple(operators))
    return constraint if _sound(constraint) else None


class _NotUnderstood(Exception):  # noqa: N818 - never leaves this module
    pass


class _Tokens:
    def __init__(self, text: str) -> None:
        self._tokens = _split(text)
        self._next = 0

    def peek(self) -> str:
        """Return the next token, empty at the end."""
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def take(self) -> str:
        """Return the next token and step over it."""
        token = self.peek()
        self._next += 1
        return token


def _sequence(
    tokens: _Tokens, read: Callable[[_Tokens], _T], end: str
) -> tuple[list[_T], list[str]]:
    parts = [read(tokens)]
    operators: list[str] = []
    while tokens.peek() != end:
        operator = tokens.take()
        if operator not in ("&", ",", "|"):
            raise _NotUnderstood
        operators.append("|" if operator == "|" else "&")
        parts.append(read(tokens))
    tokens.take()
    return parts, operators


def _part(tokens: _Tokens) -> Item | Brackets:
    if tokens.peek() != "[":
        return _item(tokens)
    tokens.take()
    items, operators = _sequence(tokens, _item, "]")
    counts = [item.times is not None for item in items]
    if len(items) > MAX_ALTERNATIVES:
        raise _NotUnderstood
    if all(counts) and "|" not in operators:
        return Brackets(tuple(items), True)
    if not any(counts) and len(items) > 1 and "&" not in operators:
        return Brackets(tuple(items), False)
    raise _NotUnderstood


def _item(tokens: _Tokens) -> Item:
    if tokens.peek() == "(":
        tokens.take()
        names, operators = _sequence(tokens, _name, ")")
        return Item(tuple(names), tuple(operators), True, _count(tokens))
    return Item((_name(tokens),), (), False, _count(tokens))


def _name(tokens: _Tokens) -> str:
    token = tokens.take()
    if not is_name(token):
        raise _NotUnderstood
    return token


def _count(tokens: _Tokens) -> int | None:
    if tokens.peek() != "*":
        return None
    tokens.take()
    digits = tokens.take()
    if not digits.isascii() or not digits.isdigit() or not 0 < int(digits[:9]) <= MAX_COUNT:
        raise _NotUnderstood
    return int(digits)


def _sound(constraint: Constraint) -> bool:
    """Tell whether the parts may stand together in every release."""
    brackets = [part for part in constraint.parts if isinstance(part, Brackets)]
    if len(brackets) > 1 or (brackets and not constraint.conjunction):
        return False
    counted = [p for p in constraint.parts if isinstance(p, Item) and p.times is not None]
    return not counted or len(constraint.parts) == 1


def _evaluate(values: list[bool], operators: tuple[str, ...]) -> bool:
    result = values[0]
    for operator, value in zip(operators, values[1:], strict=True):
        result = result or value if operator == "|" else result and value
    return result


def _joined(names: tuple[str, ...], operators: tuple[str, ...]) -> str:
    return names[0] + "".join(o + n for o, n in zip(operators, names[1:], strict=True))
