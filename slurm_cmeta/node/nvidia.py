"""NVIDIA GPUs: how many, which, what code they run, and the driver with its CUDA version.

nvidia.count   GPUs that the driver can use: whole ones, also where MIG divides them
nvidia.model   each model, as the driver names it: `NVIDIA A100-SXM4-40GB`
nvidia.arch    each compute capability: `sm_80`
driver         the loaded kernel module: `550.54.14`
cuda           the highest CUDA version that the driver supports: `12.4`

/proc/driver/nvidia tells of driver and models, nvidia-smi (where it is) of everything, and whether
the GPUs still answer; tables fill what an old nvidia-smi, or none, leaves open. Where nvidia-smi
fails, count and CUDA version are unknown, but the models stay what they are.

Without the kernel module nothing can run on the GPU; nvidia-smi is then not started, since as root
it loads the module. See pci.answer_without() for what this says of the host.
"""

from __future__ import annotations

import re

from slurm_cmeta.node import NONE, pci
from slurm_cmeta.node.host import HostError, Missing, Unreadable
from slurm_cmeta.node.nvidia_smi import Answer, ask, name_of
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean
from slurm_cmeta.vocabulary import gpus

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("nvidia.count", "nvidia.model", "nvidia.arch", "driver", "cuda")

PROC = "/proc/driver/nvidia"
DEVICE_TREE = "/proc/device-tree/compatible"
TABLE = "gpu_models.json"

_MODULE = re.compile(
    r"^NVRM version:[^\n]{0,80}? Kernel Module(?: for \S{1,20})?\s{1,8}"
    r"([0-9]{2,4}(?:\.[0-9]{1,4}){1,3})\s",
    re.MULTILINE,
)
"""`NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 ...` of the closed module,
`NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build ...` of the open one."""

_MAX_FILE = 16_384


class Gpu(NamedTuple):
    """One GPU, as far as something tells of it."""

    where: str
    """What told: a path, or nvidia-smi."""

    model: str | None
    arch: str | None
    number: str | None = None
    """PCI device number, where it is known."""


def probe(host: Host, found: Found) -> None:
    """Find the NVIDIA GPUs of the host."""
    try:
        text = host.read(f"{PROC}/version", _MAX_FILE)
    except Missing:
        _without_driver(host, found)
        return
    except Unreadable as error:
        text, reason = "", str(error)
    else:
        reason = f"{PROC}/version: no version of the driver in it"
    module = _MODULE.search(text)
    answer = ask(host)
    release = module[1] if module else answer.driver
    if release:
        found.fact("driver", release, f"{PROC}/version" if module else "nvidia-smi")
    else:
        found.cannot_tell("driver", reason)

    listed, doubts = _listed(host, found)
    if not listed and not doubts and not answer.gpus and _bus_is_empty(host):
        for key in KEYS:
            if key != "driver":
                found.fact(key, NONE, f"{PROC}/gpus, {pci.DEVICES}")
        return
    _count(found, answer, listed, doubts)
    seen = [Gpu("nvidia-smi", *each) for each in answer.gpus] or listed
    _models(found, seen, doubts if not answer.gpus else [])
    _cuda(found, answer, release)


def _without_driver(host: Host, found: Found) -> None:
    """Answer for a host where the kernel module is not loaded."""
    if not host.exists("/proc/driver") and not host.exists("/proc/cpuinfo"):
        raise Unreadable("/proc is not there, or shows only processes")
    try:
        if "nvidia,tegra" in host.read(DEVICE_TREE, _MAX_FILE):
            raise Unreadable("a Jetson without /proc/driver/nvidia: its GPU is not on the PCI bus")
    except Missing:
        pass  # a host with ACPI, as all servers
    pci.answer_without(host, found, KEYS, "nvidia", "nvidia", "the kernel module is not loaded")


def _bus_is_empty(host: Host) -> bool:
    try:
        return pci.devices(host, "nvidia") == ([], [])
    except HostError:
        return False


