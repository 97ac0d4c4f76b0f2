"""Replayed machines: directories with the files that cmeta-features reads on a whole node."""

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests/unit")]

import gpu_hosts  # noqa: E402
import host_tree  # noqa: E402

from slurm_cmeta import vocabulary  # noqa: E402
from slurm_cmeta.vocabulary import cpu_flags  # noqa: E402

ARM_PARTS = {"neoverse_v1": "0xd40", "neoverse_n1": "0xd0c"}


def machine(root: Path, cpu: str, gpu: str = "") -> Path:
    """Write the files of a node with this CPU (archspec's name), Linux 5.14 of RHEL 9, 256 GB and
    Apptainer 1.4; with `gpu`, a product name, four of them with driver 550.54.14 and CUDA 12.4.
    An aarch64 node has pages of 64 KiB. Returns the root.
    """
    root.mkdir(parents=True, exist_ok=True)
    known = vocabulary.cpu(cpu)
    assert known
    pages = "4096"
    if known.family == "aarch64":
        pages = "65536"
        flags = " ".join(sorted(cpu_flags.flags_of(cpu) | {"fp", "asimd"}))
        cpuinfo = (
            f"processor\t: 0\nFeatures\t: {flags}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {ARM_PARTS[cpu]}\n\n"
        )
    else:
        vendor = vocabulary.load("cpu")["targets"][cpu]["vendor"]
        flags = " ".join(sorted(cpu_flags.surely_has(cpu) | {"lm", "sse2"}))
        cpuinfo = (
            f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: A {cpu}\nflags\t\t: {flags}\n\n"
        )
    gpu_hosts.server(root)
    if gpu:
        version = gpu_hosts.CLOSED_MODULE.format("550.54.14")
        gpu_hosts.nvidia(root, version, dict.fromkeys(gpu_hosts.A100, f"NVIDIA {gpu}"), "20B0")
        rows = [f"{index}, NVIDIA {gpu}, 8.0, 550.54.14" for index in range(4)]
        gpu_hosts.smi(root, rows, "550.54.14", "12.4")
    host_tree.write(
        root,
        {
            "/proc/cpuinfo": cpuinfo,
            "/proc/meminfo": "MemTotal:       263792640 kB\nMemFree:  1024 kB\n",
            "/proc/sys/kernel/osrelease": "5.14.0-503.el9\n",
            "/etc/hostname": f"{cpu}.cluster\n",
            **host_tree.recorded("uname -m", known.family + "\n"),
            **host_tree.recorded("getconf PAGESIZE", pages + "\n"),
            **host_tree.recorded("getconf GNU_LIBC_VERSION", "glibc 2.34\n"),
        },
    )
    return root
