"""Images of a registry, end to end: matched by their index, pulled on the node, run there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import registry as registries
from cluster import Cluster
from conftest import needs_runtime
from product import Product
from test_run import finished, script
from test_submit import fields, said, sbatch
from trouble import ToolError
from variants import Made, digests, layout

pytestmark = needs_runtime

HERE = os.uname().machine
SETTLED = 2.2
"""Seconds after which what was drawn from a file may be kept (slurm_cmeta/kept/sources.py)."""
LEVELS = [Made("amd64"), Made("amd64", "v2"), Made("arm64", "v8")]


@pytest.fixture(scope="module")
def registry(place: Path) -> Iterator[registries.Running]:
    if HERE != "x86_64":
        pytest.skip("the test images that run are x86_64")
    for name in ("registry", "app", "top", "arm", "liar"):  # of another module's registry
        shutil.rmtree(place / name, ignore_errors=True)
    try:
        with registries.registry(place / "registry") as running:
            running.push(layout(place / "app", LEVELS), "org/app:1.0")
            running.push(layout(place / "top", [Made("amd64", "v4")]), "org/top:1.0")
            running.push(layout(place / "arm", [Made("arm64")]), "org/arm:1.0")
            liar = Made("amd64", "v2", truly="arm64")
            running.push(layout(place / "liar", [liar]), "org/liar:1.0")
            yield running
    except ToolError as problem:
        if "not installed" in str(problem):
            pytest.skip(str(problem))
        raise


@pytest.fixture
def store(place: Path, cluster: Cluster, product: Product) -> Path:
    """A store that all users can make their own directory in, named in plugstack.conf."""
    directory = place / "store"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    directory.chmod(0o1777)
    cluster.set_plugstack([product.plugstack_line(f"store={directory}")])
    return directory


def reference(registry: registries.Running, name: str = "app") -> str:
    return f"--container=docker://{registry.address}/org/{name}:1.0"


def pulled(store: Path) -> list[str]:
    return sorted(str(p.relative_to(store)) for p in store.glob("*/*.sif"))


# --- at submit ------------------------------------------------------------------------------------


def test_the_constraint_comes_from_the_index(
    cluster: Cluster, registry: registries.Running, store: Path
) -> None:
    done = sbatch(cluster, reference(registry, "top"))
    assert fields(cluster, done)["Features"] == "x86_64_v4"
    (line,) = said(done)
    assert line == (
        'cmeta: top:1.0 needs x86_64_v4 (OCI configuration): constraint "x86_64_v4", 2 of 6 nodes'
    )
    assert fields(cluster, sbatch(cluster, reference(registry)))["Features"] == "(null)"
    assert pulled(store) == []


def test_what_is_attached_to_an_image_counts(
    cluster: Cluster, registry: registries.Running, place: Path
) -> None:
    """A specification of Node Feature Discovery, attached after the image was pushed."""
    noted = layout(place / "noted", [Made("amd64", labels={"n": "noted"})])
    registry.push(noted, "org/noted:1.0")
    ((digest, _),) = digests(noted)
    size = (noted / "blobs" / digest.replace(":", "/")).stat().st_size
    subject = {"mediaType": registries.MANIFEST, "digest": digest, "size": size}
    spec = b"""\
version: v1alpha1
compatibilities:
- rules:
  - name: levels
    matchFeatures:
    - feature: cpu.cpuid
      matchExpressions: {X86_64_V4: {op: Exists}}
