"""cmeta-features on real clusters: how features get to the nodes, and what survives there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import node_trees
import pytest
from cluster import Cluster, Node, free_ports
from product import Product

FOREIGN = "bigmem,rack=r12,ib-hdr"


@pytest.fixture(scope="module")
def trees(place: Path) -> dict[str, Path]:
    """Return the replayed files of three machines."""
    return {
        "zen3": node_trees.machine(place / "trees/zen3", "zen3"),
        "icelake": node_trees.machine(place / "trees/icelake", "icelake", gpu="A100-SXM4-40GB"),
        "arm": node_trees.machine(place / "trees/arm", "neoverse_v1"),
    }


@pytest.fixture(scope="module")
def features_of(place: Path, product: Product, trees: dict[str, Path]) -> dict[str, str]:
    """Return what cmeta-features prints for each machine, as slurm.conf takes it."""
    import subprocess

    found = {}
    for name, tree in trees.items():
        command = [str(product.prefix / "bin/cmeta-features"), "--root", str(tree), "--node", name]
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        node, features = line.split()
        assert node == f"NodeName={name}"
        found[name] = features.removeprefix("Features=")
    return found


@pytest.fixture(scope="module")
def printed(place: Path, features_of: dict[str, str]) -> Iterator[Cluster]:
    """Return a cluster whose nodes have the printed features, and some of the site's own."""
    nodes = [Node(name, f"{FOREIGN},{features}") for name, features in features_of.items()]
    (port,) = free_ports(1)
    dynamic = [
        *("MaxNodeCount=16", f"SlurmdPort={port}"),
        "PartitionName=all Nodes=ALL Default=YES State=UP",
    ]
    with Cluster(place / "f", nodes, conf=dynamic) as cluster:
        yield cluster


def command(
    cluster: Cluster, product: Product, tree: Path, *words: str, user: str | None = None
) -> CompletedProcess[str]:
    argv = [str(product.prefix / "bin/cmeta-features"), "--root", str(tree), *words]
    argv += ["--state", str(cluster.conf_path.with_name("features"))] if "--apply" in words else []
    return cluster.run(argv, user=user)


def features(cluster: Cluster, node: str) -> tuple[set[str], set[str]]:
    """Return what the node has available, and what is active."""
    shown = cluster.run(["scontrol", "-o", "show", "node", node]).stdout
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    return tuple(  # type: ignore[return-value]
        set() if fields[key] == "(null)" else set(fields[key].split(","))
        for key in ("AvailableFeatures", "ActiveFeatures")
    )


def place_of(cluster: Cluster, constraint: str) -> str:
    """Return the node of a job with this constraint."""
    job = cluster.submit("-C", constraint, "--wrap", "true")
    return cluster.wait(job)["NodeList"]


@pytest.mark.parametrize(
    ("constraint", "node"),
    [
        ("zen2", "zen3"),
        ("x86_64_v3&zen", "zen3"),
        ("x86_64_v4", "icelake"),
        ("skylake_avx512", "icelake"),
        ("nvidia&sm=80", "icelake"),
        ("cuda=12.4", "icelake"),
        ("a100", "icelake"),
        ("aarch64&page=64k", "arm"),
        ("(neoverse_v1|zen2)&page=64k", "arm"),
        ("(armv8.2a|x86_64_v4)&bigmem&kernel=5.14", "arm"),
    ],
)
def test_jobs_are_placed_by_the_printed_features(
    printed: Cluster, constraint: str, node: str
) -> None:
    assert place_of(printed, constraint) == node


@pytest.fixture
def bare(place: Path) -> Iterator[Cluster]:
    """Return a cluster whose only node has what the site gave it, and no more."""
    with Cluster(place / "b", [Node("n1", FOREIGN)], plugstack=[]) as cluster:
        yield cluster


def test_apply_keeps_what_others_gave_whatever_happens_to_the_controller(
    bare: Cluster, product: Product, trees: dict[str, Path], features_of: dict[str, str]
) -> None:
    """The table of docs/features.md, row by row."""
    foreign, ours = set(FOREIGN.split(",")), set(features_of["zen3"].split(","))
    both = (foreign | ours, foreign | ours)

    def apply(tree: str, *words: str) -> CompletedProcess[str]:
        done = command(bare, product, trees[tree], "--apply", "--node", "n1", *words)
        assert done.returncode == 0, done.stderr
        return done

    shown = apply("zen3", "--dry-run").stdout
    assert "+ zen3\n" in shown
    assert features(bare, "n1") == (foreign, foreign)  # nothing was changed

    apply("zen3")
    assert features(bare, "n1") == both
    assert place_of(bare, "zen2&bigmem") == "n1"

    assert "n1: 0 added, 0 removed" in apply("zen3").stdout

    # What another admin adds meanwhile stays, too.
    bare.run(["scontrol", "update", "NodeName=n1", f"AvailableFeatures={','.join(both[0])},new",
              f"ActiveFeatures={','.join(both[0])},new"])  # fmt: skip
    apply("zen3")
    assert "new" in features(bare, "n1")[1]

    # The machine was exchanged: ours go, the others stay.
    done = apply("arm")
    assert "- zen3\n" in done.stdout
    arm = set(features_of["arm"].split(","))
    assert features(bare, "n1")[1] == foreign | arm | {"new"}

    bare.restart_controller("-R")
    assert features(bare, "n1")[1] == foreign | arm | {"new"}
    bare.restart_controller()
    assert features(bare, "n1") == (foreign, foreign)  # slurm.conf wins
    apply("zen3")
    assert features(bare, "n1") == both
    bare.reconfigure()
    assert features(bare, "n1") == (foreign, foreign)
    apply("zen3")
    assert features(bare, "n1") == both


