"""Write cpu.json from the installed archspec: `python -m slurm_cmeta.vocabulary.build`.

The submit path cannot afford archspec's import (about 20 ms), so what it says is kept as a table
that one JSON parse reads. tests/unit/test_vocabulary.py holds that the table still says what
archspec says.
"""

from __future__ import annotations

import json
import os
from typing import Any

CPU_JSON = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cpu.json")


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