"""
    kind = "application/vnd.nfd.image-compatibility.v1alpha1"
    registry.attach("org/noted", subject, [(kind, spec, "")])
    done = sbatch(cluster, reference(registry, "noted"))
    assert fields(cluster, done)["Features"] == "x86_64_v4"
    (line,) = said(done)
    assert "noted:1.0 needs x86_64_v4 (compatibility artifact " in line


def test_a_reference_that_no_node_can_run_is_refused(
    cluster: Cluster, registry: registries.Running
) -> None:
    done = sbatch(cluster, reference(registry, "arm"), "--constraint=x86_64")
    assert done.returncode == 1
    assert "arm:1.0 needs aarch64 (OCI configuration), but none of those" in done.stderr


def test_what_a_registry_said_is_known_for_a_while(
    cluster: Cluster, registry: registries.Running
) -> None:
    before = len(registry.asked())
    for _ in range(3):
        assert (
            fields(cluster, sbatch(cluster, reference(registry, "top")))["Features"] == "x86_64_v4"
        )
    assert len(registry.asked()) <= before + 3


def test_a_registry_that_is_down_is_a_fault_and_no_more(cluster: Cluster) -> None:
    done = sbatch(cluster, f"--container=docker://127.0.0.1:{registries.free_port()}/app:1")
    assert fields(cluster, done)["Features"] == "(null)"
    (line,) = said(done)
    assert line.endswith(
        "/app:1: it cannot be reached (Connection refused); the job is submitted as it is"
    )


def test_without_the_registry_its_last_word_counts(
    cluster: Cluster, registry: registries.Running, place: Path
) -> None:
    """The tag is to be asked for each time here, and then there is nobody to ask."""
    cluster.conf_path.with_name("cmeta.yaml").write_text("registry: {max_age: 0}\n")
    home = {"XDG_CACHE_HOME": str(place / "offline")}
    (place / "offline").mkdir()
    time.sleep(SETTLED)
    with registries.registry(place / "passing") as passing:
        passing.push(place / "top", "org/top:1.0")
        words = (reference(passing, "top"),)
        first = sbatch(cluster, *words, env=home)
        assert fields(cluster, first)["Features"] == "x86_64_v4", first.stderr
    done = sbatch(cluster, *words, env=home)
    assert fields(cluster, done)["Features"] == "x86_64_v4", done.stderr
    assert "it cannot be reached (Connection refused); going by what it said " in done.stderr


def test_a_site_may_ask_no_registry(cluster: Cluster, registry: registries.Running) -> None:
    cluster.conf_path.with_name("cmeta.yaml").write_text("registry: {ask: no}\n")
    done = sbatch(cluster, reference(registry, "top"))
    assert fields(cluster, done)["Features"] == "(null)"
    assert "no registry is asked here (registry.ask)" in done.stderr


# --- on the node ----------------------------------------------------------------------------------


def test_a_job_runs_the_variant_of_its_node_and_pulls_it_once(
    cluster: Cluster, registry: registries.Running, store: Path
) -> None:
    job = script(cluster, "pulled", "cat /etc/image; [ -e /etc/debian_version ] || echo inside")
    asked = []
    for _ in range(2):
        state, output = finished(cluster, reference(registry), job)
        assert (state, output) == ("COMPLETED 0:0", "amd64-v2\ninside\n")
        (only,) = pulled(store)
        asked.append(len(registry.asked()))
    assert only.startswith("slurm-cmeta-0/sha256-")
    assert asked[1] == asked[0], "nothing is asked for twice"


def test_users_have_stores_of_their_own(
    cluster: Cluster, registry: registries.Running, store: Path
) -> None:
    for user in ("alice", "bob"):
        _, output = finished(
            cluster,
            reference(registry),
            "--wrap=cat /etc/image; id -un 2>&1 | grep -c x",
            user=user,
        )
        assert output.startswith("amd64-v2\n"), output
    mine = [store / f"slurm-cmeta-{pwd.getpwnam(user).pw_uid}" for user in ("alice", "bob")]
    assert [d.stat().st_mode & 0o777 for d in mine] == [0o700, 0o700]
    assert len(pulled(store)) == 2


def test_two_nodes_of_one_job_run_variants_of_their_own(
    cluster: Cluster, product: Product, registry: registries.Running, store: Path, place: Path
) -> None:
    """All nodes are this machine: what each is, is said in place of `host`."""
    by_node = place / "pull-by-node"
    by_node.write_text(
        "#!/bin/sh\n"
        "case $SLURMD_NODENAME in old1) for=class:x86_64 ;; *) for=class:x86_64_v3 ;; esac\n"
        f'exec {product.prefix}/bin/cmeta "$@" --for $for\n'
    )
    by_node.chmod(0o755)
    cluster.set_plugstack([product.plugstack_line(f"store={store}", f"pull={by_node}")])
    show = 'echo "$SLURMD_NODENAME $(cat /etc/image)"'
    done = cluster.run(
        ["srun", "-w", "old1,mid1", "--ntasks-per-node=2", reference(registry), "sh", "-c", show]
    )
    assert sorted(done.stdout.splitlines()) == [
        *("mid1 amd64-v2", "mid1 amd64-v2", "old1 amd64", "old1 amd64")
    ], done.stderr
    assert len(pulled(store)) == 2


def test_what_the_tag_meant_at_submit_is_what_runs(
    cluster: Cluster, registry: registries.Running, store: Path, place: Path
) -> None:
    registry.push(place / "app", "org/moved:1.0")
    held = sbatch(cluster, reference(registry, "moved"), "--wrap=cat /etc/image")
    registry.push(layout(place / "moved", [Made("amd64", "v1")]), "org/moved:1.0")
    cluster.run(["scontrol", "release", held.stdout.strip()])
    cluster.wait(int(held.stdout))
    assert cluster.output(int(held.stdout)) == "amd64-v2\n"


def test_steps_run_what_their_job_runs(
    cluster: Cluster, registry: registries.Running, store: Path
) -> None:
    name = reference(registry)
    done = cluster.run(["salloc", "-Q", name, "sh", "-c", f"srun {name} cat /etc/image"])
    assert (done.stdout, done.stderr) == ("amd64-v2\n", "")


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("arm", 126, "no variant runs on this host; the nearest is linux/arm64"),
        ("gone", 127, "the registry has not the manifest (404): check the name"),
        ("liar", 127, "the programs in it are for aarch64: not taken"),
    ],
)
def test_a_node_that_cannot_have_the_image_says_why(
    cluster: Cluster, registry: registries.Running, store: Path, name: str, status: int, words: str
) -> None:
    state, output = finished(cluster, reference(registry, name), "--cmeta=on", "--wrap=echo ran")
    assert state == f"FAILED {status}:0", output
    (line,) = output.splitlines()
    assert line.startswith("cmeta: error: ")
    assert words in line
    assert pulled(store) == []


def test_a_node_without_the_command_says_so(
    cluster: Cluster, product: Product, registry: registries.Running
) -> None:
    cluster.set_plugstack([product.plugstack_line("pull=/nonexistent/cmeta")])
    state, output = finished(cluster, reference(registry), "--wrap=echo ran")
    assert state == "FAILED 127:0"
    assert "cannot pull docker://" in output
    assert output.endswith("/nonexistent/cmeta cannot be run; ask the administrator\n")


def test_a_job_that_is_cancelled_while_it_pulls_leaves_nothing(
    cluster: Cluster, product: Product, registry: registries.Running, store: Path, place: Path
) -> None:
    slow = place / "slow-apptainer-directory"
    slow.mkdir(exist_ok=True)
    (slow / "apptainer").write_text("#!/bin/sh\necho begun > half.sif; exec sleep 60\n")
    (slow / "apptainer").chmod(0o755)
    started = cluster.submit(
        reference(registry), "--wrap=true", env={"PATH": f"{slow}:{os.environ['PATH']}"}
    )
    mine = store / "slurm-cmeta-0"
    for _ in range(100):
        if list(mine.glob(".cmeta-*/half.sif")):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    else:
        pytest.fail(cluster.output(started))
    cluster.run(["scancel", str(started)])
    assert cluster.wait(started)["JobState"] == "CANCELLED"
    for _ in range(50):
        if not list(mine.glob(".cmeta-*")):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert list(mine.glob(".cmeta-*")) == []
    assert pulled(store) == []
