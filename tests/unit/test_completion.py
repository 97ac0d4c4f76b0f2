"""Completion, by the shells themselves: what is typed, a tab, and what the shell then runs."""

from __future__ import annotations

import argparse
import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from slurm_cmeta.cli import completion, features, main, surface

PARSERS = {"cmeta": main.parser(), "cmeta-features": features.parser()}
LONGEST_WAIT = 20.0


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(shell), reason=f"{shell} is not installed")


def parsers_of(program: str) -> dict[str, argparse.ArgumentParser]:
    """Return a program's parser under the empty name, those of its subcommands under theirs."""
    top = PARSERS[program]
    found = {"": top}
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with the scripts, programs that tell how they were run, and two files."""
    for program, command in surface.programs().items():
        for shell, make in completion.SHELLS.items():
            name = f"_{program}" if shell == "zsh" else f"{program}.{shell}"
            (tmp_path / name).write_text(make(command))
        fake = tmp_path / "bin" / program
        fake.parent.mkdir(exist_ok=True)
        fake.write_text('#!/bin/sh\nprintf "ran:%s:done\\n" "$(IFS=,; echo "$*")"\n')
        fake.chmod(0o755)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/two words.sif").touch()
    return tmp_path


def typed(argv: list[str], place: Path, setup: str, line: str) -> str:
    """Type `setup` and `line` into an interactive shell; return what its program was run with."""
    environ = {
        **os.environ,
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "TERM": "dumb",
        "HOME": str(place),
    }
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=place / "work", env=environ,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    output = b""
    try:
        for text, sign in ((setup + "; echo rea''dy\n", b"ready\r"), (line + "\n", b":done")):
            os.write(ours, text.encode())
            until = time.monotonic() + LONGEST_WAIT
            begun = len(output)
            while sign not in output[begun:]:
                if not select.select([ours], [], [], max(0, until - time.monotonic()))[0]:
                    raise AssertionError(f"no answer: {output.decode(errors='replace')}")
                output += os.read(ours, 65536)
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
    return output.decode(errors="replace").rpartition("ran:")[2].partition(":done")[0]


def in_bash(place: Path, line: str) -> str:
    setup = f"source {place}/cmeta.bash; source {place}/cmeta-features.bash"
    return typed(["bash", "--norc", "--noprofile", "-i"], place, setup, line)


def in_zsh(place: Path, line: str) -> str:
    setup = f"fpath=({place} $fpath); autoload -Uz compinit; compinit -u -d {place}/dump"
    return typed(["zsh", "-f", "-i"], place, setup, line)


TYPED = {
    "cmeta insp\t--de\t": "inspect,--deep",
    "cmeta check\t": "check-config",
    "cmeta --vers\t": "--version",
    "cmeta inspect two\t": "inspect,two words.sif",
    "cmeta match --slurm-conf two\t": "match,--slurm-conf,two words.sif",
    "cmeta-features --format pr\t": "--format,prom",
}


@needs("bash")
@pytest.mark.parametrize(("line", "ran"), {**TYPED, "cmeta nodes two\t": "nodes,two"}.items())
def test_bash_completes_what_is_typed(place: Path, line: str, ran: str) -> None:
    assert in_bash(place, line) == ran


@needs("bash")
def test_bash_completes_after_an_equals_sign(place: Path) -> None:
    assert in_bash(place, "cmeta-features --format=js\t") == "--format=json"
    assert in_bash(place, "cmeta match --snapshot=two\t") == "match,--snapshot=two words.sif"


@needs("zsh")
@pytest.mark.parametrize(("line", "ran"), TYPED.items())
def test_zsh_completes_what_is_typed(place: Path, line: str, ran: str) -> None:
    assert in_zsh(place, line) == ran


def bash_words(place: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of these words."""
    script = (
        f'source {place}/{words[0]}.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        f'_{words[0].replace("-", "_")}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@needs("bash")
@pytest.mark.parametrize("program", PARSERS)
def test_bash_offers_every_option_of_every_command(place: Path, program: str) -> None:
    found = parsers_of(program)
    if len(found) > 1:
        assert bash_words(place, program, "") == set(found) - {""}
    for name, parser in found.items():
        wanted = {option for a in parser._actions for option in a.option_strings}
        assert bash_words(place, program, *filter(None, [name]), "-") == wanted


def fish_words(place: Path, line: str) -> dict[str, str]:
    """Return what fish offers after a line, each with its description."""
    script = f"source {place}/cmeta.fish; source {place}/cmeta-features.fish; complete -C $argv[1]"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, "--", line],
        cwd=place / "work",
        env={**os.environ, "HOME": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return dict((line + "\t").split("\t")[:2] for line in done.stdout.splitlines())


@needs("fish")
@pytest.mark.parametrize("program", PARSERS)
def test_fish_offers_every_option_of_every_command(place: Path, program: str) -> None:
    for name, parser in parsers_of(program).items():
        offered = fish_words(place, f"{program} {name} --".replace("  ", " "))
        wanted = {o for a in parser._actions for o in a.option_strings if o.startswith("--")}
        assert set(offered) == wanted


@needs("fish")
def test_fish_offers_commands_choices_and_files(place: Path) -> None:
    commands = fish_words(place, "cmeta ")
    assert set(commands) == set(parsers_of("cmeta")) - {""}
    assert commands["match"] == "compare an image with the cluster's nodes"
    assert set(fish_words(place, "cmeta-features --format ")) == {"slurm", "list", "json", "prom"}
    assert "two words.sif" in fish_words(place, "cmeta inspect two")
    assert fish_words(place, "cmeta nodes two") == {}


@needs("zsh")
@pytest.mark.parametrize("program", PARSERS)
def test_zsh_takes_every_option_of_every_command(place: Path, program: str) -> None:
    """A mistake in one specification would make zsh offer none."""
    subprocess.run(["zsh", "-n", str(place / f"_{program}")], check=True)
    for name, parser in parsers_of(program).items():
        for option in {o for a in parser._actions for o in a.option_strings if o[:2] == "--"}:
            assert f"){option}" in (place / f"_{program}").read_text()
        line = f"{program} {name} --hel\t".replace("  ", " ")
        assert in_zsh(place, line).split(",")[-1] == "--help"


def test_a_new_command_is_completed_by_itself() -> None:
    parser = argparse.ArgumentParser(prog="cmeta")
    added = parser.add_subparsers().add_parser("fetch", help="bring it here")
    added.add_argument("-t", "--to", metavar="DIR", help="where, 100%% safe")
    added.add_argument("kind", choices=("sif", "oci"))
    added.add_argument("--secret", help=argparse.SUPPRESS)
    command = surface.read("cmeta", parser)
    (one,) = command.commands
    assert (one.name, one.summary) == ("fetch", "bring it here")
    assert one.options[-1] == surface.Option(("-t", "--to"), "DIR", (), "where, 100% safe")
    for make in completion.SHELLS.values():
        script = make(command)
        assert "fetch" in script
        assert "sif" in script
        assert "secret" not in script


def test_other_words_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main(["tcsh", "cmeta"]) == 2
    assert completion.main(["bash", "cmeta"]) == 0
    out, err = capsys.readouterr()
    assert "bash|zsh|fish cmeta|cmeta-features" in err
    assert out == completion.bash(surface.programs()["cmeta"])
