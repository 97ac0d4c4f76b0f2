"""What docs/security.md promises, on a real cluster: who opens what, as whom; what is printed."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from check import SANITIZE
from cluster import Cluster, Node
from conftest import PROJECT, ImageMaker
from product import Product
from test_build import exported, imported
from test_submit import fields, said, sbatch

EVIL = "e\x1b[2J\u009b\u202e\nerror: forged\x7f"
"""Escapes, a C1 control, a mark of direction, and a line break."""

ANSWER = """\
cmeta 1
verdict match
action accept
constraint x86_64&zen4
prefer x86_64&zen4&bigmem
exclude ice1
memory 64
required zen4
message one
message two
end
"""


@pytest.fixture(scope="module")
def interposer(place: Path) -> Path:
    library = place / "interposer.so"
    source = PROJECT / "tests/tools/interposer.c"
    compiler = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run([*compiler, str(library), str(source), "-ldl"], check=True)
    return library


def plain(lines: list[str]) -> None:
    for line in lines:
        assert line.isprintable(), line
        assert not line.startswith("error: forged"), line


# --- who touches what, as whom ------------------------------------------------------------------


class Call(NamedTuple):
    """One call that interposer.c saw."""

    euid: int
    program: str
    function: str
    path: str


def calls(path: Path) -> list[Call]:
    rows = [line.split(" ", 3) for line in path.read_text().splitlines()]
    # Debian has slurmstepd-wlm.
    return [Call(int(euid), name.removesuffix("-wlm"), *rest) for euid, name, *rest in rows]


@pytest.fixture(scope="module")
def watched(place: Path, product: Product, interposer: Path) -> Iterator[tuple[Cluster, Path]]:
    """Return a cluster all of whose programs are watched, and the file of what was seen."""
    seen = place / "watch"
    seen.touch()
    seen.chmod(0o666)
    env = {"LD_PRELOAD": str(interposer), "CMETA_WATCH": str(seen)}
    with Cluster(
        place / "w",
        [Node("n1", "x86_64,zen4")],
        plugstack=[product.plugstack_line()],
        job_submit=product.job_submit(),
        env=env,
    ) as cluster:
        yield cluster, seen


FILES = {
    *("open", "open64", "openat", "openat64", "fopen", "fopen64", "creat", "access", "faccessat"),
    *("stat", "stat64", "lstat", "fstatat", "statx", "__xstat", "__lxstat", "__fxstatat"),
    *("mkdir", "mkdirat", "unlink", "unlinkat", "rename", "renameat", "link", "symlink", "chmod"),
    *("opendir", "scandir", "readlink", "realpath", "glob", "glob64", "chdir", "getcwd", "mkstemp"),
    *("execve", "execv", "fexecve", "fork", "vfork", "clone", "posix_spawn", "dlopen", "connect"),
}


def test_all_calls_that_touch_files_are_watched(product: Product, interposer: Path) -> None:
    """What the next test cannot see, the plugin does not call."""
    used = imported(product.plugin) & FILES
    assert {"open", "access", "fork", "execve"} <= used
    assert used <= exported(interposer)


def test_no_process_of_ours_runs_as_root_and_root_opens_no_image(
    watched: tuple[Cluster, Path], make_image: ImageMaker
) -> None:
    cluster, seen = watched
    image = make_image("plain")
    alice = pwd.getpwnam("alice").pw_uid
    script = cluster.layout.work / "steps.sh"
    script.write_text(f"#!/bin/sh\nsrun --container={image} true\nexit 0\n")
    job = cluster.submit(f"--container={image}", str(script), user="alice")
    cluster.wait(job, timeout=60)
    found = calls(seen)
    for program, function in (
        ("sbatch", "fork"),  # the matcher
        ("sbatch", "execve"),
        ("slurmstepd", "fork"),  # the last guard
        ("slurmstepd", "open"),
    ):
        assert [c for c in found if (c.program, c.function) == (program, function)], found
    assert {c.euid for c in found} == {alice}
    assert {c.program for c in found} & {"slurmctld", "slurmd", "munged"} == set()
    # Before the task no program is started; the guard's child is slurmstepd's own code.
    in_step = {c.function for c in found if c.program == "slurmstepd"}
    assert in_step <= {"open", "access", "fopen", "fork"}


def test_the_matcher_is_the_users_own_child_without_rights(
    cluster: Cluster, product: Product, place: Path, make_image: ImageMaker
) -> None:
    shown = place / "matcher-status"
    shown.touch()
    shown.chmod(0o666)
    program = place / "show-status"
    program.write_text(
        f"#!/bin/sh\ncat /proc/$$/status /proc/$PPID/comm > {shown}\ncat << END\n{ANSWER}END\n"
    )
    program.chmod(0o755)
    cluster.set_plugstack([product.plugstack_line(f"matcher={program}")])
    done = sbatch(cluster, f"--container={make_image('plain')}", user="alice")
    assert done.returncode == 0, done.stderr
    status = dict(line.split(":\t", 1) for line in shown.read_text().splitlines() if ":\t" in line)
    alice = pwd.getpwnam("alice").pw_uid
    assert status["Uid"].split() == [str(alice)] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert shown.read_text().splitlines()[-1] == "sbatch"


def test_only_what_the_user_can_read_is_read(
    cluster: Cluster, place: Path, make_image: ImageMaker
) -> None:
    secret = place / "secret.sif"
    secret.write_bytes(make_image("arm", "arm64").read_bytes())
    secret.chmod(0o600)
    done = sbatch(cluster, f"--container={secret}", user="alice")
    assert fields(cluster, done)["Features"] == "(null)"
    (line,) = said(done)
    assert "Permission denied" in line
    assert "aarch64" not in line
    assert fields(cluster, sbatch(cluster, f"--container={secret}"))["Features"] == "aarch64"


# --- what is printed and logged -----------------------------------------------------------------


@pytest.fixture
def evil(make_image: ImageMaker, place: Path) -> Path:
    labels = {
        "io.archspec.cpu.target": f"zen4{EVIL}",
        "org.opencontainers.image.architecture": f"amd64{EVIL}",
        EVIL: EVIL,
    }
    made = make_image("evil", labels=labels)
    path = place / "images" / os.fsdecode(EVIL.encode() + b"\xff.sif")
    if not path.exists():
        path.symlink_to(made)
    return path


def log_since(cluster: Cluster, start: int) -> list[str]:
    """Return the controller's new lines, split at line feeds only."""
    return cluster.slurmctld_log()[start:].split("\n")


