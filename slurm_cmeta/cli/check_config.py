"""cmeta check-config: the site's settings, each with its origin, and what is wrong with them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys

from slurm_cmeta import check, config
from slurm_cmeta.cluster import source
from slurm_cmeta.errors import EXIT_OK, ClusterError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from typing import Any

    from slurm_cmeta.check import Shown, Warned
    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.config import Config

SCHEMA = "cmeta.config/1"

EXAMPLES = """\
examples:
  cmeta check-config                        the cmeta.yaml beside slurm.conf
  cmeta check-config ./cmeta.yaml           one that is not in force yet
  cmeta check-config --json | jq '.warnings[]'

exit status: 0 no mistake (there may be warnings), 2 usage,
4 a mistake: file and line are named; or slurm.conf, named by --slurm-conf, cannot be read
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cmeta check-config` to the command line."""
    parser = subparsers.add_parser(
        "check-config",
        help="check cmeta.yaml, and show each setting with its origin",
        description="Check cmeta.yaml. Prints each setting that is in force and where it is from: "
        "`default`, or file and line. A mistake is an error; what is allowed and hardly meant is a "
        "warning, such as a partition that the cluster has not.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="cmeta.yaml (default: the one beside slurm.conf)"
    )
    parser.add_argument(
        "--slurm-conf",
        metavar="FILE",
        help="compare names with the nodes and partitions of this slurm.conf (default: with those "
        "that submissions read)",
    )
    parser.add_argument("--json", action="store_true", help=f"print JSON (schema {SCHEMA})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the settings and the warnings; returns the exit code."""
    slurm_conf = source.find_slurm_conf(args.slurm_conf)
    settings = config.load(args.file, slurm_conf)
    cluster, unread = _cluster(args, settings)
    warned = check.warnings(settings, args.slurm_conf, cluster)
    general = [*filter(None, [unread, _without_yaml(settings)])]
    if args.json:
        print(json.dumps(_as_json(settings, warned, general), indent=2))
        return EXIT_OK
    _print_settings(settings, slurm_conf)
    for text in general:
        print(f"cmeta: warning: {text}", file=sys.stderr)
    for one in warned:
        print(f"cmeta: warning: {_place(settings, one)}: {one.text}", file=sys.stderr)
    return EXIT_OK


def _cluster(args: argparse.Namespace, settings: Config) -> tuple[Cluster | None, str]:
    """Return the cluster that names are compared with, or why there is none."""
    if args.slurm_conf:
        return source.from_slurm_conf(args.slurm_conf), ""
    try:
        return source.configured(settings), ""
    except ClusterError as error:
        if settings.nodes_source == "snapshot":  # check.warnings() says what is wrong with it
            return None, ""
        compared = settings.features or settings.partitions or settings.names.prefix
        names = "; the names of features and partitions are not compared" if compared else ""
        return None, f"{error}{names}"


def _without_yaml(settings: Config) -> str:
    if settings.path is None and importlib.util.find_spec("yaml") is None:
        return (
            "PyYAML is not installed (Debian: python3-yaml, RHEL: python3-pyyaml): "
            "a cmeta.yaml could not be read"
        )
    return ""


def _print_settings(settings: Config, slurm_conf: str) -> None:
    rows = [("SETTING", "VALUE", "FROM")]
    for one in check.shown(settings):
        rows.append((clean(one.name), _value(one), _where(settings, one.line)))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, origin in rows:
        print(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
    print()
    beside = os.path.join(os.path.dirname(os.path.abspath(slurm_conf)), config.FILE_NAME)
    path = settings.path or f"{beside} is not there: every setting has its default"
    print(f"file  {clean(path, 2000)}")


def _value(one: Shown) -> str:
    if one.value is None:
        return "by evidence" if one.name.startswith("strength.") else "none"
    if one.name.startswith("features.") and not one.value:
        return "nothing"
    return clean(one.value) or "nothing"


def _where(settings: Config, line: int | None) -> str:
    return f"{clean(settings.path or '', 2000)}:{line}" if line else "default"


def _place(settings: Config, one: Warned) -> str:
    """Return `FILE:LINE: SETTING`, as far as it is known."""
    path = clean(settings.path or "", 2000)
    return ": ".join(filter(None, (f"{path}:{one.line}" if one.line else path, clean(one.name))))


def _as_json(settings: Config, warned: list[Warned], general: list[str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "file": settings.path,
        "settings": [one._asdict() for one in check.shown(settings)],
        "warnings": [
            *({"name": None, "line": None, "text": text} for text in general),
            *({**one._asdict(), "name": one.name or None} for one in warned),
        ],
    }
