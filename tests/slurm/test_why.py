"""`cmeta why` on a real cluster: what the controller says of jobs that wait."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster import Cluster
from conftest import ImageMaker
from product import Product
from test_submit import ZEN4, policy, queued, sbatch

Done = subprocess.CompletedProcess[str]
Why = Callable[..., Done]


@pytest.fixture
def cmeta(cluster: Cluster, product: Product) -> Why:
    """Return a function that runs `cmeta` on the cluster."""

    def run(*words: object, **options: Any) -> Done:
        return cluster.run([str(product.prefix / "bin/cmeta"), *map(str, words)], **options)

    return run


@pytest.fixture
def drained(cluster: Cluster) -> Iterator[str]:
    """Drain top1, the only zen4, as an administrator does."""
    _update(cluster, "NodeName=top1", "State=DRAIN", "Reason=test")
    yield "top1"
    _update(cluster, "NodeName=top1", "State=RESUME")


def _update(cluster: Cluster, *words: str) -> None:
    done = cluster.run(["scontrol", "update", *words])
    assert done.returncode == 0, done.stderr + done.stdout


def submitted(cluster: Cluster, *words: str) -> str:
    """Submit a job that may start; its number."""
    done = cluster.run(["sbatch", "--parsable", *words], input="#!/bin/sh\nsleep 60\n")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def held(cluster: Cluster, *words: str) -> str:
    done = sbatch(cluster, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def told(done: Done, code: int = 0) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (code, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)["jobs"]
    return found


def wait_until_pending(cluster: Cluster, number: str) -> None:
    """Let the scheduler look at the job, so that its reason is the scheduler's."""
    for _ in range(100):
        if cluster.job(int(number))["Reason"] not in ("None", "Priority"):
            return
        cluster.run(["sleep", "0.1"])
    raise AssertionError(cluster.job(int(number)))


def test_the_only_node_that_fits_is_drained(
    cluster: Cluster, cmeta: Why, make_image: ImageMaker, drained: str
) -> None:
    image = make_image("x86-zen4", labels=ZEN4)
    submission = cluster.run(
        ["sbatch", "--parsable", f"--container={image}"], input="#!/bin/sh\nexit 0\n"
    )
    number = submission.stdout.strip()
    wait_until_pending(cluster, number)
    done = cmeta("why", number)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    needs = "x86-zen4.sif needs zen4 (label io.archspec.cpu.target)"
    assert needs in submission.stderr, "the same words as at submit"
    (why,) = [line for line in lines if line.startswith("why  ")]
    assert f"{needs}, but none of those 5 nodes that are idle can run it: " in why
    assert "            1 node would do: top1 (drained)" in lines
    assert "nearest     mid[1-2]: fail cpu only" in lines
    assert "  or        an image built for zen3 or x86_64_v3" in lines
    (found,) = told(cmeta("why", number, "--json"))
    assert (found["held_by"], found["nearest"]) == ("image", "mid[1-2]")
    assert [n["nodes"] for n in found["nodes"] if n["verdict"] == "match"] == [drained]


def test_the_only_node_that_fits_is_taken(
    cluster: Cluster, cmeta: Why, make_image: ImageMaker
) -> None:
    first = submitted(cluster, "-w", "arm1", "--exclusive")
    number = submitted(cluster, f"--container={make_image('arm', 'arm64')}")
    wait_until_pending(cluster, number)
    (found,) = told(cmeta("why", number, "--json"))
    assert found["held_by"] == "image"
    assert found["messages"][1] == "1 node would do: arm1 (allocated)"
    only = submitted(cluster, f"--container={make_image('arm', 'arm64')}", "-w", "arm1", "--hold")
    assert told(cmeta("why", only, "--json"))[0]["held_by"] == "other"
    done = cmeta("why", first)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"job         {first}: RUNNING on arm1",
        "container   none: slurm-cmeta has no part in it",
    ]


