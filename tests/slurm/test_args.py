"""One user, a wheel in a home, and a cluster without anything of the project."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Node
from conftest import ImageMaker
from product import NODES, build_python

HELD = ("-H", "--parsable", "-o", "/dev/null", "job.sh")


@pytest.fixture(scope="module")
def bare(place: Path) -> Iterator[Cluster]:
    """Return a cluster that has neither plugin nor job_submit.lua."""
    nodes = [Node(names, features) for names, features in NODES.items()]
    with Cluster(place / "bare", nodes) as cluster:
        job = cluster.layout.work / "job.sh"
        job.write_text("#!/bin/sh\ntrue\n")
        yield cluster


@pytest.fixture(scope="module")
def cmeta(bare: Cluster, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return `cmeta` as alice has installed it from the wheel."""
    if not list(importlib.metadata.distributions(name="build")):
        pytest.skip("build not installed (PyPI); use `make test`")
    built, home = place / "user-wheel", place / "home"
    build_python(tmp_path_factory.mktemp("wheel") / "source", built, "--wheel")
    (wheel,) = built.glob("*.whl")
    home.mkdir()
    shutil.chown(home, "alice", "alice")
    install = "python3 -m venv ~/cmeta && ~/cmeta/bin/pip install -q --no-index --no-deps"
    done = typed(bare, f"{install} {wheel}", home)
    assert done.returncode == 0, done.stderr
    return home / "cmeta/bin/cmeta"


def typed(cluster: Cluster, command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Return how a command ended that alice typed."""
    env = {"HOME": str(home), "PYTHONPATH": ""}
    return cluster.run(["sh", "-c", command], user="alice", env=env)


def submitted(cluster: Cluster, cmeta: Path, words: str) -> dict[str, str]:
    """Submit job.sh as alice with the options that `cmeta args` prints; the job's fields."""
    command = f"sbatch $({cmeta} args {words}) {' '.join(HELD)}"
    done = typed(cluster, command, cmeta.parents[2])
    assert done.returncode == 0, done.stderr
    fields = cluster.job(int(done.stdout))
    cluster.run(["scancel", done.stdout.strip()])
    return fields


def test_the_nodes_are_asked_of_the_controller(bare: Cluster, cmeta: Path, arm: Path) -> None:
    done = typed(bare, f"{cmeta} match {arm} --live", cmeta.parents[2])
    assert done.returncode == 0, done.stderr
    assert "constraint  aarch64" in done.stdout.splitlines()
    assert "verdict     match: 1 of 6 nodes can run it" in done.stdout.splitlines()


def test_the_job_gets_the_constraint_without_any_plugin(
    bare: Cluster, cmeta: Path, arm: Path, make_image: ImageMaker
) -> None:
    assert submitted(bare, cmeta, f"{arm} --live")["Features"] == "aarch64"
    own = submitted(bare, cmeta, f"{arm} --live -C 'bigmem|zen3' --mem 100M")
    assert own["Features"] == "(bigmem|zen3)&aarch64"
    assert own["MinMemoryNode"] == "100M"
    v3 = make_image("v3-args", labels={"io.archspec.cpu.target": "x86_64_v3"})
    assert submitted(bare, cmeta, f"{v3} --live")["Features"] == "x86_64_v3"


def test_nodes_are_excluded_where_no_constraint_can_say_it(
    bare: Cluster, cmeta: Path, arm: Path
) -> None:
    """A count carries nothing; the shell leaves the list of nodes as it is."""
    words = f"{arm} --live --lines -C 'bigmem*1'"
    command = f"mapfile -t options < <({cmeta} args {words}); "
    command += f'sbatch "${{options[@]}}" {" ".join(HELD)}'
    done = typed(bare, f"bash -c '{command.replace(chr(39), chr(34))}'", cmeta.parents[2])
    assert done.returncode == 0, done.stderr
    fields = bare.job(int(done.stdout))
    assert fields["Features"] == "bigmem*1"
    assert fields["ExcNodeList"] == "ice1,mid[1-2],old1,top1"
    bare.run(["scancel", done.stdout.strip()])


def test_where_no_node_fits_nothing_is_submitted(
    bare: Cluster, cmeta: Path, make_image: ImageMaker
) -> None:
    """As the guide says it: `&&` between the two."""
    power = make_image("power", "ppc64le")
    command = f"options=$({cmeta} args {power} --live) && sbatch $options {' '.join(HELD)}"
    done = typed(bare, command, cmeta.parents[2])
    assert (done.returncode, done.stdout) == (1, "")
    assert "cmeta: error: power.sif needs ppc64le" in done.stderr
