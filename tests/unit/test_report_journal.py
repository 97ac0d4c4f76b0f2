"""cmeta report --journal, with a systemd-journald of the test's own in namespaces of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from report_lines import MATCH, MISMATCH, said

from slurm_cmeta.cli.main import main

ROOT = Path(__file__).parents[2]
JOURNALD = Path("/usr/lib/systemd/systemd-journald")

HOST = r"""
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n' > /run/systemd/journald.conf.d/t.conf
"$JOURNALD" 2>/dev/null &
while ! [ -S /run/systemd/journal/dev-log ]; do sleep 0.05; done
"$PYTHON" "$SEND"
journalctl --sync
"$@"
"""

SEND = """
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
    log.connect("/run/systemd/journal/dev-log")
    for line in LINES:
        log.send(line.encode())
"""


@pytest.fixture
def in_journal(tmp_path: Path) -> list[str]:
    """Return the words before a command that sees a journal with three decisions."""
    if os.geteuid() or not JOURNALD.exists() or not shutil.which("journalctl"):
        pytest.skip("needs root, and systemd-journald")
    refused = {**MISMATCH, "refused": True}
    lines = [f"<14>cmeta[1]: {said(refused)}", f"<14>slurmctld[2]: lua: {said(MATCH)}"]
    lines.append(f"<14>sshd[3]: {said(refused)}")
    (tmp_path / "send").write_text(f"LINES = {lines!r}\n{SEND}")
    (tmp_path / "host").write_text(HOST)
    settings = [f"JOURNALD={JOURNALD}", f"PYTHON={sys.executable}", f"SEND={tmp_path}/send"]
    space = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["env", f"PYTHONPATH={ROOT}", *settings, *space, "sh", str(tmp_path / "host")]


def run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


CMETA = [sys.executable, "-m", "slurm_cmeta.cli.main", "report"]


def test_slurmctld_and_the_plugin_are_read_and_nobody_else(in_journal: list[str]) -> None:
    found = json.loads(run([*in_journal, *CMETA, "--journal", "--json"]))
    assert (found["decisions"], found["files"]) == (2, ["journal"])
    assert (found["outcomes"]["refused"], found["outcomes"]["narrowed"]) == (1, 1)


@pytest.mark.parametrize("form", ["json", "short", "short-iso", "short-precise", "short-full"])
def test_what_journalctl_prints_is_read(in_journal: list[str], form: str) -> None:
    pipe = f'journalctl -o {form} | "$@"'
    found = json.loads(run([*in_journal, "sh", "-c", pipe, "sh", *CMETA, "-", "--json"]))
    assert found["decisions"] == 2


def test_the_counters_remember_the_place_in_the_journal(
    in_journal: list[str], tmp_path: Path
) -> None:
    prom = tmp_path / "x.prom"
    twice = '"$@" && cat "$PROM" && "$PYTHON" "$SEND" && journalctl --sync && "$@" && cat "$PROM"'
    words = ["env", f"PROM={prom}", "sh", "-c", twice, "sh", *CMETA]
    out = run([*in_journal, *words, "--journal", "--textfile", str(prom)])
    counts = [line.split()[1] for line in out.splitlines() if line.startswith("cmeta_refused")]
    assert counts == ["1", "2"]


def test_a_journal_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["report", "--journal"]) == 4
    assert capsys.readouterr().err == (
        "cmeta: error: journalctl cannot be run: No such file or directory\n"
    )
    program = tmp_path / "journalctl"
    program.write_text("#!/bin/sh\necho 'No journal\033[2J' >&2\nexit 1\n")
    program.chmod(0o755)
    assert main(["report", "--journal"]) == 4
    assert capsys.readouterr().err == "cmeta: error: journalctl failed: No journal\\x1b[2J\n"