def test_a_user_asks_for_a_job_that_is_held(
    cluster: Cluster, cmeta: Why, make_image: ImageMaker
) -> None:
    number = held(cluster, f"--container={make_image('arm', 'arm64')}", "-J", "a Container=/b")
    done = cmeta("why", number, user="alice")
    assert (done.returncode, done.stderr) == (0, "")
    assert "why         arm.sif does not hold it back; Slurm's reason is JobHeldUser" in done.stdout
    assert "1 node would do: arm1 (idle)" in done.stdout


def test_arrays_and_heterogeneous_jobs(
    cluster: Cluster, cmeta: Why, make_image: ImageMaker
) -> None:
    arm, zen4 = make_image("arm", "arm64"), make_image("x86-zen4", labels=ZEN4)
    array = held(cluster, f"--container={arm}", "--array=1-3")
    (found,) = told(cmeta("why", array, "--json"))
    assert found["id"] == f"{array}_[1-3]"
    (found,) = told(cmeta("why", f"{array}_2", "--json"))
    assert (found["id"], found["image"]) == (f"{array}_2", str(arm))
    het = held(cluster, f"--container={arm}", ":", f"--container={zen4}")
    both = told(cmeta("why", het, "--json"))
    assert [(f["id"], f["image"]) for f in both] == [
        (f"{het}+0", str(arm)),
        (f"{het}+1", str(zen4)),
    ]
    (found,) = told(cmeta("why", f"{het}+1", "--json"))
    assert found["constraint"] == "zen4"


def test_jobs_that_no_node_will_do_for(
    cluster: Cluster, cmeta: Why, make_image: ImageMaker
) -> None:
    power, zen4 = make_image("power", "ppc64le"), make_image("x86-zen4", labels=ZEN4)
    refused = sbatch(cluster, f"--container={power}")
    assert refused.returncode != 0
    assert queued(cluster) == 0
    number = held(cluster, f"--container={power}", "--cmeta=off")
    (found,) = told(cmeta("why", number, "--json"), 1)
    assert found["held_by"] == "image"
    (reason,) = found["messages"]
    words, _, nodes = reason.partition("can run it: ")
    assert f"error: {words}can run it: " in refused.stderr, "the same words as at submit"
    assert "arm1 has aarch64" in nodes

    number = held(cluster, f"--container={zen4}", "--cmeta=off", "-w", "old1")
    (found,) = told(cmeta("why", number, "--json"), 1)
    assert found["held_by"] == "options"
    assert f"error: {found['messages'][0]}" in cmeta("match", zen4, "-w", "old1").stderr
    number = held(cluster, f"--container={zen4}", "--cmeta=off", "-C", "zen3")
    (found,) = told(cmeta("why", number, "--json"), 1)
    assert found["messages"] == [
        "1 node would do, but the job's --constraint leaves out top1 (idle)"
    ]


def test_no_such_job(cmeta: Why) -> None:
    for number in ("999999", "999999_1", "999999+1"):
        done = cmeta("why", number)
        assert (done.returncode, done.stdout) == (4, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"cmeta: error: job {number}: Slurm knows no such job")


def test_one_node_by_the_controller(cmeta: Why, make_image: ImageMaker) -> None:
    image = make_image("x86-zen4", labels=ZEN4)
    assert cmeta("why", image, "top1", "--live").returncode == 0
    done = cmeta("why", image, "arm1", "--live")
    assert done.returncode == 1
    assert "  arch:     a node with x86_64; arm1 has aarch64\n" in done.stdout


def test_check_config_compares_with_the_controller(cluster: Cluster, cmeta: Why) -> None:
    policy(cluster, "nodes: {source: live}\nfeatures: {fast: zen4}\npartitions: {b: {}, c: {}}\n")
    done = cmeta("check-config")
    assert done.returncode == 0
    assert ":2: features.fast: no node in sinfo has the feature fast\n" in done.stderr
    assert ":3: partitions.b: no partition b in sinfo; there is all\n" in done.stderr