@pytest.mark.parametrize("explain", [(), ("--cmeta=explain",)])
def test_a_hostile_image_path_and_name_reach_terminal_and_log_clean(
    cluster: Cluster, evil: Path, explain: tuple[str, ...]
) -> None:
    start = len(cluster.slurmctld_log())
    words = (f"--job-name={EVIL}", "-C", "x86_64", f"--comment={EVIL}", *explain)
    done = sbatch(cluster, f"--container={evil}", *words, user="alice")
    assert done.returncode == 0, done.stderr
    shown = cluster.run(["squeue", "-h", "-o", "%f", "-j", done.stdout.strip()]).stdout
    assert shown.startswith("x86_64")
    assert all(line.startswith("cmeta: ") for line in said(done)), done.stderr
    plain(done.stderr.removesuffix("\n").split("\n"))
    plain([line for line in log_since(cluster, start) if "cmeta" in line])


def test_a_hostile_constraint_is_not_repeated_raw(cluster: Cluster, make_image: ImageMaker) -> None:
    image = make_image("arm", "arm64")
    done = sbatch(cluster, f"--container={image}", "-C", f"bigmem\nmessage forged{EVIL}")
    ours = [line for line in done.stderr.split("\n") if "cmeta" in line]
    assert ours
    plain(ours)
    assert "cmeta: forged" not in done.stderr


def test_a_hostile_image_on_the_node_is_named_clean(
    cluster: Cluster, make_image: ImageMaker, evil: Path
) -> None:
    """The image was there at submit, and is gone when the task starts."""
    gone = evil.with_name(os.fsdecode(b"gone" + EVIL.encode() + b"\xff.sif"))
    gone.symlink_to(make_image("plain"))
    output = cluster.layout.work / "gone.out"
    words = (f"--output={output}", "--hold", "--wrap=true")
    job = cluster.submit(f"--container={gone}", *words, user="alice")
    gone.unlink()
    cluster.run(["scontrol", "release", str(job)])
    cluster.wait(job)
    lines = output.read_text().removesuffix("\n").split("\n")
    assert any("cannot read the image" in line for line in lines), lines
    plain([line for line in lines if line])


# --- faults -------------------------------------------------------------------------------------


