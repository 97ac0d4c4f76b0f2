"""Names of architectures and CPUs: every spelling in the field, and what each name implies.

The names are data (the JSON files beside this one); this module only looks them up. Canonical
spellings are archspec's.
"""

from __future__ import annotations

import os

from slurm_cmeta.leanjson import loads
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
_loaded: dict[str, Any] = {}

MAX_NAME = 64
"""Longest text taken for a CPU or architecture name; the longest real ones have 30 characters."""


class Cpu(NamedTuple):
    """One target of archspec's table."""

    name: str
    family: str
    ancestors: frozenset[str]
    generic: bool
    """True for psABI levels and architecture revisions, which name no real machine."""

    def runs(self, wanted: Cpu) -> bool:
        """Tell whether `wanted` is this CPU or one of its ancestors: archspec's partial order."""
        return wanted.name == self.name or wanted.name in self.ancestors


def load(name: str) -> Any:
    """Return the parsed vocabulary file `name`.json; each file is read once."""
    if name not in _loaded:
        with open(os.path.join(_DIRECTORY, name + ".json"), encoding="utf-8") as file:
            _loaded[name] = loads(file.read())
    return _loaded[name]


def architecture(name: str) -> str | None:
    """Return archspec's family name for any spelling (`arm64`, `amd64`, `ppc64el`), or None."""
    if len(name) > MAX_NAME:
        return None
    lowered = name.strip().lower()
    families: dict[str, list[str]] = load("architectures")["families"]
    if lowered in families:
        return lowered
    for family, spellings in families.items():
        if lowered in spellings:
            return family
    return None


def also_runs(node_family: str, image_family: str) -> bool | None:
    """Tell whether a node of one family runs images of another: True, False or None (unknown)."""
    if node_family == image_family:
        return True
    table = load("architectures")
    if image_family in table["also_runs"].get(node_family, ()):
        return True
    return None if image_family in table["may_run"].get(node_family, ()) else False


def page_size(family: str) -> int | None:
    """Return the page size of an architecture in bytes, None where kernels come with several."""
    size: int | None = load("architectures")["page_bytes"].get(family)
    return size


def emitted_flags() -> frozenset[str]:
    """Return the ISA flags that a program can be found to need (evidence/machinecode)."""
    return frozenset(flag for flags in load("isa")["flags"].values() for flag in flags)


def cpu(name: str) -> Cpu | None:
    """Return the target that archspec calls `name`, or None."""
    entry = load("cpu")["targets"].get(name)
    if entry is None:
        return None
    return Cpu(
        name,
        entry["family"],
        frozenset(entry["ancestors"]),
        entry["vendor"] == "generic",
    )


def cpu_target(text: str) -> str | None:
    """Return archspec's name for a CPU target in any spelling, or None if nobody knows it.

    Known spellings: archspec (`zen4`), GCC -march (`znver4`, `skylake-avx512`), psABI levels
    (`x86-64-v3`), NFD (`X86_64_V3`), Ubuntu (`amd64v3`), EESSI paths (`x86_64/amd/zen3`) and OCI
    platforms (`linux/amd64/v3`). A plain architecture gives the family's name.
    """
    lowered = text.strip().lower()
    if not lowered or len(lowered) > MAX_NAME:
        return None
    parts = lowered.split("/")
    if parts[0] == "linux" and len(parts) > 1:
        parts = parts[1:]
    if len(parts) == 1:
        return _single_target(parts[0])
    family = architecture(parts[0])
    if family is None:
        return None
    if parts[-1] == "generic":
        return family
    found = _single_target(parts[-1])
    known = cpu(found) if found else None
    if known and known.family == family:
        return known.name
    return oci_variant(parts[0], parts[1]) if len(parts) == 2 else None


def _single_target(lowered: str) -> str | None:
    targets = load("cpu")["targets"]
    name = lowered.replace("-", "_")
    if name in targets:
        return name
    alias = load("cpu_aliases")["aliases"].get(name)
    if alias is not None:
        return str(alias)
    return architecture(lowered)


def oci_variant(architecture_name: str, variant: str) -> str | None:
    """Return the target that an OCI platform's variant stands for, or None if unknown.

    Source: image-spec image-index.md, "Platform Variants": the variant is the minimum that the
    image needs. `v1` and `v8` are the plain architecture.
    """
    family = architecture(architecture_name)
    level = variant.strip().lower()
    if family is None or len(level) > MAX_NAME:
        return None
    if family == "x86_64":
        name = "x86_64" if level == "v1" else "x86_64_" + level
    elif family == "aarch64":
        if level in ("v8", "v8.0"):
            name = "aarch64"
        elif level == "v9":
            name = "armv9.0a"
        else:
            name = f"arm{level}a"
    elif family == "ppc64le":
        name = level + "le"
    elif family == "arm" and level in ("v5", "v6", "v7", "v8"):
        name = "arm"  # archspec tells 32-bit Arm machines no further apart
    else:
        return None
    return name if name in load("cpu")["targets"] else None


def feature_target(feature: str) -> str | None:
    """Return the CPU or architecture that a node feature's bare name stands for, or None.

    Unlike cpu_target() it takes no paths, and no name that sites also use for other things (`m1`,
    `grace`): those count only beside a feature that names their architecture, see
    is_ambiguous_feature().
    """
    if "/" in feature or len(feature) > MAX_NAME:
        return None
    name = feature.lower()
    meant: dict[str, str | None] = load("cpu_aliases")["as_feature"]
    return meant[name] if name in meant else _single_target(name)


def may_be_more(name: str) -> Cpu | None:
    """Return the later machine that a node of this name may be as well, None for most names."""
    later: str | None = load("cpu_aliases")["may_be_more"].get(name)
    return cpu(later) if later else None


def is_ambiguous_feature(feature: str) -> bool:
    """Tell whether a node feature of this name may well mean something else than a CPU."""
    return feature.lower() in load("cpu_aliases")["ambiguous_as_feature"]
