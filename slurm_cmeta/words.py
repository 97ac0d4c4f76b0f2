"""What a decision says to the user. Pure functions; every text is one line, safe to print."""

from __future__ import annotations

import os

from slurm_cmeta import compare, match, vocabulary
from slurm_cmeta.constraint.grammar import MAX_EXPRESSION
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.requirement import HARD, SOFT
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.decide import Decision
    from slurm_cmeta.match import ClassVerdict, Reason
    from slurm_cmeta.requirement import Requirement

MAX_GROUPS_SHOWN = 4
"""Kinds of unfit nodes that a refusal names; `--cmeta=explain` shows every node class."""

MAX_NODES_SHOWN = 60
"""Characters of a list of nodes in a refusal."""

DEMANDED = "that --nodelist names"
"""The place of nodes of which each has to fit."""

_PLAIN = ("arch", "cpu")
"""Keys whose values speak for themselves: `aarch64`, `zen4`. Others are said by name."""


class Done(NamedTuple):
    """What was done to a job."""

    constraint: str | None = None
    prefer: str | None = None
    exclude: str | None = None
    note: str = ""
    """Why nodes are excluded."""
    left: int = 0
    """Nodes that cannot run the image and that the job may get all the same."""
    memory: int | None = None
    gres: str | None = None


def narrowed(
    image: str,
    requirements: Sequence[Requirement],
    verdicts: Sequence[ClassVerdict],
    fit: Sequence[ClassVerdict],
    done: Done,
    others: Sequence[Sequence[Requirement]] = (),
    *,
    made: bool = True,
) -> tuple[str, ...]:
    """Return what is said of a job that is submitted; nothing where it is left as it is."""
    lines = []
    count = sum(v.nodes.node_count for v in fit)
    nodes = f"{count} of {sum(v.nodes.node_count for v in verdicts)} nodes"
    preferred = f'prefer "{clean(done.prefer, MAX_EXPRESSION)}"' if done.prefer else ""
    needs = _any_needs((requirements, *others), verdicts)
    if done.constraint or done.exclude:
        how = (
            f'constraint "{clean(done.constraint, MAX_EXPRESSION)}"'
            if done.constraint
            else f"{done.note}, excluding nodes {clean(done.exclude or '', MAX_EXPRESSION)}"
        )
        parts = ", ".join(filter(None, (how, preferred, nodes)))
        lines.append(f"{_name(image)} needs {needs}: {parts}")
    elif preferred:
        wishes = _needs(requirements, SOFT, verdicts) or _machine(requirements) if made else ""
        why = f"is made for {wishes}" if wishes else "needs no special node"
        lines.append(f"{_name(image)} {why}: {preferred}")
    if done.left:
        lines.append(
            f"warning: {done.left} nodes that cannot run {_name(image)} could not be kept from the "
            f"job: no expression tells them apart, and the list of them is too long"
        )
    if done.memory is not None:
        source = next((r.source for r in requirements if r.key == "memory"), "")
        lines.append(f"{_name(image)} asks for memory ({clean(source)}): --mem={done.memory}M")
    if done.gres:
        lines.append(f"{_name(image)} needs a GPU: --gres={done.gres}")
    return tuple(lines)


