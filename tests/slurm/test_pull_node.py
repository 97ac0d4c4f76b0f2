"""The store of a node, and whatever goes wrong there, on a real cluster."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest
import registry as registries
from cluster import Cluster
from conftest import needs_runtime
from hung_fs import mount, unmount
from images import build
from product import Product
from test_pull import pulled, reference, registry, store
from test_run import finished, script
from test_submit import sbatch
from trouble import ToolError
from variants import Made, layout

__all__ = ["registry", "store"]

pytestmark = needs_runtime


def test_of_many_tasks_on_a_node_one_pulls(
    cluster: Cluster, registry: registries.Running, store: Path
) -> None:
    before = len(registry.asked())
    words = ["srun", "-w", "mid1", "-n8", "--overcommit", reference(registry), "cat", "/etc/image"]
    done = cluster.run(words)
    assert done.stdout.split() == ["amd64-v2"] * 8, done.stderr
    assert done.stderr.replace(registry.address, "") == ""
    asked = [one for one in registry.asked()[before:] if one.startswith("GET /v2/org/app/")]
    assert len(pulled(store)) == 1
    # Once at submit, once on the node to choose, and once by Apptainer, which fetches.
    assert max(asked.count(one) for one in asked) <= 3, asked


def test_a_store_makes_room_and_leaves_what_runs(
    cluster: Cluster, product: Product, registry: registries.Running, store: Path
) -> None:
    """Room for one image. Which it is, is told by who runs now."""
    registry.push(layout(store / "other", [Made("amd64", labels={"a": "other"})]), "org/other:1.0")
    line = product.plugstack_line(f"store={store}", "store_size=3M")
    cluster.set_plugstack([line])
    marks = cluster.layout.work / "go"
    marks.unlink(missing_ok=True)
    body = f"cat /etc/image; until [ -e {marks} ]; do sleep 0.1; done; cat /etc/image"
    waits = script(cluster, "waits", body)
    running = cluster.submit("-w", "mid1", reference(registry), str(waits))
    for _ in range(200):
        if Path(cluster.job(running)["StdOut"]).exists() and cluster.output(running):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    (first,) = pulled(store)
    second = ("-w", "mid2", reference(registry, "other"), "--wrap=cat /etc/image")
    state, output = finished(cluster, *second)
    assert state == "FAILED 127:0"
    assert "has no room for " in output
    assert "images in use take 1 of 3 MiB (store_size)" in output
    assert pulled(store) == [first]
    marks.touch()
    assert cluster.wait(running)["JobState"] == "COMPLETED"
    assert cluster.output(running) == "amd64-v2\n" * 2
    assert finished(cluster, *second) == ("COMPLETED 0:0", "amd64-other\n")
    (other,) = pulled(store)
    assert other != first


def test_a_registry_that_is_gone_when_the_job_starts(
    cluster: Cluster, registry: registries.Running, store: Path, place: Path
) -> None:
    with registries.registry(place / "gone") as other:
        other.push(place / "app", "org/app:1.0")
        held = sbatch(cluster, reference(other), "--wrap=cat /etc/image")
    cluster.run(["scontrol", "release", held.stdout.strip()])
    assert cluster.wait(int(held.stdout))["ExitCode"] == "127:0"
    (line,) = cluster.output(int(held.stdout)).splitlines()
    assert line.startswith("cmeta: error: docker://")
    assert "it cannot be reached (Connection refused)" in line
    assert pulled(store) == []


def test_a_disk_that_is_full_is_said(
    cluster: Cluster, product: Product, registry: registries.Running, place: Path
) -> None:
    disk = place / "small-disk"
    disk.mkdir(exist_ok=True)
    try:
        mount("tmpfs", disk, "size=3m,mode=1777")
    except ToolError as problem:
        pytest.skip(str(problem))
    try:
        cluster.set_plugstack([product.plugstack_line(f"store={disk}")])
        state, output = finished(cluster, reference(registry), "--wrap=true")
        assert state == "FAILED 127:0"
        (line,) = output.splitlines()
        assert "o space left on device" in line or "MiB left" in line
        left = [p for p in disk.glob("slurm-cmeta-0/*") if p.suffix != ".lock"]
        assert {p.name.partition("-")[0] for p in left} <= {"lock", "ask", "offer"}
    finally:
        unmount(disk)


def test_a_store_that_others_can_write_to_is_not_used(
    cluster: Cluster, registry: registries.Running, store: Path
) -> None:
    store.chmod(0o777)
    state, output = finished(cluster, reference(registry), "--wrap=true")
    assert state == "FAILED 127:0"
    assert output.startswith("cmeta: error: others can rename what is in ")
    assert list(store.iterdir()) == []


def test_a_task_that_cannot_have_its_image_ends_the_others_with_k(
    cluster: Cluster, product: Product, registry: registries.Running, store: Path, place: Path
) -> None:
    """As with any task that fails."""
    one_fails = place / "one-fails"
    one_fails.write_text(
        "#!/bin/sh\n"
        "[ $SLURMD_NODENAME = old1 ] || { echo 'cmeta: error: no room' >&2; exit 3; }\n"
        f'exec {product.prefix}/bin/cmeta "$@"\n'
    )
    one_fails.chmod(0o755)
    cluster.set_plugstack([product.plugstack_line(f"store={store}", f"pull={one_fails}")])
    words = ["srun", "-K", "-w", "old1,mid1", reference(registry), "sleep", "60"]
    done = cluster.run(words, timeout=30)
    assert done.returncode != 0
    # What the task itself said may be lost with -K: srun 26.05 does not wait for it.
    assert "mid1: task 0: Exited with exit code 127" in done.stderr


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("echo no path", 127, "what {program} names as the image is not there"),
        ("echo /nonexistent/a.sif", 127, "what {program} names as the image is not there"),
        ("true", 127, "what {program} names as the image is not there"),
        ("printf '/dev/null\\n/dev/null\\n'", 127, "names as the image is not there"),
        ("exec yes /", 127, "{program} was ended by signal 13"),
        ("exit 1", 126, None),
        ("exit 4", 127, None),
        ("exit 130", 127, None),
        ("kill -9 $$", 127, "{program} was ended by signal 9: had the job enough memory?"),
        ("trap '' TERM; exec sleep 60", 127, "{program} did not end in time; submit it again with"),
    ],
)
def test_whatever_the_command_on_the_node_does(
    product: Product, place: Path, body: str, status: int, words: str | None
) -> None:
    program = place / "answers"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    done = subprocess.run(
        [product.prefix / "libexec/slurm-cmeta/cmeta-run", "true"],
        env={
            "PATH": os.environ["PATH"],
            "SLURMD_NODENAME": "n7",
            "CMETA_RUN_IMAGE": "docker://127.0.0.1:1/a",
            "CMETA_RUN_PULL": str(program),
            "CMETA_RUN_PULL_TIMEOUT": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    said = [line for line in done.stderr.splitlines() if line.startswith("cmeta: ")]
    if words is None:
        assert said == []
    else:
        (line,) = said
        assert line.startswith("cmeta: error: node n7 cannot pull docker://127.0.0.1:1/a: ")
        assert words.format(program=program) in line


def test_an_image_that_is_found_is_held_while_it_runs(
    product: Product, place: Path, registry: registries.Running
) -> None:
    """The lock is that of the runtime's process: it is gone with it, however it ends."""
    image = build(place / "held.sif")
    program = place / "answers"
    program.write_text(f"#!/bin/sh\necho {image}\n")
    program.chmod(0o755)
    child = subprocess.Popen(
        [product.prefix / "libexec/slurm-cmeta/cmeta-run", "sh", "-c", "echo runs; read x"],
        env={
            "PATH": os.environ["PATH"],
            "CMETA_RUN_IMAGE": "docker://127.0.0.1:1/a",
            "CMETA_RUN_PULL": str(program),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "runs\n"
    with image.open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate("\n", timeout=20)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
