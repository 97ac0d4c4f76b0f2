"""cmeta pull: the best image of a registry for a host, a node or a cluster."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from contextlib import nullcontext
from functools import partial

from slurm_cmeta import config
from slurm_cmeta.cli import options
from slurm_cmeta.cli.progress import Fetching
from slurm_cmeta.cli.pull_output import as_json, print_cover, print_table
from slurm_cmeta.cluster import source
from slurm_cmeta.errors import EXIT_NO_NODE, EXIT_OK, ConfigError, UsageError
from slurm_cmeta.pull import choose, fetch, offers, store, target
from slurm_cmeta.pull.cover import cover
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry.access import Access
from slurm_cmeta.registry.reference import LAYOUT, parse
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.config import Config
    from slurm_cmeta.pull.choose import Rated
    from slurm_cmeta.pull.target import Target
    from slurm_cmeta.pull.variant import Offer, Variant
    from slurm_cmeta.registry.reference import Reference

TIMEOUT = 3600
LONGEST = 999_999
"""Seconds: what plugstack.conf takes for pull_timeout (spank/settings.c)."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ASKING = 60.0
"""Seconds in which the registry has to tell what it offers."""

DESCRIPTION = """\
Choose the image that suits a host best among those that a registry, or an OCI layout, has under
one name, and fetch it. What each needs is read from index, manifests and configurations: its
platform, labels, annotations and variables; no layer is fetched to choose."""

