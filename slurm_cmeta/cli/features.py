"""cmeta-features: what this host is, as Slurm features."""

from __future__ import annotations

import argparse
import os
import re
import sys

from slurm_cmeta import __version__
from slurm_cmeta.cli.ending import ended
from slurm_cmeta.cli.parser import Parser
from slurm_cmeta.errors import EXIT_OK, ClusterError, UsageError
from slurm_cmeta.node import features, owned, probes, render, site
from slurm_cmeta.node.host import Host, HostError
from slurm_cmeta.nodefacts import COMPLETE_FEATURE
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.apply import Plan
    from slurm_cmeta.node.site import Site

EXAMPLES = f"""\
examples:
  cmeta-features                        a line for slurm.conf
  cmeta-features --format list -v       the features, and what could not be told
  cmeta-features --apply --dry-run      what would change in the running cluster
  cmeta-features --apply                change it (as root or SlurmUser, on the node)
  slurmd -Z --conf "Feature=$(cmeta-features --format list | paste -sd,)"

files: {site.DIRECTORY}/*.conf   features and facts to add, to deny, to rename

exit status: 0 done, 2 usage, 4 the host, its configuration or the cluster cannot be read
or changed
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = Parser(
        prog="cmeta-features",
        description="Look at this host and print what it is as features of a Slurm node.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"cmeta-features {__version__}")
    top.add_argument(
        "-v", "--verbose", action="store_true", help="say on stderr what could not be told, and why"
    )
    top.add_argument(
        "--format",
        choices=tuple(render.FORMATS),
        default="slurm",
        help="slurm: a line for slurm.conf (the default); list: one a line; json: facts with their "
        "sources; prom: for the textfile collector of node_exporter",
    )
    top.add_argument(
        "--root", default="/", metavar="DIR", help="the host's files are below DIR (default: /)"
    )
    top.add_argument(
        "--node",
        metavar="NAME",
        help="the node's name in Slurm (default: $SLURMD_NODENAME, or the host's short name)",
    )
    top.add_argument(
        "--site",
        metavar="DIR",
        help=f"read the site's own features from DIR (default: {site.DIRECTORY})",
    )
    top.add_argument(
        "--apply",
        action="store_true",
        help="give the node these features in the running cluster, by scontrol",
    )
    top.add_argument(
        "--state",
        default=owned.STATE,
        metavar="FILE",
        help="with --apply: where to remember what was put on the node, and is its own "
        f"(default: {owned.STATE})",
    )
    top.add_argument(
        "--dry-run", action="store_true", help="with --apply: only show what would change"
    )
    return top


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    return ended(run, args)


def run(args: argparse.Namespace) -> int:
    """Print, or apply, the features of the host."""
    if args.dry_run and not args.apply:
        raise UsageError("--dry-run needs --apply")
    if not os.path.isdir(args.root):
        raise UsageError(f"--root {clean(args.root)}: no such directory")
    host = Host(args.root)
    wishes = site.read(args.site or site.DIRECTORY, required=args.site is not None)
    found = site.with_facts(probes.look(host), wishes)
    listed = site.with_names(features.features(found), wishes)
    names = [feature.name for feature in listed]
    node = args.node or _node_name(host)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", node):
        raise UsageError(f"{clean(node)!r} is no name of a node; give it by --node")
    _complain(found, args.verbose)
    if not found.values("arch"):
        reason = next((u.reason for u in found.unknown if u.key == "arch"), "")
        raise ClusterError(f"not even the architecture of this host can be told: {reason}")
    if args.apply:
        return _apply(node, names, found, wishes, args.state, dry_run=args.dry_run)
    sys.stdout.write(render.FORMATS[args.format](node, names, found))
    return EXIT_OK


def _node_name(host: Host) -> str:
    if not host.live:
        try:
            name = host.read("/etc/hostname", 256)
        except HostError:
            name = "localhost"
    else:
        given = os.environ.get("SLURMD_NODENAME")
        if given:
            return given
        name = os.uname().nodename
    return name.strip().split(".")[0]


def _complain(found: Found, verbose: bool) -> None:
    for text in found.warnings:
        print(f"cmeta: warning: {clean(text, 2000)}", file=sys.stderr)
    if not verbose:
        return
    for unknown in found.unknown:
        print(f"cmeta: {unknown.key} is unknown: {clean(unknown.reason, 2000)}", file=sys.stderr)
    missing = features.incomplete(found)
    if missing:
        print(
            f"cmeta: no {COMPLETE_FEATURE}, as {', '.join(dict.fromkeys(missing))} may be there",
            file=sys.stderr,
        )


def _apply(
    node: str, names: list[str], found: Found, wishes: Site, state: str, *, dry_run: bool
) -> int:
    from slurm_cmeta.node import apply

    before = owned.remembered(state, node)
    planned = apply.plan(
        apply.show(node),
        names,
        unknown={u.key for u in found.unknown},
        remembered=before,
        written_by_hand=apply.written_by_hand(node),
        original=wishes.original,
    )
    _show_plan(node, planned)
    if dry_run:
        return EXIT_OK
    trouble = [apply.write(node, planned) if planned.changes else ""]
    mine = apply.ours(planned, before)
    if before is None or set(mine) != before:
        trouble.append(owned.remember(state, node, mine))
    for text in filter(None, trouble):
        print(f"cmeta: warning: {clean(text, 2000)}", file=sys.stderr)
    return EXIT_OK


def _show_plan(node: str, planned: Plan) -> None:
    for sign, listed in (("+", planned.added), ("-", planned.removed)):
        for name in listed:
            print(f"{sign} {clean(name)}")
    left = len(planned.after.available) - len(planned.added)
    print(f"{node}: {len(planned.added)} added, {len(planned.removed)} removed, {left} left as is")
    for name in planned.kept:
        print(
            f"cmeta: warning: {clean(name)} stays on {node}: this host does not confirm it, but "
            "somebody else has put it there, or it could not be told now",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
