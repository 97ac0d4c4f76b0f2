"""Write cpu.json, cpu_flags.json and cpu_spellings.json from the installed archspec.

    python -m slurm_cmeta.vocabulary.build

The submit path cannot afford archspec's import (about 20 ms), so what it says is kept as tables
that one JSON parse reads: in cpu.json what every submission needs, in cpu_flags.json the rest.
tests/unit/test_vocabulary.py holds that the tables still say what archspec says.
"""

from __future__ import annotations

import json
import os

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
CPU_JSON = os.path.join(_HERE, "cpu.json")
SPELLINGS_JSON = os.path.join(_HERE, "cpu_spellings.json")
CPU_FLAGS_JSON = os.path.join(_HERE, "cpu_flags.json")

NEWEST_GCC = "99.0"
"""A version of GCC that is newer than any range in archspec's table of compilers."""


def table() -> dict[str, Any]:
    """Return the CPU table as archspec's own classes give it.

    Each target has its family, its vendor (`generic` for psABI levels and architecture revisions)
    and all its ancestors.
    """
    import archspec.cpu

    targets = {}
    for name, target in archspec.cpu.TARGETS.items():
        targets[name] = {
            "family": str(target.family),
            "vendor": target.vendor,
            "ancestors": sorted(ancestor.name for ancestor in target.ancestors),
        }
    return {"source": _source(), "targets": dict(sorted(targets.items()))}


def flags_table() -> dict[str, Any]:
    """Return what tells CPUs by their flags, as archspec's own classes give it.

    Targets stand in archspec's order: of two that fit equally well it takes the first. Each has all
    its features, its POWER generation and its Arm part number where it has one.
    """
    import archspec.cpu
    from archspec.cpu.schema import TARGETS_JSON

    targets = {}
    for name, target in archspec.cpu.TARGETS.items():
        entry: dict[str, Any] = {"features": sorted(target.features)}
        if target.generation:
            entry["generation"] = target.generation
        if target.cpu_part:
            entry["part"] = target.cpu_part
        targets[name] = entry
    return {
        "source": _source(),
        "arm_vendors": TARGETS_JSON["conversions"]["arm_vendors"],
        "feature_aliases": TARGETS_JSON["feature_aliases"],
        "targets": targets,
    }


def spellings() -> dict[str, Any]:
    """Return GCC's option for each target that the newest GCC in archspec's table can build for.

    Only `-march=` or `-mcpu=` is kept: what code may use, not what it is tuned for.
    """
    import archspec.cpu

    gcc = {}
    for name, target in sorted(archspec.cpu.TARGETS.items()):
        try:
            options = target.optimization_flags("gcc", NEWEST_GCC).split()
        except archspec.cpu.UnsupportedMicroarchitecture:
            continue
        for option in options:
            if option.startswith(("-march=", "-mcpu=")):
                gcc[name] = option
    return {"source": _source(), "gcc": gcc}


def _source() -> str:
    from importlib.metadata import version

    return f"archspec {version('archspec')} (Apache-2.0 OR MIT), by vocabulary/build.py"


def render(value: dict[str, Any]) -> str:
    """Return `value` as JSON with one target a line, so that a diff shows what changed."""
    parts = []
    for key, item in value.items():
        if isinstance(item, dict):
            rows = ",\n".join(
                f"    {json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}"
                for name, entry in item.items()
            )
            parts.append(f"  {json.dumps(key)}: {{\n{rows}\n  }}")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(item)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write() -> None:
    """Write all three files."""
    for path, text in (
        (CPU_JSON, render(table())),
        (CPU_FLAGS_JSON, render(flags_table())),
        (SPELLINGS_JSON, json.dumps(spellings(), indent=2) + "\n"),
    ):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    write()
