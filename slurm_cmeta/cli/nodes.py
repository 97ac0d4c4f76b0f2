"""cmeta nodes: the cluster's node classes, its architectures, and the snapshot of them."""

from __future__ import annotations

import argparse
import json
import sys

from slurm_cmeta import archs, config
from slurm_cmeta.cli import options
from slurm_cmeta.cluster import snapshot, source
from slurm_cmeta.errors import EXIT_OK, UsageError
from slurm_cmeta.nodefacts import NO_NAMES, SiteNames
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean
from slurm_cmeta.vocabulary import spellings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from slurm_cmeta.archs import Nodes
    from slurm_cmeta.cluster import Cluster, NodeClass
    from slurm_cmeta.vocabulary import Cpu
    from slurm_cmeta.vocabulary.spellings import Accelerator

ARCHS_SCHEMA = "cmeta.archs/1"

MAX_NODES = 40
MAX_FEATURES = 100
"""Characters of a host list and of the features in the table; `--json` has all of them."""

CPU_HEADS = ("NAME", "FAMILY", "LEVEL", "OCI", "EESSI", "GCC", "COUNT", "NODES")
ACCELERATOR_HEADS = ("NAME", "VENDOR", "EESSI", "COMPILER", "COUNT", "NODES")

EXAMPLES = """\
examples:
  cmeta nodes                               the node classes in slurm.conf
  cmeta nodes --live                        as the controller knows them now
  cmeta nodes --live --snapshot /shared/nodes.json    written for submit hosts and job_submit.lua
  cmeta nodes --archs --json                what software has to be built for, for a program

exit status: 0 ok, 2 usage, 4 cluster or configuration cannot be read, or snapshot not written
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cmeta nodes` to the command line."""
    parser = subparsers.add_parser(
        "nodes",
        help="show the cluster's node classes and architectures",
        description="Show the cluster's node classes: nodes with equal features in the same "
        "partitions. CPU names that others imply are left out of the table; --json has all.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_source(parser, snapshot="--from-snapshot")
    parser.add_argument(
        "--snapshot", metavar="FILE", help="write the node classes to FILE, and print nothing"
    )
    parser.add_argument(
        "--archs",
        action="store_true",
        help="show the architectures and accelerators that there are, as others spell them",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help=f"print JSON (schema {snapshot.SCHEMA}, with --archs {ARCHS_SCHEMA})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the node classes, or write the snapshot; returns the exit code."""
    if args.snapshot is not None and (args.archs or args.json):
        raise UsageError("--snapshot prints nothing: it goes with neither --archs nor --json")
    settings = config.load(args.config, source.find_slurm_conf(args.slurm_conf))
    cluster = _cluster(args, settings)
    if cluster.stale:
        print(f"cmeta: warning: {cluster.stale}", file=sys.stderr)
    if args.snapshot is not None:
        snapshot.write(args.snapshot, cluster)
    elif args.archs and args.json:
        print(json.dumps(archs_as_json(cluster, settings.names), indent=2))
    elif args.archs:
        _print_archs(cluster, settings.names)
    elif args.json:
        sys.stdout.write(snapshot.render(cluster))
    else:
        _print_classes(cluster)
    return EXIT_OK


def _cluster(args: argparse.Namespace, settings: config.Config) -> Cluster:
    if args.snapshot is not None and (
        args.from_snapshot
        or (settings.nodes_source == "snapshot" and not args.live and not args.slurm_conf)
    ):
        raise UsageError("a snapshot is not made of a snapshot: add --live or --slurm-conf FILE")
    return options.chosen_cluster(args, settings)


def archs_as_json(cluster: Cluster, names: SiteNames = NO_NAMES) -> dict[str, Any]:
    """Return the object of docs/schema/cmeta.archs-1.json."""
    found = archs.read(cluster.classes, names)
    return {
        "schema": ARCHS_SCHEMA,
        "time": None if cluster.time is None else snapshot.iso_time(cluster.time),
        "cluster": cluster.name,
        "source": cluster.source,
        "cpus": [{**_cpu(cpu), **_nodes(on)} for cpu, on in found.cpus],
        "accelerators": [{**one._asdict(), **_nodes(on)} for one, on in found.accelerators],
        "targets": [
            {
                "cpu": target.cpu.name,
                "accelerator": target.accelerator.name if target.accelerator else None,
                "oci": spellings.oci_platform(target.cpu),
                "eessi": _eessi(target.cpu, target.accelerator),
                "gcc": spellings.gcc_option(target.cpu),
                **_nodes(target.on),
            }
            for target in found.targets
        ],
        "unknown": _nodes(found.unknown),
    }


def _cpu(cpu: Cpu) -> dict[str, Any]:
    return {
        "name": cpu.name,
        "family": cpu.family,
        "level": spellings.psabi_level(cpu),
        "oci": spellings.oci_platform(cpu),
        "eessi": spellings.eessi_path(cpu),
        "gcc": spellings.gcc_option(cpu),
    }


def _nodes(on: Nodes) -> dict[str, Any]:
    return {"nodes": on.nodes, "count": on.node_count}


def _eessi(cpu: Cpu, accelerator: Accelerator | None) -> str | None:
    path = spellings.eessi_path(cpu)
    return f"{path}/{accelerator.eessi}" if path and accelerator else path


def _print_classes(cluster: Cluster) -> None:
    rows: list[tuple[str, ...]] = [
        ("NODES", "COUNT", "STATES", "PARTITIONS", "MEMORY", "GRES", "FEATURES")
    ]
    rows += [_row(one, cluster.default_partition) for one in cluster.classes]
    _print(rows)
    total = sum(one.node_count for one in cluster.classes)
    print()
    print(f"nodes       {total} in {len(cluster.classes)} classes")
    print(f"nodes from  {cluster.source}")
    if cluster.unlisted_nodes and not cluster.stale:
        print("            more nodes may register (MaxNodeCount)")
    vague = [p.name for p in cluster.partitions or () if not p.exact]
    if vague:
        names = clean(", ".join(vague))
        print(f"cmeta: warning: only slurmctld can tell all nodes of {names}", file=sys.stderr)


def _row(one: NodeClass, default: str | None) -> tuple[str, ...]:
    partitions = one.partitions or ()
    return (
        clean(one.nodes, MAX_NODES),
        str(one.node_count),
        clean(" ".join(f"{state}:{count}" for state, count in one.states), 60) or "-",
        clean(",".join(f"{p}*" if p == default else p for p in partitions), 60) or "-",
        _memory(one.memory),
        clean(" ".join(filter(None, one.gres)), 40) or "-",
        clean(",".join(archs.telling(one.features)), MAX_FEATURES) or "-",
    )


def _memory(memory: tuple[int, int] | None) -> str:
    """Return `64000` or `64000-128000`, in MiB as RealMemory has it."""
    if memory is None:
        return "-"
    smallest, largest = memory
    return str(smallest) if smallest == largest else f"{smallest}-{largest}"


def _print_archs(cluster: Cluster, names: SiteNames) -> None:
    found = archs.read(cluster.classes, names)
    rows: list[tuple[str, ...]] = [CPU_HEADS]
    rows += [(*_shown(_cpu(cpu).values()), *_on(on)) for cpu, on in found.cpus]
    _print(rows)
    if found.accelerators:
        rows = [ACCELERATOR_HEADS]
        for one, on in found.accelerators:
            rows.append((one.name, one.vendor, one.eessi, one.compiler, *_on(on)))
        print()
        _print(rows)
    print()
    print(f"nodes from  {cluster.source}")
    if found.unknown.node_count:
        nodes = clean(found.unknown.nodes, MAX_NODES)
        say = "node names" if found.unknown.node_count == 1 else "nodes name"
        print(f"unknown     {found.unknown.node_count} {say} no single architecture: {nodes}")


def _shown(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(value or "-" for value in values)


def _on(on: Nodes) -> tuple[str, str]:
    return str(on.node_count), clean(on.nodes, MAX_NODES)


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table: columns as wide as their widest cell, the last one as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        print("  ".join([*cells, row[-1]]))
