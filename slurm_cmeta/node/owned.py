"""Whose a feature on a node is: ours to set and to remove, or somebody else's.

Ours is what we have put there: State remembers the names. Where nobody remembers (a node without a
disk), a value in the very form that cmeta-features writes (`cuda=12.2`) is ours as well, since a
stale one has to go when the driver is a newer one; a bare name never is.
"""

from __future__ import annotations

import os
import re

from slurm_cmeta import vocabulary
from slurm_cmeta.nodefacts import COMPLETE_FEATURE, NETWORKS, VENDORS
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean
from slurm_cmeta.vocabulary import gpus

if TYPE_CHECKING:
    from collections.abc import Iterable

STATE = "/var/lib/slurm-cmeta/features"
"""The names that --apply has put on a node, one a line after `node NAME`."""

MAX_STATE = 1 << 20

_VERSION = r"[0-9]+(\.[0-9]+)*"

_VALUES = {
    "page": ("page", r"[0-9]+k"),
    "kernel": ("kernel", _VERSION),
    "glibc": ("glibc", _VERSION),
    "sm": ("nvidia.arch", r"[0-9]{2,3}[a-z]?"),
    "cuda": ("cuda", _VERSION),
    "driver": ("driver", _VERSION),
    "rocm": ("rocm", _VERSION),
    "apptainer": ("apptainer", _VERSION),
    "singularity": ("singularity", _VERSION),
    "runtime": ("runtime", "encrypted|ext3|oci-sif"),
    "mpi": ("mpi", "openmpi|mpich|mpi-abi"),
}
"""Key of a feature -> key of the fact that it tells, and the values that we write."""


def fact_key(name: str) -> str | None:
    """Return the key of the fact that a feature of this name tells, None where it is no such name.

    `cmeta=1` tells no single fact; its key is the empty string.
    """
    if name == COMPLETE_FEATURE:
        return ""
    key, separator, value = name.partition("=")
    if separator:
        if key == "isa":
            return "isa" if value in vocabulary.emitted_flags() else None
        fact, form = _VALUES.get(key, ("", ""))
        return fact if fact and re.fullmatch(form, value) else None
    if name in VENDORS:
        return f"{VENDORS[name]}.count"
    if name in NETWORKS:
        return "network"
    if re.fullmatch(r"gfx[0-9a-f]{3,5}", name):
        return "amd.arch"
    if vocabulary.cpu(name) is not None:
        return "cpu"
    model = gpus.model(name)
    return f"{model.vendor}.model" if model is not None and model.name == name else None


def is_value(name: str) -> bool:
    """Tell whether the name is a value in the very form that cmeta-features writes."""
    return "=" in name and fact_key(name) is not None


def remembered(path: str, node: str) -> frozenset[str] | None:
    """Return the names that were put on the node before, None where nobody remembers."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            lines = file.read(MAX_STATE).decode("utf-8", "replace").split("\n")
    except OSError:
        return None
    return frozenset(filter(None, lines[1:])) if lines[0] == f"node {node}" else None


def remember(path: str, node: str, names: Iterable[str]) -> str:
    """Keep the names for the next time; return why that was not possible, empty if it was."""
    directory = os.path.dirname(os.path.abspath(path))
    temporary = f"{path}.new"
    text = "".join(f"{line}\n" for line in (f"node {node}", *sorted(names)))
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o644), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        return f"{clean(path)}: {error.strerror}"
    return ""
