"""Names of GPU models: those of sites, drivers and the PCI bus, and what each name implies.

The names are data (gpu_models.json); this module only looks them up. Names of what code is built
for (`sm_80`, `gfx90a`) are read by slurm_cmeta.evidence.gpu_target.
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.pattern import Pattern
from slurm_cmeta.record import NamedTuple

_QUALIFIER = Pattern(r"\d{1,3}(?:g|gb)?|x\d{1,2}|nvl\d{1,2}|pg\d{3}")
"""A size of memory, a number of GPUs, a MIG profile, a board: `80gb`, `x4`, `3g`, `pg509`."""

_FORM_FACTORS = ("pcie", "nvl", "sxm")
"""How a GPU is put into a machine; `sxm` may have a digit behind it."""
_WORD = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
_RELEASE = Pattern(r"(?a:\d{1,4}(?:\.\d{1,4}){1,3})")
_CAPABILITY = Pattern(r"(?a:(?:sm|compute)_(\d{1,2})(\d)[af]?)")

_TARGET = Pattern(r"(?a:sm_([1-9]\d{1,2})([af]?))")

_models: dict[str, GpuModel] = {}
_numbers: dict[tuple[str, str], GpuModel] = {}


class GpuModel(NamedTuple):
    """One model of gpu_models.json."""

    name: str
    """The bare name that is published as a feature: `a100`."""

    vendor: str
    """`nvidia`, `amd` or `intel`."""

    arch: str | None
    """What code must be built for: `sm_80`, `gfx90a`; None where the name does not say."""

    product: str
    """As the driver names it, without form factor and memory: `NVIDIA A100`."""


class _Spelled(NamedTuple):
    model: GpuModel
    spelling: str
    branded: bool


def model(name: str) -> GpuModel | None:
    """Return the model that a feature or a type of GRES stands for, or None.

    Form factor, memory, MIG profile, case and separators do not matter: `a100`, `gpu_v100`,
    `A100-SXM4-80GB`, `tesla_v100`, `nvidia_a100_3g.20gb`. The arch of a name that several
    generations share (`rtx6000`) is None. See is_ambiguous_feature() for names such as `t4`.
    """
    found = _spelled(name)
    return found.model if found else None


def model_of_product(product: str) -> GpuModel | None:
    """Return the model that a driver calls `product` (`NVIDIA A100-SXM4-40GB`), or None."""
    _load()
    for known in _models.values():
        if known.product == product:
            return known
    return model(product)


def model_of_number(vendor: str, device: str) -> GpuModel | None:
    """Return the model with this PCI device number (`nvidia`, `20b0`), or None."""
    _load()
    return _numbers.get((vendor, device.lower()))


def slug(product: str) -> str | None:
    """Return the feature published for a product (`a100`), None where the table has none."""
    found = model_of_product(product)
    return found.name if found else None


def is_ambiguous_feature(feature: str) -> bool:
    """Tell whether a feature that names a GPU may well mean something else, such as a rack.

    A letter with digits (`t4`, `b200`) is, but for the usual ones (`a100`, `h100`, `v100`); so are
    bare numbers (`3090`) and proper names (`thor`). With a brand in front (`tesla_t4`,
    `gpu_b200`) they are not.
    """
    found = _spelled(feature)
    ambiguous = vocabulary.load("gpu_models")["ambiguous_as_feature"]
    return found is not None and not found.branded and found.spelling in ambiguous


def is_integrated(target: str) -> bool:
    """Tell whether `gfx...` is graphics inside of a CPU, which no job asks for."""
    return target in vocabulary.load("gpu_models")["integrated"]["targets"]


def only_displays(vendor: str, device: str) -> bool:
    """Tell whether a PCI device number is a chip that only lights a console."""
    return device.lower() in vocabulary.load("gpu_models")["display_only"].get(vendor, ())


def cuda_of_driver(release: str) -> str | None:
    """Return the highest CUDA version of an NVIDIA driver (`550.54.14` -> `12.4`), or None.

    None for branches that are not listed, and for releases from before the one that is: what they
    support is not known, and neither more nor less may be claimed.
    """
    if not _RELEASE.fullmatch(release):
        return None
    branches: dict[str, list[str]] = vocabulary.load("gpu_models")["cuda_of_driver"]["branches"]
    first, cuda = branches.get(release.split(".", maxsplit=1)[0], ("", ""))
    return cuda if first and _numeric(release) >= _numeric(first) else None


def capability(arch: str) -> tuple[int, int] | None:
    """Return NVIDIA's compute capability, for comparing: `sm_86` -> (8, 6), `sm_120` -> (12, 0)."""
    found = _CAPABILITY.fullmatch(arch)
    return (int(found[1]), int(found[2])) if found else None


def is_capability(name: str) -> bool:
    """Tell whether `sm_NN`, `sm_NNa` or `sm_NNf` is a target that exists: `sm_90a`, not `sm_77`."""
    found = _TARGET.fullmatch(name)
    if found is None:
        return False
    table = vocabulary.load("gpu_models")["capabilities"]
    return int(found[1]) in (table["suffixes"][found[2]] if found[2] else table["numbers"])


def is_tegra(number: int) -> bool:
    """Tell whether a compute capability times ten (`87`) is that of a Tegra, as on a Jetson.

    Code that is built for it (`sm_87`) runs on no desktop or data center GPU, and theirs not on it
    (CUDA C++ Programming Guide, Binary Compatibility).
    """
    return number in vocabulary.load("gpu_models")["capabilities"]["tegra"]


def _numeric(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def _spelled(name: str) -> _Spelled | None:
    """Find the longest known spelling that `name` begins with, where only qualifiers follow."""
    if len(name) > vocabulary.MAX_NAME or not name.isascii():
        return None
    table = vocabulary.load("gpu_models")
    lowered = name.lower().replace("(r)", " ").replace("data center", " ")
    plain = "".join(c if c in _WORD else " " for c in lowered)
    said = [_without_form_factor(word) for word in plain.split()]
    words = [word for word in said if word not in table["brands"]]
    vendors = {table["brands"][word] for word in said if word in table["brands"]} - {None}
    _load()
    for count in range(len(words), 0, -1):
        found = _models.get("".join(words[:count]))
        if found is None:
            continue
        rest = words[count:]
        if not all(w in table["qualifiers"] or _QUALIFIER.fullmatch(w) for w in rest):
            return None
        if not vendors <= {found.vendor}:
            return None  # `amd_a10`, `intel_p4`: nothing of NVIDIA's, whatever it is
        spelling = "".join(words[:count])
        if spelling in table["arch_varies"]:
            found = found._replace(arch=None)
        return _Spelled(found, spelling, len(words) < len(said))
    return None


def _without_form_factor(word: str) -> str:
    """Return `a100` of `a100sxm4`; a form factor by itself is left as it is."""
    short = word[:-1] if word[-4:-1] == "sxm" and word[-1].isdigit() else word
    for suffix in _FORM_FACTORS:
        if short.endswith(suffix) and len(short) > len(suffix):
            return short.removesuffix(suffix)
    return word


def _load() -> None:
    """Index the models by all their spellings and numbers, once."""
    if _models:
        return
    models = {}
    for name, entry in vocabulary.load("gpu_models")["models"].items():
        known = GpuModel(name, entry["vendor"], entry["arch"], entry["product"])
        models.update(dict.fromkeys([name, *entry["names"]], known))
        for number in entry["pci"]:
            _numbers[known.vendor, number] = known
    _models.update(models)
