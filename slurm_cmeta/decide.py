"""One submission, one decision: requirements, node classes and the user's own wishes put together.

Pure functions: what was read from files comes in as arguments, what is to be said goes out as text.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from slurm_cmeta import compare, match, vocabulary
from slurm_cmeta.constraint import MAX_EXPRESSION, Expression, Simple, add, parse_simple, select
from slurm_cmeta.requirement import HARD, SOFT
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.cluster import NodeClass
    from slurm_cmeta.match import ClassVerdict
    from slurm_cmeta.requirement import Requirement

UNKNOWN = "unknown"
ACCEPT = "accept"
REJECT = "reject"

MAX_GROUPS_SHOWN = 4
"""Kinds of unfit nodes that a refusal names; `--cmeta=explain` shows every node class."""

MAX_NODES_SHOWN = 60
"""Characters of a list of nodes in a refusal."""


class Wishes(NamedTuple):
    """What the user asked of Slurm; empty means not given."""

    constraint: str = ""
    prefer: str = ""


class Decision(NamedTuple):
    """What becomes of one submission."""

    verdict: str
    """`match`, `mismatch`, or `unknown` when nothing could be compared."""
    action: str
    """`accept` or `reject`."""
    constraint: str | None = None
    """The whole expression for the job, the user's own included; None: leave the user's."""
    prefer: str | None = None
    """The same for --prefer."""
    exclude: str | None = None
    """Nodes to exclude besides the user's own; only where no expression can say it."""
    classes: tuple[ClassVerdict, ...] = ()
    messages: tuple[str, ...] = ()
    """What the user should read, in order; nothing when the job is left as it is."""


class _Addition(NamedTuple):
    """What the image's requirements add to a job."""

    expression: Expression | None
    """None when no expression can say it."""
    exclude: str | None
    note: str = ""


def decide(
    image: str,
    requirements: Sequence[Requirement],
    classes: Sequence[NodeClass],
    wishes: Wishes,
    *,
    on_mismatch: str = REJECT,
    unlisted_nodes: bool = False,
) -> Decision:
    """Return the decision for one submission.

    `image` is the image's path, for messages. `unlisted_nodes` says that the cluster may have nodes
    that `classes` does not show (dynamic nodes, a stale snapshot): then nothing is refused for want
    of a node.
    """
    verdicts = tuple(match.judge(requirements, c) for c in classes)
    user = parse_simple(wishes.constraint)
    reachable = _reachable(verdicts, user)
    fit = [v for v in reachable if v.verdict == compare.MATCH]
    unfit = [v for v in reachable if v.verdict != compare.MATCH]
    if not fit:
        return _no_node(image, requirements, verdicts, reachable, on_mismatch, unlisted_nodes)
    verdict = compare.MATCH if _anything_checked(reachable) else UNKNOWN
    addition = _addition(fit, unfit, user, wishes, requirements)
    constraint = prefer = None
    if addition.expression is not None and user is not None:
        constraint = _changed(add(user, wishes.constraint, addition.expression), wishes.constraint)
    prefer = _prefer(fit, unfit, user, wishes, requirements, addition)
    messages = _say(image, requirements, verdicts, fit, constraint, prefer, addition)
    return Decision(verdict, ACCEPT, constraint, prefer, addition.exclude, verdicts, messages)


def _reachable(verdicts: Sequence[ClassVerdict], user: Simple | None) -> list[ClassVerdict]:
    """Return the classes that the user's constraint leaves; all of them where it cannot be told."""
    known = {feature for v in verdicts for feature in v.nodes.features}
    if user is None or not known.issuperset(user.names):
        return list(verdicts)
    return [v for v in verdicts if not user.names or user.allows(v.nodes.features)]


def _anything_checked(verdicts: Sequence[ClassVerdict]) -> bool:
    return any(r.verdict != compare.UNCHECKED for v in verdicts for r in v.reasons)


def _changed(expression: str, before: str) -> str | None:
    return expression if expression != before else None


