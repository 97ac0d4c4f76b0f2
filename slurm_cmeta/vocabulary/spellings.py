"""How others spell a CPU or an accelerator: psABI, OCI, EESSI, GCC, nvcc and clang."""

from __future__ import annotations

import re

from slurm_cmeta import vocabulary
from slurm_cmeta.record import NamedTuple
from slurm_cmeta.vocabulary import Cpu


class Accelerator(NamedTuple):
    """What code for an accelerator is built for."""

    vendor: str
    """`nvidia` or `amd`."""
    name: str
    """`sm_80`, `gfx90a`."""
    eessi: str
    """EESSI's directory below that of the CPU: `accel/nvidia/cc80`."""
    compiler: str
    """The option of the vendor's compiler: nvcc's `-gencode`, clang's `--offload-arch`."""
    gcc: str
    """GCC's options for offloading."""


def psabi_level(cpu: Cpu) -> str | None:
    """Return the x86-64 psABI level that a CPU has, as the psABI spells it (`x86-64-v3`)."""
    if cpu.family != "x86_64":
        return None
    return f"x86-64-v{_x86_level(cpu)}"


def oci_platform(cpu: Cpu) -> str | None:
    """Return the OCI platform of code built for a CPU: `linux/amd64/v3`, `linux/arm64/v8.2`.

    The plain architecture has its variant too where OCI names one (`v1`, `v8`). None for a family
    that OCI has no name for.
    """
    architecture = vocabulary.load("platforms")["goarch"].get(cpu.family)
    if architecture is None:
        return None
    variant = _oci_variant(cpu)
    return f"linux/{architecture}/{variant}" if variant else f"linux/{architecture}"


def eessi_path(cpu: Cpu) -> str | None:
    """Return the EESSI directory whose software is the best that a CPU runs, or None."""
    best, ancestors = None, -1
    for path, name in vocabulary.load("platforms")["eessi"].items():
        target = vocabulary.cpu(name)
        if target is not None and cpu.runs(target) and len(target.ancestors) > ancestors:
            best, ancestors = str(path), len(target.ancestors)
    return best


def gcc_option(cpu: Cpu) -> str | None:
    """Return GCC's option to build for a CPU (`-march=znver4`, `-mcpu=neoverse-v1`), or None."""
    found = vocabulary.load("cpu_spellings")["gcc"].get(cpu.name)
    return None if found is None else str(found)


def accelerator(feature: str) -> Accelerator | None:
    """Return the accelerator that a node's feature names (`sm=80`, `sm_80`, `gfx90a`), or None."""
    if len(feature) > vocabulary.MAX_NAME:
        return None
    for vendor, form in vocabulary.load("platforms")["accelerators"].items():
        match = re.fullmatch(form["feature"], feature.lower())
        if match:
            spelled = (form[key].format(match[1]) for key in ("name", "eessi", "compiler", "gcc"))
            return Accelerator(vendor, *spelled)
    return None


def _x86_level(cpu: Cpu) -> int:
    names = {cpu.name, *cpu.ancestors}
    return max((level for level in (2, 3, 4) if f"x86_64_v{level}" in names), default=1)


def _oci_variant(cpu: Cpu) -> str | None:
    if cpu.family == "x86_64":
        return f"v{_x86_level(cpu)}"
    names = {cpu.name, *cpu.ancestors}
    if cpu.family == "aarch64":
        revisions = [m for n in names if (m := re.fullmatch(r"armv(\d+)\.(\d+)a", n))]
        major, minor = max(((int(m[1]), int(m[2])) for m in revisions), default=(8, 0))
        return f"v{major}.{minor}" if minor else f"v{major}"
    if cpu.family == "ppc64le":
        powers = [int(m[1]) for n in names if (m := re.fullmatch(r"power(\d+)le", n))]
        return f"power{max(powers)}" if powers else None
    return None
