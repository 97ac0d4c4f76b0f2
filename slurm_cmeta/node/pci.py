"""GPUs on the PCI bus, whoever drives them.

Source: the file `uevent` of each device in /sys/bus/pci/devices, which holds class, numbers and
driver (Linux, drivers/pci/pci-driver.c, pci_uevent() and drivers/base/core.c, dev_uevent()).
"""

from __future__ import annotations

import re

from slurm_cmeta.node import NONE
from slurm_cmeta.node.host import HostError, Missing, Unreadable
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean
from slurm_cmeta.vocabulary import gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

DEVICES = "/sys/bus/pci/devices"

_VENDORS = {"10DE": "nvidia", "1002": "amd", "8086": "intel", "1414": "microsoft"}
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_CLASS = re.compile(r"[0-9A-F]{1,6}")
_NUMBERS = re.compile(r"([0-9A-F]{4}):([0-9A-F]{4})")
_DRIVER = re.compile(r"[A-Za-z0-9_-]{1,64}")

_DISPLAY = 0x03
VGA = 0x0300
_ACCELERATOR = 0x1200
"""PCI code 12h 00h, processing accelerator: that is what AMD Instinct MI300 is."""

_DISPLAY_DRIVERS = ("amdgpu", "radeon")
"""What these have, and ROCm has not, is there for a display."""

_DXG = "/dev/dxg"
_DXG_DEVICE = ("microsoft", "008e")
"""The GPUs of a Windows host, as WSL 2 shows them (microsoft/WSL2-Linux-Kernel drivers/hv/dxgkrnl,
dxgmodule.c): one device of Microsoft's for all, which does not tell who made them."""

_MAX_UEVENT = 4096


class Device(NamedTuple):
    """A GPU on the bus."""

    address: str
    """`0000:07:00.0`."""

    vendor: str
    """`nvidia`, `amd`, `intel` or `microsoft`."""

    number: str
    """The vendor's device number: `20b0`."""

    driver: str | None
    """The kernel's driver that has it; None if none has."""

    code: int
    """Class and subclass: 0300h has a display's connectors, 0380h and 1200h compute."""

    @property
    def path(self) -> str:
        """Return its directory, from the root."""
        return f"{DEVICES}/{self.address}"


def devices(host: Host, vendor: str) -> tuple[list[Device], list[str]]:
    """Return the GPUs of `nvidia`, `amd` or `intel`, and why there may be more of them.

    A virtual function counts only in a virtual machine, which sees it as a device of its own. Chips
    that only light a console do not count. Raises HostError where nobody can tell of any.
    """
    found, doubts = [], []
    try:
        if host.exists(_DXG):
            doubts.append(f"{_DXG}: a GPU of the Windows host, nobody tells which")
    except HostError as error:
        doubts.append(str(error))
    for address in _addresses(host):
        try:
            gpu = device(host, address)
            if gpu and (gpu.vendor, gpu.number) == _DXG_DEVICE:
                doubts.append(f"{address}: a GPU of the Windows host, nobody tells which")
            if gpu is None or gpu.vendor != vendor or gpus.only_displays(vendor, gpu.number):
                continue
            if not host.exists(f"{gpu.path}/physfn"):
                found.append(gpu)
        except HostError as error:
            doubts.append(str(error))
    return found, doubts


def device(host: Host, address: str) -> Device | None:
    """Return the GPU at `address`, None if it is something else. Raises HostError.

    The displays that Hyper-V gives its virtual machines are GPUs of `microsoft`.
    """
    said = _uevent(host, address)
    vendor, number = said["PCI_ID"].split(":")
    code = int(said["PCI_CLASS"], 16) >> 8
    name = _VENDORS.get(vendor)
    if name is None or not (code >> 8 == _DISPLAY or (name == "amd" and code == _ACCELERATOR)):
        return None
    return Device(address, name, number.lower(), said.get("DRIVER"), code)


def answer_without(
    host: Host,
    found: Found,
    keys: Iterable[str],
    vendor: str,
    driver: str,
    why: str,
    only_show: Callable[[Device], bool] = lambda _: False,
) -> None:
    """Answer `keys` where the vendor's `driver` serves no GPU, for the reason `why`.

    The host certainly has no such GPU where the bus has none, or where other drivers have them all
    (nouveau; vfio-pci, for a virtual machine): the admin is told of these. With a GPU that no
    driver has, or that `driver` has, nobody can tell: it may be served in a minute. Where
    `driver` also has GPUs that `only_show`, these do not count.
    """
    seen, doubts = devices(host, vendor)
    waiting = [
        each
        for each in seen
        if each.driver is None or (each.driver == driver and not only_show(each))
    ]
    if waiting:
        doubts.append(f"{_listed(waiting)} on the PCI bus, but {why}")
    for key in keys:
        if doubts:
            found.cannot_tell(key, doubts[-1])
        else:
            found.fact(key, NONE, DEVICES)
    taken = [e for e in seen if e not in waiting and e.driver not in _DISPLAY_DRIVERS]
    if taken:
        names = ", ".join(sorted({each.driver or "" for each in taken}))
        found.warn(f"{_listed(taken)}: not usable by jobs, the kernel's driver is {names}")


def _listed(seen: list[Device]) -> str:
    plural = "s" if len(seen) > 1 else ""
    return f"{len(seen)} {seen[0].vendor} GPU{plural} ({', '.join(d.address for d in seen)})"


def _addresses(host: Host) -> list[str]:
    try:
        return host.names(DEVICES)
    except Missing:
        if "pci" in (buses := host.names("/sys/bus")) or not buses:
            raise Unreadable(f"{DEVICES}: not there, where the kernel has one") from None
        return []  # a kernel without PCI: some virtual machines, s390x


def _uevent(host: Host, address: str) -> dict[str, str]:
    """Return what the kernel says of a device, as far as this module needs it."""
    path = f"{DEVICES}/{address}/uevent"
    lines = host.read(path, _MAX_UEVENT).splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    if not (
        _ADDRESS.fullmatch(address)
        and _CLASS.fullmatch(said.get("PCI_CLASS", ""))
        and _NUMBERS.fullmatch(said.get("PCI_ID", ""))
        and _DRIVER.fullmatch(said.get("DRIVER", "none"))
    ):
        raise Unreadable(f"{clean(path)}: not what Linux writes there")
    return said
