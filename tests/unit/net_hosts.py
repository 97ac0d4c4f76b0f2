"""Replayed machines for the probes of networks, container runtimes and MPI.

A machine is a table of paths: text or bytes are files, None an empty directory, Link a symbolic
link. What each mimics is said where it is made; the formats are those of the sources named there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from slurm_cmeta.node import Found
from slurm_cmeta.node.host import Host, HostError


class Link(NamedTuple):
    """A symbolic link."""

    target: str


Files = Mapping[str, "str | bytes | Link | None"]


def build(root: Path, files: Files) -> Path:
    """Write a machine below `root`; later calls add to it."""
    for path, what in files.items():
        place = root / path.lstrip("/")
        if what is None:
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if isinstance(what, Link):
            place.symlink_to(what.target)
        else:
            place.write_bytes(what.encode() if isinstance(what, str) else what)
    return root


def ask(probe: Callable[[Host, Found], None], root: Path) -> Found:
    """Return what one probe finds; an outcome that it leaves to its caller ends it."""
    found = Found()
    try:
        probe(Host(str(root)), found)
    except HostError as error:
        found.cannot_tell("raised", error)
    return found


def of(found: Found, key: str) -> list[str]:
    """Return all values of a key, `none` too."""
    return [f.value for f in found.facts if f.key == key]


def why(found: Found, key: str) -> str:
    """Return the reasons why a key is unknown."""
    return "; ".join(u.reason for u in found.unknown if u.key == key)


# --- networks -----------------------------------------------------------------------------------


def rdma(
    name: str,
    driver: str = "mlx5_core",
    *,
    node: str = "1: CA",
    layer: str = "InfiniBand",
    rate: str = "200 Gb/sec (4X HDR)",
    state: str = "4: ACTIVE",
    port: str = "1",
) -> dict[str, str | bytes | Link | None]:
    """Return an RDMA device as torvalds/linux drivers/infiniband/core/sysfs.c shows it.

    As on a machine, the class has links into /sys/devices, where `device` leads to the PCI device
    and its `driver` to the bus.
    """
    pci = f"/sys/devices/pci0000:00/0000:{sum(name.encode()) % 256:02x}:00.0"
    here = f"{pci}/infiniband/{name}"
    return {
        f"/sys/class/infiniband/{name}": Link(f"../../../{here.lstrip('/')}"),
        f"{here}/device": Link("../.."),
        f"{here}/node_type": node + "\n",
        f"{here}/ports/{port}/state": state + "\n",
        f"{here}/ports/{port}/phys_state": "5: LinkUp\n",
        f"{here}/ports/{port}/rate": rate + "\n",
        f"{here}/ports/{port}/link_layer": layer + "\n",
        f"/sys/bus/pci/drivers/{driver}/bind": "",
        f"{pci}/driver": Link(f"/sys/bus/pci/drivers/{driver}"),
    }


HDR = rdma("mlx5_0")
"""ConnectX-6 in InfiniBand mode, as in most clusters since 2020."""

ROCE = rdma("mlx5_0", layer="Ethernet", rate="100 Gb/sec (4X EDR)")
"""ConnectX-5 in Ethernet mode: RoCE."""

OMNIPATH = rdma("hfi1_0", "hfi1", rate="100 Gb/sec (4X EDR)")
"""Intel Omni-Path 100 HFI: drivers/infiniband/hw/hfi1; its link layer says InfiniBand."""

EFA = rdma("rdmap0s6", "efa", node="7: unspecified", layer="Unknown", rate="100 Gb/sec (4X EDR)")
"""AWS p4d/hpc6a: the device has the name that rdma-core's rename gives it (rdma_rename)."""

IWARP = rdma("cxgb4_0", "iw_cxgb4", node="4: RNIC", layer="Ethernet", rate="40 Gb/sec (4X QDR)")
"""Chelsio T5: iWARP."""

SLINGSHOT: Files = {
    "/sys/class/cxi/cxi0": Link("../../devices/pci0000:c0/0000:c1:00.0/cxi/cxi0"),
    "/sys/devices/pci0000:c0/0000:c1:00.0/cxi/cxi0/device": Link("../.."),
    "/sys/devices/pci0000:c0/0000:c1:00.0/port/link": "up",
    "/sys/devices/pci0000:c0/0000:c1:00.0/port/speed": "BS_200G\n",
}
"""HPE Slingshot 200 (Cassini 1): shs-cxi-driver cass_sbl.c, without a newline after `up`."""

SLINGSHOT_400: Files = {
    "/sys/class/cxi/cxi0": Link("../../devices/pci0000:c0/0000:c1:00.0/cxi/cxi0"),
    "/sys/devices/pci0000:c0/0000:c1:00.0/cxi/cxi0/device": Link("../.."),
    "/sys/devices/pci0000:c0/0000:c1:00.0/port/0/link/state": "up\n",
    "/sys/devices/pci0000:c0/0000:c1:00.0/port/0/link/speed": "ck_400G\n",
}
"""HPE Slingshot 400 (Cassini 2): the paths of shs-libcxi utils/cxi_stat.c."""

SOFT_ROCE: Files = {
    **rdma("rxe0", layer="Ethernet", rate="2.5 Gb/sec (1X SDR)"),
    f"/sys/devices/pci0000:00/0000:{sum(b'rxe0') % 256:02x}:00.0/infiniband/rxe0/parent": "eth0\n",
}
"""`rdma link add rxe0 type rxe netdev eth0`."""

PLAIN: Files = {"/sys/class/net/eth0/operstate": "up\n"}
"""A node with Ethernet and no RDMA driver."""
