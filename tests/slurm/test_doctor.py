"""cmeta doctor on a real installation: it is well, each thing is broken, and mended as it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from cluster import Cluster, Node
from conftest import PROJECT
from product import NODES, Product, install

SCHEMA = json.loads((PROJECT / "docs/schema/cmeta.doctor-1.json").read_text())
HOST = os.uname().nodename


class Site(NamedTuple):
    """A cluster of our own, and a product that may be broken."""

    cluster: Cluster
    product: Product

    def doctor(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run it as on a login node, controller and compute node in one."""
        roles = [w for role in ("login", "controller", "compute") for w in ("--role", role)]
        done = self.cluster.run(
            [str(self.product.prefix / "bin/cmeta"), "doctor", "--json", *(words or roles)]
        )
        assert done.stderr == "", done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        jsonschema.validate(report, SCHEMA)
        return done.returncode, report

    def wrong(self) -> list[dict[str, str]]:
        """Return the warnings and errors."""
        code, report = self.doctor()
        found = [f for f in report["findings"] if f["level"] in ("warning", "error")]
        assert code == bool(found)
        assert all(one["mend"] for one in found), "each has what mends it"
        return found


@pytest.fixture(scope="module")
def site(place: Path) -> Iterator[Site]:
    product = install(place / "doctored")
    with Cluster(
        place / "doc",
        [Node(names, features, running=False) for names, features in NODES.items()],
        plugstack=[product.plugstack_line()],
        job_submit=product.job_submit(),
    ) as cluster:
        yield Site(cluster, product)


def test_a_healthy_installation_has_nothing_wrong(site: Site) -> None:
    assert site.wrong() == []
    code, report = site.doctor()
    areas = {f["area"] for f in report["findings"] if f["level"] == "ok"}
    assert (code, areas) == (
        0,
        {"slurm", "plugin", "matcher", "controller", "site", "nodes", "runtime"},
    )


def test_for_people(site: Site) -> None:
    done = site.cluster.run([str(site.product.prefix / "bin/cmeta"), "doctor", "--role", "login"])
    lines = done.stdout.splitlines()
    assert lines[0].endswith(" on login node")
    assert any(line.startswith("ok      plugin") for line in lines)


def replaced(path: Path, old: str, new: str) -> Callable[[], object]:
    """Change a file; return what puts it back."""
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    return lambda: path.write_text(before)


def moved(path: Path) -> Callable[[], object]:
    away = path.with_name(path.name + ".away")
    path.rename(away)
    return lambda: away.rename(path)


def written(path: Path, text: str) -> Callable[[], object]:
    path.write_text(text)
    return path.unlink


def conf_of(site: Site) -> Path:
    return site.cluster.conf_path


def lua_of(site: Site) -> Path:
    return site.product.prefix / "share/slurm-cmeta"


BREAKS: dict[str, tuple[Callable[[Site], Callable[[], object]], str, str]] = {
    "no plugstack.conf": (lambda s: moved(s.cluster.plugstack_path), "plugin", "No such file"),
    "no line in it": (
        lambda s: replaced(s.cluster.plugstack_path, "optional", "#optional"),
        *("plugin", "has no line for cmeta_spank.so"),
    ),
    "no plugin": (lambda s: moved(s.product.plugin), "plugin", "is in none of Slurm's plugin"),
    "a plugin of something else": (
        lambda s: replaced(
            s.cluster.plugstack_path, str(s.product.plugin), "/dev/null/cmeta_spank.so"
        ),
        *("plugin", "is in none of Slurm's plugin"),
    ),
    "no matcher": (lambda s: moved(s.product.matcher), "matcher", "cannot be run"),
    "a broken matcher": (
        lambda s: replaced(s.product.matcher, "import use", "import nothing"),
        *("matcher", "fails: ImportError"),
    ),
    "a matcher of another release": (
        lambda s: replaced(
            s.product.prefix / "lib/slurm-cmeta/slurm_cmeta/__init__.py", "0.", "99."
        ),
        *("plugin", "the package of 99."),
    ),
    "no helper": (
        lambda s: moved(s.product.prefix / "libexec/slurm-cmeta/cmeta-run"),
        *("plugin", "no job starts inside its image here"),
    ),
    "no calls in job_submit.lua": (
        lambda s: replaced(s.cluster.layout.job_submit, "cmeta.ensure", "cmeta.nothing"),
        *("controller", "does not call cmeta.ensure"),
    ),
    "no job_submit.lua": (
        lambda s: moved(s.cluster.layout.job_submit),
        "controller",
        "refuses all",
    ),
    "no module": (
        lambda s: moved(lua_of(s) / "cmeta_log.lua"),
        "controller",
        "cmeta_log.lua is mis",
    ),
    "a broken module": (
        lambda s: replaced(lua_of(s) / "cmeta.lua", "local cmeta = {", "local cmeta = = {"),
        *("controller", "cannot be loaded"),
    ),
    "a broken cmeta.yaml": (
        lambda s: written(conf_of(s).with_name("cmeta.yaml"), "on_mismach: warn\n"),
        *("site", "unknown key 'on_mismach'"),
    ),
    "an odd cmeta.yaml": (
        lambda s: written(
            conf_of(s).with_name("cmeta.yaml"), "partitions: {gone: {on_mismatch: warn}}\n"
        ),
        *("site", "no partition gone"),
    ),
    "no snapshot": (
        lambda s: written(
            conf_of(s).with_name("cmeta.yaml"),
            "nodes: {source: snapshot, snapshot: /nonexistent}\n",
        ),
        *("nodes", "/nonexistent"),
    ),
    "silent nodes": (
        lambda s: replaced(conf_of(s), "aarch64,neoverse_v1,", ""),
        *("nodes", "1 of 6 nodes say nothing of their architecture (arm1)"),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found_and_can_be_mended(site: Site, name: str) -> None:
    harm, area, words = BREAKS[name]
    if name == "a broken module" and not any(
        map(shutil.which, ("lua5.1", "lua5.3", "lua5.4", "lua"))
    ):
        pytest.skip("no Lua interpreter is installed")
    mend = harm(site)
    try:
        found = site.wrong()
    finally:
        mend()
    assert [f for f in found if f["area"] == area and words in f["text"]], found
    assert site.wrong() == []


def test_without_slurm_conf_it_says_so(site: Site) -> None:
    done = site.cluster.run(
        [str(site.product.prefix / "bin/cmeta"), "doctor", "--slurm-conf", "/nonexistent"]
    )
    assert done.returncode == 4
    assert "error   slurm" in done.stdout


def test_what_a_host_is_stands_in_slurm_conf(site: Site) -> None:
    _, report = site.doctor("--slurm-conf", str(conf_of(site)))
    assert "controller" in report["roles"] or report["roles"] == ["login"]
    done = subprocess.run(
        [str(site.product.prefix / "bin/cmeta"), "doctor", "--json"],
        env={**os.environ, **site.cluster.env, "SLURMD_NODENAME": "arm1"},
        capture_output=True,
        text=True,
    )
    assert "compute" in json.loads(done.stdout)["roles"]
