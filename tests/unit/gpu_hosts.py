"""Replayed hosts with GPUs, built below a directory.

Each builder says what machine it mimics. Where the forms are from:
/proc/driver/nvidia   NVIDIA/open-gpu-kernel-modules, kernel-open/nvidia/nv-procfs.c, and the lines
                      that users of each driver paste into issues
nvidia-smi            what the program prints: `--format=csv,noheader`, and the head of its table
                      before and after the release 610
uevent                Linux, drivers/pci/pci-driver.c pci_uevent(), drivers/base/core.c
KFD topology          Linux, drivers/gpu/drm/amd/amdkfd/kfd_topology.c node_show()
PCI numbers           pci.ids
"""

from __future__ import annotations

from pathlib import Path

SMI = "nvidia-smi"
QUERY = f"{SMI} --query-gpu=index,name,compute_cap,driver_version --format=csv,noheader"
QUERY_BEFORE_510 = f"{SMI} --query-gpu=index,name,driver_version --format=csv,noheader"

CLOSED_MODULE = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Feb 22 01:44:30 UTC 2024\n"
    "GCC version:  gcc version 11.4.1 20230605 (Red Hat 11.4.1-2) (GCC) \n"
)
OPEN_MODULE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for {}  {}  Release Build"
    "  (dvs-builder@U16-I3-B03-1-1)  Tue Jan 14 22:22:31 UTC 2025\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04.1) \n"
)
INFORMATION = (
    "Model: \t\t {model}\nIRQ:   \t\t 233\nGPU UUID: \t GPU-5a1b2c3d-0000-4e5f-8a9b-{address:.12}\n"
    "Video BIOS: \t 92.00.45.00.03\nBus Type: \t PCIe\nDMA Size: \t 47 bits\n"
    "DMA Mask: \t 0x7fffffffffff\nBus Location: \t {address}\nDevice Minor: \t 0\n"
    "GPU Firmware: \t N/A\nGPU Excluded:\t {excluded}\n"
)
TABLE = (
    "Wed Nov 25 01:02:03 2026       \n+{line}+\n"
    "| NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} CUDA Version: {cuda:<8} |\n"
    "|-----------------------------------------+------------------------+------------------+\n"
)
TABLE_610 = (
    "Wed Nov 25 01:02:03 2026       \n+{line}+\n"
    "| NVIDIA-SMI {driver:<22} KMD Version: {driver:<14} CUDA UMD Version: {cuda:<8} |\n"
    "|-----------------------------------------+------------------------+------------------+\n"
)

NODES = "/sys/class/kfd/kfd/topology/nodes"

A100 = ("0000:01:00.0", "0000:41:00.0", "0000:81:00.0", "0000:c1:00.0")


