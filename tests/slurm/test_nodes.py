"""`cmeta nodes` on a real cluster, and submissions whose nodes come from it or from a snapshot."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from conftest import ImageMaker
from product import Product
from test_submit import fields, policy, sbatch

ADDED = "scontrol_made"
"""A feature that slurm.conf knows nothing of."""

Nodes = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def nodes(cluster: Cluster, product: Product) -> Nodes:
    """Return a function that runs `cmeta nodes` on the cluster."""

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return cluster.run([str(product.prefix / "bin/cmeta"), "nodes", *words], **options)

    return run


@pytest.fixture
def changed(cluster: Cluster) -> Iterator[None]:
    """The nodes as scontrol changes them: arm1 becomes a zen4, old1 an Arm, spelled `arm64`."""
    before = {"arm1": "aarch64,neoverse_v1,bigmem", "old1": "x86_64,x86_64_v2,ivybridge"}
    after = {"arm1": f"x86_64,zen4,{ADDED}", "old1": f"arm64,{ADDED}"}
    for wanted in (after, before):
        for name, features in wanted.items():
            words = [f"AvailableFeatures={features}", f"ActiveFeatures={features}"]
            done = cluster.run(["scontrol", "update", f"NodeName={name}", *words])
            assert done.returncode == 0, done.stderr
        if wanted is after:
            yield


@pytest.fixture
def file(place: Path) -> Iterator[Path]:
    path = place / "nodes.json"
    yield path
    path.unlink(missing_ok=True)


def by_node(document: dict[str, Any]) -> dict[str, list[str]]:
    return {c["nodes"]: c["features"] for c in document["classes"]}


def ready(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("changed")
def test_live_shows_what_scontrol_set_and_slurm_conf_does_not(nodes: Nodes) -> None:
    live, conf = (json.loads(nodes(*words, "--json").stdout) for words in (["--live"], []))
    assert by_node(live)["old1"] == ["arm64", ADDED]
    assert ADDED not in json.dumps(conf)
    assert sum(c["count"] for c in live["classes"]) == sum(c["count"] for c in conf["classes"]) == 6
    assert live["partitions"] == conf["partitions"]
    assert {p for c in live["classes"] for p in c["partitions"]} == {
        p["name"] for p in live["partitions"]
    }
    assert [p["default"] for p in live["partitions"]].count(True) == 1
    assert live["cluster"] == conf["cluster"] is not None
    (arm,) = [c for c in live["classes"] if c["nodes"] == "arm1"]
    assert arm["states"] == {"idle": 1}
    assert arm["memory"][0] > 0


PARTITIONS = [
    "NodeSet=big Feature=bigmem",
    "NodeSet=more Nodes=mid1,ice1 Feature=zen4",
    "PartitionName=half Nodes=old1,mid[1-2] Default=YES",
    "PartitionName=hidden Nodes=big,mid1 Hidden=YES",
    "PartitionName=closed Nodes=more AllowGroups=nosuch",
    "PartitionName=every Nodes=ALL",
    "PartitionName=none",
]


@pytest.fixture
def partitioned(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with partitions that overlap, made of lists, node sets, functions and ALL."""
    function = (
        ["PartitionName=made Nodes=feature{zen3},arm1"] if cluster.version >= (24, 11) else []
    )
    cluster.set_slurm_conf_lines([*PARTITIONS, *function])
    cluster.reconfigure()
    yield cluster
    cluster.set_slurm_conf_lines([])
    cluster.reconfigure()


@pytest.mark.parametrize("user", ["root", "alice"])
def test_slurm_resolves_partitions_as_we_do(partitioned: Cluster, nodes: Nodes, user: str) -> None:
    live, conf = (
        json.loads(nodes(*words, "--json", user=user).stdout) for words in (["--live"], [])
    )

    def told(document: dict[str, Any]) -> set[tuple[object, ...]]:
        return {
            (c["nodes"], c["count"], frozenset(c["features"]), frozenset(c["partitions"]))
            for c in document["classes"]
        }

    assert told(live) == told(conf)
    assert len(told(live)) == 6
    names = {(p["name"], p["default"], p["exact"]) for p in live["partitions"]}
    assert names == {(p["name"], p["default"], p["exact"]) for p in conf["partitions"]}
    assert {("half", True, True), ("hidden", False, True), ("none", False, True)} < names
    assert partitioned.run(["sinfo", "-h", "-o", "%R"]).stdout


def test_a_user_without_rights_sees_them_too(nodes: Nodes) -> None:
    done = nodes("--live", user="alice")
    ready(done)
    assert "nodes       6 in 5 classes" in done.stdout


def test_the_environment_of_the_user_does_not_narrow_the_answer(nodes: Nodes) -> None:
    done = nodes("--live", env={"SINFO_PARTITION": "nosuch", "SINFO_FORMAT": "%c"})
    ready(done)
    assert "nodes       6 in 5 classes" in done.stdout


def test_archs_of_the_cluster(nodes: Nodes) -> None:
    found = json.loads(nodes("--live", "--archs", "--json").stdout)
    names = {c["name"] for c in found["cpus"]}
    assert names == {"neoverse_v1", "zen3", "ivybridge", "zen4", "icelake"}
    assert found["unknown"]["count"] == 0


