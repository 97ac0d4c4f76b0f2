"""A real cluster with the plugin installed as the README says, and real images.

Runs inside the root of tests/tools/root.py, or on any machine with Slurm, munge, siftool and
squashfs-tools; skips with a reason where something is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests/tools"))

import images as image_tools  # noqa: E402
from cluster import Cluster, Node  # noqa: E402
from product import NODES, Product, install  # noqa: E402

ImageMaker = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _needs_slurm() -> None:
    missing = [p for p in ("slurmctld", "slurmd", "munged", "siftool") if not shutil.which(p)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; use `make test`")
    if os.geteuid():
        pytest.skip("a cluster whose jobs run as several users needs root")


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """Return a directory that every user can reach, and that no runtime mounts by itself.

    Apptainer shows /tmp and /var/tmp in every image: with the cluster there, nobody would notice
    that the batch script in slurmd's spool directory is not made visible.
    """
    with tempfile.TemporaryDirectory(prefix="cmeta-", dir="/run") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def product(place: Path) -> Product:
    """Return the product, installed by `make install`."""
    return install(place / "product")


@pytest.fixture(scope="session")
def make_image(place: Path) -> ImageMaker:
    """Return a function that builds an image once: (name, architecture, labels) -> path."""
    directory = place / "images"
    directory.mkdir(mode=0o755)

    def make(
        name: str, architecture: str = "amd64", labels: Mapping[str, str] | None = None
    ) -> Path:
        path = directory / f"{name}.sif"
        if not path.exists():
            image_tools.build(path, architecture, labels)
        return path

    return make


@pytest.fixture
def arm(make_image: ImageMaker) -> Path:
    """Return an image for another architecture than that of most nodes."""
    return make_image("arm", "arm64")


@pytest.fixture(scope="session")
def shared_cluster(place: Path, product: Product) -> Iterator[Cluster]:
    with Cluster(
        place / "c",
        [Node(names, features) for names, features in NODES.items()],
        plugstack=[product.plugstack_line()],
        job_submit=product.job_submit(),
    ) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster, product: Product) -> Iterator[Cluster]:
    """Return the cluster with its first configuration, no job on it, and no node ever drained."""
    shared_cluster.set_plugstack([product.plugstack_line()])
    shared_cluster.set_job_submit(product.job_submit())
    policy = shared_cluster.conf_path.with_name("cmeta.yaml")
    policy.unlink(missing_ok=True)
    yield shared_cluster
    subprocess.run(
        ["scancel", "--signal=KILL", "--full", "--state=RUNNING"],
        env={**os.environ, **shared_cluster.env},
        check=False,
        capture_output=True,
    )
    shared_cluster.run(["scancel", "--user=root"])
    shared_cluster.run(["scancel", "--user=alice"])
    states = shared_cluster.node_states()
    bad = {name: state for name, state in states.items() if "drain" in state or "down" in state}
    assert bad == {}, "slurm-cmeta never drains a node"


@pytest.fixture
def no_node_is_drained(cluster: Cluster) -> Iterator[None]:
    """Look after the test that no node of its cluster is drained, or going to be.

    The name `cluster` is looked up in the test's module first.
    """
    yield
    assert "drain" not in cluster.run(["sinfo", "-h", "-N", "-o", "%N %T %E"]).stdout


@pytest.fixture(scope="session")
def _runtime() -> None:
    if not image_tools.have_apptainer():
        pytest.skip("Apptainer could not be had from this mirror (tests/tools/apptainer.sh)")


needs_runtime = pytest.mark.usefixtures("_runtime")

never_drained = pytest.mark.usefixtures("no_node_is_drained")
