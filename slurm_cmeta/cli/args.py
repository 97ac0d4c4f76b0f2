"""cmeta args: the options of sbatch that keep an image's job on nodes that can run it."""

from __future__ import annotations

import argparse
import sys

from slurm_cmeta.cli import matching
from slurm_cmeta.cluster import hostlist
from slurm_cmeta.errors import EXIT_NO_NODE, EXIT_OK, UsageError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.shape import Shape
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.decide import Decision

MAX_WORD = 100_000
"""Characters of one word; the kernel takes 131,072 bytes (MAX_ARG_STRLEN)."""

_PATTERN = frozenset("*?[\\")
"""Characters that make an unquoted word a pattern for names of files."""

EXAMPLES = """\
examples:
  sbatch $(cmeta args img.sif --live) job.sh
  options=$(cmeta args img.sif) && sbatch $options job.sh    submit only where a node fits
  cmeta args img.sif -C bigmem --mem 8G                      with options of the job's own
  mapfile -t options < <(cmeta args --lines img.sif -C '[zen3|zen4]')
  sbatch "${options[@]}" job.sh                              with brackets, in bash

Options on the command line win over #SBATCH lines: give those that say which nodes the job may
get to cmeta args. They are printed, too.

exit status: 0 a node fits, 1 none does, 2 usage, 3 image cannot be read,
4 cluster or configuration cannot be read
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cmeta args` to the command line."""
    parser = subparsers.add_parser(
        "args",
        help="print the options of sbatch that keep an image's job on nodes that can run it",
        description="Print the options that a job with this image would get, for sbatch, salloc "
        "and srun where the plugin is not installed. Prints nothing where nothing is to be added.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    matching.add_arguments(parser)
    parser.add_argument(
        "--mem", default="", metavar="SIZE", help="the job's own --mem; none is added then"
    )
    parser.add_argument(
        "--gpus", default="", metavar="N", help="the job's own --gpus; none is added then"
    )
    parser.add_argument("--gres", default="", metavar="LIST", help="the job's own --gres")
    parser.add_argument(
        "--lines", action="store_true", help="print one option a line, for bash's mapfile"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the options and return the exit code."""
    # Nothing is known of the job's size, so that no preference is made: slurmctld refuses a job
    # that the preferred nodes alone could not hold.
    gpus = bool(args.gpus) or "gpu" in args.gres
    found = matching.answer(args, memory=bool(args.mem), gpus=gpus, shape=Shape(odd=True))
    for message in found.decision.messages:
        print(f"cmeta: {message}", file=sys.stderr)
    if found.refused:
        return EXIT_NO_NODE
    words = list(_options(args, found.decision))
    for word in words:
        _check(word, lines=args.lines)
    if words:
        print(("\n" if args.lines else " ").join(words))
    return EXIT_OK


def _options(args: argparse.Namespace, decision: Decision) -> Iterator[str]:
    """Yield the job's own options and what the image adds to them, each as one word.

    Host lists are written without brackets, which a shell takes for a pattern.
    """
    exclude = ",".join(filter(None, (args.exclude, decision.exclude)))
    values = {
        "constraint": decision.constraint or args.constraint,
        "prefer": decision.prefer or args.prefer,
        "partition": args.partition,
        "nodelist": args.nodelist if args.lines else _plain(args.nodelist),
        "exclude": exclude if args.lines else _plain(exclude),
        "mem": args.mem or ("" if decision.memory is None else f"{decision.memory}M"),
        "gpus": args.gpus,
        "gres": ",".join(filter(None, (args.gres, decision.gres))),
    }
    return (f"--{name}={value}" for name, value in values.items() if value)


def _plain(hosts: str) -> str:
    return ",".join(hostlist.expand(hosts)) if "[" in hosts else hosts


def _check(word: str, *, lines: bool) -> None:
    """Raise UsageError where the word would not reach sbatch as it is."""
    name = word.partition("=")[0]
    if any(character.isspace() and (not lines or character == "\n") for character in word):
        raise UsageError(f"{clean(word)}: {name} with a blank in it cannot be printed as one word")
    if not lines and not _PATTERN.isdisjoint(word):
        raise UsageError(
            f"{clean(word)}: a shell takes this for a pattern of file names: use --lines and "
            f"mapfile (see cmeta args --help)"
        )
    if not lines and len(word) > MAX_WORD:
        raise UsageError(f"{name} is too long for one word ({len(word)} characters): use --lines")
