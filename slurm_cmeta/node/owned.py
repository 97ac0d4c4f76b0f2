"""Whose a feature on a node is: ours to set and to remove, or somebody else's.

Ours are the names of the vocabulary alone (docs/features.md): a stale `cuda=12.2` has to go when
the driver is a newer one. Names that sites also use for other things (`m1`, `grace`) are never
ours.
"""

from __future__ import annotations

import re

from slurm_cmeta import vocabulary
from slurm_cmeta.nodefacts import COMPLETE_FEATURE, NETWORKS, VENDORS
from slurm_cmeta.vocabulary import gpus

_VALUES = {
    "isa": "isa",
    "page": "page",
    "kernel": "kernel",
    "glibc": "glibc",
    "sm": "nvidia.arch",
    "cuda": "cuda",
    "driver": "driver",
    "rocm": "rocm",
    "apptainer": "apptainer",
    "singularity": "singularity",
    "runtime": "runtime",
    "mpi": "mpi",
}


def fact_key(name: str) -> str | None:
    """Return the key of the fact that a feature of this name tells, None if it is not ours.

    `cmeta=1` tells no single fact; its key is the empty string.
    """
    if name == COMPLETE_FEATURE:
        return ""
    key, separator, _ = name.partition("=")
    if separator:
        return _VALUES.get(key)
    if name in VENDORS:
        return f"{VENDORS[name]}.count"
    if name in NETWORKS:
        return "network"
    if re.fullmatch(r"gfx[0-9a-f]{3,5}", name):
        return "amd.arch"
    cpu = vocabulary.cpu(name)
    if cpu is not None and not vocabulary.is_ambiguous_feature(name):
        return "cpu"
    model = gpus.model(name)
    if model is not None and model.name == name and not gpus.is_ambiguous_feature(name):
        return f"{model.vendor}.model"
    return None


def is_value(name: str) -> bool:
    """Tell whether the name has the form `key=value`, which nobody but us writes."""
    return "=" in name
