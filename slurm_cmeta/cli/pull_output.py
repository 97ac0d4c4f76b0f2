"""What `cmeta pull --dry-run` shows: the variants, and which one would be taken."""

from __future__ import annotations

import json as jsonlib

from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from slurm_cmeta.archs import Target as Build
    from slurm_cmeta.pull.choose import Rated
    from slurm_cmeta.pull.cover import Cover
    from slurm_cmeta.pull.target import Target
    from slurm_cmeta.pull.variant import Offer, Variant
    from slurm_cmeta.registry.reference import Reference

SCHEMA = "cmeta.pull/1"

SHORT = 19
"""Characters of a digest that a table shows."""


def print_table(
    reference: Reference, aim: Target, rated: Sequence[Rated], best: Rated | None
) -> None:
    """Print a line for each variant."""
    rows = [("", "VARIANT", "PLATFORM", "VERDICT", "SCORE", "REASON")]
    for one in rated:
        verdict = "match" if one.score.fits else "mismatch"
        mark = "*" if one is best else ""
        score = str(one.score) if one.score.fits else "-"
        shown = (mark, one.variant.digest[:SHORT], _platform(one.variant), verdict, score)
        rows.append((*shown, one.reason))
    _print(rows)
    print(f"\nreference  {clean(str(reference), 300)}")
    print(f"for        {aim.name}")
    print(f"choice     {best.variant.digest if best else 'none'}")


def print_cover(
    reference: Reference, offered: Offer, aim: Target, found: Cover, *, json: bool
) -> None:
    """Print which variants serve which nodes, and what is missing."""
    if json:
        print(jsonlib.dumps(_cover_as_json(reference, offered, aim, found), indent=2))
        return
    rows = [("NODES", "COUNT", "VARIANT", "PLATFORM", "REASON")]
    for one in found.classes:
        nodes = (clean(one.nodes.nodes, 40), str(one.nodes.node_count))
        if one.best is not None:
            taken = one.best.variant
            rows.append((*nodes, taken.digest[:SHORT], _platform(taken), one.best.reason))
        else:
            why = (
                f"nearest {_platform(one.nearest.variant)}: {one.nearest.reason}"
                if one.nearest
                else ""
            )
            rows.append((*nodes, "none", "", why))
    _print(rows)
    print(f"\nreference  {clean(str(reference), 300)}")
    print(f"for        {aim.name}")
    print(f"best       {_list(found.best)}")
    print(f"enough     {_list(found.enough)}")
    for build in found.missing:
        print(f"missing    {_build(build)}: {clean(build.on.nodes, 60)} ({build.on.node_count})")
    for cpu in found.common:
        print(f"common     {cpu.name} would serve all {cpu.family} nodes that are not served")


def as_json(
    reference: Reference, offered: Offer, aim: Target, rated: Sequence[Rated], best: Rated | None
) -> None:
    """Print the object of docs/schema/cmeta.pull-1.json for one kind of node."""
    document = {
        **_head(reference, offered, aim),
        "choice": best.variant.digest if best else None,
        "variants": [
            {
                **_variant(one.variant),
                "verdict": "match" if one.score.fits else "mismatch",
                "score": list(one.score[1:]) if one.score.fits else None,
                "reason": one.reason,
            }
            for one in rated
        ],
    }
    print(jsonlib.dumps(document, indent=2))


def _cover_as_json(
    reference: Reference, offered: Offer, aim: Target, found: Cover
) -> dict[str, Any]:
    return {
        **_head(reference, offered, aim),
        "variants": [_variant(one) for one in offered.variants],
        "classes": [
            {
                "nodes": one.nodes.nodes,
                "count": one.nodes.node_count,
                "choice": one.best.variant.digest if one.best else None,
                "reason": one.best.reason
                if one.best
                else (one.nearest.reason if one.nearest else ""),
            }
            for one in found.classes
        ],
        "best": [one.digest for one in found.best],
        "enough": [one.digest for one in found.enough],
        "missing": [
            {
                "cpu": build.cpu.name,
                "accelerator": build.accelerator.name if build.accelerator else None,
                "nodes": build.on.nodes,
                "count": build.on.node_count,
            }
            for build in found.missing
        ],
        "common": [cpu.name for cpu in found.common],
    }


def _head(reference: Reference, offered: Offer, aim: Target) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "reference": str(reference),
        "digest": offered.digest,
        "target": aim.name,
        "warnings": list(offered.warnings),
    }


def _variant(variant: Variant) -> dict[str, Any]:
    return {
        "digest": variant.digest,
        "platform": variant.platform or None,
        "size": variant.size,
        "requires": [
            {
                "key": r.key,
                "op": r.op,
                "value": r.value,
                "strength": r.strength,
                "evidence": r.evidence,
                "source": r.source,
            }
            for r in variant.requirements
        ],
    }


def _platform(variant: Variant) -> str:
    return clean(variant.platform or "unknown", 40)


def _list(variants: Sequence[Variant]) -> str:
    return ", ".join(f"{_platform(one)} ({one.digest[:SHORT]})" for one in variants) or "none"


def _build(build: Build) -> str:
    return f"{build.cpu.name}" + (f" with {build.accelerator.name}" if build.accelerator else "")


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, clean(row[-1], 300)]).rstrip())
