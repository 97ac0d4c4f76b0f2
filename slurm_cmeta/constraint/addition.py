"""Add what an image needs to the expression that the user wrote.

The user's text is kept letter by letter wherever it can be. None is the answer where a form cannot
carry the addition exactly: nodes are excluded then. Pure functions; the table is in
docs/requirements.md, and tests/slurm/test_constraints.py asks slurmctld itself.
"""

from __future__ import annotations

from slurm_cmeta.constraint.grammar import MAX_EXPRESSION, Constraint, Item
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.constraint.select import Expression


def add(user: Constraint, addition: Expression, *, changeable: bool = False) -> str | None:
    """Return the user's constraint with `addition` required of every node as well, or None.

    Counts (`[a*2&b*4]`, `a*4`) carry nothing: slurmctld enforces nothing that stands beside them,
    and puts any node into the places that are not counted. `changeable` says that the cluster has
    NodeFeaturesPlugins: an OR of names that a plugin can change is read by other rules (AND before
    OR; 22.05 refuses it), so that nothing but a plain AND is written.
    """
    rest = addition.without(user.demanded)
    if not rest.names and not rest.group:
        return user.text
    if user.counted:
        text = None
    elif not user.parts:
        text = None if changeable and rest.group else rest.render()
    elif user.conjunction:
        plain = not rest.group and not user.brackets and "|" not in user.text
        text = f"{user.text}&{rest.render()}" if plain or not changeable else None
    else:
        text = None if changeable else _with_alternatives(user, rest)
    return text if text is not None and len(text) <= MAX_EXPRESSION else None


def _with_alternatives(user: Constraint, rest: Expression) -> str:
    """Add to an expression with an OR at its top.

    Plain names get parentheses around them. Parentheses do not nest: where some stand already, what
    is added behind is ANDed to all before it, as Slurm reads from left to right.
    """
    nested = any(part.parentheses for part in user.parts if isinstance(part, Item))
    return f"{user.text if nested else f'({user.text})'}&{rest.render()}"
