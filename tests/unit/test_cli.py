"""The commands as their users type them: output, messages, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sif_files

from slurm_cmeta import __version__

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs/schema"

SLURM_CONF = """\
ClusterName=test
NodeName=old[1-2] Features=x86_64,x86_64_v2,ivybridge
NodeName=top1 Features=x86_64,x86_64_v2,x86_64_v3,x86_64_v4,zen4,ib
NodeName=arm[1-2] Features=aarch64,neoverse_v1,ib
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.conf"
    path.write_text(SLURM_CONF)
    return path


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    path = tmp_path / "arm.sif"
    path.write_bytes(sif_files.build(sif_files.partition(b"04"), arch=b"04"))
    return path


def run(
    module: str, *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"slurm_cmeta.cli.{module}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "SLURM_CONF": "", **(env or {})},
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cmeta: ")
    assert "Traceback" not in line
    return line


# --- cmeta match --------------------------------------------------------------------------------


def test_match_prints_every_class_and_the_constraint(cluster: Path, arm: Path) -> None:
    done = run("main", "match", arm, "--slurm-conf", cluster)
    assert done.returncode == 0
    rows = done.stdout.splitlines()
    assert rows[0].split() == ["NODES", "COUNT", "VERDICT", "REASON"]
    assert rows[1].split()[:3] == ["old[1-2]", "2", "mismatch"]
    assert rows[3].split()[:3] == ["arm[1-2]", "2", "match"]
    assert "constraint  aarch64" in rows
    assert "verdict     match: 2 of 5 nodes can run it" in rows


def as_json(*arguments: str | Path, schema: str = "cmeta.match-1") -> dict[str, Any]:
    done = run("main", "match", *arguments, "--json")
    value: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(value, json.loads((SCHEMAS / f"{schema}.json").read_text()))
    assert done.returncode == (1 if value["verdict"] == "mismatch" else 0)
    return value


def test_match_as_json(cluster: Path, arm: Path) -> None:
    value = as_json(arm, "--slurm-conf", cluster, "-C", "ib")
    assert (value["verdict"], value["constraint"]) == ("match", "ib&aarch64")
    assert value["user_constraint"] == "ib"
    assert [(c["nodes"], c["verdict"]) for c in value["classes"]] == [
        ("old[1-2]", "mismatch"),
        ("top1", "mismatch"),
        ("arm[1-2]", "match"),
    ]
    (reason,) = value["classes"][0]["reasons"]
    assert (reason["key"], reason["needs"], reason["has"]) == ("arch", "aarch64", "x86_64")


def test_match_says_when_no_node_fits(cluster: Path, tmp_path: Path) -> None:
    power = tmp_path / "power.sif"
    power.write_bytes(sif_files.build(sif_files.partition(b"06"), arch=b"06"))
    done = run("main", "match", power, "--slurm-conf", cluster)
    assert done.returncode == 1
    assert "none of the 5 nodes can run it" in done.stderr
    assert as_json(power, "--slurm-conf", cluster)["verdict"] == "mismatch"


def test_match_counts_no_node_that_the_constraint_leaves_out(cluster: Path, arm: Path) -> None:
    done = run("main", "match", arm, "--slurm-conf", cluster, "-C", "zen4")
    assert done.returncode == 1
    assert "verdict     mismatch: no node that the job may use can run it" in done.stdout
    assert "not one of those nodes that the constraint allows can run it" in done.stderr


def test_decide_finds_the_policy_beside_slurms_own_configuration(cluster: Path, arm: Path) -> None:
    cluster.with_name("cmeta.yaml").write_text("strength:\n  arch: ignore\n")
    done = run("decide", "--image", arm, env={"SLURM_CONF": str(cluster)})
    assert "verdict unknown" in done.stdout.splitlines()


def test_match_takes_slurms_own_configuration(cluster: Path, arm: Path) -> None:
    done = run("main", "match", arm, env={"SLURM_CONF": str(cluster)})
    assert f"nodes from  {cluster}" in done.stdout


def test_match_against_a_snapshot(tmp_path: Path, arm: Path) -> None:
    snapshot = tmp_path / "nodes.json"
    nodes = {"nodes": "n[1-3]", "count": 3, "features": ["zen4"]}
    value = {"schema": "cmeta.nodes/1", "classes": [nodes]}
    jsonschema.validate(value, json.loads((SCHEMAS / "cmeta.nodes-1.json").read_text()))
    snapshot.write_text(json.dumps(value))
    assert as_json(arm, "--snapshot", snapshot)["verdict"] == "mismatch"
    snapshot.write_text(json.dumps({**value, "unlisted_nodes": True}))
    assert as_json(arm, "--snapshot", snapshot)["verdict"] == "unknown"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": "cmeta.nodes/2", "classes": []}',
        '{"schema": "cmeta.nodes/1"}',
        '{"schema": "cmeta.nodes/1", "classes": [1]}',
        '{"schema": "cmeta.nodes/1", "classes": [{"nodes": "n1", "count": 1, "features": [1]}]}',
        '{"schema": "cmeta.nodes/1", "classes": [{"nodes": "n1", "count": true, "features": []}]}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_broken_snapshot_is_one_line(tmp_path: Path, arm: Path, text: str) -> None:
    snapshot = tmp_path / "nodes.json"
    snapshot.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = run("main", "match", arm, "--snapshot", snapshot)
    assert done.returncode == 4
    assert "nodes.json: " in one_line(done)


def test_match_live_asks_sinfo(tmp_path: Path, arm: Path) -> None:
    sinfo = tmp_path / "sinfo"
    rows = [("n[1-2],m1", "aarch64"), ("m2", "(null)"), ("m3", "zen4,ib")]
    lines = [f"{nodes}|p|p*|idle|1000|(null)|{features}" for nodes, features in rows]
    sinfo.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    sinfo.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("main", "match", arm, "--live", "--json", env={"PATH": path})
    classes = json.loads(done.stdout)["classes"]
    assert [(c["nodes"], c["features"]) for c in classes] == [
        ("m1,n[1-2]", ["aarch64"]),
        ("m2", []),
        ("m3", ["zen4", "ib"]),
    ]
    sinfo.write_text("#!/bin/sh\necho 'sinfo: error: no\x1b[2J controller' >&2; exit 1\n")
    failed = run("main", "match", arm, "--live", env={"PATH": path})
    assert failed.returncode == 4
    assert "sinfo failed: sinfo: error: no\\x1b[2J controller" in one_line(failed)
    if Path(os.path.realpath(sys.executable)).with_name("sinfo").exists():
        return  # it is looked for beside the command that submits, too
    missing = run("main", "match", arm, "--live", env={"PATH": "/nowhere"})
    assert missing.returncode == 4
    assert "sinfo is not in PATH" in one_line(missing)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("match",), 2),
        (("match", "IMAGE", "--live", "--snapshot", "x"), 2),
        (("nosuch",), 2),
        (("match", "/no/such.sif", "--slurm-conf", "CONF"), 3),
        (("match", "IMAGE", "--slurm-conf", "/no/slurm.conf"), 4),
        (("match", "IMAGE", "--slurm-conf", "CONF", "--config", "/no/cmeta.yaml"), 4),
    ],
)
def test_exit_codes(cluster: Path, arm: Path, arguments: tuple[str, ...], code: int) -> None:
    words = [{"IMAGE": str(arm), "CONF": str(cluster)}.get(word, word) for word in arguments]
    done = run("main", *words)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code > 2:
        one_line(done)


