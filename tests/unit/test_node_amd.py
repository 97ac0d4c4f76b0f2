"""The probe of AMD GPUs, on replayed hosts."""

from __future__ import annotations

from pathlib import Path

import gpu_hosts
import gpu_probing
import pytest
from gpu_hosts import NODES, device, kfd_cpu, kfd_gpu, rocm, server, write
from gpu_probing import facts, unknown

from slurm_cmeta.node import Found, amd
from slurm_cmeta.node.host import Host, Unreadable


def look(root: Path) -> Found:
    return gpu_probing.look(amd, root)


def none_of_all() -> dict[str, list[str]]:
    return {key: ["none"] for key in amd.KEYS}


@pytest.mark.parametrize(
    ("host", "count", "model", "arch", "rocm_version"),
    [
        ("mi250x", "8", "AMD Instinct MI250X", "gfx90a", "6.0.2"),
        ("mi300a", "4", "AMD Instinct MI300A", "gfx942", "6.3.1"),
    ],
)
def test_a_host_is_described(
    tmp_path: Path, host: str, count: str, model: str, arch: str, rocm_version: str
) -> None:
    getattr(gpu_hosts, host)(tmp_path)
    found = look(tmp_path)
    assert facts(found) == {
        "amd.count": [count],
        "amd.arch": [arch],
        "amd.model": [model],
        "rocm": [rocm_version],
    }
    assert (found.unknown, found.warnings) == ([], [])
    sources = {fact.key: fact.source for fact in found.facts}
    assert sources["amd.arch"] == f"{NODES}/4/properties"
    assert sources["rocm"] == "/opt/rocm/.info/version"


def test_a_desktop_counts_its_card_and_not_the_graphics_of_the_processor(tmp_path: Path) -> None:
    gpu_hosts.radeon(tmp_path)
    found = look(tmp_path)
    assert facts(found) == {
        "amd.count": ["1"],
        "amd.arch": ["gfx1030"],
        "amd.model": ["AMD Radeon RX 6800/6800 XT/6900 XT"],
    }
    assert unknown(found) == {"rocm": "no ROCm in /opt"}


@pytest.mark.parametrize("host", ["server", "four_a100", "max1550", "desktop"])
def test_a_host_without_amd_gpus_certainly_has_none(tmp_path: Path, host: str) -> None:
    getattr(gpu_hosts, host)(tmp_path)
    found = look(tmp_path)
    assert facts(found) == none_of_all()
    assert (found.unknown, found.warnings) == ([], [])


def test_graphics_of_a_processor_alone_are_none(tmp_path: Path) -> None:
    server(tmp_path)
    kfd_cpu(tmp_path, 0)
    kfd_gpu(tmp_path, 1, 100306, 0x164E, 0x1100, 4)
    found = look(tmp_path)
    assert facts(found) == none_of_all()
    assert found.warnings == []


def test_the_display_chip_of_an_old_server_is_no_gpu(tmp_path: Path) -> None:
    server(tmp_path)
    device(tmp_path, "0000:01:03.0", "1002:515E", "30000")
    assert facts(look(tmp_path)) == none_of_all()


@pytest.mark.parametrize("code", ["30000", "38000", "120000"])
@pytest.mark.parametrize("driver", [None, "amdgpu"])
def test_a_gpu_that_waits_for_its_driver_is_unknown(
    tmp_path: Path, driver: str | None, code: str
) -> None:
    server(tmp_path)
    device(tmp_path, "0000:c1:00.0", "1002:74A1", code, driver)
    found = look(tmp_path)
    assert facts(found) == {}
    assert unknown(found) == dict.fromkeys(
        amd.KEYS, "1 amd GPU (0000:c1:00.0) on the PCI bus, but ROCm's driver (KFD) is not there"
    )


