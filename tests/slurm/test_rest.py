"""Submissions by slurmrestd: no plugin runs, and what is handed over is the user's own text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from cluster import Cluster
from conftest import ImageMaker
from product import Product

Submit = Callable[..., tuple[dict[str, str], dict[str, Any]]]
HAVE_HANDOVER = (23, 0)
"""From this release a request may hold `spank_environment`."""


@pytest.fixture
def post(cluster: Cluster) -> Callable[..., dict[str, Any]]:
    """Return a function that posts a job, and returns the answer. slurmrestd reads stdin."""
    if not shutil.which("slurmrestd"):
        pytest.skip("slurmrestd is not installed (Debian: slurmrestd)")
    version = {22: "v0.0.38", 24: "v0.0.42", 26: "v0.0.45"}[cluster.version[0]]

    def run(handed: dict[str, str] | None = None, **job: object) -> dict[str, Any]:
        job = {"current_working_directory": str(cluster.layout.work), "name": "rest", **job}
        # Never started, so that it can be looked at.
        if cluster.version < HAVE_HANDOVER:
            job |= {"environment": {"PATH": "/bin"}, "begin_time": "now+1hour"}
        else:
            job |= {"environment": ["PATH=/bin"], "hold": True}
        if handed is not None:
            job["spank_environment"] = [f"CMETA_{name}={text}" for name, text in handed.items()]
        body = json.dumps({"script": "#!/bin/sh\n", "job": job})
        head = [
            f"POST /slurm/{version}/job/submit HTTP/1.1",
            *("Host: localhost", "Content-Type: application/json", "Connection: close"),
            f"Content-Length: {len(body)}",
        ]
        # Without the plugins for slurmdbd, which there is none of.
        parts = ["-s", "slurmctld", "-d", version]
        if cluster.version < HAVE_HANDOVER:
            parts = ["-s", "openapi/" + version]
        # It takes who owns its stdin for the user: a pipe of alice's own shell.
        pipe = f"cat | slurmrestd {' '.join(parts)} | cat"
        request = "\r\n".join([*head, "", body])
        done = cluster.run(["sh", "-c", pipe], user="alice", input=request)
        assert "{" in done.stdout, (done.stdout, done.stderr)
        answer: dict[str, Any]
        answer, _ = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{") :])
        return answer

    return run


@pytest.fixture
def submit(cluster: Cluster, post: Callable[..., dict[str, Any]]) -> Submit:
    def run(
        handed: dict[str, str] | None = None, **job: object
    ) -> tuple[dict[str, str], dict[str, Any]]:
        answer = post(handed, **job)
        assert answer["errors"] == [], answer
        return cluster.job(answer["job_id"]), answer

    return run


def test_a_job_nobody_looked_at_is_submitted(submit: Submit, make_image: ImageMaker) -> None:
    job, _ = submit(container=str(make_image("arm", "arm64")), constraints="bigmem")
    assert (job["Features"], job["UserId"]) == ("bigmem", "alice(1000)")
    assert "AdminComment" not in job


def test_the_site_may_refuse_it(
    cluster: Cluster, post: Callable[..., dict[str, Any]], product: Product
) -> None:
    stub = product.job_submit()
    cluster.set_job_submit(
        stub.replace("ensure, job_desc", 'ensure, job_desc, {on_missing = "reject"}')
    )
    answer = post(container="/images/img.sif")
    assert answer["errors"]
    # slurmrestd does not pass on why; slurmctld's log has it.
    assert "refused a container job without a decision" in cluster.slurmctld_log()


FORGED = [
    {"CONSTRAINT": "zen3"},
    {"CONSTRAINT": "bigmem|zen3"},
    {"CONSTRAINT": "(bigmem)|zen3&bigmem"},
    {"CONSTRAINT": "bigmem*1&zen4"},
    {"CONSTRAINT": "[bigmem|zen3]&zen4"},
    {"PREFER": "zen3"},
    {"PREFER": "bigmem|zen3"},
    {"EXCLUDE": "$(id)"},
    {"MEMORY": "-1"},
    {"MEMORY": "0"},
    {"GRES": "license:9"},
    {"REQUIRED": "bigmem|zen3"},
    {"REQUIRED": "a; cmeta excludes top1"},
    {"IMAGE": "/etc/passwd"},
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda forged: "-".join(*forged.items()))
def test_what_is_forged_changes_nothing(
    cluster: Cluster, submit: Submit, forged: dict[str, str]
) -> None:
    if cluster.version < HAVE_HANDOVER:
        pytest.skip("slurmrestd of this release takes no spank_environment")
    words = {"container": "/images/img.sif", "constraints": "bigmem"}
    shown = ("Features", "Prefer", "ExcNodeList", "MinMemoryNode", "TresPerNode", "AdminComment")
    plain, _ = submit({"VERDICT": "match"}, **words)
    job, _ = submit({"VERDICT": "match", **forged}, **words)
    assert {k: job.get(k) for k in shown} == {k: plain.get(k) for k in shown}


def test_what_narrows_is_taken(cluster: Cluster, submit: Submit) -> None:
    if cluster.version < HAVE_HANDOVER:
        pytest.skip("slurmrestd of this release takes no spank_environment")
    handed = {"VERDICT": "match", "CONSTRAINT": "bigmem&zen4", "MEMORY": "77", "EXCLUDE": "old1"}
    job, answer = submit(handed, container="/images/img.sif", constraints="bigmem")
    assert (job["Features"], job["MinMemoryNode"]) == ("bigmem&zen4", "77M")
    assert job["ExcNodeList"] == "old1"
    assert "cmeta: features bigmem&zen4" in json.dumps(answer)


def test_without_a_container_nothing_is_looked_at(cluster: Cluster, submit: Submit) -> None:
    handed = {"VERDICT": "match", "CONSTRAINT": "zen4"}
    job, _ = submit(handed if cluster.version >= HAVE_HANDOVER else None)
    assert job["Features"] == "(null)"
