"""An image and a job's own options against the cluster, for `cmeta match` and `cmeta args`."""

from __future__ import annotations

import sys

from slurm_cmeta import config
from slurm_cmeta.cli import options
from slurm_cmeta.cluster import source
from slurm_cmeta.compare import MISMATCH
from slurm_cmeta.decide import Wishes, decide
from slurm_cmeta.policy import REJECT
from slurm_cmeta.pull.report import read_reference
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.registry.reference import is_reference
from slurm_cmeta.shape import PLAIN
from slurm_cmeta.submission import read_image
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    import argparse

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.decide import Decision
    from slurm_cmeta.shape import Shape
    from slurm_cmeta.submission import ImageReport

SECONDS = 60.0
"""How long a registry may take; who waits at a terminal can end it."""


class Answer(NamedTuple):
    """What was read, and what a submission would decide."""

    report: ImageReport
    cluster: Cluster
    decision: Decision

    @property
    def refused(self) -> bool:
        """Tell whether no node fits, or the site refuses the job for another reason."""
        return self.decision.verdict == MISMATCH or self.decision.action == REJECT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the image, the job's own options, and those that say where the nodes are read."""
    parser.add_argument("image", metavar="IMAGE", help="the image: a file, or a reference")
    options.add_job(parser, "constraint", "partition", "nodelist", "exclude")
    parser.add_argument("--prefer", default="", metavar="EXPR", help="the job's own --prefer")
    options.add_source(parser)


def answer(args: argparse.Namespace, *, memory: bool, gpus: bool, shape: Shape = PLAIN) -> Answer:
    """Decide on a job with these options, and print warnings.

    `memory` and `gpus` tell whether the job asks for any by itself; `shape`, how much it asks for.
    """
    settings = config.load(args.config, source.find_slurm_conf(args.slurm_conf))
    cluster = options.chosen_cluster(args, settings)
    partition = cluster.partition_of(args.partition)
    if is_reference(args.image):
        report = read_reference(args.image, settings, SECONDS, partition)
    else:
        report = read_image(args.image, settings, partition=partition)
    wishes = Wishes(
        *(args.constraint, args.prefer, args.partition, args.nodelist, args.exclude),
        *(memory, gpus, shape),
    )
    policy = settings.policy(partition)
    decision = decide(args.image, report.requirements, cluster, wishes, policy, report.others)
    for warning in [*report.warnings, *filter(None, [cluster.stale])]:
        print(f"cmeta: warning: {clean(warning, 2000)}", file=sys.stderr)
    return Answer(report, cluster, decision)
