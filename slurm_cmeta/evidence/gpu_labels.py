"""What the labels of an image say about GPUs, by the rules of vocabulary/gpu.json."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.gpu_need import ANY, Clue
from slurm_cmeta.evidence.gpu_target import target, vendor_of
from slurm_cmeta.evidence.nvidia import is_version
from slurm_cmeta.facts import DECLARED, Fact
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_cmeta.image.content import Warnings

SHOWN = 60
"""Characters of a label's value that a warning shows."""

MAX_NAMES = 64
"""Architectures named by one label."""


class Stated(NamedTuple):
    """What all labels say together."""

    clues: list[Clue]
    refused: str
    """The label that says that no GPU is used, or empty."""
    versions: list[Fact]
    """Facts `cuda` and `driver`: the oldest version that will do."""
    targets: list[str]
    """GPU architectures that the image is built for."""
    targets_source: str
    facts: list[Fact]
    """Descriptions."""


def read(labels: Mapping[str, str], warnings: Warnings) -> Stated:
    """Return what `labels` say; what is not understood gives a warning and counts for nothing."""
    stated = Stated([], "", [], [], "", [])
    if not labels:
        return stated
    table = vocabulary.load("gpu")
    words: dict[str, str] = table["words"]["values"]
    for rule in table["labels"]:
        value = labels.get(rule["key"], "").strip()
        if not value:
            continue
        source, states = f"label {rule['key']}", rule["states"]
        understood = True
        if states == "need":
            word = words.get(value.lower())
            understood = word is not None
            if word == "none":
                stated = stated._replace(refused=stated.refused or source)
            elif word:
                vendor = ANY if word == "any" else word
                stated.clues.append(Clue(vendor, source, True, DECLARED))
        elif states in ("cuda", "driver"):
            understood = is_version(value)
            if understood:
                stated.versions.append(Fact(states, value, source, DECLARED, op=">="))
                stated.clues.append(Clue("nvidia", source, False, DECLARED))
        elif states == "gpu.arch":
            names = [target(word) for word in value.replace(",", " ").split(maxsplit=MAX_NAMES)]
            understood = "" not in names
            if understood and not stated.targets:
                stated = stated._replace(targets=names, targets_source=source)
                stated.clues.extend(Clue(vendor_of(n), source, False, DECLARED) for n in names)
        else:
            stated.facts.append(Fact(states, clean(value, SHOWN), source))
        if not understood:
            warnings.add(f"{source} says {clean(value, SHOWN)}, which is not understood: ignored")
    return stated