def test_nobody_reading_the_messages_does_not_cost_the_job(
    cluster: Cluster, make_image: ImageMaker
) -> None:
    """`sbatch ... 2>&1 | head -1`: SIGPIPE would end sbatch before it submits."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        ["sbatch", "--hold", "--parsable", f"--container={make_image('arm', 'arm64')}"],
        input="#!/bin/sh\n",
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        env={**os.environ, **cluster.env},
    )
    os.close(writer)
    assert done.returncode == 0
    assert cluster.job(int(done.stdout))["Features"] == "aarch64"


def test_any_allocation_of_the_plugin_may_fail(
    cluster: Cluster, product: Product, place: Path, interposer: Path, make_image: ImageMaker
) -> None:
    """The user's own options stay in the job's, and the job is submitted."""
    program = place / "answers"
    program.write_text(f"#!/bin/sh\ncat << END\n{ANSWER}END\n")
    program.chmod(0o755)
    cluster.set_plugstack([product.plugstack_line(f"matcher={program}", "deadline=20")])
    failed, number = place / "failed", 0
    image = make_image("plain")
    start = time.monotonic()
    while True:
        number += 1
        failed.unlink(missing_ok=True)
        env = {
            "LD_PRELOAD": str(interposer),
            "CMETA_FAIL_AT": str(number),
            "CMETA_FAILED": str(failed),
        }
        words = (f"--container={image}", "-C", "x86_64", "--exclude=old1", "--mem=32")
        job = fields(cluster, sbatch(cluster, *words, env=env))
        assert job["Features"] in ("x86_64", "x86_64&zen4"), number
        assert "old1" in job["ExcNodeList"], number
        assert job["MinMemoryNode"] == "32M", number
        if not failed.exists():
            break
    assert number > 30
    assert job["ExcNodeList"] in ("ice1,old1", "old1,ice1")
    assert time.monotonic() - start < 120


@pytest.fixture(scope="module")
def sanitized(product: Product, place: Path) -> tuple[Path, dict[str, str]]:
    """Return a plugin with gcc's sanitizers, and the environment of who loads it."""
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    make = ["make", "-sC", str(PROJECT / "spank"), f"OUT={place}/sanitized", "all"]
    subprocess.run([*make, f"PREFIX={product.prefix}", f"CFLAGS={SANITIZE}"], check=True)
    return place / "sanitized/cmeta_spank.so", {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=99",
        "UBSAN_OPTIONS": "halt_on_error=1:exitcode=99",
    }


def test_the_submit_half_under_the_sanitizers(
    cluster: Cluster,
    product: Product,
    sanitized: tuple[Path, dict[str, str]],
    make_image: ImageMaker,
    evil: Path,
) -> None:
    plugin, env = sanitized
    arm = make_image("arm", "arm64")
    line = product.plugstack_line("deadline=30").replace(str(product.plugin), str(plugin))
    for words, wrong in (
        ((f"--container={arm}", "-C", "bigmem", "--exclude=old1", "--prefer=bigmem"), ""),
        ((f"--container={arm}", "--exclude=old1", ":", f"--container={evil}", "--mem=8"), ""),
        ((f"--container={evil}", "--cmeta=explain"), ""),
        ((f"--container={evil}", "--cmeta=off"), ""),
        (("--container=docker://127.0.0.1:9/x",), ""),
        (("--container=none.sif",), ""),
        ((f"--container={arm}",), "deadlin=3"),
    ):
        cluster.set_plugstack([f"{line} {wrong}"])
        done = sbatch(cluster, *words, env=env)
        assert "Sanitizer" not in done.stderr, done.stderr
        assert "runtime error" not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr
        assert "cmeta: " in done.stderr or "--cmeta=off" in words or "docker" in words[0]


def test_the_nodes_half_under_the_sanitizers(
    place: Path,
    product: Product,
    sanitized: tuple[Path, dict[str, str]],
    make_image: ImageMaker,
    evil: Path,
) -> None:
    """In a real slurmstepd; what the runtime makes of the sanitizers is another matter."""
    plugin, env = sanitized
    line = product.plugstack_line("runtime=/none", "runtime_option=--nv")
    with Cluster(
        place / "a",
        [Node("n1", "x86_64,riscv64")],
        plugstack=[line.replace(str(product.plugin), str(plugin))],
        env=env,
    ) as cluster:
        for path, words in (
            (make_image("plain"), "cannot start /none"),
            (evil, "cannot start /none"),
            (make_image("riscv", "riscv64"), "cannot run"),
            (place / "none.sif", "cannot read"),
        ):
            output = cluster.layout.work / "out"
            output.unlink(missing_ok=True)
            more = [f"--container={path}", f"--output={output}", "--wrap=true"]
            cluster.wait(cluster.submit(*more, user="alice"), timeout=60)
            said = output.read_text()
            assert words in said
            assert "Sanitizer" not in said, said
        assert "Sanitizer" not in cluster.slurmd_log("n1")
        assert "runtime error" not in cluster.slurmd_log("n1")
        assert set(cluster.node_states().values()) == {"idle"}