def _addition(
    fit: Sequence[ClassVerdict],
    unfit: Sequence[ClassVerdict],
    user: Simple | None,
    wishes: Wishes,
    requirements: Sequence[Requirement],
) -> _Addition:
    if not unfit:
        return _Addition(Expression(()), None)
    features = [frozenset(v.nodes.features) for v in fit]
    others = [frozenset(v.nodes.features) for v in unfit]
    expression = select(features, others, _rank(requirements))
    prefer = parse_simple(wishes.prefer)
    if user is None or prefer is None:
        note = "the job's own expression is kept as it is"
    elif expression is None:
        note = "no expression over the nodes' features tells them apart"
    elif max(map(len, _texts(user, prefer, wishes, expression))) > MAX_EXPRESSION:
        note = f"the expression would exceed {MAX_EXPRESSION} characters"
    else:
        return _Addition(expression, None)
    return _Addition(None, ",".join(v.nodes.nodes for v in unfit), note)


def _texts(user: Simple, prefer: Simple, wishes: Wishes, expression: Expression) -> tuple[str, str]:
    return add(user, wishes.constraint, expression), add(prefer, wishes.prefer, expression)


def _prefer(
    fit: Sequence[ClassVerdict],
    unfit: Sequence[ClassVerdict],
    user: Simple | None,
    wishes: Wishes,
    requirements: Sequence[Requirement],
    addition: _Addition,
) -> str | None:
    """Return the job's --prefer expression, or None to leave it.

    Slurm tries `prefer` in place of the constraint, so everything that the constraint demands has
    to be in it, too.
    """
    if addition.expression is None or user is None:
        return None
    if wishes.prefer:
        own = parse_simple(wishes.prefer)
        if own is None:
            return None
        return _changed(add(own, wishes.prefer, addition.expression), wishes.prefer)
    best = [v for v in fit if v.preferred]
    rest = [v for v in fit if not v.preferred]
    if not best or not rest:
        return None
    wanted = [frozenset(v.nodes.features) for v in best]
    closest = select(
        wanted, [frozenset(v.nodes.features) for v in (*rest, *unfit)], _rank(requirements)
    )
    if closest is None:
        return None
    names = (*addition.expression.names, *closest.names)
    whole = Expression(tuple(dict.fromkeys(names)), closest.group or addition.expression.group)
    text = add(user, wishes.constraint, whole)
    return text if len(text) <= MAX_EXPRESSION else None


def _rank(requirements: Sequence[Requirement]) -> _Rank:
    return _Rank({r.value for r in requirements})


class _Rank:
    """Orders feature names by how well they say what is required; see constraint.select()."""

    def __init__(self, values: set[str]) -> None:
        self._values = values
        self._known: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        if name not in self._known:
            target = vocabulary.feature_target(name)
            if target in self._values:
                self._known[name] = 0
            else:
                self._known[name] = 2 if target is None else 1
        return self._known[name]


def _no_node(
    image: str,
    requirements: Sequence[Requirement],
    verdicts: tuple[ClassVerdict, ...],
    reachable: Sequence[ClassVerdict],
    on_mismatch: str,
    unlisted_nodes: bool,
) -> Decision:
    if not reachable:  # an empty cluster, or names that no node has all of: slurmctld says so
        return Decision(UNKNOWN, ACCEPT, classes=verdicts)
    needs = f"{_name(image)} needs {_needs(requirements, HARD, reachable)}"
    total = sum(v.nodes.node_count for v in reachable)
    among = "the" if len(reachable) == len(verdicts) else "those"
    allowed = "" if len(reachable) == len(verdicts) else " that the constraint allows"
    none = "none" if total > 1 else "not one"
    counted = f"{among} {total} nodes" if total > 1 else f"{among} nodes"
    why = f"{needs}, but {none} of {counted}{allowed} can run it: {_unfit(reachable)}"
    if unlisted_nodes:
        return Decision(
            UNKNOWN, ACCEPT, classes=verdicts, messages=(f"warning: {why}; others may",)
        )
    if on_mismatch == REJECT:
        return Decision(compare.MISMATCH, REJECT, classes=verdicts, messages=(f"error: {why}",))
    return Decision(compare.MISMATCH, ACCEPT, classes=verdicts, messages=(f"warning: {why}",))


