"""What the tests of the fault matrix share: what became of a job, and how soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import Cluster, Node
from product import NODES, Product
from test_submit import Done, fields, said

DEADLINE = 2.0
"""The plugin's own, in seconds."""

SLACK = 3.0
"""Seconds that everything else may take on a busy machine."""


def queue_only(place: Path, product: Product) -> Cluster:
    """Return a cluster, not started yet, whose nodes are only declared: jobs stay in the queue."""
    return Cluster(
        place,
        [Node(names, features, running=False) for names, features in NODES.items()],
        plugstack=[product.plugstack_line()],
    )


def narrowed(cluster: Cluster, done: Done) -> None:
    """Assert that the job was decided on as ever."""
    assert fields(cluster, done)["Features"] == "aarch64", done.stderr
    assert "cmeta: arm.sif needs aarch64" in done.stderr


def as_written(cluster: Cluster, done: Done, reason: str) -> None:
    """Assert that the job is queued as the user wrote it, and that one line says why."""
    job = fields(cluster, done)
    assert (job["Features"], job["JobState"]) == ("(null)", "PENDING")
    (line,) = [line for line in said(done) if line.startswith("cmeta: ")]
    assert line.startswith("cmeta: warning: ")
    assert reason in line
    assert line.endswith("; the job is submitted as it is")


@contextmanager
def soon(limit: float = DEADLINE) -> Iterator[None]:
    """Assert that what is done takes no longer than `limit` and some slack."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < limit + SLACK
