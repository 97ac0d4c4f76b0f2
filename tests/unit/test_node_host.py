"""The host's files and programs, below a root."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm_cmeta.node import host as host_module
from slurm_cmeta.node.host import Host, Missing, Unreadable


def test_a_file_is_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags : sse2\n")
    assert Host(str(tmp_path)).read("/proc/cpuinfo") == "flags : sse2\n"
    assert Host(str(tmp_path)).read("/proc/cpuinfo", 5) == "flags"


def test_absolute_links_stay_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("replayed\n")
    (tmp_path / "name").symlink_to("/etc/hostname")
    (tmp_path / "up").symlink_to("../../../../etc/hostname")
    machine = Host(str(tmp_path))
    assert machine.read("/name") == "replayed\n"
    assert machine.read("/up") == "replayed\n"
    assert machine.read("/../../etc/hostname") == "replayed\n"
    assert machine.real("/name") == "/etc/hostname"


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("/nothing")
    machine = Host(str(tmp_path))
    for path in ("/nothing", "/file/below", "/dangling"):
        with pytest.raises(Missing, match=path):
            machine.read(path)
        assert not machine.exists(path)
    with pytest.raises(Missing):
        machine.names("/nothing")


def test_what_cannot_be_told_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    machine = Host(str(tmp_path))
    for path in ("/directory", "/loop", "/fifo"):
        with pytest.raises(Unreadable):
            machine.read(path)
    with pytest.raises(Unreadable):
        machine.exists("/loop")


def test_no_rights_are_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("")

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Unreadable, match=r"/secret: Permission denied"):
        Host(str(tmp_path)).read("/secret")


def test_names_are_sorted_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "cab":
        (tmp_path / name).touch()
    assert Host(str(tmp_path)).names("/") == ["a", "b", "c"]
    monkeypatch.setattr(host_module, "MAX_NAMES", 2)
    with pytest.raises(Unreadable, match="more than 2 names"):
        Host(str(tmp_path)).names("/")


def test_below_a_root_no_program_is_run_but_its_recorded_answer_read(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded-commands"
    recorded.mkdir()
    (recorded / "tool --path _etc_x").write_text("an answer\n")
    machine = Host(str(tmp_path))
    assert machine.run("tool", "--path", "/etc/x") == "an answer\n"
    with pytest.raises(Missing):
        machine.run("true")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that installs a shell script as the program `tool` of this machine."""
    monkeypatch.setattr(host_module, "PROGRAM_PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(script: str) -> str:
        path = tmp_path / "tool"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return "tool"

    return install


def test_a_program_answers(program: Callable[[str], str]) -> None:
    assert Host().run(program('echo "$1 $LC_ALL"'), "hello") == "hello C\n"


def test_a_failing_program_says_why(program: Callable[[str], str]) -> None:
    with pytest.raises(Unreadable, match="tool failed: no driver"):
        Host().run(program("echo no driver >&2; exit 9"))
    with pytest.raises(Unreadable, match="tool failed: exit status 3"):
        Host().run(program("exit 3"))
    with pytest.raises(Missing):
        Host().run("no-such-program-anywhere")


def test_a_program_that_cannot_be_started(program: Callable[[str], str], tmp_path: Path) -> None:
    program("")
    (tmp_path / "tool").write_text("#!/no/such/interpreter\n")
    with pytest.raises(Unreadable, match="tool:"):
        Host().run("tool")


def test_a_hung_program_is_ended_with_its_children(
    program: Callable[[str], str], tmp_path: Path
) -> None:
    program(f"sleep 300 & echo $! > {tmp_path}/child; wait")
    begun = time.monotonic()
    with pytest.raises(Unreadable, match=r"tool gave no answer in 0.5 seconds"):
        Host().run("tool", seconds=0.5)
    assert time.monotonic() - begun < 5
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child of the hung program lives")


def test_what_a_program_leaves_behind_does_not_hold_the_answer_up(
    program: Callable[[str], str],
) -> None:
    begun = time.monotonic()
    assert Host().run(program("sleep 30 & echo answer")) == "answer\n"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "script",
    [
        "exec yes",
        "exec yes >&2",
        "yes; exit 0",
        "yes & wait; exit 0",
        "trap '' XFSZ; yes",
        "trap '' XFSZ; while :; do yes 2>&1; done",  # is ended at the deadline
    ],
)
def test_a_program_that_prints_for_ever_is_ended(
    program: Callable[[str], str], script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "MAX_OUTPUT", 1 << 20)
    begun = time.monotonic()
    with pytest.raises(Unreadable, match="tool prints without end: more than 1 MiB"):
        Host().run(program(script), seconds=3)
    assert time.monotonic() - begun < 5


def test_no_file_of_a_program_grows_without_end(
    program: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "MAX_OUTPUT", 1 << 20)
    with pytest.raises(Unreadable, match="tool failed"):
        Host().run(program(f"exec yes > {tmp_path}/log"), seconds=3)
    assert (tmp_path / "log").stat().st_size <= 1 << 20


def test_much_output_below_the_limit_is_an_answer(program: Callable[[str], str]) -> None:
    assert len(Host().run(program("yes | head -c 3000000"))) == 3_000_000


def test_hung_programs_have_one_deadline_together(
    program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "ALL_COMMANDS_SECONDS", 1.0)
    program('case "$1" in hang) sleep 300;; esac; echo answer')
    host = Host()
    begun = time.monotonic()
    assert host.run("tool", "answer") == "answer\n"
    for most in (r"0\.6", r"0\.[0-4]"):  # what is left of the second
        with pytest.raises(Unreadable, match=f"tool gave no answer in {most}"):
            host.run("tool", "hang", seconds=0.6)
    for argument in ("hang", "answer"):
        with pytest.raises(Unreadable, match="tool: no time left, programs have already taken 1 s"):
            host.run("tool", argument)
    with pytest.raises(Missing):
        host.run("no-such-program-anywhere")
    assert time.monotonic() - begun < 5
    assert Host().run("tool", "answer") == "answer\n"