def _listed(host: Host, found: Found) -> tuple[list[Gpu], list[str]]:
    """Return the GPUs of which the kernel module tells, and why there may be more.

    Source: kernel-open/nvidia/nv-procfs.c, nv_procfs_read_gpu_info(), in
    NVIDIA/open-gpu-kernel-modules.
    """
    listed, doubts = [], []
    try:
        addresses = host.names(f"{PROC}/gpus")
    except HostError as error:
        return [], [str(error)]
    for address in addresses:
        path = f"{PROC}/gpus/{address}/information"
        try:
            text = host.read(path, _MAX_FILE)
        except HostError as error:
            doubts.append(str(error))
            continue
        lines = (line.partition(":") for line in text.splitlines())
        said = {key.strip(): value.strip() for key, _, value in lines}
        if "Model" not in said:
            doubts.append(f"{clean(path)}: not what the driver writes there")
        elif said.get("GPU Excluded") == "Yes":
            found.warn(
                f"NVIDIA GPU {clean(address)} is excluded from use by an option of the driver"
            )
        else:
            number = _number(host, address)
            listed.append(Gpu(clean(path), name_of(said["Model"]), None, number))
    return listed, doubts


def _number(host: Host, address: str) -> str | None:
    """Return the PCI device number of a GPU, where the bus knows it."""
    try:
        device = pci.device(host, address)
    except HostError:
        return None
    return device.number if device else None


def _count(found: Found, answer: Answer, listed: list[Gpu], doubts: list[str]) -> None:
    for line in answer.lost:
        found.warn(f"nvidia-smi: {line}")
    if answer.failure:
        found.cannot_tell("nvidia.count", answer.failure)
    elif answer.gpus:
        found.fact("nvidia.count", len(answer.gpus), "nvidia-smi")
        if len(answer.gpus) < len(listed):
            found.warn(f"{len(listed)} NVIDIA GPUs are there, {len(answer.gpus)} of them answer")
    elif doubts:
        found.cannot_tell("nvidia.count", doubts[0])
    elif listed:
        found.fact("nvidia.count", len(listed), f"{PROC}/gpus")
    else:
        found.cannot_tell("nvidia.count", "the driver is loaded, but has no GPU")


def _models(found: Found, seen: list[Gpu], doubts: list[str]) -> None:
    """Say which models and capabilities there are: as told, else by name, else by number."""
    for reason in doubts or ([] if seen else ["the driver names no GPU"]):
        found.cannot_tell("nvidia.model", reason)
        found.cannot_tell("nvidia.arch", reason)
    for gpu in seen:
        known = gpus.model_of_product(gpu.model) if gpu.model else None
        if (known is None or known.arch is None) and gpu.number:
            known = gpus.model_of_number("nvidia", gpu.number) or known
        if gpu.model:
            found.fact("nvidia.model", gpu.model, gpu.where)
        elif known:
            found.fact("nvidia.model", known.product, TABLE)
        else:
            found.cannot_tell("nvidia.model", f"{gpu.where}: the driver does not name the GPU")
        if gpu.arch:
            found.fact("nvidia.arch", gpu.arch, gpu.where)
        elif known and known.arch:
            found.fact("nvidia.arch", known.arch, TABLE)
        else:
            name = gpu.model or "the GPU"
            found.cannot_tell("nvidia.arch", f"{name} is not in the table of models")


def _cuda(found: Found, answer: Answer, release: str | None) -> None:
    by_table = gpus.cuda_of_driver(release) if release else None
    if answer.failure:
        found.cannot_tell("cuda", answer.failure)
    elif answer.no_cuda:
        found.cannot_tell("cuda", answer.no_cuda)
    elif answer.cuda:
        found.fact("cuda", answer.cuda, "nvidia-smi")
    elif by_table:
        found.fact("cuda", by_table, TABLE)
    else:
        name = f"driver {release}" if release else "the driver"
        found.cannot_tell("cuda", f"{name} is not in the table of CUDA versions")
