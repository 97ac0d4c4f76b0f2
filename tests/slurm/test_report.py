"""What slurmctld's log, and this host's, say of decisions, and `cmeta report` of these."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, Node
from conftest import ImageMaker
from product import Product
from test_submit import JOB, V3, fields, sbatch

FORGED = 'x"}\n[2026-01-01T00:00:00.000] lua: cmeta decision {"v":1,"event":"submit"}'

Decisions = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def decisions(cluster: Cluster) -> Decisions:
    """Return a function for the decisions in slurmctld's log since it was last called."""
    path = cluster.layout.logs / "slurmctld.log"
    at = path.stat().st_size

    def read() -> list[dict[str, Any]]:
        nonlocal at
        with path.open("rb") as file:
            file.seek(at)
            new = file.read()
        at += len(new)
        lines = [line.partition(b"cmeta decision ") for line in new.splitlines()]
        assert all(before.endswith(b"] lua: ") for before, found, _ in lines if found)
        return [json.loads(value) for _, found, value in lines if found]

    return read


@pytest.fixture
def system_log(cluster: Cluster, product: Product) -> Iterator[socket.socket]:
    """Listen as syslog or the journal does, at another place than /dev/log."""
    path = cluster.layout.work / "log"
    cluster.set_plugstack([product.plugstack_line(f"log={path}")])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        path.chmod(0o666)
        server.settimeout(5)
        try:
            yield server
        finally:
            path.unlink()


def policy(cluster: Cluster, text: str) -> None:
    cluster.conf_path.with_name("cmeta.yaml").write_text(text)


def report(cluster: Cluster, product: Product, *words: str) -> str:
    done = cluster.run([str(product.prefix / "bin/cmeta"), "report", *words])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_narrowed_job_is_one_line(cluster: Cluster, arm: Path, decisions: Decisions) -> None:
    job = fields(cluster, sbatch(cluster, f"--container={arm}", "-Cbigmem", "-J", "train", "-pall"))
    (found,) = decisions()
    status = arm.stat()
    # Slurm gives the number later: user, name, time and image are the job's, too.
    assert job["SubmitTime"] == time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(found["time"]))
    assert found.pop("ms") < 5000
    del found["time"]
    assert found == {
        "v": 1,
        "event": "submit",
        "user": 0,
        "name": job["JobName"],
        "partition": "all",
        "image": job["Container"],
        "identity": f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}",
        "verdict": "match",
        "reason": "narrowed",
        "detail": "arch=aarch64",
        "before": "bigmem",
        "after": job["Features"],
        "exclude": "",
        "from": "matcher",
        "refused": False,
    }


def test_a_decision_that_was_kept_says_so(
    cluster: Cluster, arm: Path, decisions: Decisions
) -> None:
    time.sleep(2.2)  # what was just changed is not kept
    options = (f"--container={arm}", "-C", "neoverse_v1|zen4")
    for _ in range(2):
        fields(cluster, sbatch(cluster, *options))
    first, second = decisions()
    assert (first["from"], second["from"]) == ("matcher", "cache")
    for one in (first, second):
        del one["from"], one["time"], one["ms"]
    assert first == second


