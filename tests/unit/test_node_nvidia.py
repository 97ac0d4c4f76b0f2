"""The probe of NVIDIA GPUs, on replayed hosts."""

from __future__ import annotations

from pathlib import Path

import gpu_hosts
import gpu_probing
import pytest
from gpu_hosts import QUERY, SMI, device, recorded, smi, write
from gpu_probing import facts, unknown

from slurm_cmeta.node import Found, nvidia
from slurm_cmeta.node.host import Host, Unreadable

VERSION = "/proc/driver/nvidia/version"


def look(root: Path) -> Found:
    return gpu_probing.look(nvidia, root)


def none_of_all() -> dict[str, list[str]]:
    return {key: ["none"] for key in nvidia.KEYS}


@pytest.mark.parametrize(
    ("host", "count", "models", "archs", "driver", "cuda"),
    [
        ("four_a100", "4", ["NVIDIA A100-SXM4-40GB"], ["sm_80"], "550.54.14", "12.4"),
        ("four_a100_smi", "4", ["NVIDIA A100-SXM4-40GB"], ["sm_80"], "550.54.14", "12.4"),
        ("h100", "8", ["NVIDIA H100 80GB HBM3"], ["sm_90"], "570.86.15", "12.8"),
        ("grace_hopper", "1", ["NVIDIA GH200 480GB"], ["sm_90"], "580.95.05", "13.0"),
        ("two_v100", "2", ["Tesla V100-PCIE-16GB"], ["sm_70"], "470.256.02", "11.4"),
        ("mixed", "2", ["NVIDIA RTX A6000", "Tesla T4"], ["sm_86", "sm_75"], "610.43.02", "13.3"),
    ],
)
def test_a_host_is_described(
    tmp_path: Path,
    host: str,
    count: str,
    models: list[str],
    archs: list[str],
    driver: str,
    cuda: str,
) -> None:
    getattr(gpu_hosts, host)(tmp_path)
    found = look(tmp_path)
    assert facts(found) == {
        "nvidia.count": [count],
        "nvidia.model": models,
        "nvidia.arch": archs,
        "driver": [driver],
        "cuda": [cuda],
    }
    assert (found.unknown, found.warnings) == ([], [])


def test_each_fact_names_what_told_it(tmp_path: Path) -> None:
    gpu_hosts.four_a100(tmp_path)
    sources = {fact.key: fact.source for fact in look(tmp_path).facts}
    assert sources == {
        "driver": VERSION,
        "nvidia.count": "/proc/driver/nvidia/gpus",
        "nvidia.model": "/proc/driver/nvidia/gpus/0000:01:00.0/information",
        "nvidia.arch": "gpu_models.json",
        "cuda": "gpu_models.json",
    }
    gpu_hosts.four_a100_smi(tmp_path)
    sources = {fact.key: fact.source for fact in look(tmp_path).facts}
    assert sources.pop("driver") == VERSION
    assert set(sources.values()) == {"nvidia-smi"}


@pytest.mark.parametrize("host", ["server", "mi250x", "max1550", "desktop"])
def test_a_host_without_nvidia_gpus_certainly_has_none(tmp_path: Path, host: str) -> None:
    getattr(gpu_hosts, host)(tmp_path)
    found = look(tmp_path)
    assert facts(found) == none_of_all()
    assert (found.unknown, found.warnings) == ([], [])


def test_a_kernel_without_pci_has_none(tmp_path: Path) -> None:
    write(tmp_path, "/proc/cpuinfo", "")
    write(tmp_path, "/sys/bus/cpu/drivers_probe", "")
    assert facts(look(tmp_path)) == none_of_all()


@pytest.mark.parametrize("driver", ["nouveau", "vfio-pci"])
def test_a_gpu_that_another_driver_has_is_none_and_said(tmp_path: Path, driver: str) -> None:
    gpu_hosts.server(tmp_path)
    for address in gpu_hosts.A100[:2]:
        device(tmp_path, address, "10DE:20B0", "30200", driver)
    found = look(tmp_path)
    assert facts(found) == none_of_all()
    assert found.warnings == [
        "2 nvidia GPUs (0000:01:00.0, 0000:41:00.0): not usable by jobs,"
        f" the kernel's driver is {driver}"
    ]


