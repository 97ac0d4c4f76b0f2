"""Options that several commands have, and what they choose."""

from __future__ import annotations

from slurm_cmeta.cluster import source
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.config import Config


def add_source(parser: argparse.ArgumentParser, *, snapshot: str = "--snapshot") -> None:
    """Add the options that say where the nodes are read, and --config."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--slurm-conf",
        metavar="FILE",
        help="read the nodes from this slurm.conf (default: as cmeta.yaml says; without it, "
        "$SLURM_CONF, or Slurm's own)",
    )
    where.add_argument("--live", action="store_true", help="ask the controller, by sinfo")
    where.add_argument(
        snapshot, metavar="FILE", dest="from_snapshot", help="read the nodes from a snapshot file"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="cmeta.yaml (default: the one beside slurm.conf)"
    )


_JOB = {
    "constraint": ("-C", "EXPR"),
    "partition": ("-p", "NAME"),
    "nodelist": ("-w", "LIST"),
    "exclude": ("-x", "LIST"),
}


def add_job(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add those of sbatch's options that say which nodes a job may get."""
    for name in names:
        short, what = _JOB[name]
        parser.add_argument(
            short, f"--{name}", default="", metavar=what, help=f"the job's own --{name}"
        )


def chosen_cluster(args: argparse.Namespace, settings: Config) -> Cluster:
    """Return the nodes from where the options say, else from where the site says."""
    if args.live:
        return source.from_controller()
    if args.from_snapshot:
        return source.from_snapshot(args.from_snapshot, settings.nodes_max_age)
    if args.slurm_conf:
        return source.from_slurm_conf(args.slurm_conf)
    return source.configured(settings)
