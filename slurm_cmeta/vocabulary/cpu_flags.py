"""What the name of a CPU says of its instruction sets, and which CPU a set of flags is.

The rules are archspec's (archspec/cpu/detect.py: compatibility_check_*, host(); alias.py), its data
are cpu_flags.json. Pure functions over that table, which is read when it is first asked.
"""

from __future__ import annotations

from functools import lru_cache

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.vocabulary import load

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

GENERIC = "generic"
"""archspec's vendor of psABI levels, architecture revisions and families."""

NEVER = (999, 0)
"""What listed_since() gives for a flag that no Linux lists."""

_POWER = ("ppc64le", "ppc64")
_CHECKED = ("x86_64", "aarch64", "riscv64", *_POWER)
"""Families of which archspec tells more than the family."""


class Seen(NamedTuple):
    """What a host says of its CPU."""

    family: str
    """archspec's family name."""
    vendor: str = ""
    """archspec's vendor name: `GenuineIntel`, `ARM`."""
    features: frozenset[str] = frozenset()
    """Flags as Linux spells them."""
    generation: int = 0
    """Of a POWER CPU: 9 for POWER9."""
    part: str = ""
    """Of an Arm CPU: `0xd40`."""
    name: str = ""
    """Of a RISC-V CPU, archspec's name of it."""


class Detected(NamedTuple):
    """What archspec would call a host."""

    name: str
    """The best name of all that fit."""
    exact: bool
    """True where archspec knows this very part; false where only flags led to the name."""


def flags_of(target: str) -> frozenset[str]:
    """Return the features that every CPU of this name has, inherited ones included.

    Empty for a name that archspec does not know, for POWER and RISC-V (archspec lists none), and
    for Arm's architecture revisions.
    """
    targets = load("cpu_flags")["targets"]
    if target not in targets:
        return frozenset()
    names = (target, *load("cpu")["targets"][target]["ancestors"])
    return _shown(feature for name in names for feature in targets[name]["features"])


def surely_has(target: str) -> frozenset[str]:
    """Return flags_of(target), and what archspec does not list though every such CPU has it."""
    besides: dict[str, list[str]] = load("isa")["besides"]
    more = (flag for name in lineage(target) for flag in besides.get(name, ()))
    return flags_of(target).union(more)


def missing_flags(
    wanted: Iterable[str], target: str, published: Iterable[str] = ()
) -> frozenset[str]:
    """Return those of the flags `wanted` that a CPU `target` is not known to have.

    It has what its name implies, and the flags `published` besides; archspec's aliases (`sse4.1`,
    `avx512`, `neon`) count as what they stand for.
    """
    entry = load("cpu")["targets"].get(target)
    family = entry["family"] if entry else ""
    has = flags_of(target) | _shown(published)
    return frozenset(flag for flag in wanted if not has_flag(flag, has, family))


def has_flag(flag: str, features: frozenset[str], family: str) -> bool:
    """Tell whether a CPU with these features has `flag`, by its name or by archspec's aliases."""
    if flag in features:
        return True
    rules: dict[str, Any] | None = load("cpu_flags")["feature_aliases"].get(flag)
    if rules is None:
        return False
    known = ("reason", "families", "any_of")
    return (
        all(rule in known for rule in rules)
        and ("families" not in rules or family in rules["families"])
        and ("any_of" not in rules or any(one in features for one in rules["any_of"]))
    )


def listed_since(flag: str, family: str) -> tuple[int, int] | None:
    """Return the first Linux whose /proc/cpuinfo lists `flag` on CPUs of `family` that have it.

    None where that is 4.18 or older (RHEL 8), or where nobody looked; NEVER where no Linux does. Of
    a flag that an older kernel does not list nobody can tell whether the CPU has it. A distribution
    may have taken the flag over earlier. The same name (`sha512`) may be of either family.
    """
    since: dict[str, str | None] = load("isa")["since"]["flags"].get(family, {})
    if flag not in since:
        return None
    release = since[flag]
    if release is None:
        return NEVER
    major, minor = release.split(".")
    return int(major), int(minor)


def implied_by_family(family: str) -> list[str]:
    """Return the flags that archspec gives to a whole family, sorted (`altivec` for POWER)."""
    aliases = load("cpu_flags")["feature_aliases"]
    return sorted(flag for flag, rules in aliases.items() if family in rules.get("families", ()))


def arm_vendor(code: str) -> str:
    """Return the vendor's name for an Arm `CPU implementer` (`0x41`), or the code itself."""
    return str(load("cpu_flags")["arm_vendors"].get(code, code))


def detect(seen: Seen) -> Detected:
    """Return what archspec's host() calls a CPU; the family's name if it knows no more."""
    targets, flags = load("cpu")["targets"], load("cpu_flags")["targets"]
    fitting = fitting_targets(seen)
    if not fitting:
        return Detected(seen.family, False)

    def rank(name: str) -> tuple[int, int]:
        return len(targets[name]["ancestors"]), len(flags[name]["features"])

    best_generic = max((n for n in fitting if targets[n]["vendor"] == GENERIC), key=rank)
    same_part = [n for n in fitting if seen.part and flags[n].get("part") == seen.part]
    # Below the best level fall CPUs that lack a niche feature which a BIOS can switch off.
    named = [n for n in same_part or fitting if best_generic in targets[n]["ancestors"]]
    return Detected(max(named, key=rank, default=best_generic), bool(same_part))


def fitting_targets(seen: Seen) -> list[str]:
    """Return all targets that a CPU has everything of, in archspec's order.

    These may be more than the detected name and its ancestors: a zen3 of which a hypervisor hides
    a flag is x86_64_v3 to archspec, and fits zen2 as well.
    """
    if seen.family not in _CHECKED:
        return []
    seen = seen._replace(features=_shown(seen.features))
    return [name for name in load("cpu_flags")["targets"] if _fits(name, seen)]


def lineage(name: str) -> frozenset[str]:
    """Return a target's name and those of all its ancestors."""
    entry = load("cpu")["targets"].get(name)
    return frozenset((name, *(entry["ancestors"] if entry else ())))


def _fits(name: str, seen: Seen) -> bool:
    target = load("cpu")["targets"][name]
    if target["family"] != seen.family:
        return False
    if seen.family in _POWER:
        return bool(load("cpu_flags")["targets"][name].get("generation", 0) <= seen.generation)
    if seen.family == "riscv64":
        return name == seen.name or target["vendor"] == GENERIC
    if seen.family == "aarch64" and target["vendor"] == GENERIC and name != seen.family:
        return False  # archspec lists no features of revisions
    return target["vendor"] in (seen.vendor, GENERIC) and _features(name) <= seen.features


@lru_cache(maxsize=256)
def _features(name: str) -> frozenset[str]:
    return frozenset(load("cpu_flags")["targets"][name]["features"])


def _shown(flags: Iterable[str]) -> frozenset[str]:
    """Add what Linux does not list: SSSE3 implies SSE3 (archspec's Microarchitecture)."""
    found = frozenset(flags)
    return found | {"sse3"} if "ssse3" in found else found