def test_a_gpu_that_no_driver_has_is_unknown_beside_a_topology(tmp_path: Path) -> None:
    server(tmp_path)
    kfd_cpu(tmp_path, 0)
    assert facts(look(tmp_path)) == none_of_all()
    device(tmp_path, "0000:c1:00.0", "1002:74A1", "120000")
    assert set(unknown(look(tmp_path))) == set(amd.KEYS)


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ("1002:74A1", "120000"),  # MI300X
        ("1002:7408", "38000"),  # MI250X
        ("1002:73BF", "30000"),  # Radeon RX 6800
        ("1002:7FFF", "120000"),  # an accelerator of tomorrow
        ("1002:7FFE", "38000"),
    ],
)
def test_a_gpu_for_computing_that_the_topology_lacks_is_unknown(
    tmp_path: Path, numbers: str, code: str
) -> None:
    """amdgpu has it, and KFD only the processor: early after a boot, or after a failed reset."""
    server(tmp_path)
    kfd_cpu(tmp_path, 0)
    device(tmp_path, "0000:c1:00.0", numbers, code, "amdgpu")
    found = look(tmp_path)
    assert facts(found) == {}
    reason = "1 amd GPU (0000:c1:00.0) on the PCI bus, but ROCm's driver (KFD) serves none"
    assert unknown(found) == dict.fromkeys(amd.KEYS, reason)


def test_a_gpu_with_a_display_that_rocm_does_not_support_is_none(tmp_path: Path) -> None:
    """A Radeon Pro WX 3200 (Polaris 23), which amdgpu has and KFD does not list."""
    server(tmp_path)
    kfd_cpu(tmp_path, 0)
    device(tmp_path, "0000:c1:00.0", "1002:6981", "30000", "amdgpu")
    assert facts(look(tmp_path)) == none_of_all()


def test_graphics_of_a_processor_without_a_connector_are_none(tmp_path: Path) -> None:
    """A laptop with Strix Point (gfx1150): its class is that of a display controller, not VGA."""
    server(tmp_path)
    kfd_cpu(tmp_path, 0)
    kfd_gpu(tmp_path, 1, 110500, 0x150E, 0xC100, 32)
    device(tmp_path, "0000:c1:00.0", "1002:150E", "38000", "amdgpu")
    found = look(tmp_path)
    assert (facts(found), found.warnings) == (none_of_all(), [])


def test_a_gpu_for_virtual_machines_is_none_and_said(tmp_path: Path) -> None:
    server(tmp_path)
    device(tmp_path, "0000:c1:00.0", "1002:740F", "38000", "vfio-pci")
    found = look(tmp_path)
    assert facts(found) == none_of_all()
    assert len(found.warnings) == 1


@pytest.mark.parametrize(
    ("version", "arch"),
    [
        (90000, "gfx900"),
        (90006, "gfx906"),
        (90008, "gfx908"),
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90500, "gfx950"),
        (100300, "gfx1030"),
        (110000, "gfx1100"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
        (120500, "gfx1250"),
        (1, None),
        (99999999, None),
        (91699, None),
        (10**19, None),
    ],
)
def test_the_target_is_hexadecimal_digits_of_decimal_parts(
    tmp_path: Path, version: int, arch: str | None
) -> None:
    server(tmp_path)
    kfd_gpu(tmp_path, 1, version, 0x74A1, 0xC100, 1216)
    found = look(tmp_path)
    assert facts(found).get("amd.arch") == ([arch] if arch else None)
    assert ("amd.arch" in unknown(found)) is (arch is None)
    assert facts(found)["amd.count"] == ["1"]


def test_an_old_kernel_does_not_say_the_target(tmp_path: Path) -> None:
    server(tmp_path)
    kfd_gpu(tmp_path, 1, 0, 0x738C, 0xC100, 480)
    file = tmp_path / NODES[1:] / "1/properties"
    file.write_text(file.read_text().replace("gfx_target_version 0\n", ""))
    found = look(tmp_path)
    assert facts(found)["amd.arch"] == ["gfx908"]
    assert {f.key: f.source for f in found.facts}["amd.arch"] == "gpu_models.json"


@pytest.mark.parametrize(
    ("product", "model"),
    [
        ("AMD INSTINCT MI250 (MCM) OAM AC MBA", "AMD Instinct MI250X/MI250"),
        ("AMD Instinct MI250X", "AMD Instinct MI250X"),
        ("AMD Instinct MI999Z", "AMD Instinct MI250X/MI250"),
        ("\x1b[1mAMD", "AMD Instinct MI250X/MI250"),
        ("", "AMD Instinct MI250X/MI250"),
    ],
)
def test_the_board_says_its_name_best(tmp_path: Path, product: str, model: str) -> None:
    server(tmp_path)
    kfd_gpu(tmp_path, 1, 90010, 0x740C, 0xC102, 416)  # a partition: function 2 is nowhere
    write(tmp_path, "/sys/bus/pci/devices/0000:c1:00.0/product_name", product + "\n")
    assert facts(look(tmp_path))["amd.model"] == [model]