def test_every_kind_of_submission_is_one_line_and_is_reported(
    cluster: Cluster, product: Product, make_image: ImageMaker, decisions: Decisions
) -> None:
    power, bare = make_image("power", "ppc64le"), cluster.layout.work / "empty"
    for folder in ("bin", "etc", "usr/bin"):  # a root file system without a program
        (bare / folder).mkdir(parents=True, exist_ok=True)
    (bare / "bin/sh").write_text("#!/bin/busybox sh\n")
    policy(cluster, "on_mismatch: warn\n")
    job = fields(cluster, sbatch(cluster, f"--container={power}", user="alice"))
    assert job["Features"] == "(null)"
    fields(cluster, sbatch(cluster, f"--container={power}", "-pall"))
    fields(cluster, sbatch(cluster, f"--container={make_image('arm', 'arm64')}", "-Czen4|zen3"))
    fields(cluster, sbatch(cluster, f"--container={bare}"))
    fields(cluster, sbatch(cluster, "--container=/no/such.sif"))
    fields(cluster, sbatch(cluster, "--container=/no/such.sif", "--cmeta=off"))
    cluster.set_plugstack([])
    fields(cluster, sbatch(cluster, "--container=/no/such.sif"))
    cluster.set_plugstack([product.plugstack_line("matcher=/no/matcher")])
    fields(cluster, sbatch(cluster, f"--container={power}"))
    fields(cluster, sbatch(cluster))
    found = decisions()
    assert [(one["verdict"], one["reason"], one["detail"]) for one in found] == [
        ("mismatch", "no-node", "arch=ppc64le"),
        ("mismatch", "no-node", "arch=ppc64le"),
        ("mismatch", "own-options", "arch=aarch64"),
        ("unknown", "no-evidence", ""),
        ("fault", "fault", "/no/such.sif: does not exist"),
        ("off", "", ""),
        ("missing", "", ""),
        ("fault", "fault", "cannot run /no/matcher"),
    ]
    assert not any(one["refused"] for one in found)

    since = f"--since={time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(found[0]['time']))}"
    summed = json.loads(report(cluster, product, since, "--json"))
    log = str(cluster.layout.logs / "slurmctld.log")
    assert (summed["files"], summed["broken_lines"]) == ([log], 0)
    assert summed["would_be_refused"]["images"][0] == {"what": str(power), "count": 2, "users": 2}
    assert summed["outcomes"] | {"narrowed": 0, "fits": 0} == {
        "would_be_refused": 3,
        "refused": 0,
        "narrowed": 0,
        "fits": 0,
        "no_evidence": 1,
        "not_compared": 0,
        "fault": 2,
        "off": 1,
        "missing": 1,
        "other": 0,
    }
    text = report(cluster, product, since).splitlines()
    assert len(text) < 50
    assert "       2       2  arch=ppc64le" in text
    assert any(line.startswith("           users  root 2, alice 1") for line in text)


def test_a_job_that_is_refused_is_a_line_of_the_hosts_log(
    cluster: Cluster,
    product: Product,
    make_image: ImageMaker,
    decisions: Decisions,
    system_log: socket.socket,
    tmp_path: Path,
) -> None:
    """It never reaches the controller."""
    power = make_image("power", "ppc64le")
    options = (f"--container={power}", "-Czen4|zen3", "-J", "big", "-pall")
    done = sbatch(cluster, *options, user="alice")
    assert (done.returncode, decisions()) == (1, [])
    line = system_log.recv(8192)
    assert line.startswith(b"<14>cmeta[")
    found = json.loads(line.partition(b"cmeta decision ")[2])
    assert (found["name"], found["partition"], found["before"]) == ("big", "all", "zen4|zen3")
    assert (found["verdict"], found["refused"]) == ("mismatch", True)
    assert found["image"] == str(power)

    (tmp_path / "log").write_bytes(line + b"\n")
    summed = json.loads(report(cluster, product, "--json", str(tmp_path / "log")))
    assert summed["refused"]["needs"] == [{"what": "arch=ppc64le", "count": 1, "users": 1}]

    cluster.set_plugstack([product.plugstack_line("log=none")])
    assert sbatch(cluster, f"--container={power}").returncode == 1
    system_log.settimeout(0.3)
    with pytest.raises(TimeoutError):
        system_log.recv(8192)


def test_a_step_that_is_refused_is_a_line_of_the_hosts_log(
    cluster: Cluster, make_image: ImageMaker, system_log: socket.socket, decisions: Decisions
) -> None:
    power = make_image("power", "ppc64le")
    inner = ["srun", f"--container={power}", "true"]
    done = cluster.run(["salloc", "-Q", "-n1", *inner])
    assert "cmeta: error: not started" in done.stderr
    found = json.loads(system_log.recv(8192).partition(b"cmeta decision ")[2])
    assert (found["event"], found["refused"]) == ("step", True)
    assert decisions() == []