@pytest.mark.parametrize("arguments", [("--help",), ("match", "--help"), ("inspect", "--help")])
def test_help_ends_in_examples(arguments: tuple[str, ...]) -> None:
    done = run("main", *arguments)
    assert done.returncode == 0
    assert "examples:" in done.stdout


def test_a_mistake_of_ours_is_an_answer(
    cluster: Path, arm: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    """No traceback, which the plugin would throw away: the job goes on, and the user reads why."""
    from slurm_cmeta import submission
    from slurm_cmeta.cli import decide

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a\x1b b")

    monkeypatch.setattr(submission, "read_image", broken)
    assert decide.main(["--image", str(arm), "--slurm-conf", str(cluster)]) == 3
    out = capfdbinary.readouterr().out.decode().splitlines()
    assert out[:3] == ["cmeta 1", "verdict unknown", "action accept"]
    assert out[3:] == [
        "message warning: internal error: ZeroDivisionError: a\\x1b b; "
        "the job is submitted as it is",
        "reason fault internal error: ZeroDivisionError: a\\x1b b",
        "end",
    ]


@pytest.mark.parametrize("module", ["main", "decide"])
def test_version(module: str) -> None:
    done = run(module, "--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, __version__)


def test_the_reader_of_a_pipe_may_leave(cluster: Path, arm: Path) -> None:
    command = f"{sys.executable} -m slurm_cmeta.cli.main match {arm} --slurm-conf {cluster} --json"
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -c 1"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("{", "")


# --- cmeta-decide -------------------------------------------------------------------------------


def test_decide_answers_by_the_protocol(cluster: Path, arm: Path) -> None:
    status = arm.stat()
    done = run("decide", "--image", arm, "--slurm-conf", cluster, "--constraint", "ib")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "cmeta 1",
        "verdict match",
        "action accept",
        "constraint ib&aarch64",
        "required aarch64",
        'message arm.sif needs aarch64 (SIF partition descriptor 1): constraint "ib&aarch64", '
        "2 of 5 nodes",
        "reason narrowed arch=aarch64",
        f"identity {status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}",
        "end",
    ]


def test_decide_turns_a_foreseeable_error_into_an_answer(cluster: Path, tmp_path: Path) -> None:
    done = run("decide", "--image", "/no/such.sif", "--slurm-conf", cluster)
    assert done.returncode == 3
    assert done.stdout.splitlines() == [
        "cmeta 1",
        "verdict unknown",
        "action accept",
        "message warning: /no/such.sif: does not exist; the job is submitted as it is",
        "reason fault /no/such.sif: does not exist",
        "end",
    ]
    config = tmp_path / "policy.yaml"
    config.write_text("on_error: reject\n")
    image = ("--image", "/no/such.sif", "--slurm-conf", str(cluster))
    refused = run("decide", *image, "--config", config)
    assert "action reject" in refused.stdout.splitlines()
    assert "message error: /no/such.sif: does not exist" in refused.stdout


@pytest.mark.parametrize(
    "arguments", [(), ("--image",), ("--image", ""), ("--imag", "x"), ("x",), ("--image", "x", "y")]
)
def test_decide_refuses_other_words(arguments: tuple[str, ...]) -> None:
    done = run("decide", *arguments)
    assert done.returncode == 2
    one_line(done)


def test_no_value_can_forge_a_line_of_the_answer(cluster: Path, arm: Path) -> None:
    forged = arm.with_name("a\nverdict mismatch\naction reject\nend\n.sif")
    forged.write_bytes(arm.read_bytes())
    evil = "ib\naction reject"
    done = run("decide", "--image", forged, "--slurm-conf", cluster, "--constraint", evil)
    keys = [line.split(" ")[0] for line in done.stdout.splitlines()]
    added = ["exclude", "required", "message", "reason", "identity"]
    assert keys == ["cmeta", "verdict", "action", *added, "end"]


def test_the_submit_path_imports_nothing_it_does_not_need(cluster: Path, arm: Path) -> None:
    code = (
        "import sys; from slurm_cmeta.cli import decide; "
        f"decide.main(['--image', {str(arm)!r}, '--slurm-conf', {str(cluster)!r}]); "
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
    )
    loaded = set(done.stderr.split())
    assert "slurm_cmeta.decide" in loaded
    heavy = {"argparse", "yaml", "archspec", "spython", "pyslurm", "subprocess", "dataclasses"}
    heavy |= {"pathlib", "logging", "inspect", "tempfile", "socket"}
    assert heavy & loaded == set()


def test_a_job_for_another_cluster_is_left_as_it_is(cluster: Path, arm: Path) -> None:
    text = cluster.read_text()
    named = next(line for line in text.splitlines() if line.lower().startswith("clustername="))
    here = named.partition("=")[2]
    for where, verdict in ((here, "match"), ("far", "unknown"), (f"{here},far", "unknown")):
        done = run("decide", "--image", arm, "--slurm-conf", cluster, "--clusters", where)
        assert done.returncode == 0
        assert f"verdict {verdict}" in done.stdout.splitlines()
    assert "the nodes of cluster" in done.stdout