def _say(
    image: str,
    requirements: Sequence[Requirement],
    verdicts: Sequence[ClassVerdict],
    fit: Sequence[ClassVerdict],
    constraint: str | None,
    prefer: str | None,
    addition: _Addition,
) -> tuple[str, ...]:
    count = sum(v.nodes.node_count for v in fit)
    nodes = f"{count} of {sum(v.nodes.node_count for v in verdicts)} nodes"
    preferred = f'prefer "{clean(prefer, MAX_EXPRESSION)}"' if prefer else ""
    if constraint or addition.exclude:
        needs = f"{_name(image)} needs {_needs(requirements, HARD, verdicts)}"
        done = (
            f'constraint "{clean(constraint, MAX_EXPRESSION)}"'
            if constraint
            else f"{addition.note}, excluding nodes {clean(addition.exclude or '', MAX_EXPRESSION)}"
        )
        return (f"{needs}: {', '.join(filter(None, (done, preferred, nodes)))}",)
    if preferred:
        wishes = _needs(requirements, SOFT, verdicts)
        return (f"{_name(image)} is made for {wishes or 'no special node'}: {preferred}",)
    return ()


def _needs(
    requirements: Sequence[Requirement], strength: str, verdicts: Sequence[ClassVerdict]
) -> str:
    """Return `aarch64 (SIF partition descriptor 3)`: the requirements that made a difference."""
    decisive = {
        (r.key, r.needs) for v in verdicts for r in v.reasons if r.verdict == compare.MISMATCH
    }
    listed = [r for r in requirements if r.strength == strength and (r.key, r.value) in decisive]
    implied = {cpu.family for r in listed if r.key == "cpu" and (cpu := vocabulary.cpu(r.value))}
    if len(listed) > 1:
        listed = [r for r in listed if r.key != "arch" or r.value not in implied]
    return ", ".join(f"{clean(r.value)} ({clean(r.source)})" for r in listed)


def _unfit(verdicts: Sequence[ClassVerdict]) -> str:
    """Return `n[1-4],m1 have x86_64; a1 has aarch64`: nodes grouped by what they have instead."""
    groups: dict[str, list[ClassVerdict]] = {}
    for verdict in verdicts:
        groups.setdefault(_has(verdict), []).append(verdict)
    shown = []
    for has, members in list(groups.items())[:MAX_GROUPS_SHOWN]:
        nodes = clean(",".join(v.nodes.nodes for v in members), MAX_NODES_SHOWN)
        one = sum(v.nodes.node_count for v in members) == 1
        if has:
            shown.append(f"{nodes} {'has' if one else 'have'} {has}")
        else:
            shown.append(f"{nodes} {'publishes' if one else 'publish'} no such feature")
    if len(groups) > MAX_GROUPS_SHOWN:
        shown.append("and others")
    return "; ".join(shown)


def _has(verdict: ClassVerdict) -> str:
    failed = [r for r in verdict.reasons if r.verdict == compare.MISMATCH and r.strength == HARD]
    return ", ".join(dict.fromkeys(clean(r.has) for r in failed if r.has))


def _name(image: str) -> str:
    return clean(os.path.basename(image) or image)


def explain(requirements: Sequence[Requirement], decision: Decision) -> list[str]:
    """Return every requirement and every node class with its reasons, a line each."""
    lines = [
        f"requires {r.key} {r.op} {clean(r.value)} ({r.strength}, {r.evidence}: {clean(r.source)})"
        for r in requirements
    ]
    if not requirements:
        lines.append("the image states no requirement")
    silent = match.never_compared(decision.classes)
    keys = [(r.key, r.needs) for r in silent]
    for verdict in decision.classes:
        reasons = "; ".join(
            f"{r.key} needs {clean(r.needs)}, has {clean(r.has) if r.has else 'not said'}: "
            f"{r.verdict}"
            for r in verdict.reasons
            if (r.key, r.needs) not in keys
        )
        nodes = f"{clean(verdict.nodes.nodes)} ({verdict.nodes.node_count})"
        lines.append(f"{nodes}: {verdict.verdict}{': ' + reasons if reasons else ''}")
    if silent:
        lines.append(
            f"unchecked, as no node says anything of it: {', '.join(r.key for r in silent)}"
        )
    lines.append(f"verdict {decision.verdict}")
    return lines
