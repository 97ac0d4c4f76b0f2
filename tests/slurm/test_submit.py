"""The submit side: what the plugin makes of a submission, seen in the job that Slurm has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import ImageMaker
from product import Product

V3 = {
    "org.opencontainers.image.architecture": "amd64",
    "org.opencontainers.image.variant": "v3",
}
ZEN4 = {"io.archspec.cpu.target": "znver4"}
WISH = {"org.supercontainers.hardware.cpu.optimized.version": "icelake"}

JOB = "#!/bin/sh\nexit 0\n"
Done = subprocess.CompletedProcess[str]


def sbatch(cluster: Cluster, *words: str, script: str = JOB, **options: object) -> Done:
    """Submit a job that is never started, so that its fields can be looked at."""
    return cluster.run(
        ["sbatch", "--hold", "--parsable", *words],
        input=script,
        **options,  # type: ignore[arg-type]
    )


def fields(cluster: Cluster, done: Done) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return cluster.job(int(done.stdout))


def queued(cluster: Cluster) -> int:
    return len(cluster.run(["squeue", "-h"]).stdout.splitlines())


def said(done: Done) -> list[str]:
    return done.stderr.splitlines()


# --- the constraint -----------------------------------------------------------------------------


def test_a_job_is_narrowed_and_the_user_reads_why(cluster: Cluster, arm: Path) -> None:
    done = sbatch(cluster, f"--container={arm}")
    assert fields(cluster, done)["Features"] == "aarch64"
    (line,) = said(done)
    assert line.startswith("cmeta: arm.sif needs aarch64 (ELF header of /bin/")
    assert line.endswith('): constraint "aarch64", 1 of 6 nodes')


def test_from_an_sbatch_line(cluster: Cluster, arm: Path) -> None:
    script = f"#!/bin/sh\n#SBATCH --container={arm}\nexit 0\n"
    assert fields(cluster, sbatch(cluster, script=script))["Features"] == "aarch64"


def test_from_the_environment(cluster: Cluster, arm: Path) -> None:
    done = sbatch(cluster, env={"SBATCH_CONTAINER": str(arm)})
    assert fields(cluster, done)["Features"] == "aarch64"


def test_the_command_line_wins_over_a_stale_environment(
    cluster: Cluster, arm: Path, make_image: ImageMaker
) -> None:
    env = {"SLURM_CONTAINER": str(make_image("plain"))}
    assert fields(cluster, sbatch(cluster, f"--container={arm}", env=env))["Features"] == "aarch64"


@pytest.mark.parametrize(
    ("labels", "constraint"), [(None, "x86_64"), (V3, "x86_64_v3"), (ZEN4, "zen4")]
)
def test_the_image_decides(
    cluster: Cluster, make_image: ImageMaker, labels: dict[str, str] | None, constraint: str
) -> None:
    image = make_image(f"x86-{constraint}", labels=labels)
    assert fields(cluster, sbatch(cluster, f"--container={image}"))["Features"] == constraint


@pytest.mark.parametrize(
    ("own", "result"),
    [
        ("bigmem", "bigmem&aarch64"),
        ("aarch64&bigmem", "aarch64&bigmem"),
        ("neoverse_v1,bigmem", "neoverse_v1,bigmem"),
        ("zen4|neoverse_v1", "(zen4|neoverse_v1)&aarch64"),
    ],
)
def test_the_users_constraint_is_kept(cluster: Cluster, arm: Path, own: str, result: str) -> None:
    done = sbatch(cluster, f"--container={arm}", "-C", own)
    assert fields(cluster, done)["Features"] == result.replace(",", "&")


@pytest.mark.parametrize("own", ["[bigmem*1&neoverse_v1*1]", "bigmem*1"])
def test_counts_are_kept_and_nodes_excluded(cluster: Cluster, arm: Path, own: str) -> None:
    options = (f"--container={arm}", "-C", own, "--exclude=mid1", "--hold")
    job = fields(cluster, sbatch(cluster, *options))
    assert job["Features"] == own
    excluded = cluster.run(["scontrol", "show", "hostnames", job["ExcNodeList"]]).stdout.split()
    assert set(excluded) == {"old1", "mid1", "mid2", "top1", "ice1"}


@pytest.mark.parametrize(
    ("own", "constraint"),
    [
        ("[bigmem|neoverse_v1]", "[bigmem|neoverse_v1]&aarch64"),
        ("(bigmem|zen3)&aarch64", "(bigmem|zen3)&aarch64"),
        ("(bigmem&zen4)|neoverse_v1", "(bigmem&zen4)|neoverse_v1&aarch64"),
    ],
)
def test_other_forms_carry_the_addition(
    cluster: Cluster, arm: Path, own: str, constraint: str
) -> None:
    job = fields(cluster, sbatch(cluster, f"--container={arm}", "-C", own))
    assert job["Features"] == constraint


def test_a_wish_becomes_a_preference(cluster: Cluster, make_image: ImageMaker) -> None:
    done = sbatch(cluster, f"--container={make_image('wish', labels=WISH)}", "--comment=x")
    job = fields(cluster, done)
    assert "x86_64" in (job["Features"], job.get("Prefer"))
    assert 'prefer "x86_64&icelake"' in done.stderr
    started = cluster.submit(f"--container={make_image('wish', labels=WISH)}", "--wrap=true")
    assert cluster.wait(started)["NodeList"] == "ice1"


def test_slurm_itself_picks_only_nodes_that_fit(cluster: Cluster, make_image: ImageMaker) -> None:
    image = make_image("x86-x86_64_v3", labels=V3)
    jobs = [cluster.submit(f"--container={image}", "--exclusive", "--wrap=true") for _ in range(6)]
    nodes = {cluster.wait(job)["NodeList"] for job in jobs}
    assert nodes <= {"mid1", "mid2", "top1", "ice1"}


# --- srun and salloc ----------------------------------------------------------------------------


def test_srun_gets_a_fitting_node(cluster: Cluster, make_image: ImageMaker) -> None:
    image = make_image("x86-zen4", labels=ZEN4)
    command = ["sh", "-c", "echo $SLURMD_NODENAME"]
    done = cluster.run(["srun", f"--container={image}", "--cmeta=on", *command])
    assert done.stdout.split() == ["top1"]
    assert 'constraint "zen4"' in done.stderr


def test_salloc_gets_a_fitting_node(cluster: Cluster, make_image: ImageMaker) -> None:
    image = make_image("x86-zen4", labels=ZEN4)
    done = cluster.run(
        ["salloc", f"--container={image}", "scontrol", "show", "hostnames"], timeout=30
    )
    assert done.stdout.split() == ["top1"]
    assert 'constraint "zen4"' in done.stderr


# --- refusal and policy -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["sbatch", "srun", "salloc"])
def test_a_job_that_no_node_can_run_is_refused(
    cluster: Cluster, make_image: ImageMaker, command: str
) -> None:
    image = make_image("power", "ppc64le")
    before = queued(cluster)
    tail = [] if command == "sbatch" else ["true"]
    done = cluster.run([command, f"--container={image}", *tail], input=JOB)
    assert done.returncode == 1
    assert queued(cluster) == before
    assert "Submitted" not in done.stdout
    first, second = said(done)
    assert first.startswith("cmeta: error: power.sif needs ppc64le (SIF partition descriptor ")
    assert first.endswith(
        "none of the 6 nodes can run it: old1,mid[1-2],top1,ice1 have x86_64; arm1 has aarch64"
    )
    assert second == "cmeta: error: not submitted; with --cmeta=off the image is not looked at"


def policy(cluster: Cluster, text: str) -> None:
    cluster.conf_path.with_name("cmeta.yaml").write_text(text)


def test_the_site_may_only_warn(cluster: Cluster, make_image: ImageMaker) -> None:
    pytest.importorskip("yaml")
    policy(cluster, "on_mismatch: warn\n")
    done = sbatch(cluster, f"--container={make_image('power', 'ppc64le')}")
    assert fields(cluster, done)["Features"] == "(null)"
    assert len(said(done)) == 1
    assert said(done)[0].startswith("cmeta: warning: power.sif needs ppc64le")


def test_a_mistake_in_the_policy_is_one_warning(cluster: Cluster, arm: Path) -> None:
    policy(cluster, "on_mismatch: warn\nonmismatch: warn\n")
    done = sbatch(cluster, f"--container={arm}")
    assert fields(cluster, done)["Features"] == "(null)"
    (line,) = said(done)
    assert "cmeta.yaml:2: unknown key 'onmismatch'" in line
    assert line.endswith("the job is submitted as it is")


def test_a_mistake_in_plugstack_is_one_warning(
    cluster: Cluster, product: Product, arm: Path
) -> None:
    cluster.set_plugstack(["# comment", product.plugstack_line("deadlin=2")])
    done = sbatch(cluster, f"--container={arm}")
    assert fields(cluster, done)["Features"] == "(null)"
    assert said(done) == [
        f"cmeta: warning: {cluster.plugstack_path}:2: cmeta_spank: unknown argument or bad value "
        '"deadlin=2"; the job is submitted as it is'
    ]
    assert sbatch(cluster).stderr == ""


# --- on, off, explain ---------------------------------------------------------------------------


def test_off_is_as_if_not_installed(cluster: Cluster, arm: Path) -> None:
    for done in (
        sbatch(cluster, f"--container={arm}", "--cmeta=off"),
        sbatch(cluster, f"--container={arm}", env={"CMETA": "off"}),
        sbatch(cluster, f"--container={arm}", script="#!/bin/sh\n#SBATCH --cmeta=off\n"),
    ):
        assert fields(cluster, done)["Features"] == "(null)"
        assert done.stderr == ""


def test_the_option_wins_over_the_environment_and_that_over_the_default(
    cluster: Cluster, product: Product, arm: Path
) -> None:
    cluster.set_plugstack([product.plugstack_line("default=off")])
    assert fields(cluster, sbatch(cluster, f"--container={arm}"))["Features"] == "(null)"
    on = sbatch(cluster, f"--container={arm}", env={"CMETA": "on"})
    assert fields(cluster, on)["Features"] == "aarch64"
    both = sbatch(cluster, f"--container={arm}", "--cmeta=on", env={"CMETA": "off"})
    assert fields(cluster, both)["Features"] == "aarch64"


def test_explain_prints_every_reason(cluster: Cluster, arm: Path) -> None:
    done = sbatch(cluster, f"--container={arm}", "--cmeta=explain")
    assert fields(cluster, done)["Features"] == "aarch64"
    assert "cmeta: requires arch = aarch64 (hard, observed: ELF header of" in done.stderr
    assert "cmeta: arm1 (1): match: arch needs aarch64, has aarch64: match" in done.stderr
    assert "cmeta: old1 (1): mismatch: arch needs aarch64, has x86_64: mismatch" in done.stderr


def test_quiet_is_quiet(cluster: Cluster, arm: Path, place: Path) -> None:
    done = sbatch(cluster, "--quiet", "--job-name=quiet", f"--container={arm}")
    assert (done.returncode, done.stderr) == (0, "")
    assert cluster.run(["squeue", "-h", "--name=quiet", "-o", "%f"]).stdout.split() == ["aarch64"]
    assert "warning" in sbatch(cluster, "--quiet", f"--container={place}/no.sif").stderr


def test_another_word_is_refused_by_slurm(cluster: Cluster, arm: Path) -> None:
    done = sbatch(cluster, f"--container={arm}", "--cmeta=of")
    assert done.returncode != 0
    assert "Invalid --cmeta argument: of" in done.stderr


def test_the_option_is_in_the_help(cluster: Cluster) -> None:
    assert "--cmeta=on|off|explain" in cluster.run(["sbatch", "--help"]).stdout


# --- never in the way ---------------------------------------------------------------------------


def test_without_container_nothing_differs(cluster: Cluster, product: Product) -> None:
    with_plugin = fields(cluster, (done := sbatch(cluster, "-C", "zen4", "--prefer=bigmem")))
    assert done.stderr == ""
    cluster.set_plugstack([])
    without = fields(cluster, sbatch(cluster, "-C", "zen4", "--prefer=bigmem"))
    changing = {"JobId", "SubmitTime", "EligibleTime", "AccrueTime", "LastSchedEval", "Priority"}
    changing |= {"SubmitLine", "StdErr", "StdOut"}
    differing = {
        key
        for key in with_plugin.keys() | without.keys()
        if with_plugin.get(key) != without.get(key)
    }
    assert differing <= changing


def test_container_is_not_registered_a_second_time(cluster: Cluster, arm: Path) -> None:
    done = sbatch(cluster, f"--container={arm}", "-vv")
    assert "conflicting option" not in done.stderr


def make_bad(kind: str, directory: Path, good: Path) -> Path:
    path = directory / f"{kind}.sif"
    if kind == "directory":
        path.mkdir(mode=0o755)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:20_000])
    elif kind == "text":
        path.write_text("this is no image\n" * 100)
    elif kind == "unreadable":
        path.write_bytes(good.read_bytes())
        path.chmod(0)
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "directory", "fifo", "empty", "truncated", "text", "unreadable"]
)
def test_an_image_that_cannot_be_read_never_stops_a_job(
    cluster: Cluster, place: Path, arm: Path, kind: str
) -> None:
    directory = place / f"bad-{kind}"
    directory.mkdir(mode=0o755)
    bad = make_bad(kind, directory, arm)
    done = sbatch(cluster, f"--container={bad}", "-C", "zen4", user="alice")
    assert fields(cluster, done)["Features"] == "zen4"
    (line,) = said(done)
    assert line.startswith(f"cmeta: warning: {bad}: ")
    assert line.endswith("; the job is submitted as it is")


def test_the_site_may_refuse_what_it_cannot_read(cluster: Cluster, place: Path) -> None:
    policy(cluster, "on_error: reject\n")
    done = sbatch(cluster, f"--container={place}/no.sif")
    assert done.returncode == 1
    assert "cmeta: error: " in done.stderr


@pytest.mark.parametrize(
    "name", ["with space", "quote'and\"quote", "größe ✓", "line\nbreak", "$(id);&|"]
)
def test_any_path_works(cluster: Cluster, place: Path, arm: Path, name: str) -> None:
    path = place / f"{name}.sif"
    path.write_bytes(arm.read_bytes())
    done = sbatch(cluster, f"--container={path}")
    assert fields(cluster, done)["Features"] == "aarch64"
    assert len(said(done)) == 1


def test_a_relative_path_is_what_the_user_sees(cluster: Cluster, arm: Path) -> None:
    done = sbatch(cluster, f"--container={arm.name}", "--chdir=/", cwd=arm.parent)
    job = fields(cluster, done)
    assert (job["Features"], job["Container"]) == ("aarch64", str(arm))


def test_a_registry_reference_is_left_as_it_is(cluster: Cluster) -> None:
    done = sbatch(cluster, "--container=library://user/app:1.0")
    job = fields(cluster, done)
    assert (job["Container"], job["Features"]) == ("library://user/app:1.0", "(null)")
    (line,) = said(done)
    assert line == (
        "cmeta: warning: library://user/app:1.0: is a reference, not a file; "
        "the job is submitted as it is"
    )
    started = cluster.submit("--container=library://user/app:1.0", "--wrap=echo as ever")
    cluster.wait(started)
    assert cluster.output(started) == "as ever\n"


@pytest.mark.parametrize(
    ("matcher", "words"),
    [
        ("exit 3", "exit status 3"),
        ("kill -9 $$", "signal 9"),
        ("sleep 60", "did not answer in time"),
        ("echo 'cmeta 1'; echo 'constraint zen4'", "no valid answer"),
    ],
)
def test_a_faulty_matcher_never_stops_a_job(
    cluster: Cluster, product: Product, place: Path, arm: Path, matcher: str, words: str
) -> None:
    program = place / "faulty-matcher"
    program.write_text(f"#!/bin/sh\n{matcher}\n")
    program.chmod(0o755)
    cluster.set_plugstack([product.plugstack_line(f"matcher={program}", "deadline=0.5")])
    done = sbatch(cluster, f"--container={arm}", "-C", "bigmem")
    assert fields(cluster, done)["Features"] == "bigmem"
    (line,) = said(done)
    assert words in line
    assert line.endswith("; the job is submitted as it is")


def test_an_ordinary_user_has_it_as_well(cluster: Cluster, arm: Path) -> None:
    done = sbatch(cluster, f"--container={arm}", user="alice", env={"PYTHONPATH": "/nowhere"})
    assert fields(cluster, done)["Features"] == "aarch64"


def test_a_nested_submission_inherits_nothing(
    cluster: Cluster, arm: Path, make_image: ImageMaker
) -> None:
    """What an outer job handed over stands in the environment of its children."""
    env = {
        "SLURM_SPANK_CMETA_VERDICT": "match",
        "SLURM_SPANK_CMETA_CONSTRAINT": "aarch64",
        "SLURM_SPANK_CMETA_EXCLUDE": "top1",
        "SLURM_SPANK_CMETA_IMAGE": str(arm),
        "SLURM_CONTAINER": str(arm),
    }
    for done in (
        sbatch(cluster, env=env),
        cluster.run(["srun", "true"], env=env),
    ):
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    job = fields(cluster, sbatch(cluster, env=env))
    assert job["Features"] == "(null)"
    assert job["ExcNodeList"] == "(null)"
    inner = sbatch(cluster, f"--container={make_image('x86-zen4', labels=ZEN4)}", env=env)
    assert fields(cluster, inner)["Features"] == "zen4"


def test_each_component_of_a_heterogeneous_job_has_its_own_image(
    cluster: Cluster, arm: Path, make_image: ImageMaker
) -> None:
    image = make_image("x86-zen4", labels=ZEN4)
    script = f"#!/bin/sh\n#SBATCH --container={arm}\n#SBATCH hetjob\n#SBATCH --container={image}\n"
    done = sbatch(cluster, script=script)
    assert done.returncode == 0, done.stderr
    shown = cluster.run(["scontrol", "-o", "show", "job", done.stdout.strip()]).stdout
    features = [word for word in shown.split() if word.startswith("Features=")]
    assert features == ["Features=aarch64", "Features=zen4"]
