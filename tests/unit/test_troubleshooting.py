"""docs/troubleshooting.md has every message of the product."""

from __future__ import annotations

import re
from pathlib import Path

import messages_of
import pytest

ROOT = Path(__file__).parents[2]

INTERNAL = ("slurm_cmeta/record.py", "slurm_cmeta/kept/", "slurm_cmeta/leanjson.py")
"""Sources whose exceptions reach nobody: they are caught where they are raised, or are ours."""


def plain(text: str) -> str:
    """Return text with one blank between words, and without Markdown's signs for code."""
    return re.sub(r"\s+", " ", text.replace("`", "").replace("\\|", "|"))


PAGE = plain((ROOT / "docs/troubleshooting.md").read_text())


def listed(message: str) -> bool:
    """Tell whether the page has the message's beginning, or most of it."""
    return any(plain(part) in PAGE for part in messages_of.fixed(message))


@pytest.mark.parametrize("source", ["python", "c", "lua", "words"])
def test_every_message_is_listed(source: str) -> None:
    found = [
        (place, message)
        for place, message in getattr(messages_of, f"of_{source}")()
        if messages_of.fixed(message) and not place.startswith(INTERNAL)
    ]
    assert len(found) >= {"python": 200, "c": 15, "lua": 2, "words": 8}[source]
    missing = [f"{place}: {messages_of.fixed(m)}" for place, m in found if not listed(m)]
    assert missing == []


def test_a_message_that_is_not_listed_is_found_out() -> None:
    assert not listed("FILE\0: the moon is in the wrong phase")
    assert listed("\0: not a regular file")


def test_the_first_and_the_longest_fixed_part_are_searched_for() -> None:
    assert messages_of.fixed("error: \0 is not in \0, but in another place: \0") == (
        *("is not in", "but in another place"),
    )
    assert messages_of.fixed("\0: \0") == ()
