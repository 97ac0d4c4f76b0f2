"""Facts about a host -> the feature names that Slurm gets (design, section 4.6).

Few and true: bare names for what a node is or has, `key=value` for values, and only what a
requirement of an image can be compared with, or what people type by hand. docs/features.md lists
them all. What is unknown gives no feature, and then no `cmeta=1` either.
"""

from __future__ import annotations

import re

from slurm_cmeta import vocabulary
from slurm_cmeta.constraint.grammar import is_name
from slurm_cmeta.nodefacts import COMPLETE_FEATURE
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.vocabulary import cpu_flags, gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_cmeta.node import Found


class Feature(NamedTuple):
    """One feature, and the fact that it tells."""

    name: str
    key: str
    """The key of the fact; empty for `cmeta=1` and for what an admin has added."""


def features(found: Found) -> list[Feature]:
    """Return the host's features, each once, in an order that depends on the facts alone."""
    seen: dict[str, Feature] = {}
    for rule in _RULES:
        for feature in rule(found):
            if is_name(feature.name):
                seen.setdefault(feature.name, feature)
    if not incomplete(found):
        seen.setdefault(COMPLETE_FEATURE, Feature(COMPLETE_FEATURE, ""))
    return list(seen.values())


def incomplete(found: Found) -> list[str]:
    """Return the keys that are unknown and would have given features: why there is no `cmeta=1`.

    Where no container runtime is seen, one may come by a module: nothing is said of what it can do,
    and the matcher takes nothing as absent (compare._runtime).
    """
    seen = found.value("apptainer") or found.value("singularity")
    keys = DECISIVE if seen else DECISIVE - {"runtime"}
    return [u.key for u in found.unknown if u.key in keys]


def _cpu(found: Found) -> Iterator[Feature]:
    """The architecture, the levels and all ancestors, the oldest first, then the CPU itself."""
    for architecture in found.values("arch"):
        yield Feature(architecture, "arch")
    for name in sorted(_ancestors(found), key=_age):
        yield Feature(name, "cpu")
    for key in ("cpu.level", "cpu"):
        for name in found.values(key):
            yield Feature(name, key)


def _age(name: str) -> tuple[int, str]:
    known = vocabulary.cpu(name)
    return (len(known.ancestors) if known else 99, name)


def _ancestors(found: Found) -> list[str]:
    return (found.value("cpu.ancestors") or "").split()


def _flags(found: Found) -> Iterator[Feature]:
    """The flags that no name implies, where a program can be made of their instructions."""
    implied: set[str] = set()
    for name in (*_ancestors(found), *found.values("cpu.level"), *found.values("cpu")):
        implied |= cpu_flags.flags_of(name)
    flags = set((found.value("isa") or "").split())
    for flag in sorted((flags & vocabulary.emitted_flags()) - implied):
        yield Feature(f"isa={flag}", "isa")


def _page(found: Found) -> Iterator[Feature]:
    """The page size, where the architecture leaves a choice."""
    size, family = found.value("page"), found.value("arch")
    if size and size.isdigit() and vocabulary.page_size(family or "") is None:
        yield Feature(f"page={int(size) // 1024}k", "page")


def _version(key: str, name: str, parts: int | None = None) -> Callable[[Found], Iterator[Feature]]:
    """Return a rule: the first `parts` numbers of a version, all of them by default."""

    def rule(found: Found) -> Iterator[Feature]:
        for value in found.values(key):
            numbers = re.match(r"\d+(?:\.\d+)*", value)
            if numbers:
                yield Feature(f"{name}={'.'.join(numbers.group().split('.')[:parts])}", key)

    return rule


def _gpu(vendor: str, name: str) -> Callable[[Found], Iterator[Feature]]:
    """Return a rule: the vendor, the architectures and the models of its GPUs."""

    def rule(found: Found) -> Iterator[Feature]:
        if not found.value(f"{vendor}.count"):
            return
        yield Feature(name, f"{vendor}.count")
        for architecture in found.values(f"{vendor}.arch"):
            yield Feature(architecture.replace("sm_", "sm="), f"{vendor}.arch")
        for product in found.values(f"{vendor}.model"):
            model = gpus.slug(product)
            if model:
                yield Feature(model, f"{vendor}.model")

    return rule


def _each(key: str, prefix: str = "") -> Callable[[Found], Iterator[Feature]]:
    """Return a rule: every value of a key, as it is."""

    def rule(found: Found) -> Iterator[Feature]:
        for value in found.values(key):
            yield Feature(prefix + value, key)

    return rule


_RULES: tuple[Callable[[Found], Iterator[Feature]], ...] = (
    _cpu,
    _flags,
    _page,
    _version("kernel", "kernel", 2),
    _version("glibc", "glibc", 2),
    _gpu("nvidia", "nvidia"),
    _version("driver", "driver"),
    _version("cuda", "cuda", 2),
    _gpu("amd", "amdgpu"),
    _version("rocm", "rocm", 2),
    _gpu("intel", "intelgpu"),
    _each("network"),
    _version("apptainer", "apptainer", 2),
    _version("singularity", "singularity", 2),
    _each("runtime", "runtime="),
    _each("mpi", "mpi="),
)

DECISIVE = frozenset(
    (
        *("arch", "cpu", "isa", "page", "kernel", "glibc"),
        *("nvidia.count", "nvidia.arch", "driver", "cuda", "amd.count", "amd.arch", "rocm"),
        *("intel.count", "runtime"),
    )
)
"""Keys of facts that make an image's requirement fail where a node with `cmeta=1` does not list
them (slurm_cmeta.match). `mpi` is not among them: a module may offer one on any node."""