@pytest.mark.parametrize("driver", [None, "nvidia"])
def test_a_gpu_that_waits_for_its_driver_is_unknown(tmp_path: Path, driver: str | None) -> None:
    gpu_hosts.server(tmp_path)
    device(tmp_path, "0000:01:00.0", "10DE:20B0", "30200", driver)
    recorded(tmp_path, QUERY, "0, NVIDIA A100-SXM4-40GB, 8.0, 550.54.14\n")
    found = look(tmp_path)
    assert facts(found) == {}
    assert unknown(found) == dict.fromkeys(
        nvidia.KEYS,
        "1 nvidia GPU (0000:01:00.0) on the PCI bus, but the kernel module is not loaded",
    )


def test_a_virtual_function_on_its_host_is_no_gpu_of_its_own(tmp_path: Path) -> None:
    gpu_hosts.server(tmp_path)
    device(tmp_path, "0000:01:00.4", "10DE:20B0", "30200")
    link = tmp_path / "sys/bus/pci/devices/0000:01:00.4/physfn"
    link.symlink_to("../0000:00:00.0")
    assert facts(look(tmp_path)) == none_of_all()
    link.unlink()
    assert facts(look(tmp_path)) == {}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/sys/bus/pci/devices/0000:17:00.0/uevent", "garbage"),
        ("/sys/bus/pci/devices/0000:17:00.0/uevent", "PCI_CLASS=30200\nPCI_ID=10DE\n"),
        ("/sys/bus/pci/devices/0000:17:00.0/uevent", "PCI_CLASS=-1\nPCI_ID=10DE:20B0\n"),
        ("/sys/bus/pci/devices/strange\x1b[1m/uevent", "PCI_CLASS=30200\nPCI_ID=1000:20B0\n"),
        ("/sys/bus/pci/devices/0000:18:00.0/config", ""),
        ("/proc/device-tree/compatible", "nvidia,p3737-0000\0nvidia,tegra234\0"),
    ],
)
def test_where_a_gpu_may_hide_none_is_not_said(tmp_path: Path, path: str, text: str) -> None:
    gpu_hosts.server(tmp_path)
    write(tmp_path, path, text)
    found = look(tmp_path)
    assert facts(found) == {}
    assert set(unknown(found)) == set(nvidia.KEYS)
    assert all(reason.isprintable() for reason in unknown(found).values())


@pytest.mark.parametrize("there", [[], ["/proc/1/status"], ["/proc/cpuinfo"], ["/sys/bus/pci/x"]])
def test_without_proc_or_sys_nothing_is_said(tmp_path: Path, there: list[str]) -> None:
    for path in there:
        write(tmp_path, path, "")
    found = look(tmp_path)
    assert found.facts == []
    assert set(unknown(found)) == set(nvidia.KEYS)


@pytest.mark.parametrize(
    "said",
    [
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.90",
        "No devices were found",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        "Unable to determine the device handle for GPU 0000:41:00.0: Unknown Error",
        "",
        "\x1b[31m garbage \0",
        "0, NVIDIA A100-SXM4-40GB",
        "0, NVIDIA A100-SXM4-40GB, 8.0, 550.54.14\ngarbage",
    ],
)
def test_where_nvidia_smi_fails_the_models_stay_what_they_are(tmp_path: Path, said: str) -> None:
    gpu_hosts.four_a100(tmp_path)
    recorded(tmp_path, QUERY, said)
    found = look(tmp_path)
    assert {k: v for k, v in facts(found).items() if k != "nvidia.arch"} == {
        "nvidia.model": ["NVIDIA A100-SXM4-40GB"],
        "driver": ["550.54.14"],
    }
    assert facts(found)["nvidia.arch"] == ["sm_80"]
    assert set(unknown(found)) == {"nvidia.count", "cuda"}
    reason = unknown(found)["cuda"]
    assert reason.startswith("nvidia-smi: ")
    assert reason.isprintable()
    assert said[:20].strip() in reason or not said.isprintable() or said[0] == "0"


