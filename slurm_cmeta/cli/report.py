"""cmeta report: what became of submissions, as the controller's log has it."""

from __future__ import annotations

import argparse
import datetime
import json
import pwd
import re
import time

from slurm_cmeta.cluster import source
from slurm_cmeta.errors import EXIT_OK, UsageError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.report import counters, logs, render
from slurm_cmeta.report.line import parse
from slurm_cmeta.report.render import SCHEMA
from slurm_cmeta.report.totals import Totals
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLES = """\
examples:
  cmeta report                              slurmctld's log, and what was rotated away from it
  cmeta report --since 7d                   the last week
  cmeta report slurmctld.log-202611*.gz     these files
  cmeta report --journal                    slurmctld's and the plugin's entries in the journal
  journalctl -o json -M login1 | cmeta report -
  cmeta report --json | jq '.would_be_refused.users'
  cmeta report --textfile /var/lib/prometheus/node-exporter/cmeta_report.prom

exit status: 0 read, 2 usage, 4 a log cannot be read
"""

_AGO = re.compile(r"(\d{1,6})([mhdw])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cmeta report` to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="sum up what became of submissions, from the controller's log",
        description="Sum up the decisions in slurmctld's log: jobs that were narrowed, refused, or "
        "would have been (on_mismatch: warn), and why; images that nothing is known of; faults.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="logs, also compressed, or - for standard input (default: the SlurmctldLogFile of "
        "slurm.conf, with what was rotated away from it)",
    )
    parser.add_argument("--journal", action="store_true", help="read the journal, by journalctl")
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="leave out what is older: 2026-11-20, 2026-11-20T08:30, 7d, 12h, 30m, 2w",
    )
    parser.add_argument(
        "--top", metavar="N", type=int, default=4, help="rows of each table (default: 4)"
    )
    parser.add_argument("--slurm-conf", metavar="FILE", help="where the log's place is read")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help=f"print JSON (schema {SCHEMA})")
    output.add_argument(
        "--textfile",
        metavar="PROM",
        help="write counters for node_exporter's textfile collector, and go on next time where "
        "this one ended",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report, or write the counters; returns the exit code."""
    if args.top < 1:
        raise UsageError("--top needs a number above 0")
    if args.textfile:
        return _textfile(args)
    since = _since(args.since) if args.since else 0
    files = args.files
    if not files and not args.journal:
        path = logs.controllers_log(source.find_slurm_conf(args.slurm_conf))
        files = logs.with_rotated(path, since)
    found = Totals(since)
    for path in files:
        _add(found, logs.read(path))
    if args.journal:
        _add(found, logs.journal(*([f"--since=@{since}"] if since else [])))
        files = [*files, "journal"]
    if args.json:
        print(json.dumps(render.as_json(found, [clean(f, 1000) for f in files]), indent=2))
    else:
        print("\n".join(render.as_text(found, args.top, _name_of)))
    return EXIT_OK


def _add(found: Totals, lines: Iterable[bytes]) -> None:
    for line in lines:
        found.add(parse(line))


def _textfile(args: argparse.Namespace) -> int:
    if args.since or len(args.files) + args.journal > 1 or args.files == [logs.STDIN]:
        raise UsageError(
            "--textfile remembers how far it has read one log: "
            "at most one FILE, or --journal, and no --since"
        )
    log = None
    if not args.journal:
        log = args.files[0] if args.files else None
        log = log or logs.controllers_log(source.find_slurm_conf(args.slurm_conf))
    counters.update(args.textfile, log)
    return EXIT_OK


def _since(text: str) -> int:
    """Return seconds since 1970; local time, where the text names no other."""
    ago = _AGO.fullmatch(text)
    if ago:
        return max(0, int(time.time()) - int(ago[1]) * _SECONDS[ago[2]])
    try:
        return max(0, int(datetime.datetime.fromisoformat(text).timestamp()))
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"--since {clean(text, 40)!r} is no time: 2026-11-20, 2026-11-20T08:30, or 7d"
        ) from None


def _name_of(number: str) -> str:
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError, OverflowError):
        return number