def test_a_change_by_scontrol_is_a_line(
    cluster: Cluster, product: Product, make_image: ImageMaker, decisions: Decisions
) -> None:
    done = sbatch(cluster, f"--container={make_image('x86-x86_64_v3', labels=V3)}", user="alice")
    job = int(done.stdout)
    decisions()
    for asked in ("bigmem", "zen3&x86_64_v3"):
        cluster.run(["scontrol", "update", f"JobId={job}", f"Features={asked}"], user="alice")
    (found,) = decisions()
    assert (found["event"], found["job"], found["before"]) == ("update", job, "bigmem")
    assert found["after"] == cluster.job(job)["Features"].replace("zen3&x86_64_v3", found["after"])
    assert found["after"] == "bigmem&x86_64_v3"
    assert found["user"] == int(cluster.job(job)["UserId"].partition("(")[2].rstrip(")"))
    assert json.loads(report(cluster, product, "--json"))["updates"] >= 1


def test_no_name_of_a_job_forges_a_line(
    cluster: Cluster, product: Product, arm: Path, decisions: Decisions
) -> None:
    before = json.loads(report(cluster, product, "--json"))
    done = sbatch(cluster, f"--container={arm}", "-J", FORGED, "--comment", FORGED)
    assert done.returncode == 0
    (found,) = decisions()
    assert found["name"].startswith('x"}?[2026-01-01')
    after = json.loads(report(cluster, product, "--json"))
    assert after["decisions"] == before["decisions"] + 1
    assert after["broken_lines"] == before["broken_lines"]


def test_the_site_can_switch_it_off(
    cluster: Cluster, product: Product, arm: Path, decisions: Decisions
) -> None:
    text = product.job_submit()
    off = text.replace("cmeta.ensure, job_desc", 'cmeta.ensure, job_desc, {log = "none"}')
    cluster.set_job_submit(off)
    assert fields(cluster, sbatch(cluster, f"--container={arm}"))["Features"] == "aarch64"
    assert decisions() == []


def test_counters_follow_the_log(
    cluster: Cluster, product: Product, arm: Path, tmp_path: Path
) -> None:
    prom = tmp_path / "cmeta_report.prom"

    def narrowed() -> int:
        report(cluster, product, "--textfile", str(prom))
        lines = [line.split() for line in prom.read_text().splitlines()]
        return int(dict(line for line in lines if len(line) == 2)["cmeta_narrowed_total"])

    before = narrowed()
    fields(cluster, sbatch(cluster, f"--container={arm}"))
    assert narrowed() == before + 1
    assert narrowed() == before + 1


def test_every_form_of_slurmctlds_log_is_read(place: Path, product: Product, arm: Path) -> None:
    forms = ["iso8601", "rfc5424_ms", "rfc5424", "clock", "short", "thread_id", "rfc3339"]
    options = {"plugstack": [product.plugstack_line()], "job_submit": product.job_submit()}
    with Cluster(place / "forms", [Node("n1", "aarch64")], **options) as cluster:  # type: ignore[arg-type]
        if cluster.version < (24, 5):
            forms.remove("rfc3339")
        for count, form in enumerate(forms, 1):
            cluster.set_slurm_conf_lines([f"LogTimeFormat={form}"])
            cluster.restart_controller()
            fields(cluster, sbatch(cluster, f"--container={arm}"))
            found = json.loads(report(cluster, product, "--json"))["decisions"]
            assert found == count, (form, cluster.slurmctld_log()[-1000:])


def test_what_counts_as_one_submission(
    cluster: Cluster, arm: Path, make_image: ImageMaker, decisions: Decisions
) -> None:
    plain = make_image("plain")
    fields(cluster, sbatch(cluster, f"--container={arm}", "--array=1-3"))
    assert len(decisions()) == 1
    assert sbatch(cluster, f"--container={arm}", ":", f"--container={plain}").returncode == 0
    assert [Path(one["image"]).name for one in decisions()] == ["arm.sif", "plain.sif"]
    tried = cluster.run(["sbatch", "--test-only", f"--container={arm}"], input=JOB)
    assert tried.returncode == 0, tried.stderr
    assert len(decisions()) == 1
    assert cluster.run(["srun", "-Q", f"--container={plain}", "true"]).returncode == 0
    assert [one["name"] for one in decisions()] == ["true"]
