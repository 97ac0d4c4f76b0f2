"""Which high-speed network a node has, from replayed /sys trees (net_hosts.py)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from net_hosts import (
    EFA,
    HDR,
    IWARP,
    OMNIPATH,
    PLAIN,
    ROCE,
    SLINGSHOT,
    SLINGSHOT_400,
    SOFT_ROCE,
    Files,
    ask,
    build,
    of,
    rdma,
    why,
)

from slurm_cmeta.node import Found, network
from slurm_cmeta.node.host import Host


@pytest.mark.parametrize(
    ("files", "kinds", "devices"),
    [
        (HDR, ["infiniband"], ["mlx5_0 infiniband 200 Gb/sec (4X HDR) active"]),
        (ROCE, ["roce"], ["mlx5_0 roce 100 Gb/sec (4X EDR) active"]),
        (OMNIPATH, ["omnipath"], ["hfi1_0 omnipath 100 Gb/sec (4X EDR) active"]),
        (EFA, ["efa"], ["rdmap0s6 efa 100 Gb/sec (4X EDR) active"]),
        (IWARP, ["iwarp"], ["cxgb4_0 iwarp 40 Gb/sec (4X QDR) active"]),
        (SLINGSHOT, ["slingshot"], ["cxi0 slingshot BS_200G active"]),
        (SLINGSHOT_400, ["slingshot"], ["cxi0 slingshot ck_400G active"]),
        (PLAIN, ["none"], ["none"]),
        (SOFT_ROCE, ["none"], ["none"]),
        (
            {**HDR, **rdma("mlx5_1", layer="Ethernet", rate="25 Gb/sec (1X EDR)"), **SOFT_ROCE},
            ["infiniband", "roce"],
            [
                "mlx5_0 infiniband 200 Gb/sec (4X HDR) active",
                "mlx5_1 roce 25 Gb/sec (1X EDR) active",
            ],
        ),
        (
            {
                **rdma("mlx4_0", "mlx4_core"),
                **rdma("mlx4_0", "mlx4_core", port="2", state="1: DOWN"),
            },
            ["infiniband"],
            [
                "mlx4_0/1 infiniband 200 Gb/sec (4X HDR) active",
                "mlx4_0/2 infiniband 200 Gb/sec (4X HDR) down",
            ],
        ),
    ],
)
def test_the_kind_of_network(
    tmp_path: Path, files: Files, kinds: list[str], devices: list[str]
) -> None:
    found = ask(network.probe, build(tmp_path, files))
    assert of(found, "network") == kinds
    assert of(found, "network.device") == devices
    assert found.unknown == []
    assert found.warnings == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (rdma("mlx5_0", state="1: DOWN"), "mlx5_0 (infiniband) is down"),
        (rdma("mlx5_0", state="2: INIT"), "mlx5_0 (infiniband) is init"),  # no subnet manager
        (rdma("hfi1_0", "hfi1", state="3: ARMED"), "hfi1_0 (omnipath) is armed"),
        (
            {**SLINGSHOT, "/sys/devices/pci0000:c0/0000:c1:00.0/port/link": "starting"},
            "cxi0 (slingshot) is starting",
        ),
    ],
)
def test_a_port_that_is_not_active_is_no_network_and_not_none(
    tmp_path: Path, files: Files, words: str
) -> None:
    found = ask(network.probe, build(tmp_path, files))
    assert of(found, "network") == []
    assert why(found, "network") == words
    assert len(of(found, "network.device")) == len(found.warnings) == 1


def test_a_down_port_beside_an_active_one_of_its_kind_is_no_news(tmp_path: Path) -> None:
    spare = rdma("mlx5_1", state="1: DOWN", rate="10 Gb/sec (4X SDR)")
    found = ask(network.probe, build(tmp_path, {**HDR, **spare}))
    assert of(found, "network") == ["infiniband"]
    assert found.warnings == []
    assert found.unknown == []


@pytest.mark.parametrize(("other", "kind"), [(SLINGSHOT, "slingshot"), (ROCE, "roce")])
def test_a_down_port_beside_an_active_one_of_another_kind_is_not_known_to_be_absent(
    tmp_path: Path, other: Files, kind: str
) -> None:
    """What --apply wrote when it was up has to stay, as where it is the only port."""
    found = ask(network.probe, build(tmp_path, {**other, **rdma("mlx5_1", state="1: DOWN")}))
    assert of(found, "network") == [kind]
    assert found.warnings == ["mlx5_1: its infiniband port is down"]
    assert why(found, "network") == "mlx5_1 (infiniband) is down"
    assert not found.is_unknown("network.device")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (rdma("mlx5_0", state="banana"), "ports/1/state says `banana`"),
        (rdma("mlx5_0", state=""), "ports/1/state says ``"),
        (rdma("mlx5_0", state="\x1b[2J"), r"says `\x1b[2J`"),
        (rdma("mlx5_0", layer="Carrier pigeon"), "link layer `Carrier pigeon`"),
        (rdma("usnic_0", "usnic_verbs", node="6: usNIC UDP"), "node type `6`"),
        ({"/sys/class/infiniband/mlx5_0/node_type": "1: CA\n"}, "ports: not there"),
        ({"/sys/class/infiniband/mlx5_0/ports": None}, "node_type: not there"),
        (
            {
                "/sys/class/infiniband/mlx5_0/node_type": "1: CA\n",
                "/sys/class/infiniband/mlx5_0/ports": None,
            },
            "has no port",
        ),
        ({"/sys/class/cxi/cxi0/device/port/link": "NOT IMPLEMENTED!!\n"}, "NOT IMPLEMENTED"),
        ({"/sys/class/cxi/cxi0/device": None}, "port/link: not there"),
        ({"/sys/class/infiniband": "a file"}, "/sys/class/infiniband: not there"),
    ],
)
def test_what_is_not_understood_is_unknown(tmp_path: Path, files: Files, words: str) -> None:
    found = ask(network.probe, build(tmp_path, files))
    assert found.facts == []
    assert words in why(found, "network")
    assert words in why(found, "network.device")


def test_a_device_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    build(tmp_path, {**HDR, **rdma("mlx5_1", state="?")})
    found = ask(network.probe, tmp_path)
    assert of(found, "network") == ["infiniband"]
    assert "mlx5_1" in why(found, "network")


def test_without_sysfs_nothing_is_known(tmp_path: Path) -> None:
    found = ask(network.probe, tmp_path)
    assert found.facts == []
    assert "no sysfs" in why(found, "raised")


def test_a_rate_that_cannot_be_read_takes_nothing_away(tmp_path: Path) -> None:
    build(tmp_path, HDR)
    next(tmp_path.glob("sys/devices/**/rate")).unlink()
    found = ask(network.probe, tmp_path)
    assert of(found, "network.device") == ["mlx5_0 infiniband active"]


def test_very_many_devices_are_bounded(tmp_path: Path) -> None:
    for number in range(network.MAX_DEVICES + 1):
        build(tmp_path, rdma(f"mlx5_{number}"))
    found = ask(network.probe, tmp_path)
    assert len(of(found, "network.device")) == network.MAX_DEVICES
    assert len(found.warnings) == 1


def test_garbage_in_any_attribute_raises_nothing(tmp_path: Path) -> None:
    build(tmp_path, {**HDR, **OMNIPATH, **SLINGSHOT})
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    files = [path for path in files if "drivers" not in path.parts]
    assert len(files) == 12
    chance = random.Random(4)  # noqa: S311
    for file in files:
        whole = file.read_bytes()
        for size in (0, 1, 7, 300):
            file.write_bytes(chance.randbytes(size))
            found = Found()
            network.probe(Host(str(tmp_path)), found)
            assert all(f.value.isprintable() for f in found.facts)
            assert "none" not in of(found, "network")
        file.write_bytes(whole)


def test_the_same_host_gives_the_same_facts_twice(tmp_path: Path) -> None:
    build(tmp_path, {**HDR, **rdma("mlx5_1"), **SLINGSHOT, **OMNIPATH})
    assert ask(network.probe, tmp_path).facts == ask(network.probe, tmp_path).facts


def test_this_machine_is_answered() -> None:
    found = Found()
    network.probe(Host(), found)
    assert found.facts or found.unknown
