"""Two things measured by turns, so that what disturbs a machine disturbs both."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def pairs(
    first: Callable[[], None],
    second: Callable[[], None],
    rounds: int,
    *,
    every: int = 0,
    then: Callable[[], None] | None = None,
) -> tuple[float, float, float]:
    """Run two things by turns; return the medians of both, in ms, and that of the ratios.

    After every so many rounds `then` is done, which is not measured.
    """
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            begun = time.perf_counter()
            (first, second)[which]()
            if number:  # the first round warms up
                spent[which].append((time.perf_counter() - begun) * 1000)
        if then is not None and every and number % every == 0:
            then()
    ratio = statistics.median(a / b for a, b in zip(*spent, strict=True))
    return statistics.median(spent[0]), statistics.median(spent[1]), ratio


def command(*words: str | Path, env: Mapping[str, str] | None = None) -> Callable[[], None]:
    """Return what runs a command and throws away what it says; `env` is added to ours."""
    argv = [str(word) for word in words]
    environ = {**os.environ, **env} if env is not None else None

    def run() -> None:
        subprocess.run(
            *(argv,),
            check=True,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    return run
