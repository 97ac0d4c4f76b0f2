"""Keep the options and keys in the man pages what the code says.

    python3 tests/tools/manpages.py [--check]

An entry's first line (names and values) and the lines that end in `\\" generated` are made of the
parsers that give --help, and of settings.py; what else stands in an entry is written by hand and
stays. New options, keys and subcommands get entries, old ones lose theirs. With --check nothing is
written; the exit status is 1 where something would be.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from slurm_cmeta import settings  # noqa: E402
from slurm_cmeta.cli import surface  # noqa: E402

MAN = PROJECT / "docs/man"
MARK = '\\" generated'
PLACEHOLDERS = {
    settings.PATH: "FILE",
    settings.NUMBER: "NUMBER",
    settings.HOSTS: "HOSTS",
    settings.PREFIX: "TEXT",
}


class Entry(NamedTuple):
    """The generated part of one entry."""

    key: str
    """The first name, by which the entry is found again."""
    head: str
    told: tuple[str, ...]


def escaped(text: str) -> str:
    """Return text for roff: no macro, minus signs for hyphens, options and code in bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"(?<![\w\\-])(\\-\\-[a-z](?:\\-|[a-z])*)", r"\\fB\1\\fR", text)
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return "\\&" + text if text[:1] in (".", "'") else text


def sentence(text: str) -> str:
    """Return a help string as a sentence."""
    if not re.match(r"[\w-]+[.:]", text):  # a file's name, or a list of values, stays as it is
        text = text[:1].upper() + text[1:]
    return escaped(text if text.endswith(".") else text + ".")


def of_option(option: surface.Option) -> Entry:
    """Return the entry of an option."""
    names = [name.replace("-", "\\-") for name in option.names]
    value = option.value.replace("-", "\\-")
    if len(names) == 1:
        head = f'.BI {names[0]} " {value}"' if value else f".B {names[0]}"
    else:
        head = ".BR " + ' ", " '.join(names)
        head += f' " " \\fI{value}\\fR' if value else ""
    return Entry(option.names[0], head, (sentence(option.help),))


def of_setting(setting: settings.Setting) -> Entry:
    """Return the entry of a key of cmeta.yaml."""
    values = setting.choices or (f"\\fI{PLACEHOLDERS[setting.form]}\\fR",)
    head = f'.BR {setting.name} ": " ' + ' " | " '.join(values)
    default = (f"Default: {escaped(setting.default)}.",) if setting.default else ()
    return Entry(setting.name, head, (sentence(setting.doc), *default))


def renewed(region: str, wanted: Sequence[Entry]) -> str:
    """Return a part of a page with the entries that are wanted, in the order that they have."""
    before, *blocks = re.split(r"^\.TP\n", region, flags=re.MULTILINE)
    by_hand: dict[str, str] = {}
    after: dict[str, str] = {}
    order: list[str] = []
    for block in blocks:
        head, _, body = block.partition("\n")
        key = re.sub(r'^\.[A-Z]+ |"', "", head).replace("\\-", "-").split()[0].rstrip(",:")
        found = re.search(r"^\.(?:PP|SS|SH)\b", body, re.MULTILINE)
        end = found.start() if found else len(body)
        lines = [s for s in body[:end].splitlines(keepends=True) if not s.endswith(f"{MARK}\n")]
        by_hand[key], after[key] = "".join(lines), body[end:]
        order.append(key)
    entries = {entry.key: entry for entry in wanted}
    place = 0
    for key in entries:
        if key not in order:
            order.insert(place, key)
            # Words that follow an entry follow the whole group.
            after[key] = after.pop(order[place - 1], "") if place else ""
        place = order.index(key) + 1
    text = before
    for key in order:
        if entry := entries.get(key):
            told = "".join(f"{line}{MARK}\n" for line in entry.told)
            text += f".TP\n{entry.head}\n{told}{by_hand.get(key, '')}"
        text += after.get(key, "")
    return text


def with_region(page: str, title: str, change: dict[str, Sequence[Entry]]) -> str:
    """Return a page whose section `title` has these entries, by subsection (empty: without)."""
    begin = page.index(f".SH {title}\n") + len(f".SH {title}\n")
    end = page.index("\n.SH ", begin) + 1
    if list(change) == [""]:
        return page[:begin] + renewed(page[begin:end], change[""]) + page[end:]
    parts = re.split(r"^\.SS (.*)\n", page[begin:end], flags=re.MULTILINE)
    have = dict(zip(parts[1::2], parts[2::2], strict=True))
    made = (f".SS {name}\n{renewed(have.get(name, ''), what)}" for name, what in change.items())
    return page[:begin] + parts[0] + "".join(made) + page[end:]


def pages() -> dict[Path, str]:
    """Return the pages that have generated parts, as they should be."""
    programs = surface.programs()
    cmeta = programs["cmeta"]
    sections = {"Of every command": [of_option(o) for o in cmeta.options]}
    for command in cmeta.commands:
        options = [of_option(o) for o in command.options if "--help" not in o.names]
        sections["Of " + command.name.replace("-", "\\-")] = options
    decide = [of_option(o) for o in surface.matcher_options()]
    features = [of_option(o) for o in programs["cmeta-features"].options]
    wanted: dict[str, tuple[str, dict[str, Sequence[Entry]]]] = {
        "cmeta.1": ("OPTIONS", dict(sections)),
        "cmeta-decide.1": ("OPTIONS", {"": decide}),
        "cmeta-features.1": ("OPTIONS", {"": features}),
        "cmeta.yaml.5": ("KEYS", {"": [of_setting(s) for s in settings.SETTINGS]}),
    }
    return {
        MAN / name: with_region((MAN / name).read_text(), title, change)
        for name, (title, change) in wanted.items()
    }


def main() -> int:
    """Write the pages, or tell which differ."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    differ = {path: text for path, text in pages().items() if path.read_text() != text}
    for path, text in differ.items():
        print(path.relative_to(PROJECT))
        if not check:
            path.write_text(text)
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
