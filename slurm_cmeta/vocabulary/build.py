"""Write cpu.json and cpu_spellings.json from the installed archspec.

    python -m slurm_cmeta.vocabulary.build

The submit path cannot afford archspec's import (about 20 ms), so what it says is kept in tables
that one JSON parse reads. tests/unit/test_vocabulary.py holds that they still say what archspec
says.
"""

from __future__ import annotations

import json
import os
from typing import Any

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
CPU_JSON = os.path.join(_DIRECTORY, "cpu.json")
SPELLINGS_JSON = os.path.join(_DIRECTORY, "cpu_spellings.json")

NEWEST_GCC = "99.0"
"""A version of GCC that is newer than any range in archspec's table of compilers."""


def table() -> dict[str, Any]:
    """Return the CPU table as archspec's own classes give it.

    Each target has its family, its vendor (`generic` for psABI levels and architecture revisions)
    and all its ancestors.
    """
    from importlib.metadata import version

    import archspec.cpu

    targets = {}
    for name, target in archspec.cpu.TARGETS.items():
        targets[name] = {
            "family": str(target.family),
            "vendor": target.vendor,
            "ancestors": sorted(ancestor.name for ancestor in target.ancestors),
        }
    return {
        "source": f"archspec {version('archspec')} (Apache-2.0 OR MIT), by vocabulary/build.py",
        "targets": dict(sorted(targets.items())),
    }


def spellings() -> dict[str, Any]:
    """Return GCC's option for each target that the newest GCC in archspec's table can build for.

    Only `-march=` or `-mcpu=` is kept: what code may use, not what it is tuned for.
    """
    from importlib.metadata import version

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
    source = f"archspec {version('archspec')} (Apache-2.0 OR MIT), by vocabulary/build.py"
    return {"source": source, "gcc": gcc}


def render(value: dict[str, Any]) -> str:
    """Return `value` as JSON with one target a line, so that a diff shows what changed."""
    rows = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(target, separators=(',', ':'))}"
        for name, target in value["targets"].items()
    )
    return f'{{\n  "source": {json.dumps(value["source"])},\n  "targets": {{\n{rows}\n  }}\n}}\n'


if __name__ == "__main__":
    with open(CPU_JSON, "w", encoding="utf-8") as file:
        file.write(render(table()))
    with open(SPELLINGS_JSON, "w", encoding="utf-8") as file:
        file.write(json.dumps(spellings(), indent=2) + "\n")
