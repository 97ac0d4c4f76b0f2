"""The node side: the job's processes really run inside the image, unchanged in all that matters."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Node
from conftest import ImageMaker, needs_runtime, never_drained
from product import Product
from test_submit import sbatch

pytestmark = [needs_runtime, never_drained]

HERE = os.uname().machine


@pytest.fixture
def plain(make_image: ImageMaker) -> Path:
    if HERE != "x86_64":
        pytest.skip("the test images that run are x86_64")
    return make_image("plain")


def script(cluster: Cluster, name: str, body: str) -> Path:
    path = cluster.layout.work / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def finished(cluster: Cluster, *words: str | Path, user: str | None = None) -> tuple[str, str]:
    """Run a batch job to its end; return its state with the exit code, and what it printed."""
    job = cluster.submit(*map(str, words), user=user)
    fields = cluster.wait(job)
    return f"{fields['JobState']} {fields['ExitCode']}", cluster.output(job)


# --- batch jobs ---------------------------------------------------------------------------------


def test_a_batch_script_runs_inside_the_image(cluster: Cluster, plain: Path) -> None:
    job = script(cluster, "inside", "cat /etc/image; [ -e /etc/debian_version ] || echo no Debian")
    assert finished(cluster, f"--container={plain}", job) == (
        "COMPLETED 0:0",
        "plain.sif\nno Debian\n",
    )


def test_for_an_ordinary_user_as_well(cluster: Cluster, plain: Path) -> None:
    job = script(cluster, "who", "cat /etc/image; id -u")
    state, output = finished(cluster, f"--container={plain}", job, user="alice")
    assert (state, output) == ("COMPLETED 0:0", "plain.sif\n1000\n")


def test_arguments_come_through_unchanged(cluster: Cluster, plain: Path) -> None:
    words = ["a b", "it's", 'say "x"', "", "--nv", "$HOME;`id`", "ü\nz", "*"]
    job = script(cluster, "arguments", 'for a; do printf "<%s>" "$a"; done')
    printed = cluster.layout.work / "arguments.out"
    options = ["--wait", f"--output={printed}", f"--container={plain}"]
    assert cluster.run(["sbatch", *options, str(job), *words]).returncode == 0
    assert printed.read_text() == "".join(f"<{word}>" for word in words)


@pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 255])
def test_exit_codes_come_through(cluster: Cluster, plain: Path, code: int) -> None:
    job = script(cluster, f"exit{code}", f"exit {code}")
    state, _ = finished(cluster, f"--container={plain}", job)
    assert state == ("COMPLETED 0:0" if code == 0 else f"FAILED {code}:0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
def test_death_by_signal_is_told(cluster: Cluster, plain: Path, number: int) -> None:
    """As without a container: Slurm notes the signal, or the shell's 128+N."""
    job = script(cluster, f"signal{number}", f"kill -{number} $$")
    inside, _ = finished(cluster, f"--container={plain}", job)
    outside, _ = finished(cluster, job)
    assert inside == outside


def test_signals_reach_the_job(cluster: Cluster, plain: Path) -> None:
    job = script(
        cluster,
        "trap",
        "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done",
    )
    number = cluster.submit(f"--container={plain}", str(job))
    for _ in range(200):
        if Path(cluster.job(number)["StdOut"]).exists() and "ready" in cluster.output(number):
            break
        cluster.run(["sleep", "0.05"])
    cluster.run(["scancel", "--signal=USR1", "--full", str(number)])
    assert cluster.wait(number)["ExitCode"] == "5:0"
    assert cluster.output(number).splitlines()[-1] == "caught"


def test_the_environment_is_slurms_and_the_users(cluster: Cluster, plain: Path) -> None:
    job = script(cluster, "environment", "env | sort")
    number = cluster.submit(
        f"--container={plain}", str(job), env={"MINE": "a b", "CMETA_RUN_IMAGE": "forged"}
    )
    cluster.wait(number)
    lines = cluster.output(number).splitlines()
    assert f"SLURM_JOB_ID={number}" in lines
    assert "MINE=a b" in lines
    assert [line for line in lines if line.startswith("CMETA_RUN_")] == []


def test_limits_and_task_prolog_are_kept(cluster: Cluster, plain: Path) -> None:
    prolog = script(cluster, "prolog", "echo export FROM_PROLOG=yes; echo print told by prolog")
    job = script(cluster, "limits", "ulimit -n; echo $FROM_PROLOG")
    done = cluster.run(
        ["sh", "-c", f"ulimit -n 345; srun --task-prolog={prolog} --container={plain} {job}"]
    )
    assert done.stdout.splitlines() == ["told by prolog", "345", "yes"]


# --- steps --------------------------------------------------------------------------------------


