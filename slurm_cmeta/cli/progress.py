"""A line on the terminal that says that work goes on; nothing where nobody would read it."""

from __future__ import annotations

import sys
import time

from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from typing import TextIO

AFTER_SECONDS = 1.0
"""Work that is done sooner is not worth a line."""

REDRAW_SECONDS = 0.2


class Progress:
    """Progress of reading one image. Call it with seconds spent and steps left; then done()."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        """`what` is shown, made safe to print; `stream` is stderr by default."""
        self._stream = stream or sys.stderr
        self._what = clean(what, 60)
        self._shown = 0
        self._first = 0
        self.enabled = self._stream.isatty()

    def __call__(self, seconds: float, left: int) -> None:
        """Show the line anew, once a second has passed."""
        self._first = self._first or left
        if self.enabled and seconds >= AFTER_SECONDS:
            line = f"cmeta: reading {self._what}: {self._first - left} steps, {seconds:.0f} s"
            self._stream.write(f"\r{line.ljust(self._shown)}")
            self._stream.flush()
            self._shown = len(line)

    def done(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write(f"\r{' ' * self._shown}\r")
            self._stream.flush()
            self._shown = 0


class Fetching:
    """Progress of fetching a file. Call it with bytes so far (0: unknown), and of how many."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        """`what` is shown, made safe to print; `stream` is stderr by default."""
        self._stream = stream or sys.stderr
        self._what = clean(what, 60)
        self._began = self._told = time.monotonic()
        self._width = 0
        self.enabled = self._stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show the line anew, a few times a second."""
        now = time.monotonic()
        if now - self._told < REDRAW_SECONDS or not self.enabled:
            return
        self._told = now
        size = f"{done >> 20} of {total >> 20}" if done and total else f"{(done or total) >> 20}"
        line = f"cmeta: fetching {self._what}: {size} MiB, {now - self._began:.0f} s"
        self._stream.write(f"\r{line.ljust(self._width)}")
        self._stream.flush()
        self._width = max(self._width, len(line))

    def done(self) -> None:
        """Take the line away."""
        if self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._stream.flush()
            self._width = 0
