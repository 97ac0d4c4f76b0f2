"""The one exception of the test tools: trouble that can be foreseen and told in one line."""

from __future__ import annotations

import sys


class ToolError(Exception):
    """What went wrong, why, and the way out, in plain words; never a programming error."""


def say(message: str) -> None:
    """Tell the person at the terminal; standard output stays free for the command that is run."""
    print(f"cmeta: {message}", file=sys.stderr, flush=True)