def test_srun_runs_its_tasks_inside(cluster: Cluster, plain: Path) -> None:
    done = cluster.run(
        ["srun", "-n3", f"--container={plain}", "sh", "-c", "cat /etc/image; echo $SLURM_PROCID"]
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["0", "1", "2"] + ["plain.sif"] * 3


def test_a_command_is_looked_for_inside_the_image(cluster: Cluster, plain: Path) -> None:
    done = cluster.run(["srun", f"--container={plain}", "readlink", "/bin/cat"])
    assert done.stdout == "busybox\n"


def test_srun_passes_exit_codes_and_arguments(cluster: Cluster, plain: Path) -> None:
    words = ["a b", "it's", 'say "x"', "", "$(id)"]
    done = cluster.run(
        ["srun", f"--container={plain}", "sh", "-c", 'printf "<%s>" "$@"; exit 9', "sh", *words]
    )
    assert done.stdout == "".join(f"<{word}>" for word in words)
    assert done.returncode == 9


@pytest.mark.parametrize("export", ["ALL", "NONE", "MINE"])
def test_whatever_is_exported(cluster: Cluster, plain: Path, export: str) -> None:
    job = script(cluster, f"export-{export}", "cat /etc/image")
    options = (f"--export={export}", f"--container={plain}")
    assert finished(cluster, *options, job) == ("COMPLETED 0:0", "plain.sif\n")
    assert cluster.run(["srun", *options, "cat", "/etc/image"]).stdout == "plain.sif\n"


def test_each_step_has_its_own_image(cluster: Cluster, plain: Path, make_image: ImageMaker) -> None:
    other = make_image("other")
    body = f"srun --container={plain} cat /etc/image; srun --container={other} cat /etc/image; "
    body += "srun sh -c 'cat /etc/image 2>/dev/null || echo host'"
    job = script(cluster, "steps", body)
    state, output = finished(cluster, "-C", "x86_64", job)
    assert (state, output) == ("COMPLETED 0:0", "plain.sif\nother.sif\nhost\n")


def test_components_of_one_srun_never_run_in_the_wrong_image(
    cluster: Cluster, plain: Path, make_image: ImageMaker
) -> None:
    """srun has one environment for all of its components."""
    other = make_image("other")
    command = ["cat", "/etc/image"]
    first = ["srun", f"--container={plain}", *command, ":"]
    same = cluster.run([*first, f"--container={plain}", *command])
    assert same.stdout.split() == ["plain.sif", "plain.sif"]
    mixed = cluster.run([*first, f"--container={other}", *command])
    assert mixed.stdout == ""
    assert "the components of one srun cannot run in different images" in mixed.stderr
    assert mixed.returncode == 127


def test_a_heterogeneous_batch_job_starts_in_its_first_image(
    cluster: Cluster, plain: Path, make_image: ImageMaker
) -> None:
    body = f"#!/bin/sh\n#SBATCH --container={plain}\n#SBATCH hetjob\n"
    job = cluster.layout.work / "het"
    job.write_text(f"{body}#SBATCH --container={make_image('other')}\ncat /etc/image\n")
    assert finished(cluster, job) == ("COMPLETED 0:0", "plain.sif\n")


def test_several_programs_in_one_step(cluster: Cluster, plain: Path) -> None:
    programs = cluster.layout.work / "programs.conf"
    programs.write_text("0 cat /etc/image\n1 readlink /bin/sh\n")
    done = cluster.run(["srun", "-n2", "--multi-prog", f"--container={plain}", str(programs)])
    if cluster.version < (23, 11):
        assert "cmeta: error: Slurm before 23.11 cannot run --multi-prog inside" in done.stderr
        assert done.stdout == ""
        assert done.returncode == 127
        return
    assert sorted(done.stdout.split()) == ["busybox", "plain.sif"]


def test_the_interactive_shell_of_salloc_is_inside(cluster: Cluster, plain: Path) -> None:
    done = cluster.run(
        ["salloc", f"--container={plain}"],
        input="cat /etc/image; exit 4\n",
        env={"SHELL": "/bin/sh"},
    )
    assert "plain.sif" in done.stdout, done.stderr


# --- when it cannot run -------------------------------------------------------------------------


def test_the_last_guard_stops_the_wrong_architecture(
    cluster: Cluster, make_image: ImageMaker
) -> None:
    """arm1 is this machine in truth: what its features say is wrong, and the node finds out."""
    if HERE == "aarch64":
        pytest.skip("this machine runs the image")
    state, output = finished(cluster, f"--container={make_image('arm', 'arm64')}", "--wrap=true")
    assert state == "FAILED 126:0"
    assert output.startswith(f"cmeta: error: node arm1 is {HERE} and cannot run ")
    assert "arm.sif, which is built for aarch64" in output
    assert len(output.splitlines()) == 1


def test_an_image_that_is_gone_is_told(cluster: Cluster, plain: Path, place: Path) -> None:
    copy = place / "gone.sif"
    copy.write_bytes(plain.read_bytes())
    job = int(sbatch(cluster, f"--container={copy}").stdout)
    copy.unlink()
    cluster.run(["scontrol", "release", str(job)])
    fields = cluster.wait(job)
    assert fields["ExitCode"] == "127:0"
    assert "cannot read the image" in cluster.output(job)
    assert "No such file or directory" in cluster.output(job)


def test_an_image_that_was_replaced_since_submit_is_told(
    cluster: Cluster, plain: Path, place: Path, make_image: ImageMaker
) -> None:
    if HERE == "aarch64":
        pytest.skip("this machine runs the image")
    copy = place / "replaced.sif"
    copy.write_bytes(plain.read_bytes())
    job = int(sbatch(cluster, f"--container={copy}").stdout)
    copy.write_bytes(make_image("arm", "arm64").read_bytes())
    cluster.run(["scontrol", "release", str(job)])
    assert cluster.wait(job)["ExitCode"] == "126:0"
    assert "replaced.sif, which is built for aarch64" in cluster.output(job)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runtime=/no/such/apptainer"], "cannot start /no/such/apptainer to run"),
        (["run=/no/such/cmeta-run"], "cannot start"),
    ],
)
def test_a_node_without_runtime_says_so(
    cluster: Cluster, product: Product, plain: Path, arguments: list[str], words: str
) -> None:
    cluster.set_plugstack([product.plugstack_line(*arguments)])
    state, output = finished(cluster, f"--container={plain}", "--wrap=true")
    assert state == "FAILED 127:0"
    assert output.startswith("cmeta: error: node ")
    assert words in output


