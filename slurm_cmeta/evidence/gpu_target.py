"""Names of GPU architectures: `sm_80`, `compute_90`, `gfx90a`."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_cmeta.evidence.nvidia import Condition

MAX_NAME = 40


def target(text: str) -> str:
    """Return the name in the one spelling used here, empty if it is none.

    Known spellings: NVIDIA's (`sm_80`, `compute_80`, `8.0`), archspec's and EESSI's (`cc80`,
    `accel/nvidia/cc80`), AMD's (`gfx90a`, `gfx90a:xnack-`).
    """
    if len(text) > MAX_NAME or not text.isascii():
        return ""
    name = text.lower().rpartition("/")[2]
    if name.startswith("gfx"):
        processor = name.partition(":")[0]
        table = vocabulary.load("gpu")["amdgpu_mach"]["values"]
        return processor if processor in table.values() else ""
    kind = "compute_" if name.startswith("compute") else "sm_"
    for prefix in ("compute", "sm", "cc"):
        name = name.removeprefix(prefix)
    major, dot, minor = name.removeprefix("_").partition(".")
    number = major + minor
    suffix = number[-1:] if number[-1:] in ("a", "f") else ""
    digits = number.removesuffix(suffix) if suffix else number
    if not digits.isdigit() or not 2 <= len(digits) <= 3 or (dot and len(minor) != 1):
        return ""
    return kind + digits + suffix


def vendor_of(name: str) -> str:
    """Return the vendor whose GPUs `name` is about."""
    return "amd" if name.startswith(("gfx", "amdgcn")) else "nvidia"


def condition(name: str) -> Condition:
    """Return what a node must have so that code for `name` runs on its GPU.

    PTX is compiled for every GPU from its target on, unless it is for one or one family only.
    """
    return "gpu.arch", ">=" if name.startswith("compute_") and name[-1:].isdigit() else "=", name


def conditions(names: Iterable[str]) -> list[Condition]:
    """Return one condition for each of `names`, any of which will do: oldest first, PTX last.

    A generic target of AMD is followed by the processors that it stands for.
    """
    members: dict[str, list[str]] = vocabulary.load("gpu")["amdgpu_generic"]["members"]
    found: dict[Condition, None] = {}
    for name in sorted(names, key=_order):
        for each in (name, *members.get(name, ())):
            found[condition(each)] = None
    return list(found)


def _order(name: str) -> tuple[bool, bool, int, str]:
    digits = "".join(char for char in name if char.isdigit())
    return (name.startswith("gfx"), name.startswith("compute_"), int(digits or 0), name)
