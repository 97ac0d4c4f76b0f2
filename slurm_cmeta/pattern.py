"""Regular expressions that are compiled when they are first used.

Importing `re` takes milliseconds of a submission, which most patterns are no part of.
"""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    import re


class Pattern:
    """A pattern of the standard library's `re`, for text."""

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._compiled: re.Pattern[str] | None = None

    def _pattern(self) -> re.Pattern[str]:
        if self._compiled is None:
            import re

            self._compiled = re.compile(self.text)
        return self._compiled

    def fullmatch(self, text: str) -> re.Match[str] | None:
        """Return the match of all of `text`, or None."""
        return self._pattern().fullmatch(text)

    def split(self, text: str) -> list[str]:
        """Return what stands between the matches."""
        return self._pattern().split(text)
