"""Preferences in real submissions: slurmctld refuses a job that its preferred nodes cannot hold.

No job is held here: slurmctld asks a held job nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster
from conftest import ImageMaker


@pytest.fixture(scope="module")
def image(make_image: ImageMaker) -> Path:
    """Return an image for ivybridge: old1 is one, ice1 is above it."""
    return make_image("ivy", labels={"io.archspec.cpu.target": "ivybridge"})


def submit(cluster: Cluster, image: Path, *words: str) -> tuple[dict[str, str], str]:
    argv = ["sbatch", "--parsable", f"--container={image}", *words, "--wrap=true"]
    done = cluster.run(argv)
    assert done.returncode == 0, done.stderr
    return cluster.job(int(done.stdout)), done.stderr


HERE = "--partition=all"


@pytest.mark.parametrize("words", [(), ("-N1",), ("-n1",), ("--mem=10M",), ("-c1", "-t1")])
def test_who_asks_for_little_gets_what_the_image_was_made_for(
    cluster: Cluster, image: Path, words: tuple[str, ...]
) -> None:
    """Options that are not set are not taken for set ones."""
    _, said = submit(cluster, image, HERE, *words)
    assert 'prefer "ivybridge"' in said


@pytest.mark.parametrize(
    "words",
    [
        *(("-N2",), ("-n3",), ("-c4",), ("--mem=3000000",), ("--exclude=old1",)),
        *(("--nodelist=ice1",), ("--ntasks-per-node=2", "-N2"), ("--tmp=1",)),
    ],
)
def test_no_job_is_refused_for_what_is_preferred(
    cluster: Cluster, image: Path, words: tuple[str, ...]
) -> None:
    """What is refused with the image is refused without it as well."""
    plain = cluster.run(["sbatch", "--parsable", "-C", "ivybridge|icelake", *words, "--wrap=true"])
    argv = ["sbatch", "--parsable", f"--container={image}", HERE, *words, "--wrap=true"]
    done = cluster.run(argv)
    assert done.returncode == plain.returncode, done.stderr


def test_without_a_partition_there_is_room_in_the_only_one(cluster: Cluster, image: Path) -> None:
    _, said = submit(cluster, image)
    assert 'prefer "ivybridge"' in said


def test_the_users_preference_that_cannot_be_met_costs_nothing(
    cluster: Cluster, image: Path
) -> None:
    job, _ = submit(cluster, image, HERE, "--prefer=zen4")
    assert job["Features"] == "(ivybridge|icelake)"
