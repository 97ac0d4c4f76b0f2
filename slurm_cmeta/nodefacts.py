"""What the features of a node say about it: our own names, and the plain ones that sites use.

A site that publishes nothing but `zen3` or `a100` has said a lot: archspec's data and the GPU table
tell what these imply. A site's own words (`bigmem`, `gpu_v100`) are explained in cmeta.yaml. Pure
functions, no I/O but the vocabulary.
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.pattern import Pattern
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COMPLETE_FEATURE = "cmeta=1"
"""A node that carries it says: what is not listed here, this node has not."""

VENDORS = {"nvidia": "nvidia", "amdgpu": "amd", "intelgpu": "intel"}
"""Bare features -> vendor of a GPU. `amd` and `intel` alone are names of CPUs at most sites."""

NETWORKS = frozenset(("infiniband", "roce", "omnipath", "slingshot", "efa", "iwarp"))

MAX_REMEMBERED = 100_000
"""Features whose meaning is remembered; a cluster has some hundred."""

UNSAID_ARCH = "gpu.unsaid"
"""In place of a key: a vendor of whose GPUs here one has an architecture that nothing tells."""

_MODEL = "model"
"""In place of a key: a name that is a GPU's beside a feature that tells of such a GPU."""

_PLAIN = frozenset(
    (
        *("cuda", "driver", "rocm", "glibc", "kernel", "isa", "mpi"),
        *("runtime", "apptainer", "singularity"),
    )
)
"""Keys whose values are taken as they are written."""

_TARGETS = ("sm_", "compute_", "gfx", "accel/")
"""What the names of GPU targets begin with; gpu_target.target() knows the rest."""
_SHORT_TARGETS = ("sm", "cc")
"""`cc80` may be a GPU's capability or a cabinet: it counts beside a feature that tells of a GPU."""

_FLAGS = {"avx": "avx", "avx2": "avx2", "avx512": "avx512f", "avx512f": "avx512f"}
"""Bare names of instruction sets, as sites write them."""

