"""cmeta report: totals, text, JSON."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from report_lines import BASE, FAULT, MATCH, MISMATCH, logged, said

from slurm_cmeta.cli.main import main
from slurm_cmeta.report import logs, totals
from slurm_cmeta.report.line import MAX_LINE, Decision, parse
from slurm_cmeta.report.totals import OUTCOMES, Tally, Totals, outcome

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
NOISE = b"[2026-11-28T06:14:44.077] _slurm_rpc_submit_batch_job: JobId=1 InitPrio=0 usec=126\n"

NO_EVIDENCE = {**BASE, "image": "/images/bare", "verdict": "unknown", "reason": "no-evidence"}
NOT_COMPARED = {**NO_EVIDENCE, "reason": "not-compared", "detail": "mpi=openmpi; kernel>=5.4"}
FITS = {**MATCH, "before": "ib", "after": "ib", "reason": "fits", "detail": ""}
ELSEWHERE = {**NO_EVIDENCE, "reason": "elsewhere"}
OFF, MISSING = ({**BASE, "image": "/i.sif", "verdict": verdict} for verdict in ("off", "missing"))
UPDATE = {**BASE, "event": "update", "job": 7, "before": "a", "after": "a&zen4"}
ALL = [MATCH, FITS, MISMATCH, {**MISMATCH, "refused": True}, NO_EVIDENCE, NOT_COMPARED, FAULT, OFF]
ALL += [MISSING, ELSEWHERE, UPDATE]


def run(capsys: Capture, *words: str | Path) -> tuple[int, str, str]:
    code = main(["report", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "slurmctld.log"
    path.write_bytes(NOISE + logged(*ALL) + NOISE + b"[x] lua: cmeta decision {}\n")
    return path


def report(capsys: Capture, *words: str | Path) -> dict[str, Any]:
    code, out, err = run(capsys, *words, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    schema = json.loads((ROOT / "docs/schema/cmeta.report-1.json").read_text())
    jsonschema.validate(found, schema)
    assert set(schema["properties"]["outcomes"]["properties"]) == set(found["outcomes"])
    return found


def test_every_outcome_is_counted(log: Path, capsys: Capture) -> None:
    found = report(capsys, log)
    assert found["decisions"] == 10
    assert found["outcomes"] == {kind.replace(" ", "_"): 1 for kind in OUTCOMES}
    assert found["verdicts"] == {
        "match": 2,
        "mismatch": 2,
        "unknown": 3,
        "fault": 1,
        "missing": 1,
        "off": 1,
    }
    assert (found["updates"], found["broken_lines"]) == (1, 1)
    assert (found["timed"], found["cache_hits"], found["milliseconds"]) == (4, 2, 168)
    assert found["would_be_refused"]["needs"] == [{"what": "arch=ppc64le", "count": 1, "users": 1}]
    assert found["refused"]["partitions"] == [{"what": "gpu", "count": 1, "users": 1}]
    assert [row["what"] for row in found["narrowed"]["needs"]] == ["cpu>=zen4", "cuda>=12.4"]
    assert [row["what"] for row in found["not_compared"]["needs"]] == ["kernel>=5.4", "mpi=openmpi"]
    assert found["no_evidence"]["images"][0]["what"] == "/images/bare"
    assert found["faults"]["causes"][0]["what"] == "IMAGE: does not exist"


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"verdict": "mismatch"}, "would be refused"),
        ({"verdict": "mismatch", "refused": True}, "refused"),
        ({"verdict": "missing", "refused": True}, "refused"),
        ({"after": "ib", "exclude": "n1"}, "narrowed"),
        ({"after": "ib"}, "fits"),
        ({"verdict": "unknown", "reason": "unreached"}, "other"),
        ({"verdict": "forged"}, "other"),
        ({"verdict": "refused"}, "other"),
    ],
)
def test_the_outcome_follows_from_what_was_done(changed: dict[str, Any], kind: str) -> None:
    found = parse(said({**MATCH, **changed}).encode())
    assert isinstance(found, Decision)
    assert outcome(found) == kind


def test_the_report_fits_one_screen_and_has_the_heaviest_first(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "log"
    refused = [
        {**MISMATCH, "image": f"/i{n}.sif", "user": n % 7} for n in range(30) for _ in range(n)
    ]
    path.write_bytes(logged(*ALL, *refused))
    code, out, _ = run(capsys, path)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= 60
    assert all(len(line) <= 120 for line in lines)
    images = [line for line in lines if "  /i" in line and line.endswith(".sif")]
    assert [line.split()[-1] for line in images][:4] == [f"/i{n}.sif" for n in (29, 28, 27, 26)]


def test_the_text_says_what_an_administrator_asks(log: Path, capsys: Capture) -> None:
    _, out, _ = run(capsys, log)
    assert out.startswith("10 decisions from 2026-11-2")
    assert "42 ms each, 50 % from the cache" in out
    for line in (
        "       1  10.0 %  would be refused: no node can run the image, and on_mismatch is warn",
        "       1       1  arch=ppc64le",
        "       1       1  /images/power.sif",
        "      partitions  gpu 1",
        "       1       1  IMAGE: does not exist",
        "       1  updates by scontrol got what the image needs again",
        "       1  lines look like decisions and are none",
    ):
        assert line in out.splitlines(), line


def test_a_log_without_decisions_says_so(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "log"
    path.write_bytes(NOISE)
    assert run(capsys, path) == (0, "no decision found\n", "")
    assert report(capsys, path)["first"] is None


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_rotated_logs_are_read_compressed_or_not(
    tmp_path: Path, capsys: Capture, pack: Any
) -> None:
    (tmp_path / "l.2.gz").write_bytes(pack(logged(MATCH)))
    (tmp_path / "l.1").write_bytes(logged(MATCH))
    assert report(capsys, tmp_path / "l.2.gz", tmp_path / "l.1")["decisions"] == 2


def test_without_a_file_the_controllers_log_is_read_with_its_rotated_parts(
    log: Path, tmp_path: Path, capsys: Capture
) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text(f"ClusterName=c\nSlurmctldLogFile={log}\nNodeName=n1\n")
    (tmp_path / "slurmctld.log.1").write_bytes(logged(MATCH))
    old = tmp_path / "slurmctld.log-20200101.gz"
    old.write_bytes(gzip.compress(logged(MATCH)))
    (tmp_path / "slurmctldXlog").write_bytes(logged(MATCH))
    found = report(capsys, "--slurm-conf", conf)
    assert found["decisions"] == 12
    assert len(found["files"]) == 3
    os.utime(old, (0, 0))
    assert len(report(capsys, "--slurm-conf", conf, "--since", "365d")["files"]) == 2
    conf.write_text("ClusterName=c\nNodeName=n1\n")
    code, _, err = run(capsys, "--slurm-conf", conf)
    assert (code, err.count("\n")) == (4, 1)
    assert "names no SlurmctldLogFile" in err


def test_since_leaves_out_what_is_older(tmp_path: Path, capsys: Capture) -> None:
    path, now = tmp_path / "log", int(time.time())
    path.write_bytes(logged({**MATCH, "time": now - 90_000}, {**MATCH, "time": now - 3600}))
    for since, count in (
        ("2d", 2),
        ("1d", 1),
        ("30m", 0),
        ("2020-01-01", 2),
        ("2999-01-01T10:00", 0),
    ):
        assert report(capsys, path, "--since", since)["decisions"] == count
    for wrong in ("yesterday", "", "1y", "9" * 30, "-1d"):
        code, out, err = run(capsys, path, f"--since={wrong}") if wrong else (2, "", "cmeta: \n")
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_standard_input_is_read_as_the_journals_json(capsys: Capture, monkeypatch: Any) -> None:
    entry = {"SYSLOG_IDENTIFIER": "slurmctld", "MESSAGE": f"lua: {said(MATCH)}"}
    stream = io.TextIOWrapper(io.BytesIO(json.dumps(entry).encode() + b"\n"))
    monkeypatch.setattr(sys, "stdin", stream)
    assert report(capsys, "-")["decisions"] == 1


@pytest.mark.parametrize("name", ["none", "directory", "cut.gz"])
def test_a_log_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: Capture, name: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(5000))[:2000])
    code, out, err = run(capsys, tmp_path / name)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert err.startswith(f"cmeta: error: {tmp_path / name}: ")


def test_a_line_without_end_is_passed_over() -> None:
    stream = io.BytesIO(b"a\n" + b"x" * (3 * MAX_LINE) + b"\nb\n" + b"y" * MAX_LINE + b"\nc")
    assert [line for line, _ in logs.lines(stream)] == [b"a\n", b"b\n", b"c"]
    stream.seek(0)
    assert [line for line, _ in logs.lines(stream, whole=True)] == [b"a\n", b"b\n"]


def test_a_tally_stays_small_and_keeps_what_is_frequent() -> None:
    tally = Tally()
    for number in range(40_000):
        tally.add(f"rare{number}", number)
        tally.add("often", number)
    rows = tally.rows()
    assert (rows[0].what, rows[0].times) == ("often", 40_000)
    assert rows[0].users == totals.MAX_USERS
    assert len(rows) <= totals.MAX_KEYS
    assert sum(row.times for row in rows) + tally.forgotten == 80_000


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """400,000 images and users, and one line of 64 MB: all of it hostile."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        for number in range(100_000):
            file.write(logged({**NO_EVIDENCE, "image": f"/i/{number}" + "x" * 300, "user": number}))
        for _ in range(64):
            file.write(b"cmeta decision {" * 65_536)

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20,) * 2)

    done = subprocess.run(
        [sys.executable, "-m", "slurm_cmeta.cli.main", "report", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=bounded,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("100000 decisions")


def test_hostile_values_reach_no_terminal(tmp_path: Path, capsys: Capture) -> None:
    evil = "e\x1b[2J\x9b\u202e\u2028\r\nerror: forged\x7f"
    path = tmp_path / "log"
    values = [
        {**one, key: evil} for one in ALL for key in ("image", "detail", "partition", "verdict")
    ]
    path.write_bytes(logged(*values))
    _, out, _ = run(capsys, path, "--top", "100")
    assert all(line.isprintable() and not line.startswith("error") for line in out.split("\n"))
    found = Totals()
    for raw in path.read_bytes().splitlines():
        found.add(parse(raw))
    assert found.decisions == len(values) - 4
