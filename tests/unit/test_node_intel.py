"""The probe of Intel GPUs, on replayed hosts; and all GPU probes on damaged ones."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import gpu_hosts
import gpu_probing
import pytest
from gpu_hosts import device, server, write
from gpu_probing import facts, unknown

from slurm_cmeta.node import Found, amd, intel, nvidia

HOSTS = (
    "four_a100_smi",
    "two_v100",
    "mixed",
    "mi250x",
    "mi300a",
    "radeon",
    "max1550",
    "desktop",
    "server",
)


def look(root: Path) -> Found:
    return gpu_probing.look(intel, root)


def none_of_all() -> dict[str, list[str]]:
    return {key: ["none"] for key in intel.KEYS}


def test_six_max_1550_are_counted(tmp_path: Path) -> None:
    gpu_hosts.max1550(tmp_path)
    found = look(tmp_path)
    assert facts(found) == {
        "intel.count": ["6"],
        "intel.model": ["Intel Data Center GPU Max 1550"],
    }
    assert (found.unknown, found.warnings) == ([], [])


@pytest.mark.parametrize("host", ["server", "desktop", "four_a100", "mi250x"])
def test_a_host_without_discrete_intel_gpus_certainly_has_none(tmp_path: Path, host: str) -> None:
    getattr(gpu_hosts, host)(tmp_path)
    found = look(tmp_path)
    assert facts(found) == none_of_all()
    assert (found.unknown, found.warnings) == ([], [])


@pytest.mark.parametrize("probe", [nvidia, amd, intel])
@pytest.mark.parametrize(("device_node", "bus"), [(True, True), (True, False), (False, True)])
def test_a_gpu_of_the_windows_host_is_of_unknown_make(
    tmp_path: Path, probe: ModuleType, device_node: bool, bus: bool
) -> None:
    gpu_hosts.wsl2(tmp_path, device_node, bus)
    found = gpu_probing.look(probe, tmp_path)
    assert facts(found) == {}
    assert set(unknown(found)) == set(probe.KEYS)
    assert all("the Windows host" in reason for reason in unknown(found).values())


@pytest.mark.parametrize("probe", [nvidia, amd, intel])
def test_wsl_without_a_gpu_has_none(tmp_path: Path, probe: ModuleType) -> None:
    gpu_hosts.wsl2(tmp_path, device_node=False, bus=False)
    device(tmp_path, "0000:00:08.0", "1414:5353", "30000", "hyperv_drm")  # Hyper-V's console
    found = gpu_probing.look(probe, tmp_path)
    assert facts(found) == {key: ["none"] for key in probe.KEYS}


@pytest.mark.parametrize("driver", ["i915", "xe"])
def test_a_known_card_of_the_driver_is_never_none(tmp_path: Path, driver: str) -> None:
    server(tmp_path)
    device(tmp_path, "0000:18:00.0", "8086:0BD6", "38000", driver)
    device(tmp_path, "0000:19:00.0", "8086:0BD6", "38000")
    assert facts(look(tmp_path)) == {"intel.model": ["Intel Data Center GPU Max 1550"]}


def test_a_card_beside_the_graphics_of_the_processor(tmp_path: Path) -> None:
    gpu_hosts.desktop(tmp_path)
    device(tmp_path, "0000:03:00.0", "8086:E20B", "30000", "xe")
    assert facts(look(tmp_path)) == {"intel.count": ["1"], "intel.model": ["Intel Arc B580"]}


def test_a_neural_processor_is_no_gpu(tmp_path: Path) -> None:
    server(tmp_path)
    device(tmp_path, "0000:00:0b.0", "8086:7D1D", "120000", "intel_vpu")
    assert facts(look(tmp_path)) == none_of_all()


def test_a_card_for_virtual_machines_is_none_and_said(tmp_path: Path) -> None:
    server(tmp_path)
    device(tmp_path, "0000:18:00.0", "8086:56C0", "38000", "vfio-pci")
    found = look(tmp_path)
    assert facts(found) == none_of_all()
    assert found.warnings == [
        "Intel Data Center GPU Flex 170 at 0000:18:00.0: not usable by jobs,"
        " the kernel's driver is vfio-pci"
    ]


@pytest.mark.parametrize(
    ("numbers", "driver", "reason"),
    [
        ("8086:0BD6", None, "Intel Data Center GPU Max 1550 at 0000:18:00.0: no driver has it"),
        ("8086:FFFE", None, "Intel GPU 8086:fffe at 0000:18:00.0: no driver has it"),
        (
            "8086:FFFE",
            "xe",
            "Intel GPU 8086:fffe at 0000:18:00.0 is not in the table of models",
        ),
    ],
)
def test_a_card_that_is_new_or_without_driver_is_unknown(
    tmp_path: Path, numbers: str, driver: str | None, reason: str
) -> None:
    server(tmp_path)
    device(tmp_path, "0000:18:00.0", numbers, "38000", driver)
    found = look(tmp_path)
    assert facts(found) == {}
    assert unknown(found) == dict.fromkeys(intel.KEYS, reason)


def test_beside_a_damaged_device_the_count_is_unknown(tmp_path: Path) -> None:
    gpu_hosts.max1550(tmp_path)
    write(tmp_path, "/sys/bus/pci/devices/0000:17:00.0/uevent", "garbage")
    found = look(tmp_path)
    assert facts(found) == {"intel.model": ["Intel Data Center GPU Max 1550"]}
    assert set(unknown(found)) == set(intel.KEYS)


def test_without_sys_nothing_is_said(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert facts(found) == {}
    assert set(unknown(found)) == set(intel.KEYS)


@pytest.mark.parametrize("host", HOSTS)
def test_the_same_host_gives_the_same_facts_twice(tmp_path: Path, host: str) -> None:
    for copy in ("one", "two"):
        getattr(gpu_hosts, host)(tmp_path / copy)
    for probe in (nvidia, amd, intel):
        one, two = (gpu_probing.look(probe, tmp_path / copy) for copy in ("one", "two"))
        assert (one.facts, one.unknown, one.warnings) == (two.facts, two.unknown, two.warnings)


@pytest.mark.parametrize("host", HOSTS)
def test_damage_never_raises_and_never_makes_absent(tmp_path: Path, host: str) -> None:
    """Each file in turn is garbage, cut off, a directory, or gone."""
    getattr(gpu_hosts, host)(tmp_path)
    whole = {
        probe: {k for k, v in facts(gpu_probing.look(probe, tmp_path)).items() if v != ["none"]}
        for probe in (nvidia, amd, intel)
    }
    dice = random.Random(host)  # noqa: S311 - damage, not secrets
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        good = file.read_bytes()
        junk = dice.randbytes(dice.randrange(300))
        for bad in (junk, good[: len(good) // 2], good[:5] + junk + good[5:], b"\xff" * 99, b""):
            file.write_bytes(bad)
            for probe, keys in whole.items():
                found = gpu_probing.look(probe, tmp_path)
                said = facts(found)
                assert not [key for key in keys if said.get(key) == ["none"]], (file, bad)
                assert all(v.isprintable() for values in said.values() for v in values)
                assert all(reason.isprintable() for reason in unknown(found).values())
                assert all(text.isprintable() for text in found.warnings)
        file.write_bytes(good)
