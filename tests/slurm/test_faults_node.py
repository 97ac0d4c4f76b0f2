"""The fault matrix of compute nodes: an image on a file system that stopped answering.

docs/faults.md lists the rows. What else goes wrong on a node is in test_run.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Node
from conftest import never_drained
from faults import soon
from hung_fs import STAGES, hung
from product import Product
from trouble import ToolError

DEADLINE = 1.0
"""The plugin's, in seconds: here and at submit."""

UNKILLABLE = 4
"""Seconds after which Slurm drains a node whose step cannot be ended; never less than it takes."""


@pytest.fixture(scope="module")
def cluster(place: Path, product: Product) -> Iterator[Cluster]:
    with Cluster(
        place / "fn",
        [Node("mid1", "x86_64,x86_64_v3,zen3")],
        plugstack=[product.plugstack_line(f"deadline={DEADLINE}")],
        conf=[f"UnkillableStepTimeout={UNKILLABLE}", "KillWait=1"],
    ) as running:
        yield running


@pytest.fixture(params=STAGES)
def silent(place: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return an image's path on a file system that stopped answering."""
    try:
        with hung(place / f"{request.node.originalname} {request.param}", request.param) as there:
            yield there / "img.sif"
    except ToolError as error:
        pytest.skip(str(error))


def healthy(cluster: Cluster) -> None:
    """Assert that the node is free again, and stays so beyond UnkillableStepTimeout."""
    until = time.monotonic() + UNKILLABLE + 1
    while time.monotonic() < until:
        never_drained(cluster)
        time.sleep(1)
    assert set(cluster.node_states().values()) == {"idle"}


def test_an_image_whose_file_system_does_not_answer_ends_the_task(
    cluster: Cluster, silent: Path
) -> None:
    with soon(3 * DEADLINE):
        job = cluster.submit(f"--container={silent}", "--wrap=echo never")
        fields = cluster.wait(job)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "127:0")
    (line,) = cluster.output(job).splitlines()
    assert line.startswith("cmeta: error: node mid1 got no answer in 1 s when it looked at the ")


def test_a_job_that_waits_for_a_silent_file_system_can_be_cancelled(
    cluster: Cluster, product: Product, silent: Path
) -> None:
    """Until its exec a task is named slurmstepd, to which Slurm sends no signal."""
    cluster.set_plugstack([product.plugstack_line("deadline=3")])
    script = cluster.layout.work / "step.sh"
    script.write_text(
        "#!/bin/sh\n"
        f"export SLURM_SPANK_CMETA_IMAGE='{silent}' SLURM_SPANK_CMETA_VERDICT=fault\n"
        f"srun --container='{silent}' true\n"
    )
    job = cluster.submit(str(script))
    until = time.monotonic() + 10
    while f"{job}.0" not in cluster.run(["squeue", "-h", "-s", "-o", "%i"]).stdout:
        assert time.monotonic() < until, (cluster.job(job), cluster.output(job))
        time.sleep(0.1)
    with soon(2 * 3):  # Slurm itself tries signals for some seconds
        cluster.run(["scancel", str(job)])
        assert cluster.wait(job)["JobState"] == "CANCELLED"
    healthy(cluster)


def test_a_fault_is_told_once(cluster: Cluster, product: Product, place: Path) -> None:
    """At submit, and not again in each step of the job; the same for an allocation.

    The image is none that this plugin runs, so that the job's script sees the cluster.
    """
    image = place / "no-image-for-steps"
    image.write_text("not a SIF\n")
    faulty = place / "faulty-for-steps"
    faulty.write_text("#!/bin/sh\nexit 3\n")
    faulty.chmod(0o755)
    cluster.set_plugstack([product.plugstack_line(f"matcher={faulty}")])
    step = f"srun --container={image} echo started"
    script = cluster.layout.work / "two-steps.sh"
    script.write_text(f"#!/bin/sh\n{step}\n{step}\n")
    job = cluster.submit(f"--container={image}", str(script))
    cluster.wait(job)
    assert cluster.output(job) == "started\nstarted\n"
    done = cluster.run(["salloc", "-Q", f"--container={image}", "sh", "-c", f"{step}; {step}"])
    told = [line for line in done.stderr.splitlines() if "exit status 3" in line]
    assert len(told) == 1, done.stderr
