"""Jobs of all kinds: what the user asks for, arrays, components, tries, later changes."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Node, parse_fields
from conftest import ImageMaker
from product import NODES, Product
from test_submit import JOB, V3, WISH, ZEN4, Done, fields, queued, said, sbatch

MEMORY = {"io.slurm-cmeta.memory": "300MiB"}
CUDA = {"org.supercontainers.gpu": "cuda"}
NUMBERS = itertools.count()
GPU_NODE = "x86_64,x86_64_v2,x86_64_v3,a100"


@pytest.fixture(scope="module")
def all_kinds(place: Path, product: Product) -> Iterator[Cluster]:
    """Return a cluster with partitions, GPUs and a crontab."""
    etc = place / "k/etc"
    etc.mkdir(parents=True)
    # A GPU needs a device file, of whatever device.
    devices = [f"NodeName=gpu1 Name=gpu File=/dev/{name}\n" for name in ("null", "zero")]
    (etc / "gres.conf").write_text("".join(devices))
    names = ",".join(NODES)
    with Cluster(
        place / "k",
        [*(Node(*node) for node in NODES.items()), Node("gpu1", GPU_NODE, extra="Gres=gpu:2")],
        plugstack=[product.plugstack_line()],
        job_submit=product.job_submit(),
        conf=[
            "GresTypes=gpu",
            "ScronParameters=enable",
            f"PartitionName=all Nodes={names},gpu1 Default=YES State=UP",
            "PartitionName=arm Nodes=arm1 State=UP",
            "PartitionName=gpu Nodes=gpu1 State=UP",
        ],
    ) as cluster:
        yield cluster


@pytest.fixture
def cluster(all_kinds: Cluster, product: Product) -> Iterator[Cluster]:
    all_kinds.set_plugstack([product.plugstack_line()])
    all_kinds.set_job_submit(product.job_submit())
    policy = all_kinds.conf_path.with_name("cmeta.yaml")
    policy.unlink(missing_ok=True)
    yield all_kinds
    for user in ("root", "alice"):
        all_kinds.run(["scancel", f"--user={user}"])


@pytest.fixture
def zen4(make_image: ImageMaker) -> Path:
    return make_image("x86-zen4", labels=ZEN4)


def policy(cluster: Cluster, text: str) -> None:
    pytest.importorskip("yaml")
    cluster.conf_path.with_name("cmeta.yaml").write_text(text)


def by_name(cluster: Cluster, name: str) -> dict[str, str]:
    """Return the one job of that name, be it over."""
    (job,) = cluster.run(["squeue", "-h", "-t", "all", "-n", name, "-o", "%A"]).stdout.split()
    return cluster.job(int(job))


def submitted(cluster: Cluster, command: str, *words: str) -> dict[str, str]:
    """Submit by sbatch, srun or salloc, and return the job."""
    if command == "sbatch":
        return fields(cluster, sbatch(cluster, *words))
    name = f"{command}-{next(NUMBERS)}"
    cluster.run([command, f"--job-name={name}", *words, "true"])
    return by_name(cluster, name)


COMMANDS = pytest.mark.parametrize("command", ["sbatch", "srun", "salloc"])

# --- what the user asks for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-p", "arm"], "in partition arm"),
        (["-w", "arm1"], "a node that --nodelist names cannot run it: arm1 has aarch64"),
        (["-w", "top1,mid1"], "a node that --nodelist names cannot run it: mid1 has "),
        (["-x", "top1"], "outside of --exclude"),
    ],
)
@COMMANDS
def test_nodes_out_of_reach_do_not_count(
    cluster: Cluster, zen4: Path, command: str, words: list[str], why: str
) -> None:
    tail = [] if command == "sbatch" else ["true"]
    done = cluster.run([command, f"--container={zen4}", *words, *tail], input=JOB)
    assert done.returncode == 1, done.stderr
    assert why in said(done)[0]


def test_a_file_of_nodes_is_read(cluster: Cluster, zen4: Path, place: Path) -> None:
    for nodes, code in (("arm1\nmid1\n", 1), ("top1\n", 0)):
        (place / "nodes").write_text(nodes)
        done = sbatch(cluster, f"--container={zen4}", "-w", f"{place}/nodes", cwd=place)
        assert done.returncode == code, done.stderr
        assert ("that --nodelist names" in done.stderr) == bool(code)
    (place / "nodes").write_text("top1\n")
    assert sbatch(cluster, f"--container={zen4}", "-x", "./nodes", cwd=place).returncode == 1


def test_in_a_partition_where_all_fit_nothing_is_added(cluster: Cluster, arm: Path) -> None:
    assert fields(cluster, sbatch(cluster, f"--container={arm}", "-parm"))["Features"] == "(null)"
    done = sbatch(cluster, f"--container={arm}", env={"SBATCH_PARTITION": "arm"})
    assert (fields(cluster, done)["Features"], done.stderr) == ("(null)", "")


@COMMANDS
def test_the_images_memory_is_asked_for(
    cluster: Cluster, make_image: ImageMaker, command: str
) -> None:
    container = f"--container={make_image('memory', labels=MEMORY)}"
    assert submitted(cluster, command, container)["MinMemoryNode"] == "300M"
    assert submitted(cluster, command, container, "--mem=50")["MinMemoryNode"] == "50M"
    assert submitted(cluster, command, container, "--mem-per-cpu=7")["MinMemoryCPU"] == "7M"
    assert submitted(cluster, command, container, "--mem=0")["MinMemoryNode"] == "0"


def test_memory_from_the_environment_is_the_users(cluster: Cluster, make_image: ImageMaker) -> None:
    container = f"--container={make_image('memory', labels=MEMORY)}"
    done = sbatch(cluster, container, env={"SBATCH_MEM_PER_NODE": "60"})
    assert fields(cluster, done)["MinMemoryNode"] == "60M"
    done = sbatch(cluster, container)
    assert said(done)[-1].startswith("cmeta: memory.sif asks for memory (label io.slurm-cmeta")


def gpus(job: dict[str, str]) -> str:
    return re.sub("gres[:/]", "", job.get("TresPerNode", "none"))


@COMMANDS
def test_a_gpu_is_asked_for_by_policy(
    cluster: Cluster, make_image: ImageMaker, command: str
) -> None:
    container = f"--container={make_image('cuda', labels=CUDA)}"
    policy(cluster, "gpu_request: add\n")
    job = submitted(cluster, command, container, "-pgpu")
    assert gpus(job) == "gpu:1"
    assert gpus(submitted(cluster, command, container, "-pgpu", "--gres=gpu:2")) == "gpu:2"
    for own in ("--gpus=2", "--gpus-per-node=2", "--gres=none"):
        assert gpus(submitted(cluster, command, container, "-pgpu", own)) in ("none", "gpu:2")
    if command != "sbatch":
        assert job["NodeList"] == "gpu1"


def test_without_that_policy_a_gpu_is_advised(cluster: Cluster, make_image: ImageMaker) -> None:
    container = f"--container={make_image('cuda', labels=CUDA)}"
    done = sbatch(cluster, container, "-pgpu")
    assert gpus(fields(cluster, done)) == "none"
    assert "the job asks for none: --gpus=1" in done.stderr
    assert "--gpus=1" not in sbatch(cluster, container, "-pgpu", "-G1").stderr


# --- arrays, components, tries --------------------------------------------------------------------


def test_every_task_of_an_array_is_narrowed(cluster: Cluster, zen4: Path) -> None:
    done = sbatch(cluster, f"--container={zen4}", "--array=1-3")
    assert len(said(done)) == 1
    listed = cluster.run(["squeue", "-hr", "-j", done.stdout.strip(), "-o", "%K %f"]).stdout
    assert listed.split("\n")[:3] == ["1 zen4", "2 zen4", "3 zen4"]
    running = cluster.run(["sbatch", "--parsable", f"--container={zen4}", "--array=1-2"], input=JOB)
    for task in (1, 2):
        argv = ["squeue", "-ht", "all", "-j", f"{running.stdout.strip()}_{task}", "-o", "%N"]
        cluster.wait(int(running.stdout))
        assert cluster.run(argv).stdout.split() in ([], ["top1"])


def heterogeneous(cluster: Cluster, command: str, *parts: list[str]) -> list[dict[str, str]]:
    """Submit a job of such components, and return them."""
    name = f"het-{command}-{next(NUMBERS)}"
    argv, before = [command, *(["--hold"] if command == "sbatch" else [])], len(parts)
    for part in parts:
        before -= 1
        program = ["true"] if command == "srun" or (command == "salloc" and not before) else []
        argv += [f"-J{name}", *part, *program, *([":"] if before else [])]
    done = cluster.run(argv, input=JOB)
    listed = cluster.run(["squeue", "-h", "-t", "all", "-n", name, "-o", "%A"]).stdout.split()
    assert len(listed) == len(parts), done.stderr
    # Shown by its first component, a job is shown whole.
    shown = cluster.run(["scontrol", "-o", "show", "job", min(listed, key=int)]).stdout
    return [parse_fields(line) for line in shown.splitlines()]


@COMMANDS
def test_each_component_has_its_own_image(
    cluster: Cluster, arm: Path, zen4: Path, make_image: ImageMaker, command: str
) -> None:
    plain = make_image("plain")
    parts = (
        [f"--container={arm}"],
        [f"--container={zen4}", "-Cbigmem|zen3"],
        [f"--container={plain}", "-Cicelake"],
    )
    features = [job["Features"] for job in heterogeneous(cluster, command, *parts)]
    assert features == ["aarch64", "(bigmem|zen3)&zen4", "icelake"]


@COMMANDS
def test_nothing_of_one_component_reaches_the_next(
    cluster: Cluster, arm: Path, make_image: ImageMaker, command: str
) -> None:
    """Slurm forgets some options between components, and others not."""
    plain = [f"--container={make_image('plain')}", "-Czen4"]
    memory = [f"--container={make_image('memory', labels=MEMORY)}", "-Czen3"]
    jobs = heterogeneous(cluster, command, memory, plain)
    assert [job["MinMemoryNode"] for job in jobs] == ["300M", "0"]
    excluding = [f"--container={arm}", "-C[bigmem*1&aarch64*1]", "-x", "mid1"]
    jobs = heterogeneous(cluster, "sbatch", excluding, plain)
    assert jobs[0]["ExcNodeList"] not in ("mid1", "(null)")
    assert jobs[1]["ExcNodeList"] == "mid1"  # the user's own is Slurm's to keep
    wish = [f"--container={make_image('wish', labels=WISH)}", "-pall"]
    jobs = heterogeneous(cluster, command, wish, plain)
    assert [job["Features"] for job in jobs][1] == "zen4"
    assert "Prefer" not in jobs[1]
    if command == "sbatch":
        assert jobs[0]["Prefer"] == "x86_64&icelake"


def test_a_component_that_no_node_can_run_stops_all(
    cluster: Cluster, arm: Path, make_image: ImageMaker
) -> None:
    power = make_image("power", "ppc64le")
    before = queued(cluster)
    done = sbatch(cluster, f"--container={arm}", ":", f"--container={power}")
    assert (done.returncode, queued(cluster)) == (1, before)


@pytest.mark.parametrize("command", ["sbatch", "srun"])
def test_a_try_says_where_it_would_run(
    cluster: Cluster, make_image: ImageMaker, zen4: Path, command: str
) -> None:
    before, argv = queued(cluster), [command, "--test-only"]
    program = ["true"] if command == "srun" else []
    for image, node in ((zen4, "top1"), (make_image("arm", "arm64"), "arm1")):
        done = cluster.run([*argv, f"--container={image}", *program], input=JOB)
        assert f" nodes {node} " in done.stderr
    power = make_image("power", "ppc64le")
    refused = cluster.run([*argv, f"--container={power}", *program], input=JOB)
    assert refused.returncode == 1
    assert "cmeta: error: power.sif needs ppc64le" in refused.stderr
    assert queued(cluster) == before


# --- scontrol update ------------------------------------------------------------------------------


def update(cluster: Cluster, job: int, *words: str, user: str = "alice") -> Done:
    done = cluster.run(["scontrol", "update", f"JobId={job}", *words], user=user)
    assert done.returncode == 0, done.stderr
    return done


def held(cluster: Cluster, *words: str) -> int:
    done = sbatch(cluster, *words, user="alice")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_new_constraint_keeps_what_the_image_demands(
    cluster: Cluster, make_image: ImageMaker
) -> None:
    job = held(cluster, f"--container={make_image('x86-x86_64_v3', labels=V3)}", "-Czen4")
    assert cluster.job(job)["Features"] == "zen4"
    assert cluster.job(job)["AdminComment"] == "cmeta requires x86_64_v3"
    for asked, becomes in (
        ("bigmem", "bigmem&x86_64_v3"),
        ("bigmem|icelake", "(bigmem|icelake)&x86_64_v3"),
        ("", "x86_64_v3"),
        ("icelake&x86_64_v3", "icelake&x86_64_v3"),
        ("[zen3|zen4]", "[zen3|zen4]&x86_64_v3"),
        ("(zen3&x86_64)|zen4", "(zen3&x86_64)|zen4&x86_64_v3"),
    ):
        done = update(cluster, job, f"Features={asked}")
        assert cluster.job(job)["Features"] == becomes, asked
        if cluster.version > (22, 5):
            assert ("cmeta: features" in done.stderr) == (asked != becomes)
    update(cluster, job, "Prefer=zen3")
    assert cluster.job(job)["Prefer"] == "zen3&x86_64_v3"
    update(cluster, job, "Comment=new")
    assert cluster.job(job)["Features"] == "(zen3&x86_64)|zen4&x86_64_v3"
    assert "error" not in "".join(
        line for line in cluster.slurmctld_log().splitlines() if "job_submit" in line
    )


def test_what_cannot_be_kept_is_said(cluster: Cluster, make_image: ImageMaker) -> None:
    job = held(cluster, f"--container={make_image('x86-x86_64_v3', labels=V3)}")
    done = update(cluster, job, "Features=zen3*1")
    assert cluster.job(job)["Features"] == "zen3*1"
    words = "the new constraint cannot carry what the image needs, x86_64_v3"
    assert words in (done.stderr if cluster.version > (22, 5) else cluster.slurmctld_log())


def test_the_images_preference_gives_way_to_the_users_constraint(
    cluster: Cluster, make_image: ImageMaker
) -> None:
    """Slurm would try the preference in place of the new constraint."""
    job = held(cluster, "-pall", f"--container={make_image('wish', labels=WISH)}")
    assert "icelake" in cluster.job(job)["Prefer"]
    update(cluster, job, "Features=zen4")
    now = cluster.job(job)
    assert now["Features"] == now["Prefer"]
    assert "zen4" in now["Features"]
    cluster.run(["scontrol", "release", str(job)])
    assert cluster.wait(job)["NodeList"] == "top1"


def test_excluded_nodes_stay_excluded(cluster: Cluster, arm: Path) -> None:
    job = held(cluster, f"--container={arm}", "-C[bigmem*1&neoverse_v1*1]", "-N2")
    before = cluster.job(job)["ExcNodeList"]
    assert before != "(null)"
    update(cluster, job, "ExcNodeList=")
    after = cluster.job(job)["ExcNodeList"]
    hosts = [
        set(cluster.run(["scontrol", "show", "hostnames", listed]).stdout.split())
        for listed in (before, after)
    ]
    assert hosts[0] == hosts[1]


def test_an_administrator_has_the_last_word(cluster: Cluster, arm: Path) -> None:
    job = held(cluster, f"--container={arm}")
    update(cluster, job, "AdminComment=checked", "Features=zen4", user="root")
    assert cluster.job(job)["Features"] == "zen4"


def test_a_task_of_an_array_is_changed_alike(cluster: Cluster, zen4: Path) -> None:
    done = sbatch(cluster, f"--container={zen4}", "--array=1-2", user="alice")
    array = done.stdout.strip()
    changed = cluster.run(["scontrol", "update", f"JobId={array}_2", "Features=bigmem"])
    assert changed.returncode == 0
    listed = cluster.run(["squeue", "-hr", "-j", array, "-o", "%K %f"]).stdout
    assert sorted(listed.splitlines()) == ["1 zen4", "2 bigmem&zen4"]


def test_other_jobs_are_changed_as_ever(cluster: Cluster, arm: Path) -> None:
    plain = held(cluster, "-Czen4")
    off = held(cluster, f"--container={arm}", "--cmeta=off")
    for job in (plain, off):
        assert "AdminComment" not in cluster.job(job)
        update(cluster, job, "Features=zen3")
        assert cluster.job(job)["Features"] == "zen3"


# --- scrontab -------------------------------------------------------------------------------------


def test_a_crontab_is_as_without_us(
    cluster: Cluster, product: Product, arm: Path, place: Path
) -> None:
    """Slurm runs no plugin for it, and forgets its --container: a job without an image."""
    if not shutil.which("scrontab"):
        pytest.skip("scrontab is not installed")
    stub = product.job_submit()
    rejecting = stub.replace("ensure, job_desc", 'ensure, job_desc, {on_missing = "reject"}')
    cluster.set_job_submit(rejecting)
    table = place / "crontab"
    table.write_text(f"#SCRON --job-name=cron --container={arm}\n0 0 1 1 * /bin/true\n")
    table.chmod(0o644)
    done = cluster.run(["scrontab", str(table)])
    assert (done.returncode, done.stderr) == (0, "")
    job = by_name(cluster, "cron")
    assert (job["Features"], job.get("Container")) == ("(null)", None)
    cluster.run(["scrontab", "-r"])