class Hung(Host):
    """A host whose nvidia-smi hangs, with its arguments or always."""

    always = True

    def run(self, program: str, *arguments: str, seconds: float = 1.0) -> str:
        if self.always or not arguments:
            raise Unreadable(f"{program} gave no answer in 10 seconds")
        return super().run(program, *arguments)


def test_a_hung_nvidia_smi_leaves_count_and_cuda_open(tmp_path: Path) -> None:
    gpu_hosts.four_a100(tmp_path)
    found = Found()
    nvidia.probe(Hung(str(tmp_path)), found)
    assert set(facts(found)) == {"driver", "nvidia.model", "nvidia.arch"}
    assert unknown(found) == dict.fromkeys(
        ("nvidia.count", "cuda"), "nvidia-smi gave no answer in 10 seconds"
    )


def test_where_only_the_second_call_hangs_the_table_helps(tmp_path: Path) -> None:
    gpu_hosts.four_a100_smi(tmp_path)
    host = Hung(str(tmp_path))
    host.always = False
    found = Found()
    nvidia.probe(host, found)
    assert facts(found)["cuda"] == ["12.4"]
    assert facts(found)["nvidia.count"] == ["4"]
    assert found.unknown == []


def test_a_lost_gpu_is_not_counted_and_said(tmp_path: Path) -> None:
    gpu_hosts.four_a100(tmp_path)
    lost = "Unable to determine the device handle for GPU1: 0000:41:00.0: Unknown Error"
    rows = [f"{i}, NVIDIA A100-SXM4-40GB, 8.0, 550.54.14" for i in (0, 2, 3)]
    smi(tmp_path, [lost, *rows], "550.54.14", "12.4")
    found = look(tmp_path)
    assert facts(found)["nvidia.count"] == ["3"]
    assert found.warnings == [
        f"nvidia-smi: {lost}",
        "4 NVIDIA GPUs are there, 3 of them answer",
    ]


def test_without_libcuda_the_host_cannot_use_cuda(tmp_path: Path) -> None:
    gpu_hosts.four_a100_smi(tmp_path)
    recorded(tmp_path, SMI, gpu_hosts.TABLE.format(driver="550.54.14", cuda="N/A", line=""))
    found = look(tmp_path)
    assert unknown(found) == {"cuda": "nvidia-smi finds no usable libcuda on this host"}
    assert "cuda" not in facts(found)


def test_jetson_has_branches_of_its_own(tmp_path: Path) -> None:
    """JetPack 6, Orin: no GPU on the PCI bus, and 540 is in no table."""
    gpu_hosts.server(tmp_path)
    write(tmp_path, VERSION, gpu_hosts.OPEN_MODULE.format("aarch64", "540.4.0"))
    recorded(tmp_path, QUERY, "0, Orin (nvgpu), [N/A], 540.4.0\n")
    found = look(tmp_path)
    assert facts(found) == {
        "driver": ["540.4.0"],
        "nvidia.count": ["1"],
        "nvidia.model": ["Orin (nvgpu)"],
        "nvidia.arch": ["sm_87"],
    }
    assert unknown(found) == {"cuda": "driver 540.4.0 is not in the table of CUDA versions"}


def test_a_driver_without_any_gpu(tmp_path: Path) -> None:
    gpu_hosts.server(tmp_path)
    write(tmp_path, VERSION, gpu_hosts.CLOSED_MODULE.format("550.54.14"))
    (tmp_path / "proc/driver/nvidia/gpus").mkdir()
    assert facts(look(tmp_path)) == none_of_all() | {"driver": ["550.54.14"]}
    device(tmp_path, "0000:01:00.0", "10DE:20B0", "30200")
    found = look(tmp_path)
    assert set(facts(found)) == {"driver", "cuda"}
    assert unknown(found)["nvidia.count"] == "the driver is loaded, but has no GPU"


