"""What can be typed: commands, options and operands, read from the parsers that give --help.

Shell completion and the options in the man pages are made of this, so that neither can differ from
what the commands take.
"""

from __future__ import annotations

import argparse
import re

from slurm_cmeta.cli import decide, features, main
from slurm_cmeta.record import NamedTuple

FILES = frozenset({"FILE", "DIR", "PATH", "IMAGE"})
"""Placeholders that stand for something in the file system."""


class Option(NamedTuple):
    """One option."""

    names: tuple[str, ...]
    """As typed, the short one first: `-C`, `--constraint`."""
    value: str
    """The placeholder of its value; empty for an option that takes none."""
    choices: tuple[str, ...]
    """The values that are allowed; empty where there is no list."""
    help: str


class Operand(NamedTuple):
    """One argument that is no option."""

    name: str
    choices: tuple[str, ...]
    help: str


class Command(NamedTuple):
    """A program, or one of its subcommands."""

    name: str
    summary: str
    """One line; empty for a program."""
    options: tuple[Option, ...]
    operands: tuple[Operand, ...]
    commands: tuple[Command, ...]


def programs() -> dict[str, Command]:
    """Return the programs that people start, by name."""
    made = (read("cmeta", main.parser()), read("cmeta-features", features.parser()))
    return {program.name: program for program in made}


def read(name: str, parser: argparse.ArgumentParser, summary: str = "") -> Command:
    """Return what a parser takes."""
    options: list[Option] = []
    operands: list[Operand] = []
    commands: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands += [read(n, p, told.get(n, "")) for n, p in action.choices.items()]
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            names = tuple(sorted(action.option_strings, key=len))
            options.append(Option(names, _value(action), _choices(action), _help(action)))
        else:
            operands.append(Operand(_value(action), _choices(action), _help(action)))
    return Command(name, summary, tuple(options), tuple(operands), tuple(commands))


def matcher_options() -> tuple[Option, ...]:
    """Return the options of cmeta-decide, of its usage: it has no argparse, which takes time."""
    found = re.findall(r"^  (--[a-z-]+) ?(\S*)  +(.*)$", decide.USAGE, re.MULTILINE)
    return tuple(Option((name,), value, (), text) for name, value, text in found)


def is_file(placeholder: str) -> bool:
    """Tell whether a placeholder stands for something in the file system."""
    return not FILES.isdisjoint(placeholder.split("|"))


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    shown = action.metavar or action.dest.upper()
    return shown if isinstance(shown, str) else " ".join(shown)


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(map(str, action.choices or ()))


def _help(action: argparse.Action) -> str:
    return (action.help or "") % vars(action)
