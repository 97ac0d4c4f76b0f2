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


MODES: dict[str | bytes, int] = {"program": 0o755, "setuid program": 0o4755}
"""Contents that stand for programs."""


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
            if what in MODES:
                place.chmod(MODES[what])
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


# --- container runtimes -------------------------------------------------------------------------

APPTAINER_CONF = """\
# APPTAINER.CONF
# ALLOW SETUID: [BOOL]
allow setuid = yes
max loop devices = 256
allow user ns = yes
mount dev = yes
allow container sif = yes
allow container encrypted = yes
allow container squashfs = yes
allow container extfs = yes
allow container dir = yes
# allow setuid-mount encrypted = yes
# allow setuid-mount squashfs = iflimited
# allow setuid-mount extfs = no
bind path = /etc/localtime
bind path = /etc/hosts
#limit container owners = gmk, apptainer, nobody

"""
"""The lines of apptainer 1.3's template (pkg/util/apptainerconf/config.go) that matter, and some
more, as `apptainer confgen` writes them."""

KERNEL: Files = {
    "/proc/mounts": (
        "sysfs /sys sysfs rw,nosuid,nodev,noexec,relatime 0 0\n"
        "/dev/nvme0n1p2 / xfs rw,relatime,attr2,inode64,noquota 0 0\n"
        "tmpfs /tmp tmpfs rw,nosuid,nodev 0 0\n"
    ),
    "/proc/self/ns/mnt": "",
    "/proc/self/ns/user": "",
    "/proc/sys/user/max_user_namespaces": "1029735\n",
    "/proc/sys/kernel/osrelease": "5.14.0-427.13.1.el9_4.x86_64\n",
    "/dev/fuse": "",
    "/dev/mapper/control": "",
}
"""What RHEL 9 and Rocky 9 have out of the box: user namespaces, FUSE."""

UBUNTU_2404: Files = {
    **KERNEL,
    "/proc/sys/kernel/osrelease": "6.8.0-41-generic\n",
    "/proc/sys/kernel/unprivileged_userns_clone": "1\n",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
    "/etc/apparmor.d/abstractions/base": "",
    "/etc/apparmor.d/crun": "profile crun /usr/bin/crun flags=(unconfined) {\n  userns,\n}\n",
}
"""Ubuntu 24.04: user namespaces only for programs with a profile that says so."""

PROFILE = """\
# Permit unprivileged user namespace creation for apptainer starter
abi <abi/4.0>,
include <tunables/global>

profile apptainer /usr/libexec/apptainer/bin/starter{,-suid} flags=(unconfined) {
  userns,

  include if exists <local/apptainer>
}
"""
"""apptainer/apptainer dist/debian/apparmor-userns, which its .deb for Ubuntu installs."""


def buildcfg(name: str, suid: int, prefix: str = "/usr") -> str:
    """Return what `NAME buildcfg` prints (cmd/internal/cli/buildconfig.go), some lines left out."""
    big = name.upper()
    return (
        f"PACKAGE_NAME={name}\nPREFIX={prefix}\nBINDIR={prefix}/bin\n"
        f"LIBEXECDIR={prefix}/libexec\n{big}_CONFDIR=/etc/{name}\n"
        f"{big}_CONF_FILE=/etc/{name}/{name}.conf\n{big}_SUID_INSTALL={suid}\n"
    )


OWN = ("squashfuse_ll", "fuse2fs", "fuse-overlayfs", "gocryptfs")
"""Programs in libexec/apptainer/bin of the RPMs and .debs of apptainer since 1.3."""


def apptainer(
    version: str = "1.3.4-1.el9",
    *,
    suid: bool = False,
    own: tuple[str, ...] = OWN,
    conf: str = APPTAINER_CONF,
    path: str = "/usr/bin",
) -> dict[str, str | bytes | Link | None]:
    """Return the files of the RPM apptainer, with `suid` also those of apptainer-suid."""
    bin_ = "/usr/libexec/apptainer/bin"
    files: dict[str, str | bytes | Link | None] = {
        f"{path}/apptainer": "program",
        f"{path}/singularity": Link("apptainer"),
        "/etc/apptainer/apptainer.conf": conf,
        f"{bin_}/starter": "program",
        "/recorded-commands/apptainer --version": f"apptainer version {version}\n",
        "/recorded-commands/apptainer buildcfg": buildcfg("apptainer", int(suid)),
    }
    files.update({f"{bin_}/{name}": "program" for name in own})
    if suid:
        files[f"{bin_}/starter-suid"] = "setuid program"
    return files


SINGULARITY_CONF = """\
# SINGULARITY.CONF
allow setuid = yes
oci mode = no
mount dev = yes
mount devpts = yes
allow container sif = yes
allow container encrypted = yes
allow container extfs = yes
allow kernel squashfs = yes
allow kernel extfs = yes
cryptsetup path = /usr/sbin/cryptsetup
"""
"""The lines of singularity-ce 4.1's template that matter (pkg/util/singularityconf/config.go)."""

OCI_TOOLS: Files = {
    "/usr/bin/crun": "program",
    "/usr/bin/fusermount3": "program",
    "/usr/bin/newuidmap": "program",
    "/usr/bin/newgidmap": "program",
    "/etc/subuid": "alice:100000:65536\n",
    "/etc/subgid": "alice:100000:65536\n",
}
"""What SingularityCE's INSTALL.md asks for OCI mode, as Rocky 9 has it."""


def singularity(
    said: str = "singularity-ce version 4.1.5-1.el9",
    *,
    suid: bool = True,
    conf: str = SINGULARITY_CONF,
) -> dict[str, str | bytes | Link | None]:
    """Return the files of the RPM singularity-ce, which has the setuid starter in it."""
    bin_ = "/usr/libexec/singularity/bin"
    files: dict[str, str | bytes | Link | None] = {
        "/usr/bin/singularity": "program",
        "/etc/singularity/singularity.conf": conf,
        f"{bin_}/starter": "program",
        f"{bin_}/squashfuse_ll": "program",
        "/recorded-commands/singularity --version": said + "\n",
        "/recorded-commands/singularity buildcfg": buildcfg("singularity", int(suid)),
    }
    if suid:
        files[f"{bin_}/starter-suid"] = "setuid program"
    return files


CRYPTSETUP: Files = {"/usr/sbin/cryptsetup": "program"}