def test_a_mistake_in_plugstack_costs_the_decision_and_not_the_image(
    cluster: Cluster, product: Product, plain: Path
) -> None:
    cluster.set_plugstack([product.plugstack_line("deadlin=2")])
    state, output = finished(cluster, f"--container={plain}", "-Cx86_64", "--wrap=cat /etc/image")
    assert (state, output) == ("COMPLETED 0:0", "plain.sif\n")


def test_a_node_where_no_runtime_is_installed_says_so(
    cluster: Cluster, product: Product, plain: Path
) -> None:
    run = product.prefix / "libexec/slurm-cmeta/cmeta-run"
    places = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/apptainer/bin")
    hidden = {
        p for p in places if any((Path(p) / n).exists() for n in ("apptainer", "singularity"))
    }
    hide = "".join(f"mount -t tmpfs none {p} && " for p in sorted(hidden))
    done = cluster.run(
        ["unshare", "--mount", "sh", "-c", f"{hide}PATH=/nowhere exec {run} true"],
        env={"CMETA_RUN_IMAGE": str(plain), "SLURMD_NODENAME": "n7"},
    )
    assert done.returncode == 127
    assert done.stderr.startswith("cmeta: error: node n7 has neither apptainer nor singularity")


def test_runtime_options_are_passed_on(
    cluster: Cluster, product: Product, plain: Path, place: Path
) -> None:
    data = place / "data"
    data.mkdir(mode=0o755)
    (data / "file").write_text("from the host\n")
    cluster.set_plugstack(
        [product.plugstack_line(f"runtime_option=--bind={data}:/data", "runtime_option=--cleanenv")]
    )
    done = cluster.run(["srun", f"--container={plain}", "cat", "/data/file"])
    assert done.stdout == "from the host\n", done.stderr


def test_what_is_no_sif_is_left_to_slurm(cluster: Cluster, place: Path) -> None:
    bundle = place / "bundle"
    bundle.mkdir(mode=0o755)
    state, output = finished(cluster, f"--container={bundle}", "--wrap=echo on the host")
    assert (state, output) == ("COMPLETED 0:0", "on the host\n")


# --- Slurm's own container support --------------------------------------------------------------

OCI_CONF = """\
IgnoreFileConfigJson=true
EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeEnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeRun="{wrapper} %b %@"
RunTimeKill="kill -s SIGTERM %p"
RunTimeDelete="kill -s SIGKILL %p"
"""


@pytest.fixture(scope="module")
def oci_cluster(place: Path, product: Product) -> Iterator[Cluster]:
    wrapper = place / "oci-run"
    wrapper.write_text(
        "#!/bin/sh\necho started by oci.conf\nimage=$1\nshift\n"
        'exec apptainer exec --bind /var/spool,"$PWD" "$image" "$@"\n'
    )
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    with Cluster(
        place / "o",
        [Node("n1", "x86_64"), Node("arm1", "aarch64")],
        plugstack=[product.plugstack_line()],
        job_submit=product.job_submit(),
        oci_conf=OCI_CONF.format(wrapper=wrapper),
    ) as cluster:
        if cluster.version < (23, 2):
            pytest.skip(
                "this Slurm's oci.conf takes no SIF files (IgnoreFileConfigJson came later)"
            )
        yield cluster


def test_where_oci_conf_runs_containers_it_does(oci_cluster: Cluster, plain: Path) -> None:
    # Slurm itself looks for the command on the host here, so it is named by its path.
    done = oci_cluster.run(["srun", f"--container={plain}", "/bin/cat", "/etc/image"])
    assert done.stdout.splitlines() == ["started by oci.conf", "plain.sif"], done.stderr


def test_the_guard_stands_before_oci_conf(oci_cluster: Cluster, make_image: ImageMaker) -> None:
    if HERE == "aarch64":
        pytest.skip("this machine runs the image")
    done = oci_cluster.run(["srun", f"--container={make_image('arm', 'arm64')}", "true"])
    assert "which is built for aarch64" in done.stderr
    assert "started by oci.conf" not in done.stdout
    assert done.returncode != 0
    assert set(oci_cluster.node_states().values()) <= {"idle", "completing"}
