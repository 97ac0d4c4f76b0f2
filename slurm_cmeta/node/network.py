"""High-speed networks: RDMA devices and HPE Slingshot, with a port that is up.

Facts, none of which needs a program:

`network`         a kind with an active port: infiniband, roce, omnipath, slingshot, efa, iwarp;
                  `none` where /sys/class is there and has no device of these kinds
`network.device`  every device, active or not: `mlx5_0 infiniband 200 Gb/sec (4X HDR) active`

A port that is down, or waits for its subnet manager, gives no kind: a job that wants the fabric
would fail there. Nor is it `none`: the same node has it when the cable or the switch is back. So
`network` is then unknown, beside the kinds that are up.

An Ethernet port of a channel adapter is `roce` where it is active. Whether the site runs RoCE on it
(lossless switches, addresses) is not told by the host; that RDMA works between two such ports is.
Devices that do RDMA in software (rxe, siw) count for nothing.

Sources: torvalds/linux Documentation/ABI/stable/sysfs-class-infiniband and
drivers/infiniband/core/sysfs.c; HewlettPackard/shs-cxi-driver docs/ABI/testing/sysfs-class-cxi and
HewlettPackard/shs-libcxi utils/cxi_stat.c. vocabulary/network.json has the names.
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.node import NONE
from slurm_cmeta.node.host import HostError, Missing, Unreadable
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("network", "network.device")

CLASSES = "/sys/class"
RDMA = f"{CLASSES}/infiniband"
CXI = f"{CLASSES}/cxi"

MAX_DEVICES = 64
"""Devices of a class that are looked at: a node with 8 rails and virtual functions has 40."""

MAX_PORTS = 8
"""Ports of a device; InfiniBand adapters have one or two."""

MAX_LINE = 256
"""Bytes read of an attribute."""

ACTIVE = "active"
_CHANNEL_ADAPTER = "1"
_STATES = {
    "0": "nop",
    "1": "down",
    "2": "init",
    "3": "armed",
    "4": ACTIVE,
    "5": "active-defer",
}
"""state_to_str() of drivers/infiniband/core/sysfs.c, by the number before the colon."""


class Port(NamedTuple):
    """A port of a device."""

    device: str
    kind: str
    rate: str
    """As the driver says it; empty where it does not."""
    state: str
    """`active`, `down`, or one of the states between."""
    source: str

    def text(self) -> str:
        """Return the value of `network.device`."""
        return " ".join(filter(None, (self.device, self.kind, self.rate, self.state)))


def probe(host: Host, found: Found) -> None:
    """Add the networks. Raises Unreadable where /sys/class is not there to be asked."""
    try:
        classes = host.names(CLASSES)
    except Missing:
        raise Unreadable(f"{CLASSES} is not there: no sysfs") from None
    ports: list[Port] = []
    for name, read in (("infiniband", _rdma_device), ("cxi", _cxi_device)):
        for device in _devices(host, found, name) if name in classes else ():
            try:
                ports += read(host, device)
            except HostError as error:
                for key in KEYS:
                    found.cannot_tell(key, error)
    for port in ports:
        found.fact("network.device", port.text(), port.source)
    active = {p.kind for p in ports if p.state == ACTIVE}
    for port in ports:
        if port.state == ACTIVE:
            found.fact("network", port.kind, port.source)
        elif port.kind not in active:
            found.warn(f"{port.device}: its {port.kind} port is {port.state}")
            found.cannot_tell("network", f"{port.device} ({port.kind}) is {port.state}")
    if not ports and not found.is_unknown("network"):
        for key in KEYS:
            found.fact(key, NONE, CLASSES)


def _devices(host: Host, found: Found, name: str) -> list[str]:
    try:
        devices = host.names(f"{CLASSES}/{name}")
    except HostError as error:
        for key in KEYS:
            found.cannot_tell(key, error)
        return []
    if len(devices) > MAX_DEVICES:
        found.warn(f"{CLASSES}/{name} has {len(devices)} devices: {MAX_DEVICES} are looked at")
    return devices[:MAX_DEVICES]


# --- RDMA ---------------------------------------------------------------------------------------


def _rdma_device(host: Host, device: str) -> list[Port]:
    """Return the ports of one RDMA device; none of a software one."""
    where = f"{RDMA}/{device}"
    if host.exists(f"{where}/{vocabulary.load('network')['software']['attribute']}"):
        return []
    kind = _kind_of_driver(_driver(host, where))
    node = "" if kind else _line(host, f"{where}/node_type").partition(":")[0]
    numbers = host.names(f"{where}/ports")
    if not numbers:
        raise Unreadable(f"{clean(where)} has no port")
    ports = []
    for number in numbers[:MAX_PORTS]:
        port = f"{where}/ports/{number}"
        said = _line(host, f"{port}/state")
        state = _STATES.get(said.partition(":")[0])
        if state is None:
            raise Unreadable(f"{clean(port)}/state says `{clean(said)}`")
        name = device if len(numbers) == 1 else f"{device}/{number}"
        of_port = kind or _kind_of_port(host, port, node)
        ports.append(
            Port(clean(name), of_port, _optional(host, f"{port}/rate"), state, clean(port))
        )
    return ports


def _driver(host: Host, where: str) -> str:
    """Return the name of the device's driver, empty where it has none that can be told."""
    try:
        return host.real(f"{where}/device/driver").rpartition("/")[2]
    except HostError:
        return ""


def _kind_of_driver(driver: str) -> str:
    rows = vocabulary.load("network")["drivers"]
    return next((str(row["kind"]) for row in rows if row["driver"] == driver), "")


def _kind_of_port(host: Host, port: str, node: str) -> str:
    """Return the kind of a port; raises Unreadable for a device like none known."""
    table = vocabulary.load("network")
    for row in table["nodes"]:
        if row["number"] == node:
            return str(row["kind"])
    layer = _line(host, f"{port}/link_layer")
    if node == _CHANNEL_ADAPTER:
        for row in table["layers"]:
            if row["layer"] == layer:
                return str(row["kind"])
    raise Unreadable(
        f"{clean(port)}: no known kind of network: node type `{clean(node)}`, "
        f"link layer `{clean(layer)}`"
    )


# --- Slingshot ----------------------------------------------------------------------------------


def _cxi_device(host: Host, device: str) -> list[Port]:
    """Return the one port of an HPE Cassini adapter, the first or the second generation."""
    port = f"{CXI}/{device}/device/port"
    if host.exists(f"{port}/0/link/state"):
        state, speed = f"{port}/0/link/state", f"{port}/0/link/speed"
    else:
        state, speed = f"{port}/link", f"{port}/speed"
    said = _line(host, state)
    if said != "up" and said not in vocabulary.load("network")["cxi"]["states"]:
        raise Unreadable(f"{clean(state)} says `{clean(said)}`")
    is_up = ACTIVE if said == "up" else said
    return [Port(clean(device), "slingshot", _optional(host, speed), is_up, clean(state))]


# --- attributes ---------------------------------------------------------------------------------


def _line(host: Host, path: str) -> str:
    """Return the first line of an attribute. Raises Unreadable, also where there is none."""
    try:
        text = host.read(path, MAX_LINE)
    except Missing as missing:
        raise Unreadable(str(missing)) from None
    return next(iter(text.splitlines()), "").strip()


def _optional(host: Host, path: str) -> str:
    """Return the first line of an attribute that only decorates, empty where it cannot be read."""
    try:
        return clean(_line(host, path), 60)
    except HostError:
        return ""