def test_a_model_of_tomorrow_is_named_by_its_board_or_unknown(tmp_path: Path) -> None:
    server(tmp_path)
    kfd_gpu(tmp_path, 1, 130000, 0x7FFF, 0xC100, 416)
    found = look(tmp_path)
    assert unknown(found)["amd.model"] == "device 1002:7fff is not in the table of models"
    assert facts(found)["amd.arch"] == ["gfx1300"]
    write(tmp_path, "/sys/bus/pci/devices/0000:c1:00.0/product_name", "AMD Instinct MI999Z\n")
    assert facts(look(tmp_path))["amd.model"] == ["AMD Instinct MI999Z"]


class Forbidden(Host):
    """A host in a container whose device cgroup forbids one GPU: its files give EPERM."""

    def read_bytes(self, path: str, limit: int = 1 << 20) -> bytes:
        if path.startswith(f"{NODES}/5/"):
            raise Unreadable(f"{path}: Operation not permitted")
        return super().read_bytes(path, limit)


def test_a_gpu_that_the_cgroup_forbids_makes_the_count_unknown(tmp_path: Path) -> None:
    gpu_hosts.mi250x(tmp_path)
    found = Found()
    amd.probe(Forbidden(str(tmp_path)), found)
    assert facts(found) == {
        "amd.arch": ["gfx90a"],
        "amd.model": ["AMD Instinct MI250X"],
        "rocm": ["6.0.2"],
    }
    reason = f"{NODES}/5/gpu_id: Operation not permitted"
    assert unknown(found) == dict.fromkeys(amd.GPU_KEYS, reason)


@pytest.mark.parametrize("name", ["gpu_id", "properties"])
@pytest.mark.parametrize("text", [None, "", "garbage", "-1\n", "1 2 3\n" * 99, "\0", "9" * 5000])
def test_garbage_in_the_topology_is_unknown_and_not_absent(
    tmp_path: Path, name: str, text: str | None
) -> None:
    server(tmp_path)
    kfd_gpu(tmp_path, 0, 90010, 0x7408, 0xC100, 440)
    file = tmp_path / NODES[1:] / "0" / name
    file.unlink()
    if text is not None:
        file.write_text(text)
    found = look(tmp_path)
    assert facts(found) in ({}, {"rocm": ["none"]})
    assert set(amd.GPU_KEYS) <= set(unknown(found))


def test_an_empty_topology_is_unknown(tmp_path: Path) -> None:
    server(tmp_path)
    (tmp_path / NODES[1:]).mkdir(parents=True)
    found = look(tmp_path)
    assert facts(found) == {}
    assert set(unknown(found)) == set(amd.KEYS)


def test_without_sys_nothing_is_said(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert facts(found) == {}
    assert set(unknown(found)) == set(amd.KEYS)


@pytest.mark.parametrize(
    ("installed", "version"),
    [
        ({"rocm": "7.0.0"}, "7.0.0"),
        ({"rocm": "5.4.3-121", "rocm-6.2.4": "6.2.4-139"}, "5.4.3"),
        ({"rocm-5.7.1": "5.7.1-98", "rocm-5.10.0": "5.10.0-1"}, "5.10.0"),
        ({"rocm": "garbage", "rocm-6.2.4": "6.2.4-139"}, "6.2.4"),
        ({"rocm": ""}, None),
        ({"rocm": "6.0.2x"}, None),
        ({"rocm-extras": "6.0.2"}, None),
        ({"rocm": "1" * 5000}, None),
    ],
)
def test_the_rocm_in_use_is_the_one_that_opt_rocm_is(
    tmp_path: Path, installed: dict[str, str], version: str | None
) -> None:
    server(tmp_path)
    kfd_gpu(tmp_path, 0, 90010, 0x7408, 0xC100, 440)
    for name, text in installed.items():
        rocm(tmp_path, name, text)
    found = look(tmp_path)
    assert facts(found).get("rocm") == ([version] if version else None)
    assert ("rocm" in unknown(found)) is (version is None)
