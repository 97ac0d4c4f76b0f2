"""cmeta nodes, and what cmeta.yaml's `nodes` makes of cmeta match and cmeta-decide."""

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

from slurm_cmeta.cluster import snapshot

ROOT = Path(__file__).parents[2]
CONF = """\
ClusterName=Test
NodeName=n[1-4] Features=x86_64,x86_64_v2,x86_64_v3,zen,zen2,zen3,bigmem RealMemory=64000
NodeName=g[1-2] Features=x86_64,zen4,sm=80 Gres=gpu:a100:4 State=CLOUD
NodeName=a1 Features=aarch64,neoverse_v1
NodeName=q1
PartitionName=all Nodes=ALL Default=YES
PartitionName=half Nodes=n[1-2],g[1-2]
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.conf"
    path.write_text(CONF)
    return path


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    path = tmp_path / "arm.sif"
    path.write_bytes(sif_files.build(sif_files.partition(arch=b"04"), arch=b"04"))
    return path


def run(module: str, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"slurm_cmeta.cli.{module}", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def nodes(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return run("main", "nodes", *words, **env)


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def bad(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("cmeta: error: ")
    return line


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs/schema" / name).read_text())
    return found


def test_the_table(conf: Path) -> None:
    lines = good(nodes("--slurm-conf", conf)).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "NODES COUNT STATES PARTITIONS MEMORY GRES FEATURES",
        "n[1-2] 2 - all*,half 64000 - zen3,bigmem",
        "n[3-4] 2 - all* 64000 - zen3,bigmem",
        "g[1-2] 2 cloud:2 all*,half - gpu:a100:4 zen4,sm=80",
        "a1 1 - all* - - neoverse_v1",
        "q1 1 - all* - - -",
        "",
        "nodes 8 in 5 classes",
        f"nodes from {conf}",
    ]


def test_the_table_says_what_it_does_not_know(conf: Path) -> None:
    conf.write_text(f"{CONF}MaxNodeCount=99\nPartitionName=b Nodes=block{{b1}}\n")
    done = nodes("--slurm-conf", conf)
    assert "more nodes may register" in done.stdout
    assert done.stderr == "cmeta: warning: only slurmctld can tell all nodes of b\n"


def test_json_is_the_form_of_the_snapshot(conf: Path, tmp_path: Path) -> None:
    document = json.loads(good(nodes("--slurm-conf", conf, "--json")))
    jsonschema.validate(document, schema("cmeta.nodes-1.json"))
    file = tmp_path / "nodes.json"
    assert good(nodes("--slurm-conf", conf, "--snapshot", file)) == ""
    stored = json.loads(file.read_text())
    assert {**stored, "time": ""} == {**document, "time": ""}
    read = json.loads(good(nodes("--from-snapshot", file, "--json", SLURM_CONF=str(conf))))
    assert {**read, "source": ""} == {**stored, "source": ""}


def test_archs(conf: Path) -> None:
    document = json.loads(good(nodes("--slurm-conf", conf, "--archs", "--json")))
    jsonschema.validate(document, schema("cmeta.archs-1.json"))
    assert [c["oci"] for c in document["cpus"]] == [
        *("linux/arm64/v8.4", "linux/amd64/v3", "linux/amd64/v4")
    ]
    assert [t["eessi"] for t in document["targets"]] == [
        *("aarch64/neoverse_v1", "x86_64/amd/zen3", "x86_64/amd/zen4/accel/nvidia/cc80")
    ]
    assert document["unknown"] == {"nodes": "q1", "count": 1}
    table = good(nodes("--slurm-conf", conf, "--archs"))
    for text in ("zen3", "x86-64-v3", "linux/amd64/v3", "x86_64/amd/zen3", "-march=znver3"):
        assert text in table.splitlines()[2].split()
    assert "sm_80 nvidia accel/nvidia/cc80" in " ".join(table.split())
    assert "unknown     1 node names no single architecture: q1" in table


def test_archs_of_nothing_is_well_formed(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=c\n")
    document = json.loads(good(nodes("--slurm-conf", conf, "--archs", "--json")))
    jsonschema.validate(document, schema("cmeta.archs-1.json"))
    good(nodes("--slurm-conf", conf, "--archs"))
    good(nodes("--slurm-conf", conf))


def test_no_snapshot_of_nothing(conf: Path, tmp_path: Path) -> None:
    file = tmp_path / "nodes.json"
    good(nodes("--slurm-conf", conf, "--snapshot", file))
    before = file.read_bytes()
    conf.write_text("ClusterName=Test\n")
    assert "lists no nodes" in bad(nodes("--slurm-conf", conf, "--snapshot", file), 4)
    bad(nodes("--slurm-conf", "/no/slurm.conf", "--snapshot", file), 4)
    bad(nodes("--live", "--snapshot", file, PATH="/nowhere"), 4)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("--from-snapshot", "x", "--snapshot", "y"),
        ("--snapshot", "y", "--json"),
        ("--snapshot", "y", "--archs"),
    ],
)
def test_what_does_not_go_together(conf: Path, words: tuple[str, ...]) -> None:
    bad(nodes(*words, SLURM_CONF=str(conf)), 2)


def test_a_snapshot_is_not_made_of_the_configured_snapshot(conf: Path, tmp_path: Path) -> None:
    file = tmp_path / "nodes.json"
    configure(conf, file)
    assert "add --live" in bad(nodes("--snapshot", file, SLURM_CONF=str(conf)), 2)
    good(nodes("--slurm-conf", conf, "--snapshot", file))
    assert "nodes.json" in good(nodes(SLURM_CONF=str(conf)))


# --- the site's choice --------------------------------------------------------------------------


def configure(conf: Path, file: Path, more: str = "") -> None:
    text = f"nodes:\n  source: snapshot\n  snapshot: {file}\n{more}"
    conf.with_name("cmeta.yaml").write_text(text)


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def file(conf: Path, tmp_path: Path) -> Path:
    """Return a snapshot in which the Arm node is `arm64`: what was read, the answer tells.

    There is no node without features any more, which might run anything.
    """
    conf.write_text(CONF.replace("NodeName=q1\n", ""))
    path = tmp_path / "nodes.json"
    good(nodes("--slurm-conf", conf, "--snapshot", path))
    path.write_text(path.read_text().replace('"aarch64", "neoverse_v1"', '"arm64"'))
    return path


def answer(image: Path, conf: Path) -> list[str]:
    done = run("decide", "--image", image, "--slurm-conf", conf)
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("cmeta 1", "end")
    return lines


def test_a_submission_reads_the_snapshot(conf: Path, arm: Path, file: Path) -> None:
    assert "constraint aarch64" in answer(arm, conf)
    configure(conf, file)
    lines = answer(arm, conf)
    assert "constraint arm64" in lines
    assert not [line for line in lines if "warning" in line]
    match = json.loads(good(run("main", "match", arm, "--json", SLURM_CONF=str(conf))))
    assert match["constraint"] == "arm64"
    named = good(run("main", "match", arm, "--slurm-conf", conf, "--json"))
    assert json.loads(named)["constraint"] == "aarch64"


def test_a_submission_asks_the_controller(conf: Path, arm: Path, tmp_path: Path) -> None:
    conf.with_name("cmeta.yaml").write_text("nodes:\n  source: live\n")
    program = tmp_path / "bin/sinfo"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'a1|p|p*|idle|1|(null)|arm64'\necho 'n1|p|p*|idle|1|(null)|zen4'\n"
    )
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    done = run("decide", "--image", arm, "--slurm-conf", conf, PATH=path)
    assert "constraint arm64" in done.stdout.splitlines()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    done = run("decide", "--image", arm, "--slurm-conf", conf, PATH=path)
    assert done.stdout.splitlines()[1:] == [
        "verdict unknown",
        "action accept",
        "message warning: sinfo gave no answer in 1 seconds; the job is submitted as it is",
        "reason fault sinfo gave no answer in 1 seconds",
        "end",
    ]


def test_a_stale_snapshot_is_used_refuses_nothing_and_warns(
    conf: Path, arm: Path, file: Path
) -> None:
    configure(conf, file)
    change(file, time="2020-01-01T00:00:00Z")
    lines = answer(arm, conf)
    assert "constraint arm64" in lines
    (warning,) = [line for line in lines if "warning" in line]
    assert warning.startswith(f"message warning: {file}: stale, written ")

    document = json.loads(file.read_text())
    change(file, classes=[c for c in document["classes"] if "arm64" not in c["features"]])
    lines = answer(arm, conf)
    assert lines[1:3] == ["verdict unknown", "action accept"]
    assert any(line.endswith("; others may") for line in lines)
    configure(conf, file, "  max_age: 0\n")
    lines = answer(arm, conf)
    assert lines[1:3] == ["verdict mismatch", "action reject"]
    change(file, time=snapshot.iso_time(2**31))
    assert "written in the future" in answer(arm, conf)[3]


@pytest.mark.parametrize(
    ("change_of", "words"),
    [
        ({"cluster": "other"}, "a snapshot of cluster other, and this is test"),
        ({"classes": 3}, "a node class needs nodes, count and features"),
        ({"schema": "x"}, "not a snapshot"),
    ],
)
def test_a_snapshot_that_is_none_leaves_the_job_as_it_is(
    conf: Path, arm: Path, file: Path, change_of: dict[str, object], words: str
) -> None:
    configure(conf, file)
    change(file, **change_of)
    lines = answer(arm, conf)
    assert lines[1:3] == ["verdict unknown", "action accept"]
    assert f"message warning: {file}: {words}" in lines[3]
    assert lines[3].endswith("; the job is submitted as it is")
    configure(conf, file, "on_error: reject\n")
    assert answer(arm, conf)[2] == "action reject"


def test_match_says_that_a_snapshot_is_stale(conf: Path, arm: Path, file: Path) -> None:
    change(file, time="2020-01-01T00:00:00Z")
    done = run("main", "match", arm, "--snapshot", file, SLURM_CONF=str(conf))
    assert "stale, written" in done.stderr
    shown = nodes("--from-snapshot", file, SLURM_CONF=str(conf))
    assert "stale, written" in shown.stderr
    assert shown.returncode == 0


def test_the_submit_path_with_a_snapshot_starts_nothing(conf: Path, arm: Path, file: Path) -> None:
    configure(conf, file)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from slurm_cmeta.cli import decide; "
        f"decide.main(['--image', {str(arm)!r}, '--slurm-conf', {str(conf)!r}]); "
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "slurm_cmeta.cluster.snapshot" in loaded
    assert {"argparse", "subprocess", "slurm_cmeta.cluster.live"} & loaded == set()