def advice(image: str, requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """Return what is said to who asks for no GPU with an image that needs one."""
    gpu = next(r for r in requirements if r.key == "gpu" and r.strength == HARD)
    line = f"{_name(image)} needs a GPU ({clean(gpu.source)}), and the job asks for none: --gpus=1"
    return (line,)


def memory_advice(
    image: str, requirements: Sequence[Requirement], memory: int | None
) -> tuple[str, ...]:
    """Return what is said where the site has a default for memory, which --mem might lower."""
    source = next((r.source for r in requirements if r.key == "memory"), "")
    ask = f"{_name(image)} asks for {memory} MiB of memory ({clean(source)})"
    return (f"{ask}, and the job for none: --mem={memory}M asks for it",)


def unknown(image: str, requirements: Sequence[Requirement]) -> str:
    """Return what is said where nothing was compared, and the site wants that to be said."""
    if not requirements:
        return f"nothing is known of what {_name(image)} needs"
    return f"nothing that {_name(image)} needs could be compared with the nodes"


def among(limited: str, demanded: bool, constrained: bool) -> str:
    """Return which nodes count: `in partition debug that the constraint allows`."""
    if demanded:
        return DEMANDED
    return " ".join(filter(None, (limited, "that the constraint allows" if constrained else "")))


def no_node(
    image: str,
    requirements: Sequence[Requirement],
    unfit: Sequence[ClassVerdict],
    place: str,
    others: Sequence[Sequence[Requirement]] = (),
) -> str:
    """Return why no node of those that count can run the image."""
    needs = f"{_name(image)} needs {_any_needs((requirements, *others), unfit)}"
    total = sum(v.nodes.node_count for v in unfit)
    if place == DEMANDED:
        count = f"{total} of the nodes {place}" if total > 1 else f"a node {place}"
        return f"{needs}, but {count} cannot run it: {_unfit(unfit)}"
    none = "none" if total > 1 else "not one"
    counted = f"{'those' if place else 'the'} {total} nodes" if total > 1 else "those nodes"
    of = " ".join(filter(None, (counted if total > 1 or place else "the nodes", place)))
    return f"{needs}, but {none} of {of} can run it: {_unfit(unfit)}"


def _any_needs(variants: Sequence[Sequence[Requirement]], verdicts: Sequence[ClassVerdict]) -> str:
    """Return what an image needs; of several variants, what each does, or what it is for."""
    if len(variants) == 1:
        return _needs(variants[0], HARD, verdicts)
    said = [_needs(one, HARD, verdicts) or _platform(one) for one in variants]
    shown = list(dict.fromkeys(filter(None, said)))
    more = len(shown) - MAX_GROUPS_SHOWN
    if more > 0:
        shown[MAX_GROUPS_SHOWN:] = [f"one of {more} others"]
    return " or ".join(shown)


def _platform(requirements: Sequence[Requirement]) -> str:
    """Return the CPU, or else the architecture, that a variant is for."""
    for key in reversed(_PLAIN):
        for r in requirements:
            if r.key == key and r.strength == HARD:
                return f"{clean(r.value)} ({clean(r.source)})"
    return ""


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
    return ", ".join(f"{said(r.key, r.op, r.value)} ({clean(r.source)})" for r in listed)


def said(key: str, operator: str, value: str) -> str:
    """Return a requirement in words: `aarch64`, `cuda >= 12.4`, `gpu nvidia`."""
    if key in _PLAIN:
        return clean(value)
    if operator == "=" or key == "isa":
        return f"{key} {clean(value)}"
    return f"{key} {operator} {clean(value)}"


def _machine(requirements: Sequence[Requirement]) -> str:
    """Return the named CPU that the image was built for, with its source."""
    named = (r for r in requirements if r.key == "cpu")
    found = [r for r in named if (cpu := vocabulary.cpu(r.value)) and not cpu.generic]
    return ", ".join(f"{clean(r.value)} ({clean(r.source)})" for r in found)


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
    return ", ".join(dict.fromkeys(has(r) for r in failed if r.has))


def has(reason: Reason) -> str:
    """Return what a node has in place of what is needed: `x86_64`, `cuda 12.2`, `no GPU`."""
    text = clean(reason.has or "")
    versioned = reason.key not in _PLAIN and text[:1].isdigit() and not text.endswith("pages")
    return f"{reason.key} {text}" if versioned else text


def _name(image: str) -> str:
    return clean(os.path.basename(image) or image)


def explain(
    requirements: Sequence[Requirement],
    decision: Decision,
    others: Sequence[Sequence[Requirement]] = (),
) -> list[str]:
    """Return every requirement and every node class with its reasons, a line each."""
    lines = []
    for number, one in enumerate((requirements, *others), 1):
        of = f"variant {number} " if others else ""
        lines += [
            f"{of}requires {r.key} {r.op} {clean(r.value)} "
            f"({r.strength}, {r.evidence}: {clean(r.source)})"
            for r in one
        ]
        if not one:
            lines.append(f"{of or 'the image '}states no requirement")
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
