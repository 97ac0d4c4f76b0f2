"""Outside text made safe to print."""

from __future__ import annotations

import pytest

from slurm_cmeta.text import clean


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain text", "plain text"),
        ("größe ✓", "größe ✓"),
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("caf\udce9", "caf\\xe9"),
        ("\x9b1m", "\\x9b1m"),
        ("x" * 500, "x" * 199 + "…"),
    ],
)
def test_clean(value: str, shown: str) -> None:
    assert clean(value) == shown
    assert clean(value).isprintable()
