"""Add what an image needs to the expression that the user wrote, in each release's language.

The user's text is kept letter by letter wherever it can be. None is the answer where a form cannot
carry the addition exactly: nodes are excluded then. Pure functions; the table is in
docs/requirements.md, and tests/slurm/test_constraints.py asks slurmctld itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from slurm_cmeta.constraint.grammar import MAX_EXPRESSION, Brackets, Constraint, Item

if TYPE_CHECKING:
    from slurm_cmeta.constraint.select import Expression

OLD_BRACKETS = (22, 5)
"""The last of our releases that takes parentheses in front within brackets for a demand on every
node (`[(a&x)|b]` also demands a)."""


class Dialect(NamedTuple):
    """What of a cluster changes how expressions are read."""

    release: tuple[int, int] = (0, 0)
    """Slurm's release, (24, 11); (0, 0) where it is not known: then only what all of them read
    alike is written."""
    changeable: bool = False
    """NodeFeaturesPlugins is set: an OR of names that the plugin can change is read by other rules
    (AND before OR; 22.05 refuses parentheses and OR)."""

    @property
    def modern(self) -> bool:
        """Return whether brackets hold parentheses as documented."""
        return self.release > OLD_BRACKETS


ANY = Dialect()


def add(
    user: Constraint,
    addition: Expression,
    dialect: Dialect = ANY,
    nodes: tuple[int, int] | None = None,
) -> str | None:
    """Return the user's constraint with `addition` required of every node as well, or None.

    `nodes` are the least and the most nodes of the job, where they are known: nodes beyond the sum
    of an expression's counts would be unconstrained.
    """
    rest = addition.without(user.demanded)
    if not rest.names and not rest.group:
        return user.text
    if user.counted:
        text = _with_counts(user, rest, dialect, nodes)
    elif not user.parts:
        text = None if dialect.changeable and rest.group else rest.render()
    elif user.conjunction:
        plain = not rest.group and not user.brackets and "|" not in user.text
        text = f"{user.text}&{rest.render()}" if plain or not dialect.changeable else None
    else:
        text = None if dialect.changeable else _with_alternatives(user, rest)
    return text if text is not None and len(text) <= MAX_EXPRESSION else None


def _with_alternatives(user: Constraint, rest: Expression) -> str:
    """Add to an expression with an OR at its top.

    Plain names get parentheses around them. Parentheses do not nest: where some stand already, what
    is added behind is ANDed to all before it, as Slurm reads from left to right.
    """
    nested = any(part.parentheses for part in user.parts if isinstance(part, Item))
    return f"{user.text if nested else f'({user.text})'}&{rest.render()}"


def _inside(item: Item, names: tuple[str, ...]) -> str:
    """Return an item with names ANDed to what it holds, all in one pair of parentheses."""
    missing = [n for n in names if "|" in item.operators or n not in item.names]
    operators = (*item.operators, *("&" for _ in missing))
    return Item((*item.names, *missing), operators, True, item.count).render()


def _with_counts(
    user: Constraint, rest: Expression, dialect: Dialect, nodes: tuple[int, int] | None
) -> str | None:
    """Put the addition into each counted item: nothing beside them is enforced."""
    (part, *others) = user.parts
    if others or rest.group or not dialect.modern or dialect.changeable:
        return None
    items = part.items if isinstance(part, Brackets) else (part,)
    total = sum(item.count or 0 for item in items)
    if nodes is None or nodes[0] != nodes[1] or nodes[1] < total:
        return None
    pieces = [_inside(item, rest.names) for item in items]
    if nodes[1] > total:
        names = Item(rest.names, ("&",) * (len(rest.names) - 1), len(rest.names) > 1)
        pieces.append(f"{names.render()}*{nodes[1] - total}")
    return "[" + "&".join(pieces) + "]"
