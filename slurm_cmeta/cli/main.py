"""cmeta: the command for people. Each subcommand is a module of this package."""

from __future__ import annotations

import argparse
import sys

from slurm_cmeta import __version__
from slurm_cmeta.cli import args as options_for_sbatch
from slurm_cmeta.cli import check_config, doctor, inspect, match, nodes, pull, report, why
from slurm_cmeta.cli.ending import ended
from slurm_cmeta.cli.parser import Parser

EXAMPLES = """\
examples:
  cmeta inspect img.sif          what the image needs, and how that is known
  cmeta match img.sif            which nodes can run it
  cmeta args img.sif             options for sbatch, where the plugin is not installed
  cmeta why img.sif n3           why it runs on n3, or does not
  cmeta why 1234                 what holds the pending job 1234 back
  cmeta nodes                    what the cluster's nodes are
  cmeta check-config             what the site has set, and mistakes in it
  cmeta doctor                   what is wrong with this installation, and what mends it
  cmeta report                   what became of submissions
  sbatch --container=img.sif job.sh     what it is all for
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top: argparse.ArgumentParser = Parser(
        prog="cmeta",
        description="Read what a container image needs and match it with Slurm's nodes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"cmeta {__version__}")
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    inspect.add_parser(subparsers)
    match.add_parser(subparsers)
    options_for_sbatch.add_parser(subparsers)
    why.add_parser(subparsers)
    nodes.add_parser(subparsers)
    pull.add_parser(subparsers)
    check_config.add_parser(subparsers)
    doctor.add_parser(subparsers)
    report.add_parser(subparsers)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (errors.py lists them)."""
    args = parser().parse_args(argv)
    return ended(args.run, args)


if __name__ == "__main__":
    sys.exit(main())
