"""The fault matrix of the submit side: whatever is broken, the job goes on, and one line says why.

Each row states what becomes of the job (narrowed, or as written), sbatch's exit code, what the user
reads, and that it takes no longer than the deadline and a little. docs/faults.md lists the rows.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import never_drained
from faults import SLACK, as_written, narrowed, queue_only, soon
from product import Product
from test_submit import fields, said, sbatch

pytestmark = never_drained


@pytest.fixture(scope="module")
def cluster(place: Path, product: Product) -> Iterator[Cluster]:
    with queue_only(place / "faults", product) as running:
        yield running


# --- the matcher ----------------------------------------------------------------------------------

WHOLE = "printf 'cmeta 1\\nverdict match\\naction accept\\nconstraint aarch64\\nend\\n'"

MATCHERS = {
    "crashes": ("kill -SEGV $$", "was ended by signal 11"),
    "is killed": ("kill -KILL $$", "was ended by signal 9"),
    "exits with an error": ("exit 3", "gave no valid answer (exit status 3)"),
    "prints garbage": ("head -c 5000 /dev/urandom", "gave no valid answer"),
    "prints half an answer": ("printf 'cmeta 1\\nverdict match\\n'", "gave no valid answer"),
    "prints 10 MB": ("head -c 10000000 /dev/zero", "answered too much"),
    "hangs": ("sleep 60", "did not answer in time"),
    "hangs with half an answer": (
        "printf 'cmeta 1\\nverdict match\\n'; sleep 60",
        "did not answer in time",
    ),
    "never ends its answer": ("while :; do echo x; sleep 0.02; done", "did not answer in time"),
    "closes its output and stays": ("exec >&-; sleep 60", "gave no valid answer"),
    "stops itself": ("kill -STOP $$", "did not answer in time"),
    "speaks another protocol": (
        "printf 'cmeta 2\\nverdict match\\naction accept\\nend\\n'",
        "gave no valid answer",
    ),
}


def matcher(cluster: Cluster, product: Product, tmp_path: Path, text: str) -> Path:
    program = tmp_path / "matcher"
    program.write_text(text)
    program.chmod(0o755)
    cluster.set_plugstack([product.plugstack_line(f"matcher={program}", "deadline=0.5")])
    return program


@pytest.fixture
def own_plugstack(cluster: Cluster, product: Product) -> Iterator[None]:
    yield
    cluster.set_plugstack([product.plugstack_line()])


@pytest.mark.usefixtures("own_plugstack")
@pytest.mark.parametrize("fault", MATCHERS)
def test_a_matcher_that(
    fault: str, cluster: Cluster, product: Product, arm: Path, tmp_path: Path
) -> None:
    body, reason = MATCHERS[fault]
    matcher(cluster, product, tmp_path, f"#!/bin/sh\n{body}\n")
    with soon(0.5):
        done = sbatch(cluster, f"--container={arm}")
    as_written(cluster, done, reason)


@pytest.mark.usefixtures("own_plugstack")
@pytest.mark.parametrize("missing", ["program", "interpreter", "right"])
def test_a_matcher_that_cannot_be_run(
    missing: str, cluster: Cluster, product: Product, arm: Path, tmp_path: Path
) -> None:
    program = matcher(cluster, product, tmp_path, "#!/nonexistent/python3 -I\n")
    if missing == "program":
        program.unlink()
    elif missing == "right":
        program.write_text(f"#!/bin/sh\n{WHOLE}\n")
        program.chmod(0o644)
    with soon(0.5):
        done = sbatch(cluster, f"--container={arm}")
    as_written(cluster, done, "cannot run ")


@pytest.mark.usefixtures("own_plugstack")
@pytest.mark.parametrize("answer", [WHOLE, "true"])
def test_children_that_a_matcher_leaves_behind_are_ended(
    answer: str, cluster: Cluster, product: Product, arm: Path, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    text = f"#!/bin/sh\nsleep 60 & echo $! > {pid_file}\n{answer}\nsleep 60\n"
    matcher(cluster, product, tmp_path, text)
    with soon(0.5):
        done = sbatch(cluster, f"--container={arm}")
    assert fields(cluster, done)["Features"] == ("aarch64" if answer == WHOLE else "(null)")
    child = Path(f"/proc/{int(pid_file.read_text())}/stat")
    until = time.monotonic() + SLACK
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "the child runs on"
        time.sleep(0.05)


@pytest.mark.usefixtures("own_plugstack")
def test_a_package_of_another_release_is_understood(
    cluster: Cluster, product: Product, arm: Path, tmp_path: Path
) -> None:
    body = WHOLE.replace("constraint", "novelty of a later release\\nconstraint")
    matcher(cluster, product, tmp_path, f"#!/bin/sh\n{body}\n")
    done = sbatch(cluster, f"--container={arm}")
    assert fields(cluster, done)["Features"] == "aarch64"
    assert said(done) == []


# --- the environment ------------------------------------------------------------------------------


@pytest.fixture
def rubbish(tmp_path: Path) -> Path:
    """Return a directory of programs, modules and libraries that nobody should use."""
    directory = tmp_path / "rubbish"
    directory.mkdir()
    for name in ("json.py", "os.py", "slurm_cmeta.py", "sitecustomize.py", "usercustomize.py"):
        (directory / name).write_text("raise SystemExit(99)\n")
    for name in ("libsquashfs.so.1", "liblzo2.so.2", "libzstd.so.1"):
        (directory / name).write_text("no library\n")
    for name in ("python3", "cmeta-decide", "sh"):
        (directory / name).write_text("#!/bin/false\n")
        (directory / name).chmod(0o755)
    return directory


ENVIRONMENTS = {
    "PYTHONPATH": {"PYTHONPATH": "RUBBISH"},
    "PYTHONHOME": {"PYTHONHOME": "RUBBISH"},
    "options of Python": {
        "PYTHONINSPECT": "1",
        "PYTHONVERBOSE": "1",
        "PYTHONWARNINGS": "e",
    },
    "LD_PRELOAD": {"LD_PRELOAD": "RUBBISH/libsquashfs.so.1"},
    "LD_LIBRARY_PATH": {"LD_LIBRARY_PATH": "RUBBISH"},
    "conda activated": {
        "CONDA_PREFIX": "RUBBISH",
        "CONDA_DEFAULT_ENV": "base",
        "PYTHONHOME": "RUBBISH",
        "PATH": "RUBBISH:/usr/bin:/bin:/usr/sbin:/sbin",
    },
    "LANG=C": {"LANG": "C", "LC_ALL": "C"},
    "a locale that is not there": {"LANG": "xx_YY.UTF-8", "LC_ALL": "xx_YY.UTF-8"},
    "1 MB of environment": {f"LARGE_{number}": "x" * 100_000 for number in range(10)},
    "no HOME": {"HOME": "", "XDG_CACHE_HOME": ""},
    "HOME that is not there": {"HOME": "/nonexistent"},
    "HOME that is no directory": {"HOME": "/etc/passwd"},
    "TMPDIR that is not there": {"TMPDIR": "/nonexistent"},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_with(name: str, cluster: Cluster, arm: Path, rubbish: Path) -> None:
    env = {key: v.replace("RUBBISH", str(rubbish)) for key, v in ENVIRONMENTS[name].items()}
    with soon():
        done = sbatch(cluster, f"--container={arm}", env=env)
    narrowed(cluster, done)


SHELLS = {
    "stdin closed": "exec {} <&-",
    "stdin and stderr closed": "exec {} <&- 2>&-",
    "HOME and XDG_CACHE_HOME not set": "unset HOME XDG_CACHE_HOME; exec {}",
    "umask 077": "umask 077; exec {}",
    "umask 0777": "umask 0777; exec {}",
    "few open files": "ulimit -n 16; exec {}",
    "an empty PATH": "PATH=; exec {}",
    "children ignored": "trap '' CHLD PIPE; exec {}",
}


@pytest.mark.parametrize("name", SHELLS)
def test_a_process_with(name: str, cluster: Cluster, arm: Path, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    program = cluster.run(["sh", "-c", "command -v sbatch"]).stdout.strip()
    words = [program, "--hold", "--parsable", "--chdir=/", f"--container={arm}", str(script)]
    with soon():
        done = cluster.run(
            ["sh", "-c", SHELLS[name].format(shlex.join(words))],
            env={"XDG_CACHE_HOME": str(tmp_path / "cache")},
            cwd=tmp_path,
        )
    assert fields(cluster, done)["Features"] == "aarch64", done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_descriptors_closed(closed: str, cluster: Cluster, arm: Path, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    line = f"sbatch --hold -J closed --container={arm} {script} {closed}"
    with soon():
        # Where stdout is closed, sbatch itself may find that it cannot print; the job is queued.
        cluster.run(["sh", "-c", line])
    told = cluster.run(["squeue", "-h", "-n", "closed", "-o", "%f"]).stdout.split()
    assert told == ["aarch64"]
    cluster.run(["scancel", "-n", "closed"])


# --- the site's files -----------------------------------------------------------------------------


@pytest.mark.usefixtures("own_plugstack")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NodeName=n1 Features=a\nNodeName=n1 Features=b\n", "slurm.conf"),
        ("\x00\x01\x02", "slurm.conf"),
        (None, "slurm.conf"),
    ],
)
def test_a_slurm_conf_that_is_broken(
    text: str | None, reason: str, cluster: Cluster, product: Product, arm: Path, tmp_path: Path
) -> None:
    path = tmp_path / "slurm.conf"
    if text is not None:
        path.write_text(text)
    cluster.set_plugstack([product.plugstack_line(f"slurm_conf={path}")])
    as_written(cluster, sbatch(cluster, f"--container={arm}"), reason)


@pytest.mark.usefixtures("own_plugstack")
@pytest.mark.parametrize("key", ["slurm_conf", "config"])
def test_a_file_that_the_user_may_not_read(
    key: str, cluster: Cluster, product: Product, arm: Path, place: Path
) -> None:
    path = place / f"secret-{key}"
    path.write_text("")
    path.chmod(0o600)
    cluster.set_plugstack([product.plugstack_line(f"{key}={path}")])
    done = sbatch(cluster, f"--container={arm}", user="alice")
    as_written(cluster, done, f"{path}: ")


@pytest.mark.usefixtures("own_plugstack")
def test_a_plugin_that_is_missing(cluster: Cluster, product: Product, arm: Path) -> None:
    cluster.set_plugstack([product.plugstack_line().replace("cmeta_spank", "no_such_plugin")])
    done = sbatch(cluster, f"--container={arm}")
    assert fields(cluster, done)["Features"] == "(null)"
    assert "cmeta: " not in done.stderr


@pytest.mark.usefixtures("own_plugstack")
@pytest.mark.parametrize("text", ["on_mismatch: perhaps\n", "a: [\n", "\x00", "- a\n"])
def test_a_cmeta_yaml_that_is_broken(
    text: str, cluster: Cluster, product: Product, arm: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cmeta.yaml"
    path.write_text(text)
    cluster.set_plugstack([product.plugstack_line(f"config={path}")])
    as_written(cluster, sbatch(cluster, f"--container={arm}"), "cmeta.yaml")


def test_the_clients_of_a_job_are_all_served(cluster: Cluster, arm: Path) -> None:
    """salloc and srun go the same way; on a cluster whose nodes are down they only queue."""
    for program in ("salloc", "srun"):
        done: subprocess.CompletedProcess[str] = cluster.run(
            [program, "--immediate=1", f"--container={arm}", "true"],
            env={"PYTHONHOME": "/nonexistent"},
        )
        assert "cmeta: arm.sif needs aarch64" in done.stderr
