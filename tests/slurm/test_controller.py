"""The controller's half in a real slurmctld: lua/cmeta.lua through job_submit.lua.

What a client hands over without changing the job itself comes from a small SPANK plugin of the
tests' own (handover_only.c): a client whose options could not be set, or a user who forges.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import ImageMaker, needs_runtime
from product import Product
from test_submit import fields, sbatch

Submit = Callable[..., tuple[dict[str, str], str]]


@pytest.fixture(scope="module")
def handover_only(place: Path) -> Path:
    plugin = place / "handover_only.so"
    source = Path(__file__).with_name("handover_only.c")
    compiler = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(plugin), str(source)]
    subprocess.run(compiler, check=True)
    return plugin


@pytest.fixture
def submit(cluster: Cluster, handover_only: Path) -> Callable[..., tuple[dict[str, str], str]]:
    """Return a function that submits with a hand-over; it returns the job and sbatch's words."""
    cluster.set_plugstack([f"required {handover_only}"])

    def run(
        handed: Mapping[str, str], *words: str, image: str = "/images/img.sif"
    ) -> tuple[dict[str, str], str]:
        env = {f"CMETA_TEST_HAND_{name}": value for name, value in handed.items()}
        container = [f"--container={image}"] if image else []
        done = sbatch(cluster, *container, *words, env=env)
        return fields(cluster, done), done.stderr

    return run


def test_what_the_client_did_is_not_done_again(cluster: Cluster, make_image: ImageMaker) -> None:
    done = sbatch(cluster, f"--container={make_image('arm', 'arm64')}", "-C", "bigmem")
    assert fields(cluster, done)["Features"] == "bigmem&aarch64"
    assert "sbatch: cmeta:" not in done.stderr
    assert "constraint bigmem&aarch64&" not in cluster.slurmctld_log()


def test_what_the_client_could_not_do_is_done(submit: Submit) -> None:
    handed = {"VERDICT": "match", "CONSTRAINT": "zen4", "EXCLUDE": "old1"}
    job, stderr = submit(handed)
    assert (job["Features"], job["ExcNodeList"]) == ("zen4", "old1")
    assert "cmeta: features zen4, exc_nodes old1" in stderr


def test_the_users_constraint_is_kept(submit: Submit) -> None:
    job, _ = submit({"VERDICT": "match", "CONSTRAINT": "bigmem&zen4"}, "-Cbigmem")
    assert job["Features"] == "bigmem&zen4"


@pytest.mark.parametrize(
    "forged", ["zen3", "bigmem|zen3", "bigmem&zen4|zen3", "bigmem&[zen4|zen3]", "bigmem&zen4*2"]
)
def test_a_forged_constraint_changes_nothing(submit: Submit, forged: str) -> None:
    job, _ = submit({"VERDICT": "match", "CONSTRAINT": forged}, "-Cbigmem")
    assert job["Features"] == "bigmem"


def test_a_job_without_container_is_not_looked_at(submit: Submit) -> None:
    handed = {"VERDICT": "match", "CONSTRAINT": "zen4"}
    job, _ = submit(handed, image="")
    assert job["Features"] == "(null)"


def with_policy(product: Product, policy: str) -> str:
    return product.job_submit().replace(
        "cmeta.ensure, job_desc", f'cmeta.ensure, job_desc, {{on_missing = "{policy}"}}'
    )


def test_the_site_may_refuse_jobs_nobody_looked_at(cluster: Cluster, product: Product) -> None:
    cluster.set_plugstack([])
    cluster.set_job_submit(with_policy(product, "reject"))
    done = sbatch(cluster, "--container=/images/img.sif")
    assert done.returncode != 0
    assert "only from hosts that have slurm-cmeta's plugin" in done.stderr
    assert fields(cluster, sbatch(cluster))["Features"] == "(null)"


def test_the_site_may_warn_of_jobs_nobody_looked_at(cluster: Cluster, product: Product) -> None:
    cluster.set_plugstack([])
    cluster.set_job_submit(with_policy(product, "warn"))
    done = sbatch(cluster, "--container=/images/img.sif")
    assert fields(cluster, done)["Features"] == "(null)"
    assert "cmeta: warning: nobody has looked at the job's image" in done.stderr


def test_a_job_switched_off_by_the_user_is_not_missing(cluster: Cluster, product: Product) -> None:
    cluster.set_job_submit(with_policy(product, "reject"))
    done = sbatch(cluster, "--container=/images/img.sif", "--cmeta=off")
    assert fields(cluster, done)["Features"] == "(null)"


@needs_runtime
def test_a_job_from_a_client_without_the_plugin_still_runs_in_its_image(
    cluster: Cluster, make_image: ImageMaker, place: Path
) -> None:
    """The client's configuration has no plugin, the nodes' has."""
    client = place / "client"
    client.mkdir(mode=0o755, exist_ok=True)
    for name in ("slurm.conf", "cgroup.conf"):
        (client / name).write_text(cluster.conf_path.with_name(name).read_text())
    options = ["--wait", "--constraint=x86_64", f"--output={client}/out"]
    done = cluster.run(
        ["sbatch", *options, f"--container={make_image('plain')}"],
        env={"SLURM_CONF": f"{client}/slurm.conf"},
        input="#!/bin/sh\ncat /etc/image\n",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (client / "out").read_text() == "plain.sif\n"


def test_without_the_module_jobs_go_on(cluster: Cluster, product: Product, place: Path) -> None:
    cluster.set_job_submit(product.job_submit().replace(str(product.prefix), f"{place}/nowhere"))
    assert fields(cluster, sbatch(cluster, "--container=/x.sif", "--cmeta=off"))


def test_the_stub_has_six_lines() -> None:
    stub = Path(__file__).parents[2] / "lua/job_submit.lua"
    assert len(stub.read_text().splitlines()) == 6
