"""The line that tells on a terminal that reading goes on."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from sif_files import build, partition

from slurm_cmeta.cli import progress as lines
from slurm_cmeta.cli.progress import Fetching, Progress

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_after_a_second_and_none_when_done() -> None:
    terminal = Terminal()
    progress = Progress("img\x1b.sif", terminal)
    assert progress.enabled
    progress(0.3, 20_000)
    assert terminal.getvalue() == ""
    progress(1.2, 19_000)
    shown = "cmeta: reading img\\x1b.sif: 1000 steps, 1 s"
    assert terminal.getvalue() == f"\r{shown}"
    progress.done()
    assert terminal.getvalue() == f"\r{shown}\r{' ' * len(shown)}\r"
    progress.done()
    assert terminal.getvalue().count("\r") == 3


def test_nothing_where_nobody_reads_it() -> None:
    stream = io.StringIO()
    progress = Progress("img.sif", stream)
    assert not progress.enabled
    progress(5, 10)
    progress.done()
    assert stream.getvalue() == ""


def test_what_is_fetched_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "REDRAW_SECONDS", 0)
    terminal = Terminal()
    fetching = Fetching("a\x1b.sif", terminal)
    fetching(3 << 20, 40 << 20)
    fetching(0, 40 << 20)
    shown = "cmeta: fetching a\\x1b.sif: 3 of 40 MiB, 0 s"
    other = "cmeta: fetching a\\x1b.sif: 40 MiB, 0 s".ljust(len(shown))
    assert terminal.getvalue() == f"\r{shown}\r{other}"
    fetching.done()
    assert terminal.getvalue().endswith(f"\r{' ' * len(shown)}\r")
    silent = io.StringIO()
    Fetching("a.sif", silent)(1, 2)
    assert silent.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_real_terminal(tmp_path: Path, terminal: bool) -> None:
    """With the second made none, the line comes and goes before the answer on a pty."""
    path = tmp_path / "img.sif"
    path.write_bytes(build(partition()))
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from slurm_cmeta.image import filetree; filetree.PROGRESS_SECONDS = -1.0\n"
        "from slurm_cmeta.cli import main, progress; progress.AFTER_SECONDS = 0.0\n"
        f"sys.exit(main.main(['inspect', {str(path)!r}]))\n"
    )
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", script],
            stdout=subprocess.PIPE,
            stderr=theirs if terminal else subprocess.PIPE,
            check=True,
        )
        os.write(theirs, b".")
        shown = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (b"cmeta: reading" in shown) == terminal
    assert (b"reading" in (done.stderr or b"")) is False
    assert b"x86_64" in done.stdout
