"""AMD GPUs on which ROCm runs: how many, which, what code they run, and the ROCm version.

amd.count   GPUs as ROCm counts them: each half of an MI250X, each partition of an MI300X
amd.model   each model: `AMD Instinct MI250X`
amd.arch    each target that code must be built for: `gfx90a`
rocm        version of the ROCm that /opt/rocm leads to, else the newest in /opt/rocm-*; `none` on
            a host without such GPUs, which has no use for it

The kernel's list of what ROCm can use is the topology of amdkfd (Linux,
drivers/gpu/drm/amd/amdkfd/kfd_topology.c, node_show()). Graphics inside of a CPU is in it, too, and
does not count; MI300A does. In a container the files of foreign GPUs cannot be read (EPERM): then
nobody can tell how many there are.
"""

from __future__ import annotations

import re

from slurm_cmeta.node import pci
from slurm_cmeta.node.host import HostError, Missing, Unreadable
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean
from slurm_cmeta.vocabulary import gpus

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("amd.count", "amd.model", "amd.arch", "rocm")
GPU_KEYS = KEYS[:3]

NODES = "/sys/class/kfd/kfd/topology/nodes"
OPT = "/opt"
VERSION_FILE = ".info/version"
TABLE = "gpu_models.json"

AMD = 0x1002

_PROPERTY = re.compile(r"([a-z_0-9]{1,40}) ([0-9]{1,20})")
_ROCM = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,3}){1,2})(?:[-\s]|$)")
_MAX_FILE = 16_384


class Gpu(NamedTuple):
    """A GPU of the topology."""

    where: str
    properties: dict[str, int]


def probe(host: Host, found: Found) -> None:
    """Find the AMD GPUs of the host."""
    try:
        seen, doubts = _topology(host)
    except Missing:
        pci.answer_without(host, found, KEYS, "amd", "amdgpu", "ROCm's driver (KFD) is not there")
        return
    targets = [(gpu, _target(gpu)) for gpu in seen]
    counted = [(gpu, target) for gpu, target in targets if not gpus.is_integrated(target or "")]
    if not counted and not doubts:
        # A GPU for computing that is not served is on its way, or its reset has failed.
        why = "ROCm's driver (KFD) serves none"
        graphics = {_number(gpu) for gpu in seen}  # inside of CPUs, in the topology
        pci.answer_without(
            *(host, found, KEYS, "amd", "amdgpu", why),
            lambda gpu: gpu.number in graphics or _only_shows(gpu),
        )
        return
    if not doubts:
        found.fact("amd.count", len(counted), NODES)
    for key in GPU_KEYS if doubts else ():
        found.cannot_tell(key, doubts[0])
    for gpu, target in counted:
        _describe(host, found, gpu, target)
    _rocm(host, found)


def _only_shows(gpu: pci.Device) -> bool:
    """Tell whether ROCm does not support a GPU of amdgpu: one with a display that no table has."""
    return gpu.code == pci.VGA and gpus.model_of_number("amd", gpu.number) is None


def _topology(host: Host) -> tuple[list[Gpu], list[str]]:
    """Return the GPUs, and why there may be more. Raises HostError without any topology."""
    nodes = host.names(NODES)
    if not nodes:
        raise Unreadable(f"{NODES}: empty")
    seen, doubts = [], []
    for name in sorted(nodes, key=lambda name: (len(name), name)):
        try:
            gpu = _node(host, f"{NODES}/{name}")
        except HostError as error:
            doubts.append(str(error))
            continue
        if gpu is not None:
            seen.append(gpu)
    return seen, doubts


def _node(host: Host, path: str) -> Gpu | None:
    """Return the GPU that a node of the topology is, None for a CPU."""
    identity = host.read(f"{path}/gpu_id", 64).strip()
    if not re.fullmatch("[0-9]{1,10}", identity):
        raise Unreadable(f"{clean(path)}/gpu_id: no number")
    if int(identity) == 0:
        return None
    lines = host.read(f"{path}/properties", _MAX_FILE).splitlines()
    matches = [_PROPERTY.fullmatch(line.strip()) for line in lines]
    properties = {match[1]: int(match[2]) for match in matches if match}
    if "simd_count" not in properties or properties.get("vendor_id", AMD) != AMD:
        raise Unreadable(f"{clean(path)}/properties: not what Linux writes there")
    return Gpu(clean(f"{path}/properties"), properties) if properties["simd_count"] else None


def _target(gpu: Gpu) -> str | None:
    """Return the target from `gfx_target_version`: 90010 is 9, 0, 10, and so gfx90a."""
    version = gpu.properties.get("gfx_target_version", 0)
    major, minor, stepping = version // 10_000, version // 100 % 100, version % 100
    if 6 <= major <= 99 and minor < 16 and stepping < 16:
        return f"gfx{major}{minor:x}{stepping:x}"
    return None


def _number(gpu: Gpu) -> str:
    """Return the PCI device number: `74a1`."""
    return f"{gpu.properties.get('device_id', 0):04x}"


def _describe(host: Host, found: Found, gpu: Gpu, target: str | None) -> None:
    number = _number(gpu)
    known = gpus.model_of_number("amd", number)
    if target:
        found.fact("amd.arch", target, gpu.where)
    elif known and known.arch and "gfx_target_version" not in gpu.properties:
        found.fact("amd.arch", known.arch, TABLE)  # older kernels do not say it
    else:
        found.cannot_tell("amd.arch", f"{gpu.where}: no gfx_target_version that makes sense")
    path, product = _product(host, gpu)
    named = gpus.model_of_product(product) if product else None
    if named:
        found.fact("amd.model", named.product, path)
    elif known:
        found.fact("amd.model", known.product, TABLE)
    elif product:
        found.fact("amd.model", product, path)
    else:
        found.cannot_tell("amd.model", f"device 1002:{number} is not in the table of models")


def _product(host: Host, gpu: Gpu) -> tuple[str, str]:
    """Return the name that the board itself says (its FRU), empty where it says none.

    Source: Linux, drivers/gpu/drm/amd/amdgpu/amdgpu_fru_eeprom.c, and amdgpu_amdkfd: the location
    is the bus and the function, the latter counted up by partitions of one GPU.
    """
    location, domain = gpu.properties.get("location_id", 0), gpu.properties.get("domain", 0)
    slot = f"{domain & 0xFFFFFFFF:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}"
    for function in dict.fromkeys((location & 7, 0)):
        path = f"{pci.DEVICES}/{slot}.{function}/product_name"
        try:
            name = host.read(path, 256).strip()
        except HostError:
            continue
        if name.isascii() and name.isprintable() and 3 < len(name) <= 64 and "AMD" in name:
            return path, name
    return "", ""


def _rocm(host: Host, found: Found) -> None:
    try:
        names = host.names(OPT)
    except HostError as error:
        found.cannot_tell("rocm", error)
        return
    installed: dict[tuple[int, ...], tuple[str, str]] = {}
    trouble = f"no ROCm in {OPT}"
    for name in names:
        if name != "rocm" and not re.fullmatch(r"rocm-[0-9][0-9.]*", name):
            continue
        path = f"{OPT}/{name}/{VERSION_FILE}"
        try:
            version = _ROCM.match(host.read(path, 256))
        except HostError as error:
            trouble = str(error)
            continue
        if version is None:
            trouble = f"{path}: no version in it"
            continue
        order = (name == "rocm", *map(int, version[1].split(".")))
        installed[order] = (version[1], path)
    if installed:
        found.fact("rocm", *installed[max(installed)])
    else:
        found.cannot_tell("rocm", clean(trouble))
