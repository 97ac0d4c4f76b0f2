"""The decision cache on a real cluster: the same answer as the matcher's, and never an old one."""

from __future__ import annotations

import os
import pwd
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import Cluster, Node
from conftest import ImageMaker
from product import NODES, CountedMatcher, Product
from test_submit import fields, sbatch

SETTLED = 2.5
"""Seconds after which what was written last may be kept (slurm_cmeta/kept/sources.py)."""

HOUR = 3600


@pytest.fixture(scope="module")
def counted(place: Path, product: Product) -> CountedMatcher:
    directory = place / "counted"
    directory.mkdir()
    return CountedMatcher(product, directory)


@pytest.fixture(scope="module")
def cluster(place: Path, product: Product, counted: CountedMatcher) -> Iterator[Cluster]:
    with Cluster(
        place / "kept",
        [Node(names, features, running=False) for names, features in NODES.items()],
        plugstack=[product.plugstack_line(f"matcher={counted.program}")],
    ) as running:
        old = time.time() - HOUR
        for path in (running.conf_path, running.conf_path.parent):
            os.utime(path, (old, old))
        time.sleep(SETTLED)
        yield running


@pytest.fixture
def arm(make_image: ImageMaker) -> Path:
    path = make_image("arm", "arm64")
    time.sleep(max(0.0, path.stat().st_ctime + SETTLED - time.time()))
    return path


def env(home: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(home)}


def test_the_second_submission_runs_no_matcher_and_says_the_same(
    cluster: Cluster, counted: CountedMatcher, arm: Path, tmp_path: Path
) -> None:
    before = counted.runs
    first = sbatch(cluster, f"--container={arm}", env=env(tmp_path))
    assert counted.runs == before + 1
    second = sbatch(cluster, f"--container={arm}", env=env(tmp_path))
    assert counted.runs == before + 1, "the matcher ran again"
    assert first.stderr == second.stderr
    assert first.stderr.startswith("cmeta: arm.sif needs aarch64")
    assert fields(cluster, first)["Features"] == fields(cluster, second)["Features"] == "aarch64"
    salloc = cluster.run(
        ["salloc", "--immediate=1", f"--container={arm}", "true"], env=env(tmp_path)
    )
    assert "cmeta: arm.sif needs aarch64" in salloc.stderr
    assert counted.runs == before + 1


def test_another_wish_is_another_decision(
    cluster: Cluster, counted: CountedMatcher, arm: Path, tmp_path: Path
) -> None:
    before = counted.runs
    plain = sbatch(cluster, f"--container={arm}", env=env(tmp_path))
    wish = sbatch(cluster, f"--container={arm}", "-C", "bigmem", env=env(tmp_path))
    assert counted.runs == before + 2
    assert fields(cluster, plain)["Features"] == "aarch64"
    assert fields(cluster, wish)["Features"] == "bigmem&aarch64"
    explained = sbatch(cluster, f"--container={arm}", "--cmeta=explain", env=env(tmp_path))
    assert counted.runs == before + 3
    assert "arch" in explained.stderr


def test_a_refusal_is_kept_and_a_fault_is_not(
    cluster: Cluster, counted: CountedMatcher, make_image: ImageMaker, tmp_path: Path
) -> None:
    refused = make_image("s390", "s390x")
    time.sleep(SETTLED)
    for image, runs in ((refused, 1), (Path("/nonexistent.sif"), 2)):
        before = counted.runs
        first, second = (sbatch(cluster, f"--container={image}", env=env(tmp_path)) for _ in "12")
        assert first.stderr == second.stderr
        assert first.returncode == second.returncode == (1 if image == refused else 0)
        assert counted.runs == before + runs


def test_another_image_at_the_same_place_is_another_decision(
    cluster: Cluster, arm: Path, make_image: ImageMaker, tmp_path: Path
) -> None:
    link = tmp_path / "current.sif"
    link.symlink_to(arm)
    home = tmp_path / "home"
    for _ in range(2):
        done = sbatch(cluster, f"--container={link}", env=env(home))
        assert fields(cluster, done)["Features"] == "aarch64"
    link.unlink()
    link.symlink_to(make_image("intel"))
    done = sbatch(cluster, f"--container={link}", env=env(home))
    assert fields(cluster, done)["Features"] == "x86_64"
    copied = tmp_path / "copied.sif"
    shutil.copy2(arm, copied)
    time.sleep(SETTLED)
    for _ in range(2):
        done = sbatch(cluster, f"--container={copied}", env=env(home))
        assert fields(cluster, done)["Features"] == "aarch64"
    shutil.copy2(make_image("intel"), copied)
    done = sbatch(cluster, f"--container={copied}", env=env(home))
    assert fields(cluster, done)["Features"] == "x86_64"


