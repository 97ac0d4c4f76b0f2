"""The examples of the quick start and of the admin guide, for the tests that run them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGES = ("docs/quickstart.md", "docs/admin.md")

PLUGSTACK, POLICY, COMMANDS, TEXT = "plugstack", "policy", "commands", "text"

NOT_RUN = {
    "make deb": "tests/slurm/test_packages.py builds the packages",
    "apt-get install ./dist/*.deb": "tests/slurm/test_packages.py installs them in a clean root",
    "python3 -m venv ~/cmeta && ~/cmeta/bin/pip install ./slurm_cmeta-*.whl": "test_args.py does",
    "mapfile -t options < <(cmeta args --lines img.sif -C '[zen3|zen4]')": "test_args_cli.py does",
    'sbatch "${options[@]}" job.sh': "test_args.py does, with the line before",
}
"""Commands that other tests run, with the place."""

_STARTS = {
    "optional ": PLUGSTACK,
    "on_mismatch:": POLICY,
    "%labels": TEXT,
    "cmeta: ": TEXT,
}


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for each indented block of a page, in order."""
    text = (PROJECT / page).read_text()
    for found in re.finditer(r"(?:^ {4,}\S.*\n)+", text, re.MULTILINE):
        lines = found[0].splitlines()
        margin = min(len(line) - len(line.lstrip()) for line in lines)
        block = "\n".join(line[margin:] for line in lines)
        kinds = (kind for start, kind in _STARTS.items() if block.startswith(start))
        yield next(kinds, COMMANDS), block


def commands(block: str) -> list[str]:
    """Return the commands of a block: in one with `$ ` only those, without what they print."""
    lines = [re.sub(r"\s+#.*$", "", line) for line in block.splitlines()]
    typed = [line[2:] for line in lines if line.startswith("$ ")]
    return typed or lines


def needs_cluster(command: str) -> bool:
    """Tell whether a command asks slurmctld, or reads its log."""
    words = re.split(r"[^\w./~-]+", command)
    asks = {"sbatch", "scontrol", "--live", "report", "1234", "export"}
    return not asks.isdisjoint(words) or "CMETA=" in command
