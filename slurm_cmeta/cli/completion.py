"""Completion for bash, zsh and fish, made of the parsers that give --help.

    python3 -m slurm_cmeta.cli.completion bash|zsh|fish PROGRAM

prints the script for one program; `make install` puts it where the shell looks for it.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable

from slurm_cmeta.cli import surface
from slurm_cmeta.cli.surface import Command, Option
from slurm_cmeta.errors import EXIT_OK, EXIT_USAGE


def _names(options: Iterable[Option]) -> list[str]:
    return [name for option in options for name in option.names]


def _function(program: Command) -> str:
    return "_" + program.name.replace("-", "_")


# --- bash ---------------------------------------------------------------------------------------

_BASH = """\
# bash completion for {program}
{function}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command= word
    local -a words=()
    COMPREPLY=()
    # readline takes --option=value apart
    if [[ $current == = ]]; then
        current=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD - 1}}"; do
        case $word in {commands}) command=$word; break ;; esac
    done
    case $command:$before in
{values}
    esac
    case $command:$current in
{words}
    esac
    COMPREPLY=($(compgen -W "${{words[*]}}" -- "$current"))
}}
complete -F {function} {program}
"""

_BASH_FILES = "compopt -o default; return"


def bash(program: Command) -> str:
    """Return the script for bash. Names of files are left to readline, which quotes them."""
    values: list[str] = []
    words: list[str] = []
    for command in (program, *program.commands):
        prefix = command.name if command is not program else ""
        for option in command.options:
            if option.value:
                heads = "|".join(f"{prefix}:{name}" for name in option.names)
                values.append(f"        {heads}) {_bash_value(option)} ;;")
        listed = " ".join(_names(command.options))
        words.append(f"        {prefix}:-*) words=({listed}) ;;")
        plain = [c.name for c in command.commands]
        plain += [choice for operand in command.operands for choice in operand.choices]
        if any(surface.is_file(operand.name) for operand in command.operands):
            words.append(f"        {prefix}:*) {_BASH_FILES} ;;")
        else:
            words.append(f"        {prefix}:*) words=({' '.join(map(shlex.quote, plain))}) ;;")
    return _BASH.format(
        program=program.name,
        function=_function(program),
        commands="|".join(c.name for c in program.commands) or "''",
        values="\n".join(values),
        words="\n".join(words),
    )


def _bash_value(option: Option) -> str:
    if option.choices:
        listed = shlex.quote(" ".join(option.choices))
        return f'COMPREPLY=($(compgen -W {listed} -- "$current")); return'
    return _BASH_FILES if surface.is_file(option.value) else "return"


# --- zsh ----------------------------------------------------------------------------------------


def zsh(program: Command) -> str:
    """Return the function for zsh, to be found in its fpath as `_PROGRAM`."""
    lines = [f"#compdef {program.name}", f"# zsh completion for {program.name}"]
    if not program.commands:
        return "\n".join([*lines, f"_arguments {_zsh_arguments(program)}", ""])
    lines += [
        "local context state state_descr line",
        "typeset -A opt_args",
        "local -a commands=(",
        *(f"  {shlex.quote(f'{c.name}:{c.summary}')}" for c in program.commands),
        ")",
        f"_arguments -C {_zsh_arguments(program)} \\",
        "  '1:command:->command' '*::argument:->argument'",
        "case $state in",
        "  command) _describe command commands ;;",
        "  argument)",
        "    case $words[1] in",
        *(f"      {c.name}) _arguments {_zsh_arguments(c)} ;;" for c in program.commands),
        "    esac ;;",
        "esac",
        "",
    ]
    return "\n".join(lines)


def _zsh_arguments(command: Command) -> str:
    specs: list[str] = []
    for option in command.options:
        told = f"[{_zsh_text(option.help)}]" + _zsh_value(option.value, option.choices)
        others = " ".join(option.names)
        for name in option.names:
            join = "=" if option.value and name.startswith("--") else ""
            specs.append(shlex.quote(f"({others}){name}{join}{told}"))
    for place, operand in enumerate(command.operands, 1):
        rest = "*" if place == len(command.operands) else ""
        specs.append(shlex.quote(rest + _zsh_value(operand.name, operand.choices)))
    return " ".join(specs)


def _zsh_value(placeholder: str, choices: tuple[str, ...]) -> str:
    if choices:
        return f":{_zsh_text(placeholder)}:({' '.join(choices)})"
    if not placeholder:
        return ""
    # Nothing to offer is an empty list: a mere message would keep zsh from offering options.
    return f":{_zsh_text(placeholder)}:" + ("_files" if surface.is_file(placeholder) else "()")


def _zsh_text(text: str) -> str:
    """Return a text inside of a specification, where zsh finds no escaped bracket."""
    return re.sub(r"([:\\])", r"\\\1", text.replace("[", "(").replace("]", ")"))


# --- fish ---------------------------------------------------------------------------------------


def fish(program: Command) -> str:
    """Return the script for fish."""
    lines = [f"# fish completion for {program.name}", f"complete -c {program.name} -f"]
    for command in (program, *program.commands):
        head = f"complete -c {program.name}"
        if program.commands:
            seen = "__fish_use_subcommand"
            if command is not program:
                seen = f"__fish_seen_subcommand_from {command.name}"
            head += f" -n '{seen}'"
        lines += [f"{head} -a {c.name} -d {_fish_text(c.summary)}" for c in command.commands]
        for option in command.options:
            names = " ".join(
                f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names
            )
            value = _fish_value(option.value, option.choices)
            lines.append(f"{head} {names}{value} -d {_fish_text(option.help)}")
        for operand in command.operands:
            if operand.choices or surface.is_file(operand.name):
                lines.append(f"{head}{_fish_operand(operand.choices)}")
    return "\n".join([*lines, ""])


def _fish_value(placeholder: str, choices: tuple[str, ...]) -> str:
    if not placeholder:
        return ""
    return " -r" + (_fish_operand(choices) if choices or surface.is_file(placeholder) else " -f")


def _fish_operand(choices: tuple[str, ...]) -> str:
    return f" -f -a {_fish_text(' '.join(choices))}" if choices else " -F"


def _fish_text(text: str) -> str:
    """Quote for fish: in its single quotes a backslash still escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[Command], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def main(arguments: list[str]) -> int:
    """Print one script."""
    programs = surface.programs()
    if len(arguments) != 2 or arguments[0] not in SHELLS or arguments[1] not in programs:
        words = f"{'|'.join(SHELLS)} {'|'.join(programs)}"
        print(f"usage: python3 -m slurm_cmeta.cli.completion {words}", file=sys.stderr)
        return EXIT_USAGE
    sys.stdout.write(SHELLS[arguments[0]](programs[arguments[1]]))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
