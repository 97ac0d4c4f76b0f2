"""Images of a registry, end to end: matched by their index, pulled on the node, run there."""

from __future__ import annotations

import fcntl
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
from hung_fs import mount, unmount
from images import build
from product import Product
from test_run import finished, script
from test_submit import fields, said, sbatch
from trouble import ToolError
from variants import Made, layout

pytestmark = needs_runtime

HERE = os.uname().machine
SETTLED = 2.2
"""Seconds after which what was drawn from a file may be kept (slurm_cmeta/kept/sources.py)."""
LEVELS = [Made("amd64"), Made("amd64", "v2"), Made("arm64", "v8")]


@pytest.fixture(scope="module")
def registry(place: Path) -> Iterator[registries.Running]:
    if HERE != "x86_64":
        pytest.skip("the test images that run are x86_64")
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
    # Once by us, to choose; once by Apptainer, which fetches.
    assert max(asked.count(one) for one in asked) <= 2, asked


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