EPILOG = """\
targets of --for: host (this one, the default); node:NAME; class:FEATURE,...; cluster;
or a platform such as linux/arm64, amd64/v3, zen4

exit status: 0 done, 1 no variant fits, 2 usage, 3 the registry or the image cannot be read,
4 cluster or configuration cannot be read

examples:
  cmeta pull docker://quay.io/org/app:1.0                  app_1.0.sif, the best for this host
  cmeta pull --dry-run docker://quay.io/org/app:1.0        what there is, and what would be taken
  cmeta pull --for node:n7 -o app.sif docker://quay.io/org/app:1.0
  cmeta pull --for cluster --dry-run --json docker://quay.io/org/app:1.0
  skopeo copy "docker://quay.io/org/app@$(cmeta pull --print-digest docker://quay.io/org/app:1.0)" oci:app
"""  # noqa: E501 - an example must be one line


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cmeta pull` to the command line."""
    parser = subparsers.add_parser(
        "pull",
        help="fetch the best image of a registry for a host",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "reference", metavar="REF", help="docker://..., oras://..., or oci:DIRECTORY[:TAG]"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to put it; oci:DIR[:TAG] is a layout (default: NAME_TAG.sif)",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument(
        "--format",
        choices=("sif", "oci"),
        default="sif",
        help="a SIF, made by Apptainer (the default), or an OCI layout, made by skopeo",
    )
    parser.add_argument(
        "--for",
        dest="target",
        default=target.HOST,
        metavar="TARGET",
        help="for whom: see below (default: this host)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run", action="store_true", help="show the variants and the choice; fetch nothing"
    )
    what.add_argument(
        "--print-digest", action="store_true", help="print the digest of the choice, and no more"
    )
    what.add_argument(
        "--print-platform", action="store_true", help="print the platform of the choice"
    )
    what.add_argument(
        "--store",
        nargs="?",
        const=store.BASE,
        metavar="DIR",
        help="fetch into the user's own store of this node below DIR, unless it is there, and "
        f"print the path (DIR by default: {store.BASE})",
    )
    parser.add_argument(
        "--store-size",
        default="50G",
        metavar="SIZE",
        help="what the store may take, in bytes or with K, M, G, T (default: 50G)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"how long all of it may take (default: {TIMEOUT})",
    )
    parser.add_argument(
        "--plain-http",
        action="store_true",
        help="speak to the registry without TLS (on this machine that needs no option)",
    )
    parser.add_argument(
        "--json", action="store_true", help="with --dry-run: print JSON (schema cmeta.pull/1)"
    )
    options.add_source(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Choose, and show or fetch; returns the exit code."""
    if args.json and not args.dry_run:
        raise UsageError("--json goes with --dry-run")
    if not 0 < args.timeout <= LONGEST:
        raise UsageError(f"--timeout takes seconds, above 0 and at most {LONGEST}")
    size = _bytes(args.store_size)
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupted)
    reference = parse(args.reference)
    settings = _settings(args)
    aim = target.resolve(args.target, lambda: options.chosen_cluster(args, settings))
    until = time.monotonic() + args.timeout
    place = store.Store(args.store, size) if args.store else None
    seconds = min(ASKING, args.timeout)
    # What a digest names on a node is asked for once, however many jobs and tasks run it there.
    kept = place.directory if place and reference.digest else ""
    with place.asking(seconds) if place and kept else nullcontext():
        access = _access(args, settings, reference, seconds)
        offered, _ = offers.get(reference, access, settings.strengths(""), kept=kept)
    # A job has read them at submit.
    for warning in () if place else offered.warnings:
        print(f"cmeta: warning: {clean(warning, 2000)}", file=sys.stderr)
    if aim.whole:
        chosen = _for_cluster(args, reference, offered, aim, settings)
    else:
        chosen = _for_one(args, reference, offered, aim, settings)
    if isinstance(chosen, int):
        return chosen
    access = access._replace(until=until)
    if place is not None:
        path = place.get(
            chosen.digest,
            chosen.size,
            lambda made: fetch.into_sif(
                reference, chosen, made, access, plain=offered.plain, in_job=True
            ),
            until,
        )
        print(path)
        return EXIT_OK
    _fetch(args, reference, offered, chosen, access)
    return EXIT_OK


def _settings(args: argparse.Namespace) -> Config:
    """Return the site's settings. A job on a node is not to fail for a mistake in them."""
    try:
        return config.load(args.config, source.find_slurm_conf(args.slurm_conf))
    except ConfigError as problem:
        if not args.store:
            raise
        print(f"cmeta: warning: {problem}: defaults are used", file=sys.stderr)
        return config.defaults()


def _interrupted(number: int, frame: object) -> None:
    """End as ^C does: what was begun is removed on the way, and no other signal is to end that."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _access(
    args: argparse.Namespace, settings: Config, reference: Reference, seconds: float
) -> Access:
    plain = {*settings.registry_plain_http, *([reference.server] if args.plain_http else [])}
    return Access.within(seconds, plain)


def _for_one(
    args: argparse.Namespace, reference: Reference, offered: Offer, aim: Target, settings: Config
) -> Variant | int:
    """Return the variant to be fetched, or the exit code where nothing is."""
    rated = choose.rate(offered.variants, aim.classes[0], settings.names)
    best = choose.best(rated)
    if args.dry_run:
        if args.json:
            as_json(reference, offered, aim, rated, best)
        else:
            print_table(reference, aim, rated, best)
    if best is None:
        _say_none(reference, aim, choose.nearest(rated))
        return EXIT_NO_NODE
    if args.print_digest:
        print(best.variant.digest)
    elif args.print_platform:
        print(best.variant.platform or "unknown")
    elif not args.dry_run:
        return best.variant
    return EXIT_OK


def _for_cluster(
    args: argparse.Namespace, reference: Reference, offered: Offer, aim: Target, settings: Config
) -> Variant | int:
    found = cover(offered.variants, aim.classes, settings.names)
    if args.dry_run:
        print_cover(reference, offered, aim, found, json=args.json)
        return EXIT_OK if all(one.best for one in found.classes) else EXIT_NO_NODE
    unserved = [one for one in found.classes if one.best is None]
    if unserved or len(found.enough) != 1:
        count = len(found.enough)
        said = f"{len(unserved)} of {len(found.classes)} node classes run none of the variants"
        if not unserved:
            said = f"it takes {count} variants to serve all nodes"
        raise UsageError(f"{reference}: {said}; --dry-run shows them, --for node:NAME takes one")
    (only,) = found.enough
    if args.print_digest:
        print(only.digest)
    elif args.print_platform:
        print(only.platform or "unknown")
    else:
        return only
    return EXIT_OK


def _say_none(reference: Reference, aim: Target, nearest: Rated | None) -> None:
    words = f"{reference}: no variant runs on {aim.name}"
    if nearest is not None:
        named = clean(nearest.variant.platform or nearest.variant.digest[:19])
        words += f"; the nearest is {named}: {nearest.reason}"
    print(f"cmeta: error: {clean(words, 1000)}", file=sys.stderr)


def _fetch(
    args: argparse.Namespace,
    reference: Reference,
    offered: Offer,
    chosen: Variant,
    access: Access,
) -> None:
    layout, tag = args.format == "oci", reference.tag
    path = args.output or f"{reference.name.replace(':', '_')}{'' if layout else '.sif'}"
    if path.startswith(f"{LAYOUT}:"):
        place = parse(path)
        layout, path, tag = True, place.repository, place.tag or tag
    if os.path.lexists(path) and not args.force and not layout:
        raise UsageError(f"{clean(path)} is there already: --force replaces it, -o names another")
    if os.path.isdir(path) and not layout:
        raise UsageError(f"{clean(path)} is a directory: -o names the file")
    shown = Fetching(path)
    into = partial(fetch.into_layout, tag=tag) if layout else fetch.into_sif
    try:
        progress = shown if shown.enabled else None
        into(reference, chosen, path, access, plain=offered.plain, progress=progress)
    finally:
        shown.done()
    named = chosen.platform or chosen.digest[:19]
    print(f"cmeta: {clean(path)}: {clean(named)} of {reference}", file=sys.stderr)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})([KMGT]?)", text.upper())
    if found is None:
        raise UsageError(
            f"--store-size {clean(text, 40)}: a number of bytes, or one with K, M, G, T"
        )
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[found[2]]
