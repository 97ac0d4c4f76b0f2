"""cmeta why: one node, or one job, and the reasons in words."""

from __future__ import annotations

import argparse
import json
import sys

from slurm_cmeta import config, nearest, why, words
from slurm_cmeta.cli import options, why_json
from slurm_cmeta.cli.why_json import SCHEMA
from slurm_cmeta.cluster import job, source
from slurm_cmeta.compare import MISMATCH, UNCHECKED
from slurm_cmeta.decide import UNKNOWN
from slurm_cmeta.errors import EXIT_NO_NODE, EXIT_OK, UsageError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.submission import read_image
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.cluster.job import Job
    from slurm_cmeta.match import ClassVerdict
    from slurm_cmeta.nearest import Change
    from slurm_cmeta.requirement import Requirement
    from slurm_cmeta.submission import ImageReport
    from slurm_cmeta.why import Group, JobAnswer, NodeAnswer

EXAMPLES = """\
examples:
  cmeta why img.sif n3                      can n3 run it, and what would change that
  cmeta why img.sif n3 -p gpu -C zen4       would a job with these options get there
  cmeta why 1234                            what holds the pending job 1234 back
  cmeta why 1234_7, cmeta why 1234+1        a task of an array, a component

A job that was refused at submit has no number: `cmeta match IMAGE` says why for all nodes,
`cmeta why IMAGE NODE` for one.

exit status: 0 it runs there, or a node will do for the job, 1 it does not, or none will,
2 usage, 3 image cannot be read, 4 no such node or job, or cluster or configuration cannot be read
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cmeta why` to the command line."""
    parser = subparsers.add_parser(
        "why",
        usage="cmeta why [options] IMAGE NODE\n       cmeta why [--config FILE] [--json] JOBID",
        help="say why an image runs on a node or does not, or why a job waits",
        description="Say why an image runs on a node or does not: each requirement with what the "
        "node has, and what would change it. Or say what holds a job with a container back, "
        "as the running controller knows the job and the nodes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="IMAGE|JOBID", help="the image file, or a job's number")
    parser.add_argument("node", metavar="NODE", nargs="?", help="the node's name")
    options.add_job(parser, "constraint", "partition")
    options.add_source(parser)
    parser.add_argument("--json", action="store_true", help=f"print JSON (schema {SCHEMA})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the reasons and return the exit code."""
    if args.node is not None:
        return _node(args)
    if not job.IDENTIFIER.fullmatch(args.what):
        raise UsageError(
            f"{clean(args.what)!r} is no job's number; for an image, name a node: "
            "cmeta why IMAGE NODE (cmeta match IMAGE shows all nodes)"
        )
    if args.constraint or args.partition or args.slurm_conf or args.from_snapshot:
        raise UsageError(
            "a job has its own constraint and partition, and the controller knows it: "
            "only --config and --json go with JOBID"
        )
    return _job(args)


def _node(args: argparse.Namespace) -> int:
    settings = config.load(args.config, source.find_slurm_conf(args.slurm_conf))
    cluster = options.chosen_cluster(args, settings)
    partition = cluster.partition_of(args.partition)
    report = read_image(args.what, settings, partition=partition)
    answer = why.node(
        *(args.node, report.requirements, cluster, settings.names),
        *(args.partition, args.constraint),
    )
    left_out = args.partition and answer.in_partition is False
    runs = answer.verdict != MISMATCH and not left_out and answer.allowed is not False
    _warn([*report.warnings, cluster.stale])
    if args.json:
        print(
            json.dumps(why_json.of_node(report, cluster, answer, args.constraint, runs), indent=2)
        )
    else:
        _print_node(args, report, cluster, answer)
    return EXIT_OK if runs else EXIT_NO_NODE


def _warn(warnings: Iterable[str]) -> None:
    for warning in filter(None, warnings):
        print(f"cmeta: warning: {clean(warning, 2000)}", file=sys.stderr)


def _print_node(
    args: argparse.Namespace, report: ImageReport, cluster: Cluster, answer: NodeAnswer
) -> None:
    _print_requirements(report.requirements, answer.one)
    name = clean(answer.name)
    print(f"image       {clean(report.path)}")
    print(f"node        {name}: {clean(','.join(answer.one.nodes.features), 2000) or 'no feature'}")
    print(f"nodes from  {cluster.source}")
    print(f"verdict     {_verdict(report, answer)}")
    if answer.in_partition is not None:
        print(f"partition   {_partition(args.partition, answer)}")
    if args.constraint:
        say = {True: "allows", False: "leaves out", None: "cannot be compared with"}
        print(f"constraint  {clean(args.constraint, 1024)} {say[answer.allowed]} {name}")
    _print_changes("what would change it", answer.changes)


def _verdict(report: ImageReport, answer: NodeAnswer) -> str:
    name = clean(answer.name)
    if answer.verdict == MISMATCH:
        count = len(nearest.failed(answer.one))
        return f"mismatch: {name} cannot run it, for {count} reason{'' if count == 1 else 's'}"
    if not report.requirements:
        return f"match: the image states no requirement, so that {name} will do"
    if answer.verdict == UNKNOWN:
        return f"unknown: {name} publishes nothing that the image's needs can be compared with"
    unchecked = sum(r.verdict == UNCHECKED for r in answer.one.reasons)
    rest = f"; {unchecked} of {len(answer.one.reasons)} needs unchecked" if unchecked else ""
    return f"match: {name} can run it{rest}"


def _partition(given: str, answer: NodeAnswer) -> str:
    name, wanted = clean(answer.name), clean(answer.partition)
    if answer.in_partition:
        return f"{wanted} holds {name}"
    own = ",".join(answer.one.nodes.partitions or ())
    where = f"it is in {clean(own)}" if own else "it is in none"
    if given:
        return f"{wanted} does not hold {name}; {where}"
    option = f"; add -p {clean(own)}" if own else ""
    return f"{wanted}, where jobs go by default, does not hold {name}; {where}{option}"


def _print_requirements(requirements: Sequence[Requirement], one: ClassVerdict) -> None:
    if not requirements:
        return
    rows = [("NEEDS", "STRENGTH", "HAS", "VERDICT", "READ FROM")]
    for asked, reason in zip(requirements, one.reasons, strict=True):
        needs = f"{asked.key} {asked.op} {clean(asked.value, 80)}"
        for each in asked.alternatives:
            needs += f", or {' and '.join(words.said(*condition) for condition in each)}"
        has = clean(reason.has, 80) if reason.has else "not published"
        rows.append((needs, asked.strength, has, reason.verdict, clean(asked.source)))
    _print_table(rows)
    print()


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())


def _print_changes(title: str, changes: Sequence[Change]) -> None:
    if changes:
        print(f"\n{title}:")
    before = ""
    for change in changes:
        print(f"  {'or' if change.key == before else change.key + ':':<9} {change.text}")
        before = change.key


def _job(args: argparse.Namespace) -> int:
    settings = config.load(args.config, source.find_slurm_conf())
    jobs = job.read(args.what)
    cluster = source.from_controller_by_state() if any(j.container for j in jobs) else None
    hopeless = False
    found = []
    for number, one in enumerate(jobs):
        if cluster is None or not one.container:
            found.append(why_json.of_plain_job(one))
            if not args.json:
                print(f"{chr(10) if number else ''}job         {_title(one)}")
                print("container   none: slurm-cmeta has no part in it")
            continue
        partition = cluster.partition_of(one.partition)
        report = read_image(one.container, settings, partition=partition)
        _warn(report.warnings)
        answer = why.job(one, report.path, report.requirements, cluster, settings.names)
        hopeless = hopeless or answer.hopeless
        found.append(why_json.of_job(one, report, answer))
        if not args.json:
            print("\n" if number else "", end="")
            _print_job(one, report, answer)
    if args.json:
        print(json.dumps({"schema": SCHEMA, "jobs": found}, indent=2))
    return EXIT_NO_NODE if hopeless else EXIT_OK


def _title(one: Job) -> str:
    where = f" on {clean(one.nodes)}" if one.nodes else ""
    reason = f", {clean(one.reason)}" if one.reason and one.pending else ""
    return f"{clean(one.id)}: {one.state}{where}{reason}"


def _print_job(one: Job, report: ImageReport, answer: JobAnswer) -> None:
    print(f"job         {_title(one)}")
    print(f"image       {clean(report.path)}")
    options = {
        "partition": one.partition,
        "constraint": one.constraint,
        "prefer": one.prefer,
        "nodelist": one.nodelist,
        "exclude": one.exclude,
    }
    for option, value in options.items():
        if value:
            print(f"{option:<11} {clean(value, 1024)}")
    print()
    rows: list[tuple[str, ...]] = [("NODES", "COUNT", "STATE", "VERDICT", "REASON")]
    rows += [_row(group) for group in answer.groups]
    _print_table(rows)
    print()
    for number, line in enumerate(answer.lines):
        print(f"{'' if number else 'why':<11} {line}")
    if answer.nearest is not None:
        nodes = answer.nearest.nodes
        failed = list(dict.fromkeys(r.key for r in nearest.failed(answer.nearest)))
        keys = ", ".join(failed) + (" only" if len(failed) == 1 else "")
        fail = "fails" if nodes.node_count == 1 else "fail"
        print(f"{'nearest':<11} {clean(nodes.nodes, 100)}: {fail} {keys}")
        _print_changes("what would change it", answer.changes)


def _row(group: Group) -> tuple[str, ...]:
    nodes = group.one.nodes
    said = "; ".join(
        f"{r.key} needs {clean(r.needs)}, has {clean(r.has) if r.has else 'none'}"
        for r in nearest.failed(group.one)
    )
    if group.fits:
        said = "" if any(r.verdict != UNCHECKED for r in group.one.reasons) else "nothing compared"
        left_out = f"left out by {group.left_out}" if group.left_out else ""
        said = "; ".join(filter(None, (said, left_out)))
    return (
        clean(nodes.nodes, 40),
        str(nodes.node_count),
        clean(group.state) or "-",
        group.one.verdict,
        said,
    )
