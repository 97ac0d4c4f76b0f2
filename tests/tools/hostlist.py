"""Slurm's short form for many node names: `n[1-2,7]`, `rack[01-03]-gpu,login`. Pure."""

from __future__ import annotations

import re


def expand(hostlist: str) -> list[str]:
    """Every name of a hostlist, in order; numbers keep their leading zeros."""
    names: list[str] = []
    for item in re.findall(r"(?:[^,\[]|\[[^]]*\])+", hostlist):
        names += _expand_one(item)
    return names


def _expand_one(item: str) -> list[str]:
    match = re.search(r"\[([^]]*)\]", item)
    if not match:
        return [item]
    numbers: list[str] = []
    for part in match[1].split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ValueError(f"not a hostlist: {item}")
        numbers += [
            str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)
        ]
    tails = _expand_one(item[match.end() :])
    return [item[: match.start()] + number + tail for number in numbers for tail in tails]
