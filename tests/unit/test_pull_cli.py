"""cmeta pull: its options, what it prints, and how it ends. What is fetched: test_pull_fetch.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from oci_files import Store, write_layout
from test_nodes_cli import schema
from test_offer import application

from slurm_cmeta.cli.main import main

ROOT = Path(__file__).parents[2]
CONF = """\
ClusterName=test
NodeName=n[1-4] Features=x86_64,x86_64_v2,x86_64_v3,zen2
NodeName=g1 Features=zen4,nvidia,cuda=12.4
NodeName=a1 Features=aarch64,neoverse_v1
PartitionName=all Nodes=ALL
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Run]:
    """Run `cmeta pull` in an empty directory."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    before = signal.getsignal(signal.SIGTERM)

    def pull(*words: object) -> Ended:
        try:
            code = main(["pull", *map(str, words)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ended(code, said.out, said.err)

    yield pull
    signal.signal(signal.SIGTERM, before)
    assert list(place.iterdir()) == [], "nothing half-written is left"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def index(store: Store) -> dict[str, Any]:
    return application(store)


@pytest.fixture
def app(tmp_path: Path, store: Store, index: dict[str, Any]) -> str:
    top = store.add(index, index["mediaType"])
    return f"oci:{write_layout(tmp_path / 'app', store, store.index(top))}"


@pytest.fixture
def top(tmp_path: Path) -> str:
    """One variant, for the newest CPUs."""
    store = Store()
    only = store.image("amd64", b"", variant="v4")
    return f"oci:{write_layout(tmp_path / 'top', store, store.index(only))}"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.conf"
    path.write_text(CONF)
    return path


@pytest.mark.parametrize(
    ("target", "number", "platform"),
    [
        ("zen4", 3, "linux/amd64/v4"),
        ("linux/amd64/v2", 1, "linux/amd64/v2"),
        ("amd64", 0, "linux/amd64"),
        ("arm64", 4, "linux/arm64/v8"),
        ("ppc64le", 5, "linux/ppc64le"),
        ("riscv64", 6, "linux/riscv64"),
        ("node:n3", 2, "linux/amd64/v3"),
        ("node:a1", 4, "linux/arm64/v8"),
        ("class:zen3,nvidia", 2, "linux/amd64/v3"),
    ],
)
def test_digest_and_platform_of_the_choice(
    run: Run, app: str, conf: Path, index: dict[str, Any], target: str, number: int, platform: str
) -> None:
    words = ("--for", target, "--slurm-conf", conf, app)
    digest = index["manifests"][number]["digest"]
    assert run("--print-digest", *words) == (0, f"{digest}\n", "")
    assert run("--print-platform", *words) == (0, f"{platform}\n", "")


def test_this_host_is_the_default(run: Run, app: str) -> None:
    found = run("--print-platform", app)
    assert found == run("--print-platform", "--for", "host", app)
    spelled = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}.get(os.uname().machine, "linux/")
    assert found.code == 0
    assert found.out.startswith(spelled)


def test_the_table_names_each_variant_and_the_choice(
    run: Run, app: str, index: dict[str, Any]
) -> None:
    code, out, err = run("--dry-run", "--for", "zen2", app)
    assert (code, err) == (0, "")
    heads, *rows = out.split("\n\n")[0].splitlines()
    assert heads.split() == ["VARIANT", "PLATFORM", "VERDICT", "SCORE", "REASON"]
    assert len(rows) == 7
    (taken,) = [row for row in rows if row.startswith("*")]
    assert "linux/amd64/v3" in taken
    assert "match" in taken
    assert rows[3].endswith("mismatch  -      cpu needs x86_64_v4, has zen2")
    assert rows[4].endswith("arch needs aarch64, has x86_64")
    assert out.splitlines()[-3:] == [
        f"reference  {app}",
        "for        zen2",
        f"choice     {index['manifests'][2]['digest']}",
    ]


def test_json_for_one_target_is_as_documented(run: Run, app: str, index: dict[str, Any]) -> None:
    code, out, err = run("--dry-run", "--json", "--for", "zen2", app)
    assert (code, err) == (0, "")
    document = json.loads(out)
    jsonschema.validate(document, schema("cmeta.pull-1.json"))
    assert document["choice"] == index["manifests"][2]["digest"]
    assert [v["verdict"] for v in document["variants"]] == ["match"] * 3 + ["mismatch"] * 4
    assert max(v["score"] for v in document["variants"][:3]) == document["variants"][2]["score"]
    assert (document["target"], document["warnings"]) == ("zen2", [])


def test_no_variant_is_exit_1_with_the_nearest_miss(run: Run, top: str) -> None:
    said = f"cmeta: error: {top}: no variant runs on zen2; the nearest is linux/amd64/v4: cpu needs x86_64_v4, has zen2\n"  # noqa: E501
    for option in ((), ("--print-digest",), ("--print-platform",), ("-o", "x.sif")):
        assert run("--for", "zen2", *option, top) == (1, "", said)
    code, out, err = run("--for", "zen2", "--dry-run", top)
    assert (code, err) == (1, said)
    assert out.endswith("choice     none\n")
    document = json.loads(run("--for", "zen2", "--dry-run", "--json", top).out)
    jsonschema.validate(document, schema("cmeta.pull-1.json"))
    assert (document["choice"], document["variants"][0]["score"]) == (None, None)


# --- a cluster ------------------------------------------------------------------------------------


def test_a_cluster_is_shown_by_its_classes(run: Run, app: str, conf: Path) -> None:
    words = ("--for", "cluster", "--slurm-conf", conf, "--dry-run", app)
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    rows = out.split("\n\n")[0].splitlines()
    assert [row.split()[0:2] for row in rows[1:]] == [["n[1-4]", "4"], ["g1", "1"], ["a1", "1"]]
    assert [row.split()[3] for row in rows[1:]] == [
        *("linux/amd64/v3", "linux/amd64/v4", "linux/arm64/v8")
    ]
    last = {line.split()[0]: line for line in out.split("\n\n")[1].splitlines()}
    assert last["enough"].count("linux/") == 2
    assert last["best"].count("linux/") == 3
    assert "missing" not in last


def test_what_is_missing_for_a_cluster_is_exit_1(run: Run, top: str, conf: Path) -> None:
    words = ("--for", "cluster", "--slurm-conf", conf)
    code, out, err = run(*words, "--dry-run", top)
    assert (code, err) == (1, "")
    assert "missing    zen2: n[1-4] (4)\n" in out
    assert "missing    neoverse_v1: a1 (1)\n" in out
    assert "common     zen2 would serve all x86_64 nodes that are not served\n" in out
    code, out, err = run(*words, "--print-digest", top)
    assert (code, out) == (2, "")
    assert err == (
        f"cmeta: error: {top}: 2 of 3 node classes run none of the variants; --dry-run shows them, "
        "--for node:NAME takes one\n"
    )


def test_json_for_a_cluster_is_as_documented(run: Run, top: str, app: str, conf: Path) -> None:
    words = ("--for", "cluster", "--slurm-conf", conf, "--dry-run", "--json")
    for reference, code in ((top, 1), (app, 0)):
        done = run(*words, reference)
        assert done.code == code
        document = json.loads(done.out)
        jsonschema.validate(document, schema("cmeta.pull-1.json"))
        assert document["target"] == f"the cluster ({conf})"
        assert sum(c["count"] for c in document["classes"]) == 6
        assert bool(document["missing"]) == bool(code)


def test_one_variant_for_a_whole_cluster_can_be_asked_for(
    run: Run, app: str, top: str, conf: Path
) -> None:
    words = ("--for", "cluster", "--slurm-conf", conf, "--print-platform")
    several = run(*words, app)
    assert several.code == 2
    assert "it takes 2 variants to serve all nodes" in several.err
    conf.write_text(CONF.replace("a1 Features=aarch64,neoverse_v1", "a1 Features=haswell"))
    assert run(*words, app) == (0, "linux/amd64/v3\n", "")
    conf.write_text("ClusterName=c\nNodeName=n1 Features=zen5\n")
    assert run(*words, top) == (0, "linux/amd64/v4\n", "")


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--json"], 2, "--json goes with --dry-run"),
        (["--timeout", "0"], 2, "--timeout takes seconds, above 0"),
        (["--timeout", "nan"], 2, "--timeout takes seconds, above 0"),
        (["--store", "/x", "--store-size", "9X"], 2, "--store-size 9X: a number of bytes"),
        (["--for", "no such"], 2, "--for no such: neither host, node:NAME"),
        (["--for", "node:"], 2, "--for node:: neither host"),
        (["--for", "node:n9"], 4, "has no node n9"),
        (["--for", "node:n[1-2]"], 4, "has no node n[1-2]"),
        (["--slurm-conf", "/nonexistent", "--for", "cluster"], 4, "/nonexistent"),
        (["--config", "/nonexistent"], 4, "/nonexistent"),
        (["--dry-run", "--print-digest"], 2, "not allowed with"),
        (["--format", "tar"], 2, "invalid choice"),
        (["--store", "/nonexistent/store"], 3, "/nonexistent/store/slurm-cmeta-"),
        (["-o", "/nonexistent/x.sif"], 3, "No such file or directory: /nonexistent"),
        (["--format", "oci", "-o", "/etc"], 2, "/etc is there already"),
        (["-o", "/etc/passwd"], 2, "/etc/passwd is there already: --force replaces it"),
    ],
)
def test_mistakes_are_one_line_with_a_way_out(
    run: Run, app: str, conf: Path, words: list[str], code: int, said: str
) -> None:
    source = [] if "--slurm-conf" in words else ["--slurm-conf", conf]
    done = run(*source, *words, app)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.splitlines()[-1].startswith(("cmeta: error: ", "cmeta pull: error: "))


@pytest.mark.parametrize(
    ("reference", "code", "said"),
    [
        ("app.sif", 2, "is no reference to an image: it begins with none of docker://"),
        ("docker://", 2, "is no reference"),
        ("oci:/nonexistent", 3, "/nonexistent"),
        ("docker://127.0.0.1:1/x", 3, "it cannot be reached (Connection refused)"),
        ("docker://h/\x1b[31mred", 2, "is no reference"),
    ],
)
def test_references_that_lead_nowhere(run: Run, reference: str, code: int, said: str) -> None:
    done = run("--print-digest", reference)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert "\x1b" not in done.err


def test_a_mistake_in_the_configuration_fails_no_job(run: Run, top: str, tmp_path: Path) -> None:
    config = tmp_path / "cmeta.yaml"
    config.write_text("no such key: 1\n")
    store = tmp_path / "store"
    store.mkdir()
    done = run("--config", config, "--store", store, "--for", "zen2", top)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("cmeta: warning: ")
    assert done.err.splitlines()[0].endswith("defaults are used")


def test_without_the_tools_it_says_which_one_is_missing(
    run: Run, top: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("slurm_cmeta.pull.tools.OPTION_PLACES", "/nonexistent")
    done = run("--for", "zen4", top)
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "cmeta: error: a SIF is made by Apptainer, which is not installed here: install it, or take"
        " --format oci\n"
    )
    done = run("--for", "zen4", "--format", "oci", top)
    assert done.code == 3
    assert "an OCI layout is made by skopeo, which is not installed here" in done.err


def test_a_pipe_that_is_closed_ends_it_quietly(app: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "slurm_cmeta.cli.main", "pull", "--dry-run", "--for", "zen4"]
    done = subprocess.run(
        [*words, app], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
