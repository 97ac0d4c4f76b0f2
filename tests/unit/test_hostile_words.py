"""Whatever an image, a path, a slurm.conf or a user says: what is printed is plain and bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sif_files

ROOT = Path(__file__).parents[2]
EVIL = "e\x1b[2J\x9b\u202e\u2028\r\nerror: forged\x7f"
"""Escapes, a C1 control, a mark of direction, line breaks of three kinds."""

LABELS = {
    "org.opencontainers.image.architecture": f"amd64{EVIL}",
    "org.opencontainers.image.variant": f"v3{EVIL}",
    "io.archspec.cpu.target": f"zen4{EVIL}",
    "org.supercontainers.hardware.gpu.vendor": f"nvidia{EVIL}",
    "org.supercontainers.mpi.implementation": f"openmpi{EVIL}",
    "org.opencontainers.image.created": f"2024{EVIL}",
    "org.label-schema.usage.singularity.deffile.from": f"base{EVIL}",
    "org.label-schema.usage.singularity.deffile.bootstrap": EVIL,
    f"cmeta.requires{EVIL}": EVIL,
    EVIL: "x" * 200_000,
    "maintainer": EVIL * 2000,
}
CONF = """\
ClusterName=test
NodeName=old[1-2] Features=x86_64,ivybridge{evil}
NodeName=mid{evil} Features=x86_64,x86_64_v3,zen3
NodeName=arm1 Features=aarch64
PartitionName=cpu{evil} Nodes=ALL Default=YES
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with a name that is no UTF-8 and has everything else wrong."""
    path = tmp_path / os.fsdecode(EVIL.encode() + b"\xff")
    path.mkdir()
    return path


@pytest.fixture
def image(place: Path) -> Path:
    path = place / "img.sif"
    parts = [sif_files.partition(), sif_files.metadata(LABELS, EVIL), sif_files.metadata(LABELS)]
    path.write_bytes(sif_files.build(*parts))
    return path


@pytest.fixture
def conf(place: Path) -> Path:
    path = place / "slurm.conf"
    # A line break ends a line of slurm.conf; all else may be in it.
    evil = EVIL.replace("\r", "").replace("\n", "").replace("\u2028", "").replace(" ", "")
    path.write_text(CONF.format(evil=evil))
    return path


def command(module: str, *words: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", f"slurm_cmeta.cli.{module}", *map(str, words)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()  # strict


def check(*streams: str) -> None:
    for stream in streams:
        assert "Traceback" not in stream
        for line in stream.removesuffix("\n").split("\n"):
            assert line.isprintable(), line
            assert not line.startswith("error:")
            assert len(line) < 5000


@pytest.mark.parametrize(
    "words",
    [
        ["main", "inspect", "IMAGE"],
        ["main", "inspect", "IMAGE", "IMAGE"],
        ["main", "inspect", "--deep", "IMAGE"],
        ["main", "inspect", f"/none{EVIL}"],
        ["main", "match", "IMAGE", "--slurm-conf", "CONF"],
        ["main", "match", "IMAGE", "--slurm-conf", "CONF", "-C", f"x86_64&{EVIL}"],
        ["main", "match", "IMAGE", "--slurm-conf", "CONF", "-p", EVIL],
        ["main", "match", "IMAGE", "--slurm-conf", f"/none{EVIL}"],
        ["main", "why", "IMAGE", "arm1", "--slurm-conf", "CONF"],
        ["main", "why", "IMAGE", "old1", "--slurm-conf", "CONF", "-p", EVIL],
        ["main", "why", "IMAGE", EVIL, "--slurm-conf", "CONF"],
        ["main", "nodes", "--slurm-conf", "CONF"],
        ["main", "nodes", "--archs", "--slurm-conf", "CONF"],
        ["main", "nodes", "--snapshot", f"/none{EVIL}/x", "--slurm-conf", "CONF"],
        ["main", "check-config", "--slurm-conf", "CONF"],
        ["main", "check-config", f"/none{EVIL}"],
        ["main", f"no{EVIL}"],
        ["main", "inspect", f"--{EVIL}", "IMAGE"],
        ["features", f"--{EVIL}"],
        ["features", "--root", f"/none{EVIL}"],
        ["decide", f"--{EVIL}"],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--explain", "yes"],
        ["decide", "--image", "IMAGE", "--slurm-conf", f"/none{EVIL}"],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--constraint", f"x86_64{EVIL}"],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--constraint", "arm\nmessage x"],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--prefer", f"x86_64{EVIL}"],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--partition", EVIL],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--nodelist", EVIL],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--exclude", EVIL],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--clusters", EVIL],
        ["decide", "--image", "IMAGE", "--slurm-conf", "CONF", "--mem", EVIL, "--nodes", EVIL],
        ["decide", "--image", "IMAGE", "--config", f"/none{EVIL}", "--slurm-conf", "CONF"],
    ],
)
def test_what_is_printed_is_plain_and_bounded(words: list[str], image: Path, conf: Path) -> None:
    named = {"IMAGE": str(image), "CONF": str(conf)}
    _, out, err = command(words[0], *(named.get(w, w) for w in words[1:]))
    check(out, err)
    if words[0] == "decide" and out:
        lines = out.splitlines()
        keys = {line.partition(" ")[0] for line in lines[1:-1]}
        assert (lines[0], lines[-1]) == ("cmeta 1", "end")
        assert keys <= {
            "verdict",
            "action",
            "constraint",
            "prefer",
            "exclude",
            "message",
            "required",
            "reason",
            "identity",
        }
        assert "message x" not in lines


def test_json_holds_all_of_it_escaped(image: Path, conf: Path) -> None:
    code, out, _ = command("main", "inspect", "--json", image)
    assert code == 0
    assert out.isascii()
    assert EVIL in json.loads(out)["labels"]
