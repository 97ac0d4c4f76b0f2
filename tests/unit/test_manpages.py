"""Options and keys in the man pages are those of the code, with what the code says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_cmeta.cli import surface

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import manpages
from manpages import Entry


def test_the_man_pages_say_what_help_and_the_settings_say() -> None:
    assert [p.name for p, text in manpages.pages().items() if p.read_text() != text] == [], (
        "run `make man`, and look at what it has changed"
    )


REGION = """\
Common words.
.TP
.B \\-\\-old
Gone.\\" generated
By hand, of the old one.
.TP
.B \\-\\-kept
Said before.\\" generated
By hand.
.PP
Words after it.
"""


def option(*names: str, value: str = "", help: str = "do it") -> Entry:
    return manpages.of_option(surface.Option(names, value, (), help))


def test_what_is_written_by_hand_stays_and_the_rest_is_renewed() -> None:
    kept = option("--kept", value="FILE", help="say `x`, as --old did")
    new = option("-n", "--new", value="N")
    assert manpages.renewed(REGION, [kept, new]) == (
        "Common words.\n"
        '.TP\n.BI \\-\\-kept " FILE"\n'
        'Say \\fBx\\fR, as \\fB\\-\\-old\\fR did.\\" generated\nBy hand.\n'
        '.TP\n.BR \\-n ", " \\-\\-new " " \\fIN\\fR\nDo it.\\" generated\n'
        ".PP\nWords after it.\n"
    )


def test_renewing_twice_changes_nothing() -> None:
    wanted = [option("--kept"), option("--new"), option("--first")]
    once = manpages.renewed(REGION, wanted)
    assert manpages.renewed(once, wanted) == once


def test_a_new_command_gets_a_section() -> None:
    page = '.SH OPTIONS\n.SS Of a\n.TP\n.B \\-\\-x\nOld.\\" generated\nHand.\n.SH EXIT STATUS\n'
    text = manpages.with_region(page, "OPTIONS", {"Of a": [option("--x")], "Of b": [option("--y")]})
    assert re.findall(r"^\.S[SH] (.*)$", text, re.MULTILINE) == [
        "OPTIONS", "Of a", "Of b", "EXIT STATUS",
    ]  # fmt: skip
    assert "Hand.\n.SS Of b\n" in text


def test_words_of_the_code_are_no_roff() -> None:
    assert manpages.escaped(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manpages.escaped("a\\b") == "a\\eb"


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed (Debian: mandoc)")
def test_the_mark_is_not_shown() -> None:
    for path in manpages.pages():
        shown = subprocess.run(["mandoc", "-T", "ascii", str(path)], capture_output=True, text=True)
        assert shown.stdout
        assert "generated" not in shown.stdout
