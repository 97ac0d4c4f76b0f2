"""cmeta match: what the submission would decide, without submitting."""

from __future__ import annotations

import argparse
import json
import sys

from slurm_cmeta.cli import matching
from slurm_cmeta.compare import MISMATCH
from slurm_cmeta.decide import UNKNOWN
from slurm_cmeta.errors import EXIT_NO_NODE, EXIT_OK
from slurm_cmeta.match import never_compared
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from typing import Any

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.decide import Decision
    from slurm_cmeta.submission import ImageReport

SCHEMA = "cmeta.match/1"

EXAMPLES = """\
examples:
  cmeta match img.sif                       against the nodes in slurm.conf
  cmeta match img.sif -C 'zen3|zen4'        with a constraint of the job's own
  cmeta match img.sif --live --json         against the running cluster, for a program
  cmeta match docker://quay.io/org/app:1.0  an image in a registry, with all its variants

exit status: 0 a node fits, 1 none does, 2 usage, 3 image cannot be read,
4 cluster or configuration cannot be read
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cmeta match` to the command line."""
    parser = subparsers.add_parser(
        "match",
        help="compare an image with the cluster's nodes",
        description="Compare what an image needs with what the cluster's nodes are. Prints the "
        "verdict for each node class, and the constraint that a job with this image would get.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    matching.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON (schema cmeta.match/1)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the match and return the exit code."""
    # What the job asks for by itself is not known here: nothing is advised.
    found = matching.answer(args, memory=False, gpus=True)
    if args.json:
        print(json.dumps(as_json(args, found.decision), indent=2))
    else:
        _print_table(args, found.report, found.cluster, found.decision)
    return EXIT_NO_NODE if found.refused else EXIT_OK


def as_json(args: argparse.Namespace, decision: Decision) -> dict[str, Any]:
    """Return the object of docs/schema/cmeta.match-1.json."""
    return {
        "schema": SCHEMA,
        "verdict": decision.verdict,
        "constraint": decision.constraint,
        "prefer": decision.prefer,
        "exclude": decision.exclude,
        "memory": decision.memory,
        "user_constraint": args.constraint or None,
        "classes": [
            {
                "nodes": verdict.nodes.nodes,
                "count": verdict.nodes.node_count,
                "features": list(verdict.nodes.features),
                "verdict": verdict.verdict,
                "preferred": verdict.preferred,
                "reasons": [
                    {
                        "key": reason.key,
                        "needs": reason.needs,
                        "has": reason.has,
                        "verdict": reason.verdict,
                        "strength": reason.strength,
                        "source": reason.source,
                    }
                    for reason in verdict.reasons
                ],
            }
            for verdict in decision.classes
        ],
        "messages": list(decision.messages),
    }


def _print_table(
    args: argparse.Namespace, report: ImageReport, cluster: Cluster, decision: Decision
) -> None:
    rows = [("NODES", "COUNT", "VERDICT", "REASON")]
    silent = never_compared(decision.classes)
    keys = [(r.key, r.needs) for r in silent]
    for verdict in decision.classes:
        reasons = "; ".join(
            f"{r.key} needs {clean(r.needs)}, "
            f"{'has ' + clean(r.has) if r.has else 'not published'}"
            + (" (preference)" if r.strength == "soft" else "")
            for r in verdict.reasons
            if (r.key, r.needs) not in keys
        )
        shown = verdict.verdict + (" +" if verdict.preferred else "")
        nodes = clean(verdict.nodes.nodes, 40)
        rows.append((nodes, str(verdict.nodes.node_count), shown, reasons or "nothing compared"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[3]]).rstrip())
    print()
    print(f"image       {clean(args.image)}")
    print(f"nodes from  {cluster.source}")
    print(f"verdict     {_words(decision)}")
    print(f"constraint  {clean(decision.constraint or args.constraint or '(none needed)', 2000)}")
    if decision.prefer:
        print(f"prefer      {clean(decision.prefer, 2000)}")
    if decision.exclude:
        print(f"exclude     {clean(decision.exclude, 2000)}")
    if decision.memory is not None:
        print(f"memory      {decision.memory} MiB, where the job asks for none")
    if silent:
        shown = ", ".join(f"{r.key} {clean(r.needs, 60)}" for r in silent)
        print(f"unchecked   {shown}: no node says anything of it")
    for message in decision.messages:
        print(f"cmeta: {message}", file=sys.stderr)


def _words(decision: Decision) -> str:
    if decision.verdict == MISMATCH:
        return "mismatch: no node that the job may use can run it"
    if decision.verdict == UNKNOWN:
        return "unknown: the nodes publish nothing that this image's needs could be compared with"
    fit = sum(c.nodes.node_count for c in decision.classes if c.verdict != MISMATCH)
    total = sum(c.nodes.node_count for c in decision.classes)
    return f"{decision.verdict}: {fit} of {total} nodes can run it"