def test_apply_without_the_rights_changes_nothing(
    bare: Cluster, product: Product, trees: dict[str, Path]
) -> None:
    before = features(bare, "n1")
    done = command(bare, product, trees["zen3"], "--apply", "--node", "n1", user="alice")
    assert done.returncode == 4
    assert "scontrol update failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert features(bare, "n1") == before


def test_apply_to_a_node_that_is_none(
    printed: Cluster, product: Product, trees: dict[str, Path]
) -> None:
    done = command(printed, product, trees["zen3"], "--apply", "--node", "nobody")
    assert done.returncode == 4
    assert "nobody" in done.stderr


def test_a_failed_probe_takes_nothing_from_a_node(
    printed: Cluster, product: Product, trees: dict[str, Path], place: Path
) -> None:
    """The driver answers no more: cuda, sm and the rest stay, and `cmeta=1` goes."""
    before = features(printed, "icelake")[1]
    broken = node_trees.machine(place / "trees/broken", "icelake", gpu="A100-SXM4-40GB")
    (broken / "proc/driver/nvidia/version").write_bytes(b"\0\xffgarbage\n")
    for name in (broken / "recorded-commands").glob("*"):
        name.unlink()
    done = command(printed, product, broken, "--apply", "--node", "icelake")
    assert done.returncode == 0, done.stderr
    assert features(printed, "icelake")[1] == before - {"cmeta=1"}
    done = command(printed, product, trees["icelake"], "--apply", "--node", "icelake")
    assert features(printed, "icelake")[1] == before


def test_apply_while_no_controller_answers(
    place: Path, product: Product, trees: dict[str, Path]
) -> None:
    with Cluster(place / "d", [Node("n1", FOREIGN)]) as cluster:
        pass
    done = command(cluster, product, trees["zen3"], "--apply", "--node", "n1")
    assert done.returncode == 4
    assert "scontrol" in done.stderr


def test_a_dynamic_node_brings_its_features(
    printed: Cluster, product: Product, features_of: dict[str, str]
) -> None:
    """`slurmd -Z --conf "Feature=..."`, kept over a restart; scontrol's changes, too."""
    listed = features_of["zen3"].replace("zen3", "zen3,onlyhere")
    printed.start_dynamic_node("dyn1", f"Feature={listed}")
    assert features(printed, "dyn1")[1] == set(listed.split(","))
    assert place_of(printed, "zen2&onlyhere") == "dyn1"
    printed.restart_controller()
    assert features(printed, "dyn1")[1] == set(listed.split(","))


def test_the_formats_agree(product: Product, printed: Cluster, trees: dict[str, Path]) -> None:
    value = json.loads(command(printed, product, trees["icelake"], "--format", "json").stdout)
    listed = command(printed, product, trees["icelake"], "--format", "list").stdout.split()
    assert value["features"] == listed


def test_with_a_node_features_plugin_what_stays_active_is_said(
    place: Path, product: Product, trees: dict[str, Path]
) -> None:
    """slurmctld itself keeps removed names active then, until it reads its configuration again."""
    conf = ["NodeFeaturesPlugins=node_features/helpers"]
    cluster = Cluster(place / "h", [Node("n1", FOREIGN)], conf=conf)
    cluster.conf_path.parent.mkdir(parents=True, exist_ok=True)
    helper = cluster.conf_path.with_name("helpers.conf")
    helper.write_text("Feature=turbo Helper=/bin/true\n")
    with cluster:
        done = command(cluster, product, trees["zen3"], "--apply", "--node", "n1")
        assert done.returncode == 0, done.stderr
        assert features(cluster, "n1")[1] >= {"zen3", "bigmem"}
        done = command(cluster, product, trees["arm"], "--apply", "--node", "n1")
        assert done.returncode == 0, done.stderr
        available, active = features(cluster, "n1")
        assert "zen3" not in available
        assert active >= {"neoverse_v1", "bigmem"}
        if "zen3" in active:
            assert "a NodeFeatures plugin is configured; `scontrol reconfigure`" in done.stderr