def write(root: Path, path: str, text: str) -> Path:
    """Write a file, given by its path from the root."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def recorded(root: Path, command: str, text: str) -> None:
    """Write the recorded answer of a program."""
    write(root, "/recorded-commands/" + command.replace("/", "_"), text)


def device(root: Path, address: str, numbers: str, code: str, driver: str | None = None) -> None:
    """Put a device on the PCI bus: `10DE:20B0`, class `30200`."""
    has = f"DRIVER={driver}\n" if driver else ""
    rest = f"PCI_SUBSYS_ID=10DE:144E\nPCI_SLOT_NAME={address}\nMODALIAS=pci:v000010DEd000020B0\n"
    text = f"{has}PCI_CLASS={code}\nPCI_ID={numbers}\n{rest}"
    write(root, f"/sys/bus/pci/devices/{address}/uevent", text)


def server(root: Path) -> None:
    """A server without GPUs: processor, memory controller, network, and the ASPEED of its BMC."""
    write(root, "/proc/cpuinfo", "processor\t: 0\n")
    write(root, "/proc/driver/rtc", "rtc_time\t: 01:02:03\n")
    device(root, "0000:00:00.0", "8086:09A2", "88000")
    device(root, "0000:00:1f.0", "8086:1B81", "60100")
    device(root, "0000:17:00.0", "15B3:101B", "20700", "mlx5_core")
    device(root, "0000:02:00.0", "1A03:2000", "30000", "ast")


def nvidia(
    root: Path, version: str, models: dict[str, str], number: str, code: str = "30200"
) -> None:
    """A server whose NVIDIA driver has GPUs (address -> name), all of one PCI number."""
    server(root)
    write(root, "/proc/driver/nvidia/version", version)
    for address, model in models.items():
        device(root, address, f"10DE:{number}", code, "nvidia")
        text = INFORMATION.format(model=model, address=address, excluded="No")
        write(root, f"/proc/driver/nvidia/gpus/{address}/information", text)


def smi(root: Path, rows: list[str], driver: str, cuda: str, form: str = TABLE) -> None:
    """Record both answers of an nvidia-smi that works."""
    recorded(root, QUERY, "".join(f"{row}\n" for row in rows))
    recorded(root, SMI, form.format(driver=driver, cuda=cuda, line="-" * 89))


def four_a100(root: Path) -> None:
    """HGX A100, 4 GPUs of 40 GB, closed module 550.54.14, no nvidia-smi; its NVSwitch is no GPU."""
    models = dict.fromkeys(A100, "NVIDIA A100-SXM4-40GB")
    nvidia(root, CLOSED_MODULE.format("550.54.14"), models, "20B0")
    device(root, "0000:05:00.0", "10DE:1AF1", "68000", "nvidia-nvswitch")


def four_a100_smi(root: Path) -> None:
    """The same with nvidia-smi."""
    four_a100(root)
    rows = [f"{i}, NVIDIA A100-SXM4-40GB, 8.0, 550.54.14" for i in range(4)]
    smi(root, rows, "550.54.14", "12.4")


def h100(root: Path) -> None:
    """DGX H100: 8 GPUs, open module 570.86.15."""
    models = {f"0000:{i}b:00.0": "NVIDIA H100 80GB HBM3" for i in range(1, 9)}
    nvidia(root, OPEN_MODULE.format("x86_64", "570.86.15"), models, "2330")
    smi(
        root, [f"{i}, NVIDIA H100 80GB HBM3, 9.0, 570.86.15" for i in range(8)], "570.86.15", "12.8"
    )


def grace_hopper(root: Path) -> None:
    """GH200 480GB, aarch64 with ACPI: the GPU hangs on NVLink-C2C, and yet is on the PCI bus."""
    version = OPEN_MODULE.format("aarch64", "580.95.05")
    nvidia(root, version, {"0009:01:00.0": "NVIDIA GH200 480GB"}, "2342")


def two_v100(root: Path) -> None:
    """2 Tesla V100 of 16 GB, 470.256.02, whose nvidia-smi does not know compute_cap."""
    models = {"0000:3b:00.0": "Tesla V100-PCIE-16GB", "0000:af:00.0": "Tesla V100-PCIE-16GB"}
    nvidia(root, CLOSED_MODULE.format("470.256.02"), models, "1DB4")
    recorded(root, QUERY, 'Field "compute_cap" is not a valid field to query.\n')
    rows = [f"{i}, Tesla V100-PCIE-16GB, 470.256.02\n" for i in range(2)]
    recorded(root, QUERY_BEFORE_510, "".join(rows))
    recorded(root, SMI, TABLE.format(driver="470.256.02", cuda="11.4", line="-" * 77))


def mixed(root: Path) -> None:
    """A workstation: RTX A6000 for computing, Tesla T4 beside it, driver 610.43.02."""
    version = OPEN_MODULE.format("x86_64", "610.43.02")
    nvidia(root, version, {"0000:21:00.0": "NVIDIA RTX A6000"}, "2230", "30000")
    write(
        root,
        "/proc/driver/nvidia/gpus/0000:22:00.0/information",
        INFORMATION.format(model="Tesla T4", address="0000:22:00.0", excluded="No"),
    )
    device(root, "0000:22:00.0", "10DE:1EB8", "30200", "nvidia")
    rows = ["0, NVIDIA RTX A6000, 8.6, 610.43.02", "1, Tesla T4, 7.5, 610.43.02"]
    smi(root, rows, "610.43.02", "13.3", TABLE_610)


def kfd_node(
    root: Path, index: int, gpu_id: int, properties: dict[str, int], name: str = "\n"
) -> None:
    """Write a node of the KFD topology."""
    write(root, f"{NODES}/{index}/gpu_id", f"{gpu_id}\n")
    write(root, f"{NODES}/{index}/name", name)
    text = "".join(f"{key} {value}\n" for key, value in properties.items())
    write(root, f"{NODES}/{index}/properties", text)


def kfd_cpu(root: Path, index: int, cores: int = 64) -> None:
    """Write a node of the topology that is a processor."""
    properties = {"cpu_cores_count": cores, "simd_count": 0, "mem_banks_count": 1}
    zero = {"gfx_target_version": 0, "vendor_id": 0, "device_id": 0, "location_id": 0, "domain": 0}
    kfd_node(root, index, 0, properties | zero)


def kfd_gpu(root: Path, index: int, version: int, number: int, location: int, simds: int) -> None:
    """Write a node of the topology that is a GPU, and its device on the bus."""
    properties = {
        "cpu_cores_count": 0,
        "simd_count": simds,
        "mem_banks_count": 1,
        "max_waves_per_simd": 8,
        "wave_front_size": 64,
        "gfx_target_version": version,
        "vendor_id": 0x1002,
        "device_id": number,
        "location_id": location,
        "domain": 0,
        "drm_render_minor": 128 + index,
        "unique_id": 9895604649984 + index,
        "local_mem_size": 68702699520,
        "num_xcc": 1,
    }
    kfd_node(root, index, 1000 + index, properties, "aldebaran\n")
    address = f"0000:{location >> 8:02x}:{location >> 3 & 31:02x}.0"
    device(root, address, f"1002:{number:04X}", "38000", "amdgpu")


def mi250x(root: Path) -> None:
    """HPE Cray EX235a: one EPYC 7A53 with 4 MI250X, 8 dies to ROCm; ROCm 6.0.2 beside 5.7.1."""
    server(root)
    for index in range(4):
        kfd_cpu(root, index, 16)
    for index, bus in enumerate((0xC1, 0xC6, 0xC9, 0xCE, 0xD1, 0xD6, 0xD9, 0xDE)):
        kfd_gpu(root, 4 + index, 90010, 0x7408, bus << 8, 440)
    rocm(root, "rocm-6.0.2", "6.0.2-115")
    rocm(root, "rocm-5.7.1", "5.7.1-98")
    (root / "opt/rocm").symlink_to("rocm-6.0.2")


def mi300a(root: Path) -> None:
    """4 MI300A: processor and GPU in one package, nodes of their own; ROCm 6.3.1."""
    server(root)
    for index in range(4):
        kfd_cpu(root, index, 24)
    for index in range(4):
        kfd_gpu(root, 4 + index, 90402, 0x74A0, index << 8, 912)
    rocm(root, "rocm", "6.3.1-48")


def radeon(root: Path) -> None:
    """A desktop: Radeon RX 6800 XT beside the graphics of a Ryzen (gfx1036), no ROCm in /opt."""
    server(root)
    kfd_cpu(root, 0, 16)
    kfd_gpu(root, 1, 100300, 0x73BF, 0x0300, 144)
    kfd_gpu(root, 2, 100306, 0x164E, 0x1100, 4)
    (root / "opt/containerd").mkdir(parents=True)


def rocm(root: Path, name: str, version: str) -> None:
    """Write the version file of an installed ROCm."""
    write(root, f"/opt/{name}/.info/version", f"{version}\n")


def max1550(root: Path) -> None:
    """6 Intel Max 1550, as in Aurora, with i915."""
    server(root)
    for bus in ("18", "42", "6c", "18", "42", "6c"):
        domain = "0001" if (root / f"sys/bus/pci/devices/0000:{bus}:00.0").exists() else "0000"
        device(root, f"{domain}:{bus}:00.0", "8086:0BD6", "38000", "i915")


def wsl2(root: Path, device_node: bool = True, bus: bool = True) -> None:
    """WSL 2 with a GPU: microsoft/WSL2-Linux-Kernel drivers/hv/dxgkrnl; no other PCI device."""
    write(root, "/proc/cpuinfo", "processor\t: 0\n")
    write(root, "/proc/driver/rtc", "rtc_time\t: 01:02:03\n")
    device(root, "5582:00:00.0", "1AF4:105A", "18000", "virtio-pci")
    if bus:
        device(root, "6c3d:00:00.0", "1414:008E", "30200", "dxgkrnl")
    if device_node:
        write(root, "/dev/dxg", "")


def desktop(root: Path) -> None:
    """A desktop whose processor has graphics, and nothing else."""
    write(root, "/proc/cpuinfo", "processor\t: 0\n")
    device(root, "0000:00:02.0", "8086:4680", "30000", "i915")