def test_a_configuration_that_appears_counts_at_once(
    cluster: Cluster, arm: Path, tmp_path: Path
) -> None:
    config = cluster.conf_path.with_name("cmeta.yaml")
    for _ in range(2):
        done = sbatch(cluster, f"--container={arm}", env=env(tmp_path))
        assert fields(cluster, done)["Features"] == "aarch64"
    try:
        config.write_text("strength:\n  arch: ignore\n")
        for _ in range(2):  # PyYAML may be missing here: then it is a warning
            done = sbatch(cluster, f"--container={arm}", env=env(tmp_path))
            assert fields(cluster, done)["Features"] == "(null)"
    finally:
        config.unlink()
    done = sbatch(cluster, f"--container={arm}", env=env(tmp_path))
    assert fields(cluster, done)["Features"] == "aarch64"


def test_other_nodes_in_slurm_conf_count_at_once(
    cluster: Cluster, arm: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        sbatch(cluster, f"--container={arm}", env=env(tmp_path))
    text = cluster.conf_path.read_text()
    try:
        assert "Features=aarch64,neoverse_v1" in text
        cluster.conf_path.write_text(text.replace("=aarch64,neoverse_v1", "=neoverse_v1,aarch64x"))
        done = sbatch(cluster, f"--container={arm}", env=env(tmp_path))
        assert fields(cluster, done)["Features"] == "neoverse_v1"
    finally:
        cluster.conf_path.write_text(text)


def test_without_a_home_nothing_is_kept_and_all_works(
    cluster: Cluster, counted: CountedMatcher, arm: Path
) -> None:
    before = counted.runs
    for number in (1, 2):
        done = sbatch(cluster, f"--container={arm}", env={"HOME": "", "XDG_CACHE_HOME": ""})
        assert fields(cluster, done)["Features"] == "aarch64"
        assert counted.runs == before + number


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_root_leaves_nothing_in_a_users_home(
    variable: str, cluster: Cluster, arm: Path, place: Path
) -> None:
    """As `sudo sbatch` does where sudo keeps HOME: the user could not write to root's directory."""
    home = place / f"home of alice for {variable}"
    home.mkdir()
    alice = pwd.getpwnam("alice").pw_uid
    os.chown(home, alice, -1)
    where = {"HOME": str(home), "XDG_CACHE_HOME": "", variable: str(home)}
    for _ in range(2):
        done = sbatch(cluster, f"--container={arm}", env=where)
        assert fields(cluster, done)["Features"] == "aarch64"
    assert list(home.iterdir()) == []
    sbatch(cluster, f"--container={arm}", user="alice", env=where)
    made = list(home.rglob("*"))
    assert "lock" in {path.name for path in made}
    assert {path.stat().st_uid for path in made} == {alice}


def test_many_submissions_at_once_run_one_matcher(
    cluster: Cluster, counted: CountedMatcher, arm: Path, tmp_path: Path
) -> None:
    submissions, processes = 200, 8
    time.sleep(SETTLED)  # slurm.conf was changed by the tests before
    before = counted.runs
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    loop = f"for i in $(seq {submissions // processes}); do sbatch --hold --parsable"
    loop += f" --container={arm} {script} 2>>{tmp_path}/err.$1 || exit 1; done"
    with ThreadPoolExecutor(processes) as pool:
        words = [["sh", "-c", loop, "sh", str(number)] for number in range(processes)]
        done = list(pool.map(lambda argv: cluster.run(argv, env=env(tmp_path)), words))
    assert all(one.returncode == 0 for one in done)
    jobs = [job for one in done for job in one.stdout.split()]
    assert len(set(jobs)) == submissions
    said = "".join((tmp_path / f"err.{number}").read_text() for number in range(processes))
    assert len(set(said.splitlines())) == 1, "all are told the same"
    assert len(said.splitlines()) == submissions
    queue = cluster.run(["squeue", "-h", "-o", "%i %f"]).stdout.split("\n")
    constraints = dict(line.split(" ", 1) for line in queue if line)
    assert {constraints[job] for job in jobs} == {"aarch64"}
    assert counted.runs == before + 1
    left = sorted(path.name for path in (tmp_path / "slurm-cmeta").iterdir())
    assert [name for name in left if not name.startswith("nodes-")] == [
        *(name for name in left if len(name) == 3),
        "lock",
    ]
    cluster.run(["scancel", *jobs])
