"""cmeta inspect: what an image is, what it needs of a node, and where that was read."""

from __future__ import annotations

import argparse
import json
import sys

from slurm_cmeta import config
from slurm_cmeta.cli.progress import Progress
from slurm_cmeta.errors import EXIT_OK, CmetaError
from slurm_cmeta.image.filetree import deep_budget, quick_budget
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.submission import read_image
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, TextIO

    from slurm_cmeta.requirement import Requirement
    from slurm_cmeta.submission import ImageReport

SCHEMA = "cmeta.image/1"

DESCRIPTION = """\
Show what an image is and what it needs of a node, each with the place it was read from.
Looks up the few files in it that matter, whatever its size; with --deep reads all of it, which may
take minutes. Runs nothing of the image and checks no signature."""

EPILOG = """\
With --json one image gives one object, several give an array that holds those that could be read;
docs/schema/cmeta.image-1.json describes the object. Messages go to stderr.

exit status:
  0  all images were read
  2  wrong usage
  3  an image cannot be read (the first failure counts; the other images are still shown)

examples:
  cmeta inspect img.sif
  cmeta inspect --deep img.sif
  cmeta inspect --json img.sif | jq -r '.requires[] | "\\(.key) \\(.op) \\(.value)"'
  cmeta inspect --json a.sif b.sif | jq -r '.[] | select(any(.facts[]; .key == "signed" and .value == "no")) | .path'
"""  # noqa: E501 - an example must be one line

_DESCRIBED = (
    ("format", "format"),
    ("filesystem", "file system"),
    ("encrypted", "encrypted"),
    ("os", "system"),
    ("libc", "C library"),
    ("glibc", "glibc"),
    ("musl", "musl"),
    ("glibc.needed", "glibc needed"),
    ("mpi.implementation", "MPI"),
    ("mpi.version", "MPI version"),
    ("pmi", "PMI"),
    ("fabric", "network"),
    ("cuda.runtime", "CUDA runtime"),
    ("isa.dispatched", "ISA, by choice"),
    ("isa.examined", "code examined"),
    ("packages", "packages"),
    ("bootstrap", "bootstrap"),
    ("base", "base"),
    ("created", "built"),
    ("built-with", "built with"),
    ("built-on", "built on"),
    ("disk", "disk (MiB)"),
    ("gpus", "GPUs"),
    ("unpacked", "unpacked"),
    ("signed", "signed"),
    ("signer", "signer"),
    ("sbom", "SBOM"),
)
"""Facts shown below the requirements, each with its title."""

_WITH_SOURCE = frozenset(("signed", "isa.examined"))
"""Facts that say nothing without their source."""

_MAX_SHOWN = 8
"""Lines for one kind of fact: an image may carry hundreds of signatures."""

_MAX_VALUE = 60
"""Characters of a value with its alternatives: NVIDIA's own images have 30 of them."""

_MAX_PATH = 4096


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `inspect` to the commands of `cmeta`."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what an image is and what it needs of a node",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="an image: a file or a directory"
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="read all of the image, the instructions in its programs and its list of software too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Inspect each image of `args.images`; return the exit code of the first failure, or 0."""
    paths: Sequence[str] = args.images
    code = EXIT_OK
    reports: list[dict[str, Any]] = []
    for path in paths:
        budget = deep_budget() if args.deep else quick_budget()
        progress = Progress(path)
        budget.progress = progress if progress.enabled else None
        try:
            report = read_image(path, config.defaults(), budget)
        except CmetaError as problem:
            _write(sys.stderr, f"cmeta: error: {problem}\n")
            code = code or problem.exit_code
            continue
        finally:
            progress.done()
        if args.json:
            reports.append(_as_json(report))
        else:
            _write(sys.stdout, "\n".join(_lines(report)) + "\n")
            # Both streams may be one terminal: keep an image's warnings below its own lines.
            sys.stdout.flush()
            prefix = "cmeta: warning: "
            if len(paths) > 1:
                prefix += f"{clean(path, _MAX_PATH)}: "
            for warning in report.warnings:
                _write(sys.stderr, f"{prefix}{clean(warning, _MAX_PATH)}\n")
    if args.json and len(paths) > 1:
        _write(sys.stdout, json.dumps(reports, indent=2) + "\n")
    elif reports:
        _write(sys.stdout, json.dumps(reports[0], indent=2) + "\n")
    return code


def _as_json(report: ImageReport) -> dict[str, Any]:
    """Return the object of docs/schema/cmeta.image-1.json."""
    return {
        "schema": SCHEMA,
        "path": report.path,
        "format": report.format,
        "facts": [{"key": f.key, "value": f.value, "source": f.source} for f in report.facts],
        "requires": [_requirement_as_json(requirement) for requirement in report.requirements],
        "labels": report.labels,
        "warnings": report.warnings,
        **({"software": [p._asdict() for p in report.software]} if report.software else {}),
    }


def _requirement_as_json(requirement: Requirement) -> dict[str, Any]:
    shown = requirement._asdict()
    alternatives = shown.pop("alternatives")
    if alternatives:
        shown["alternatives"] = [
            [{"key": key, "op": op, "value": value} for key, op, value in conjunction]
            for conjunction in alternatives
        ]
    return shown


def _lines(report: ImageReport) -> list[str]:
    lines = [clean(report.path, _MAX_PATH)]
    if report.requirements:
        rows = [("needs", "value", "strength", "evidence", "source")]
        rows += [(r.key, _value(r), r.strength, r.evidence, r.source) for r in report.requirements]
        lines += _table(rows)
    else:
        lines.append("  needs nothing that was found in it")
    described = [("", "")]
    for key, title in _DESCRIBED:
        values = [
            f"{_amount(f.value)} ({f.source})" if key in _WITH_SOURCE else _amount(f.value)
            for f in report.facts
            if f.key == key
        ]
        described += [(title, value) for value in values[:_MAX_SHOWN]]
        if len(values) > _MAX_SHOWN:
            described.append((title, f"and {len(values) - _MAX_SHOWN} more"))
    described.append(("labels", str(len(report.labels))))
    if report.software:
        described.append(("software", f"{len(report.software)} packages, listed by --json"))
    return lines + _table(described)


def _value(requirement: Requirement) -> str:
    """Return `>= 12.2`, and after it what would do as well: `= sm_70 | sm_80`."""
    shown = [f"{requirement.op} {requirement.value}"]
    for conjunction in requirement.alternatives:
        shown.append(
            " and ".join(
                (value if op == requirement.op else f"{op} {value}")
                if key == requirement.key
                else f"{key} {op} {value}"
                for key, op, value in conjunction
            )
        )
    text = " | ".join(shown)
    if len(text) > _MAX_VALUE and len(shown) > 1:
        text = f"{shown[0]} | {len(shown) - 1} more in --json"
    return text


def _amount(value: str) -> str:
    """Return a number of more than six digits, which is one of bytes, as people read it."""
    return f"{int(value) / 1e6:.1f} MB" if len(value) > 6 and value.isdecimal() else value


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return lines of aligned columns; every cell is made safe to print."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        (
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _write(stream: TextIO, text: str) -> None:
    """Write `text`, with escapes for what the stream's encoding cannot show."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
