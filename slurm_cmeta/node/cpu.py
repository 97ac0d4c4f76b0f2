"""The CPU: archspec's name for it, all that this implies, and the flags as the kernel shows them.

archspec names a CPU too low where a hypervisor hides flags, and knows no future one: so the level,
the ancestors and the flags are facts of their own. Nothing is claimed that the flags do not show:
of processors that differ, what they have in common counts.
"""

from __future__ import annotations

import re
from itertools import product

from slurm_cmeta import vocabulary
from slurm_cmeta.node import NONE
from slurm_cmeta.node.cpuinfo import FLAG_KEYS, PATH, CpuInfo
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.vocabulary import cpu_flags

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("cpu", "cpu.level", "cpu.ancestors", "cpu.vendor", "cpu.model", "isa")

MAX_KINDS = 16
"""Kinds of processors in one host; big.LITTLE has two or three. More is no CPU, but garbage."""

_NAMED_KEYS = ("cpu", "cpu.level", "cpu.ancestors")


class Cpu(NamedTuple):
    """What the processors of a host are, all together."""

    name: str
    level: str
    ancestors: tuple[str, ...]


def probe(host: Host, found: Found) -> None:
    """Find what /proc/cpuinfo says, by the rules of archspec for the architecture found before."""
    info = CpuInfo(host.read(PATH))
    _model(info, found)
    family = found.value("arch")
    if family is None:
        for key in (*_NAMED_KEYS, "cpu.vendor", "isa"):
            found.cannot_tell(key, "the architecture is unknown")
        return
    flags = _flags(info, family, found)
    kinds = _kinds(info, family, flags, found) if flags is not None else []
    if not kinds:
        reason = f"{PATH} has nothing that tells a CPU of {family}"
        for key in _NAMED_KEYS:
            found.cannot_tell(key, reason)
    else:
        cpu = common(kinds)
        found.fact("cpu", cpu.name, PATH)
        found.fact("cpu.level", cpu.level, PATH)
        found.fact("cpu.ancestors", " ".join(cpu.ancestors) or NONE, PATH)
    _vendor(info, family, kinds, found)


def common(kinds: list[cpu_flags.Seen]) -> Cpu:
    """Return the best CPU that all these kinds of processors are.

    Of one kind the name is archspec's answer. Where that is only a level, as a hypervisor hides
    flags, the machines of which they show all stand among the ancestors: a zen4 without one of its
    flags is x86_64_v4 to archspec, and still runs all that was built for zen2. On Arm, where
    archspec does not know the part, the flags may show a higher revision of the architecture than
    the name that archspec finds (it lists no flags of revisions); they come from GCC's table.
    """
    names: frozenset[str] | None = None
    fitting: frozenset[str] | None = None
    for seen in kinds:
        detected = cpu_flags.detect(seen)
        own = cpu_flags.lineage(detected.name)
        if seen.family == "aarch64" and not detected.exact:
            own |= arm_levels(seen.features)
        more = own.union(cpu_flags.fitting_targets(seen)) if _is_generic(detected.name) else own
        names = own if names is None else names & own
        fitting = more if fitting is None else fitting & more
    names = names or frozenset((kinds[0].family,))
    by_name = sorted(names, reverse=True)  # of equals armv9.0a, not armv8.6a
    level = max(filter(_is_generic, by_name), key=_depth)
    name = max((n for n in by_name if not _is_generic(n)), key=_depth, default=level)
    return Cpu(name, level, tuple(sorted((names | (fitting or names)) - {name})))


def arm_levels(features: frozenset[str]) -> frozenset[str]:
    """Return the revisions of Arm's architecture of which these features show all."""
    own: dict[str, list[str]] = vocabulary.load("cpu_hosts")["arm_levels"]
    return frozenset(
        level
        for level in own
        if all(features.issuperset(own.get(n, ())) for n in cpu_flags.lineage(level))
    )


def _depth(name: str) -> int:
    return len(cpu_flags.lineage(name))


def _is_generic(name: str) -> bool:
    known = vocabulary.cpu(name)
    return known is None or known.generic


