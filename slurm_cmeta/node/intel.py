"""Intel GPUs that jobs ask for: how many, and which.

intel.count   cards on the PCI bus that i915 or xe drives (an Intel Max 1550 with two tiles is one)
intel.model   each model: `Intel Data Center GPU Max 1550`

Only discrete GPUs count, by a table of PCI numbers: Max, Flex, Arc. Graphics inside of a CPU, which
is always at 0000:00:02.0 (Linux, include/drm/intel/pciids.h lists both kinds), is not what a job
asks for. An Intel GPU at another place that is not in the table may be a new one: unknown.
"""

from __future__ import annotations

from slurm_cmeta.node import NONE, pci
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.vocabulary import gpus

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("intel.count", "intel.model")

INTEGRATED = "0000:00:02.0"
DRIVERS = ("i915", "xe")


def probe(host: Host, found: Found) -> None:
    """Find the Intel GPUs of the host."""
    seen, doubts = pci.devices(host, "intel")
    count = 0
    for device in seen:
        known = gpus.model_of_number("intel", device.number)
        if known is None and device.address == INTEGRATED:
            continue
        name = known.product if known else f"Intel GPU 8086:{device.number}"
        if device.driver is None:
            doubts.append(f"{name} at {device.address}: no driver has it")
        elif device.driver not in DRIVERS:
            found.warn(
                f"{name} at {device.address}: not usable by jobs,"
                f" the kernel's driver is {device.driver}"
            )
        elif known is None:
            doubts.append(f"{name} at {device.address} is not in the table of models")
        else:
            count += 1
            found.fact("intel.model", known.product, pci.DEVICES)
    for key in KEYS if doubts else ():
        found.cannot_tell(key, doubts[0])
    if count and not doubts:
        found.fact("intel.count", count, pci.DEVICES)
    elif not doubts:
        for key in KEYS:
            found.fact(key, NONE, pci.DEVICES)