@pytest.mark.usefixtures("changed")
def test_a_submission_sees_by_live_and_snapshot_what_slurm_conf_lacks(
    cluster: Cluster, make_image: ImageMaker, nodes: Nodes, file: Path
) -> None:
    """By slurm.conf the Arm node is `aarch64`, which no node is any more."""
    words = (f"--container={make_image('arm', 'arm64')}",)
    assert fields(cluster, sbatch(cluster, *words))["Features"] == "aarch64"

    policy(cluster, "nodes:\n  source: live\n")
    done = sbatch(cluster, *words)
    assert fields(cluster, done)["Features"] == "arm64"
    test = cluster.run(["sbatch", "--test-only", *words], input="#!/bin/sh\n")
    assert "on nodes old1 " in test.stderr

    ready(nodes("--live", "--snapshot", str(file)))
    assert file.stat().st_mode & 0o777 == 0o644
    policy(cluster, f"nodes:\n  source: snapshot\n  snapshot: {file}\n")
    done = sbatch(cluster, *words, user="alice")
    assert fields(cluster, done)["Features"] == "arm64"
    assert "warning" not in done.stderr


def stale(file: Path) -> None:
    document = json.loads(file.read_text())
    document["time"] = "2020-01-01T00:00:00Z"
    file.write_text(json.dumps(document))


def test_a_stale_snapshot_refuses_nothing_and_says_so(
    cluster: Cluster, make_image: ImageMaker, nodes: Nodes, file: Path
) -> None:
    ready(nodes("--live", "--snapshot", str(file)))
    policy(cluster, f"nodes:\n  source: snapshot\n  snapshot: {file}\n")
    words = (f"--container={make_image('power', 'ppc64le')}",)
    refused = sbatch(cluster, *words)
    assert refused.returncode != 0
    stale(file)
    done = sbatch(cluster, *words)
    assert fields(cluster, done)["Features"] == "(null)"
    first, second = (line for line in done.stderr.splitlines() if line.startswith("cmeta: "))
    assert f"warning: {file}: stale, written " in first
    assert "needs ppc64le" in second
    assert second.endswith("; others may")


@pytest.mark.parametrize("text", ["", '{"schema": "cmeta.nodes/1", "classes": [{"nod', "other"])
def test_a_broken_snapshot_is_one_warning(
    cluster: Cluster, make_image: ImageMaker, nodes: Nodes, file: Path, text: str
) -> None:
    ready(nodes("--live", "--snapshot", str(file)))
    if text == "other":
        name = json.loads(file.read_text())["cluster"]
        text = file.read_text().replace(f'"cluster": "{name}"', '"cluster": "another"')
    file.write_text(text)
    policy(cluster, f"nodes:\n  source: snapshot\n  snapshot: {file}\n")
    done = sbatch(cluster, f"--container={make_image('arm', 'arm64')}")
    assert fields(cluster, done)["Features"] == "(null)"
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("cmeta: "))
    assert line.startswith(f"cmeta: warning: {file}: ")
    assert line.endswith("; the job is submitted as it is")


def test_a_controller_that_does_not_answer_costs_a_warning_and_no_snapshot(
    cluster: Cluster, nodes: Nodes, file: Path, place: Path
) -> None:
    ready(nodes("--live", "--snapshot", str(file)))
    before = file.read_bytes()
    conf = place / "elsewhere"
    conf.mkdir(exist_ok=True)
    text = cluster.conf_path.read_text()
    port = next(x for x in text.splitlines() if x.lower().startswith("slurmctldport="))
    (conf / "slurm.conf").write_text(text.replace(port, "SlurmctldPort=1") + "MessageTimeout=2\n")
    done = nodes("--live", "--snapshot", str(file), env={"SLURM_CONF": f"{conf}/slurm.conf"})
    assert done.returncode == 4
    assert "cmeta: error: sinfo" in done.stderr
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.glob(f".{file.name}*")] == []


@pytest.mark.usefixtures("changed")
def test_job_submit_ignores_a_name_that_no_node_has(
    cluster: Cluster, product: Product, nodes: Nodes, file: Path, place: Path
) -> None:
    """Without a snapshot slurmctld refuses such a job: `Invalid feature specification`."""
    plugin = place / "handover_only_nodes.so"
    source = Path(__file__).with_name("handover_only.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(plugin), str(source)], check=True)
    cluster.set_plugstack([f"required {plugin}"])
    handed = {"CMETA_TEST_HAND_VERDICT": "match", "CMETA_TEST_HAND_CONSTRAINT": "x86_64&vanished"}
    words = ("--container=/images/img.sif",)
    assert "Invalid feature" in sbatch(cluster, *words, env=handed).stderr

    ready(nodes("--live", "--snapshot", str(file)))
    cluster.set_job_submit(
        product.job_submit().replace(
            "cmeta.ensure, job_desc", f'cmeta.ensure, job_desc, {{snapshot = "{file}"}}'
        )
    )
    assert fields(cluster, sbatch(cluster, *words, env=handed))["Features"] == "(null)"
    assert "no node has the feature vanished" in cluster.slurmctld_log()
    handed["CMETA_TEST_HAND_CONSTRAINT"] = f"x86_64&{ADDED}"
    assert fields(cluster, sbatch(cluster, *words, env=handed))["Features"] == f"x86_64&{ADDED}"