def test_an_excluded_gpu_does_not_count(tmp_path: Path) -> None:
    gpu_hosts.four_a100(tmp_path)
    address = gpu_hosts.A100[0]
    text = gpu_hosts.INFORMATION.format(model="Tesla T4", address=address, excluded="Yes")
    write(tmp_path, f"/proc/driver/nvidia/gpus/{address}/information", text)
    found = look(tmp_path)
    assert facts(found)["nvidia.count"] == ["3"]
    assert facts(found)["nvidia.arch"] == ["sm_80"]
    assert len(found.warnings) == 1


@pytest.mark.parametrize("model", ["Unknown", "NVIDIA Graphics Device", "", "x" * 1000, "\x1b[1m"])
def test_a_gpu_without_a_name_is_known_by_its_number(tmp_path: Path, model: str) -> None:
    gpu_hosts.nvidia(
        tmp_path, gpu_hosts.CLOSED_MODULE.format("550.54.14"), {"0000:01:00.0": model}, "20B0"
    )
    found = look(tmp_path)
    assert facts(found)["nvidia.model"] == ["NVIDIA A100"]
    assert facts(found)["nvidia.arch"] == ["sm_80"]
    device(tmp_path, "0000:01:00.0", "10DE:FFFF", "30200", "nvidia")
    found = look(tmp_path)
    assert set(unknown(found)) == {"nvidia.model", "nvidia.arch"}
    assert facts(found)["nvidia.count"] == ["1"]


def test_a_model_of_tomorrow_is_named_but_not_guessed(tmp_path: Path) -> None:
    gpu_hosts.nvidia(
        tmp_path, gpu_hosts.CLOSED_MODULE.format("700.10"), {"0000:01:00.0": "NVIDIA F100"}, "FFFE"
    )
    found = look(tmp_path)
    assert facts(found)["nvidia.model"] == ["NVIDIA F100"]
    assert unknown(found) == {
        "nvidia.arch": "NVIDIA F100 is not in the table of models",
        "cuda": "driver 700.10 is not in the table of CUDA versions",
    }
    smi(tmp_path, ["0, NVIDIA F100, 15.0, 700.10"], "700.10", "14.1", gpu_hosts.TABLE_610)
    found = look(tmp_path)
    assert facts(found)["nvidia.arch"] == ["sm_150"]
    assert facts(found)["cuda"] == ["14.1"]
    assert found.unknown == []


@pytest.mark.parametrize(
    "text", ["", "garbage", "NVRM version: NVIDIA UNIX", "\0" * 99, "9" * 9999]
)
def test_garbage_for_a_version_is_unknown(tmp_path: Path, text: str) -> None:
    gpu_hosts.four_a100(tmp_path)
    write(tmp_path, VERSION, text)
    found = look(tmp_path)
    assert set(unknown(found)) == {"driver", "cuda"}
    assert facts(found)["nvidia.count"] == ["4"]
    gpu_hosts.four_a100_smi(tmp_path)
    write(tmp_path, VERSION, text)
    assert facts(look(tmp_path))["driver"] == ["550.54.14"]


@pytest.mark.parametrize("text", [None, "", "garbage", "\0\xff"])
def test_a_gpu_of_which_nothing_can_be_read_makes_the_count_unknown(
    tmp_path: Path, text: str | None
) -> None:
    gpu_hosts.four_a100(tmp_path)
    file = tmp_path / f"proc/driver/nvidia/gpus/{gpu_hosts.A100[1]}/information"
    if text is None:
        file.unlink()
        file.mkdir()  # root may read everything but a directory
    else:
        file.write_text(text)
    found = look(tmp_path)
    assert "nvidia.count" not in facts(found)
    assert facts(found)["nvidia.arch"] == ["sm_80"]
    assert set(unknown(found)) == {"nvidia.count", "nvidia.model", "nvidia.arch"}


def test_an_unreadable_version_is_unknown_and_not_absent(tmp_path: Path) -> None:
    gpu_hosts.four_a100(tmp_path)
    (tmp_path / VERSION[1:]).unlink()
    (tmp_path / VERSION[1:]).mkdir()
    found = look(tmp_path)
    assert unknown(found)["driver"] == f"{VERSION}: Is a directory"
    assert facts(found)["nvidia.count"] == ["4"]