def _kinds(info: CpuInfo, family: str, flags: frozenset[str], found: Found) -> list[cpu_flags.Seen]:
    """Return the kinds of processors; more than one where makers or parts differ."""
    seen = cpu_flags.Seen(family, vendor=cpu_flags.GENERIC, features=flags)
    if family == "x86_64":
        kinds = [seen._replace(vendor=v) for v in info.values("vendor_id")]
    elif family == "aarch64":
        vendors = [cpu_flags.arm_vendor(code) for code in info.values("CPU implementer")]
        parts = info.values("CPU part") or [""]
        kinds = [seen._replace(vendor=v, part=p) for v, p in product(vendors, parts)]
    elif family in ("ppc64le", "ppc64"):
        kinds = [seen._replace(generation=_generation(cpu)) for cpu in info.values("cpu")]
        known = len(kinds) <= MAX_KINDS and all(kind.generation for kind in kinds)
        return kinds if known else []  # without a generation the oldest would be claimed
    elif family == "riscv64":
        kinds = [seen._replace(name=name) for name in _riscv_names(info)]
    else:
        return [seen]
    if len(kinds) > MAX_KINDS:
        found.warn(f"{PATH} names {len(kinds)} kinds of processors: none of the names is believed")
        return [seen]
    if len(kinds) > 1:
        found.warn(f"{PATH}: the processors are of {len(kinds)} kinds, what all are counts")
    return kinds or [seen]


def _generation(cpu: str) -> int:
    """Return 9 for `POWER9 (raw)`, 11 for `Power11 (architected)`; 0 where it is not told.

    Source: Linux, arch/powerpc/kernel/cpu_specs_book3s_64.h, cpu_name: POWER up to 10, Power11.
    """
    match = re.search(r"POWER([0-9]{1,2})(?![0-9])", cpu, re.IGNORECASE | re.ASCII)
    return int(match[1]) if match else 0


def _riscv_names(info: CpuInfo) -> list[str]:
    table = vocabulary.load("cpu_hosts")
    models = [table["riscv_model"].get(name, "") for name in info.values("model name")]
    uarchs = [table["riscv_uarch"].get(name, name) for name in info.values("uarch")]
    if models and all(models):
        return list(dict.fromkeys(models))
    return list(dict.fromkeys(uarchs))


def _flags(info: CpuInfo, family: str, found: Found) -> frozenset[str] | None:
    """Return the flags that all processors have, and give them as `isa`; None where none are."""
    if family in ("ppc64le", "ppc64"):
        return _power_flags(info, family, found)
    if family.startswith("riscv"):
        every, some = info.extensions()
    else:
        key = next((k for k in FLAG_KEYS if info.has(k)), "flags")
        every, some = info.flags(key)
    sure = vocabulary.load("cpu_hosts")["always"].get(family)
    if not every or (sure and sure not in every):
        lacks = f"{sure}, which every CPU of {family} has" if every else "any instruction set"
        found.cannot_tell("isa", f"{PATH} does not list {lacks}")
        return None if family in ("x86_64", "aarch64", "riscv64") else frozenset()
    if some:
        found.warn(
            f"{PATH}: the processors differ, {len(some)} flags of some are not in all "
            f"({' '.join(sorted(some)[:8])}): only what all have counts"
        )
    isa = every | {"sse3"} if every & {"pni", "ssse3"} else every  # Linux's old name of SSE3
    found.fact("isa", " ".join(sorted(isa)), PATH)
    return every


def _power_flags(info: CpuInfo, family: str, found: Found) -> frozenset[str] | None:
    """POWER lists no flags, but archspec says what the family has, from POWER7 on."""
    if not info.has("cpu"):
        found.cannot_tell("isa", f"{PATH} has no line `cpu`")
        return None
    if family == "ppc64le" or min(map(_generation, info.values("cpu"))) >= 7:
        implied = cpu_flags.implied_by_family(family)
        found.fact("isa", " ".join(implied), "archspec, feature_aliases")
    else:
        found.cannot_tell("isa", f"{PATH} lists no instruction sets")
    return frozenset()


def _model(info: CpuInfo, found: Found) -> None:
    """Give the name that the maker gave it, on Arm its part number."""
    for key in ("model name", "Model Name", "cpu model", "cpu", "uarch", "CPU part"):
        if name := info.value(key):
            found.fact("cpu.model", name, PATH)
            return
    found.cannot_tell("cpu.model", f"{PATH} names no model")


def _vendor(info: CpuInfo, family: str, kinds: list[cpu_flags.Seen], found: Found) -> None:
    if family in ("ppc64le", "ppc64") and kinds and min(k.generation for k in kinds):
        found.fact("cpu.vendor", "IBM", PATH)
        return
    if family == "aarch64":
        code = info.value("CPU implementer")
        vendor = cpu_flags.arm_vendor(code) if re.fullmatch(r"0x[0-9a-f]{1,4}", code) else ""
    elif family == "riscv64":
        known = vocabulary.load("cpu")["targets"].get(kinds[0].name) if kinds else None
        vendor = known["vendor"] if known else ""
    else:
        vendor = info.value("vendor_id")
    if vendor:
        found.fact("cpu.vendor", vendor, PATH)
    else:
        found.cannot_tell("cpu.vendor", f"{PATH} names no maker")
