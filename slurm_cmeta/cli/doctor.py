"""cmeta doctor: what is wrong with an installation, and what mends it."""

from __future__ import annotations

import argparse
import json

from slurm_cmeta import __version__
from slurm_cmeta.cluster.source import find_slurm_conf
from slurm_cmeta.doctor import COMPUTE, CONTROLLER, ERROR, LOGIN, ROLES, WARNING, slurm
from slurm_cmeta.errors import EXIT_CLUSTER, EXIT_OK
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.doctor import Finding

SCHEMA = "cmeta.doctor/1"
EXIT_WRONG = 1

MAX_TEXT = 500

DESCRIPTION = """\
Look at an installation on this host (login, controller or compute node) and say what works, what
does not, and what mends it. Nothing is changed; nothing but this host and its files is asked."""

EPILOG = """\
exit status: 0 nothing is wrong (there may be notes), 1 something is, 2 usage, 4 slurm.conf cannot
be read

examples:
  cmeta doctor                       on this host, as what slurm.conf says it is
  cmeta doctor --role compute        as if it were a compute node
  cmeta doctor --json | jq -r '.findings[] | select(.level == "error").mend'
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cmeta doctor` to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what is wrong with this installation, and what mends it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--role",
        choices=ROLES,
        action="append",
        help="what this host is (default: what slurm.conf says); may be given several times",
    )
    parser.add_argument(
        "--slurm-conf",
        metavar="FILE",
        help="slurm.conf (default: $SLURM_CONF, or Slurm's own)",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="cmeta.yaml (default: the one beside slurm.conf)"
    )
    parser.add_argument("--json", action="store_true", help=f"print JSON (schema {SCHEMA})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, print the findings, and return the exit code."""
    path = find_slurm_conf(args.slurm_conf)
    conf, found = slurm.look(path)
    roles = list(args.role or ([] if conf is None else slurm.roles(conf)))
    if conf is not None:
        from slurm_cmeta.doctor import controller, matcher, plugin, runtime, site

        line, said = plugin.look(conf, roles)
        found += said
        if LOGIN in roles or COMPUTE in roles:
            found += matcher.look(line, path)
        if COMPUTE in roles:
            found += runtime.look(line)
        found += controller.look(conf, roles)
        if LOGIN in roles or CONTROLLER in roles:
            named = args.config or (line.value("config") if line else "")
            found += site.look(path, named or None)
    if args.json:
        print(json.dumps(as_json(roles, found), indent=2))
    else:
        _print(roles, found)
    if conf is None:
        return EXIT_CLUSTER
    wrong = any(one.level in (WARNING, ERROR) for one in found)
    return EXIT_WRONG if wrong else EXIT_OK


def as_json(roles: list[str], found: list[Finding]) -> dict[str, object]:
    """Return the object of docs/schema/cmeta.doctor-1.json."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "roles": roles,
        "findings": [
            {"level": f.level, "area": f.area, "text": f.text, "mend": f.mend or None}
            for f in found
        ],
    }


def _print(roles: list[str], found: list[Finding]) -> None:
    print(f"slurm-cmeta {__version__} on {' and '.join(roles) or 'an unknown'} node")
    for one in found:
        print(f"{one.level:8}{one.area:11}{clean(one.text, MAX_TEXT)}")
        if one.mend and one.level in (WARNING, ERROR):
            print(f"{'':19}mend: {clean(one.mend, MAX_TEXT)}")