_GRES_ITEM = Pattern(r",(?![^(]*\))")
_GRES_GPU = Pattern(r"gpu(?::([A-Za-z0-9_.-]+))?(?::[0-9]+)?(?:\(.*)?")
_DIGITS = frozenset("0123456789")
_TARGET = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyz/.")
_KIB = {"": 0, "k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}


class SiteNames(NamedTuple):
    """What cmeta.yaml says of a site's own features."""

    prefix: str = ""
    """What stands before the names that cmeta-features has written here."""
    means: Mapping[str, tuple[str, ...]] = {}
    """A site's name -> the features of our vocabulary that say the same; none: it says nothing."""

    def explained(self, features: Iterable[str]) -> list[str]:
        """Return the features with the site's own names replaced by what they mean."""
        found: dict[str, None] = {}
        for feature in features:
            if feature in self.means:
                found |= dict.fromkeys(self.means[feature])
            else:
                found[feature.removeprefix(self.prefix) if self.prefix else feature] = None
        return list(found)


NO_NAMES = SiteNames()


class NodeFacts(NamedTuple):
    """What is known about the nodes of one class."""

    families: frozenset[str]
    """Architecture families; more than one means that the features contradict each other."""
    cpus: tuple[vocabulary.Cpu, ...]
    """Every CPU target named, the architecture's own included."""
    complete: bool
    values: Mapping[str, tuple[str, ...]]
    """Requirement key -> what is said of it, spelled as requirements spell it."""

    def said(self, key: str) -> tuple[str, ...]:
        """Return what is said of a requirement key; empty where nothing is."""
        return self.values.get(key, ())

    def with_memory(self, memory: tuple[int, int]) -> NodeFacts:
        """Return the same with the memory of the nodes (MiB, the least and the most)."""
        if "memory" in self.values:
            return self
        said = tuple(dict.fromkeys(map(str, memory)))
        return self._replace(values={**self.values, "memory": said})


class _Meaning(NamedTuple):
    """What one feature says, by itself."""

    cpu: vocabulary.Cpu | None
    family: str
    """Of the CPU or architecture that it names; empty where it names none."""
    ambiguous: bool
    """True where the name counts only beside others that tell of such a thing."""
    said: tuple[tuple[str, str], ...]
    """Requirement key and value."""


_meanings: dict[str, _Meaning] = {}
"""What was looked up: the classes of a cluster have most of their features in common."""


def read(
    features: Iterable[str], names: SiteNames = NO_NAMES, gres: Iterable[str] = ()
) -> NodeFacts:
    """Return what the features of a node say, and its Gres (`gpu:a100:4`)."""
    listed = names.explained(features)
    types = _gpu_types(gres)
    meanings = [_meaning(feature) for feature in [*listed, *(f"gpu={t}" for t in types if t)]]
    families = {m.family for m in meanings if m.family and not m.ambiguous}
    counted = [m for m in meanings if not m.ambiguous or m.family in families]
    cpus = tuple(m.cpu for m in counted if m.cpu is not None)
    values: dict[str, dict[str, None]] = {}
    for meaning in counted:
        for key, value in meaning.said:
            if key != _MODEL:
                values.setdefault(key, {})[value] = None
    if "gpu" in values or types:
        for meaning in meanings:
            for key, value in meaning.said:
                if key == _MODEL:
                    _add_model(value, values)
    if "page" not in values and len(families) == 1:
        size = vocabulary.page_size(next(iter(families)))
        if size is not None:
            values["page"] = {str(size): None}
    known = {key: tuple(found) for key, found in values.items()}
    return NodeFacts(frozenset(families), cpus, COMPLETE_FEATURE in listed, known)


def keys_of(feature: str, names: SiteNames = NO_NAMES) -> frozenset[str]:
    """Return the requirement keys that a feature tells something of."""
    found: set[str] = set()
    for name in names.explained([feature]):
        meaning = _meaning(name)
        found.update(("arch", "cpu", "isa") if meaning.family else ())
        found.update(key for key, _ in meaning.said)
    return frozenset(found)


def _gpu_types(gres: Iterable[str]) -> list[str]:
    """Return the types of the GPUs in Gres, an empty one for `gpu:4`."""
    items = [item for text in gres for item in _GRES_ITEM.split(text)]
    return [found[1] or "" for item in items if (found := _GRES_GPU.fullmatch(item.strip()))]


def _meaning(feature: str) -> _Meaning:
    meaning = _meanings.get(feature)
    if meaning is None:
        target = vocabulary.feature_target(feature)
        if target is None:
            meaning = _Meaning(None, "", False, tuple(_said(feature)))
        else:
            cpu = vocabulary.cpu(target)
            ambiguous = vocabulary.is_ambiguous_feature(feature)
            meaning = _Meaning(cpu, cpu.family if cpu else target, ambiguous, ())
        if len(_meanings) < MAX_REMEMBERED:
            _meanings[feature] = meaning
    return meaning


def _said(feature: str) -> list[tuple[str, str]]:
    """Return requirement key and value of all that a feature says, _MODEL for what may be one."""
    key, equals, value = feature.partition("=")
    if equals:
        return _value(key.lower(), value.lower())
    name = feature.lower()
    if name in VENDORS:
        return [("gpu", VENDORS[name])]
    if name in NETWORKS:
        return [("network", name)]
    if name in _FLAGS:
        return [("isa", _FLAGS[name])]
    if _is_target(name):
        return _target(name)
    return [(_MODEL, name)] if _is_short_target(name) else _model(name)


def _is_target(name: str) -> bool:
    prefix = next((one for one in _TARGETS if name.startswith(one)), name)
    return _TARGET.issuperset(name[len(prefix) :]) and len(name) > len(prefix)


def _is_short_target(name: str) -> bool:
    digits = name[2:]
    return name[:2] in _SHORT_TARGETS and 2 <= len(digits) <= 3 and _DIGITS.issuperset(digits)


def _value(key: str, value: str) -> list[tuple[str, str]]:
    if not value:
        return []
    if key in _PLAIN:
        return [(key, value)]
    if key in ("sm", "cc"):
        return _target(f"sm_{value.replace('.', '')}")
    if key == "gpu":
        return [("gpu", value)] if value in VENDORS.values() else _certain_model(value)
    if key == "gpu.arch":
        return _target(value)
    if key not in ("page", "memory", "mem"):
        return []
    digits = value.rstrip("kmgtb")
    unit = value[len(digits) :].removesuffix("b")
    if unit not in _KIB or not _DIGITS.issuperset(digits) or not 0 < len(digits) <= 12:
        return []
    number = int(digits)
    if key == "page":
        return [("page", str(number * max(1, _KIB[unit] * 1024)))]
    return [("memory", str(number * _KIB[unit] // 1024 if unit else number))]


def _certain_model(name: str) -> list[tuple[str, str]]:
    """Return what a name says that is a GPU's for certain (`gpu=t4`, a type in Gres)."""
    from slurm_cmeta.vocabulary import gpus

    model = gpus.model(name)
    if model is None:
        return []
    architecture = ("gpu.arch", model.arch) if model.arch else (UNSAID_ARCH, model.vendor)
    return [("gpu", model.vendor), architecture]


def _target(name: str) -> list[tuple[str, str]]:
    """Return what a GPU's architecture says; nothing where there is no such one."""
    from slurm_cmeta.evidence.gpu_target import target, vendor_of
    from slurm_cmeta.vocabulary import gpus

    found = target(name).replace("compute_", "sm_")
    if not found or (found.startswith("sm_") and not gpus.is_capability(found)):
        return []
    return [("gpu", vendor_of(found)), ("gpu.arch", found)]


def _model(name: str) -> list[tuple[str, str]]:
    from slurm_cmeta.vocabulary import gpus

    said = _certain_model(name)
    return [(_MODEL, name)] if said and gpus.is_ambiguous_feature(name) else said


def _add_model(name: str, values: dict[str, dict[str, None]]) -> None:
    """Take a name that could mean something else, beside what tells of such a GPU."""
    said = _target(name) if _is_short_target(name) else _certain_model(name)
    vendors = values.get("gpu", {})
    if said and (not vendors or said[0][1] in vendors):
        for key, value in said:
            values.setdefault(key, {})[value] = None
