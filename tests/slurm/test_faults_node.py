"""The fault matrix of the compute node: an image whose file system does not answer there.

docs/faults.md lists the rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Node
from conftest import ImageMaker, never_drained
from faults import SLACK
from hung_fs import STAGES, hung
from product import Product
from test_run import HERE, OCI_CONF
from trouble import ToolError

pytestmark = never_drained

UNKILLABLE = 5
"""UnkillableStepTimeout in seconds: slurmd drains a node with processes that outlive it."""

DEADLINE = 0.5


@pytest.fixture(scope="module", params=["without oci.conf", "with oci.conf"])
def cluster(request: pytest.FixtureRequest, place: Path, product: Product) -> Iterator[Cluster]:
    there = request.param == "with oci.conf"
    running = Cluster(
        place / request.param.replace(" ", "-"),
        [Node("n1", "x86_64")],
        plugstack=[product.plugstack_line(f"deadline={DEADLINE}")],
        conf=[f"UnkillableStepTimeout={UNKILLABLE}"],
        oci_conf=OCI_CONF.format(wrapper="/bin/false") if there else None,
    )
    if there and running.version < (23, 2):
        pytest.skip("this Slurm's oci.conf takes no SIF files (IgnoreFileConfigJson came later)")
    with running:
        yield running


@pytest.fixture(params=STAGES)
def image(request: pytest.FixtureRequest, cluster: Cluster, place: Path) -> Iterator[Path]:
    """Return an image on a file system that does not answer, from one of the stages on."""
    try:
        with hung(place / f"hung on node {request.node.name}", request.param) as there:
            yield there / "img.sif"
            # While the file system hangs: nothing that it holds back belongs to the node's jobs.
            wait_for_idle(cluster)
    except ToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def patient(cluster: Cluster, product: Product) -> Iterator[None]:
    """Have the node wait for images longer than any test does."""
    cluster.set_plugstack([product.plugstack_line("deadline=60")])
    yield
    cluster.set_plugstack([product.plugstack_line(f"deadline={DEADLINE}")])


def wait_for_idle(cluster: Cluster) -> None:
    """Wait until no step is left on the node; fails when its state becomes another one."""
    until = time.monotonic() + 3 * UNKILLABLE
    while (state := cluster.node_states()["n1"]) != "idle":
        assert "drain" not in state
        assert time.monotonic() < until, state
        time.sleep(0.1)


def line(image: Path) -> str:
    return (
        f"cmeta: error: node n1 could not read the image {image} within {DEADLINE} s; "
        "submit it again with --exclude=n1, and tell the administrator"
    )


def test_a_batch_job_ends_with_one_line(cluster: Cluster, image: Path) -> None:
    job = cluster.submit(f"--container={image}", "--wrap=true")
    fields = cluster.wait(job, timeout=10)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "127:0")
    assert cluster.output(job) == f"{line(image)}\n"
    assert fields["RunTime"] <= "00:00:04"


def test_a_step_ends_with_one_line(cluster: Cluster, image: Path) -> None:
    begun = time.monotonic()
    done = cluster.run(["srun", "-n2", f"--container={image}", "true"])
    assert time.monotonic() - begun < 2 * DEADLINE + 2 * SLACK
    assert done.returncode == 127
    assert done.stderr.splitlines().count(line(image)) == 2


def cancelled(cluster: Cluster, job: int) -> None:
    """Start a held job; assert that it waits, and that scancel ends it."""
    cluster.run(["scontrol", "release", str(job)])
    until = time.monotonic() + 10
    while cluster.job(job)["JobState"] != "RUNNING":
        assert time.monotonic() < until, cluster.job(job)
        time.sleep(0.1)
    time.sleep(1)
    assert cluster.job(job)["JobState"] == "RUNNING", cluster.output(job)
    begun = time.monotonic()
    cluster.run(["scancel", str(job)])
    assert cluster.wait(job)["JobState"] == "CANCELLED"
    wait_for_idle(cluster)
    assert time.monotonic() - begun < UNKILLABLE


def test_scancel_ends_the_job_while_the_node_waits(
    cluster: Cluster, image: Path, request: pytest.FixtureRequest
) -> None:
    """proctrack/linuxproc sends no signal to what is named slurmstepd."""
    job = cluster.submit("--hold", f"--container={image}", "--wrap=true")
    request.getfixturevalue("patient")
    cancelled(cluster, job)


def test_scancel_ends_the_job_while_the_sites_program_does_not_answer(
    cluster: Cluster, product: Product, make_image: ImageMaker, place: Path
) -> None:
    """The wait for cmeta-run has no deadline, and Slurm's signals arrive."""
    if HERE != "x86_64":
        pytest.skip("the test images that run are x86_64")
    if cluster.conf_path.with_name("oci.conf").exists():
        pytest.skip("with oci.conf the node starts nothing of the site's plugstack.conf")
    job = cluster.submit("--hold", f"--container={make_image('plain')}", "--wrap=true")
    try:
        with hung(place / "hung-program", "mounted") as there:
            cluster.set_plugstack([product.plugstack_line(f"run={there}/cmeta-run")])
            cancelled(cluster, job)
    except ToolError as error:
        pytest.skip(str(error))
    finally:
        cluster.set_plugstack([product.plugstack_line(f"deadline={DEADLINE}")])
