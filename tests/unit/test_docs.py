"""Documents and code say the same."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm_cmeta import __version__, config, requirement, vocabulary
from slurm_cmeta.cli import decide
from slurm_cmeta.cli.main import parser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MAN = sorted((DOCS / "man").glob("*.[158]"))


def man(name: str) -> str:
    """Return a man page without its escapes for hyphens and without font changes."""
    text = (DOCS / "man" / name).read_text().replace("\\-", "-")
    return re.sub(r'\\f[BIR]|"', "", text)


def test_every_plugstack_key_is_documented() -> None:
    source = (ROOT / "spank/settings.c").read_text()
    keys = set(re.findall(r'value_of\(argument, "(\w+)"\)', source))
    assert len(keys) == 8
    for key in keys:
        assert f"| `{key}` |" in (DOCS / "plugstack.md").read_text()
        assert re.search(rf"^\.B[IR]+ {key} ?=", man("slurm-cmeta.8"), re.MULTILINE), key


def test_every_setting_is_documented() -> None:
    for setting in config.SETTINGS:
        assert re.search(rf"^\.BR {re.escape(setting.name)} : ", man("cmeta.yaml.5"), re.MULTILINE)


def options_of(command: argparse.ArgumentParser) -> set[str]:
    """Return every option of a parser and of its subcommands."""
    found: set[str] = set()
    for action in command._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for name, subcommand in action.choices.items():
                found |= {name, *options_of(subcommand)}
    return found


def test_every_option_of_cmeta_is_in_its_man_page() -> None:
    words = set(re.split(r"[\s,]+", man("cmeta.1")))
    assert options_of(parser()) - words == set()


def test_every_option_of_cmeta_decide_is_in_its_man_page() -> None:
    named = set(re.findall(r"--[a-z-]+", decide.USAGE))
    assert {f"--{name}" for name in decide._OPTIONS} <= named
    assert named - set(re.findall(r"--[a-z-]+", man("cmeta-decide.1"))) == set()


def test_every_label_and_requirement_is_documented() -> None:
    labels = (DOCS / "labels.md").read_text()
    for rule in vocabulary.load("labels")["labels"]:
        assert f"`{rule['key']}`" in labels
        if rule["states"] == "cpu":
            row = next(r for r in labels.splitlines() if r.startswith(f"| `{rule['key']}`"))
            assert row.endswith(f"| {rule['strength']} |")
    for key in requirement.KEYS:
        assert f"| `{key}` |" in (DOCS / "requirements.md").read_text()


def test_every_spelling_in_the_labels_page_is_understood() -> None:
    page = (DOCS / "labels.md").read_text()
    table = page[page.index("| spelling |") : page.index("A value that is none of these")]
    spellings = re.findall(r"`([^`]+)`", table)
    assert len(spellings) > 10
    assert [s for s in spellings if vocabulary.cpu_target(s) is None] == []


def test_the_examples_of_verdicts_are_true() -> None:
    from slurm_cmeta.cluster import NodeClass
    from slurm_cmeta.match import judge

    page = (DOCS / "requirements.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `([\w,=]+)` \| (\w+) \|", page, re.MULTILINE)
    assert len(rows) == 7
    for needs, features, verdict in rows:
        key = "arch" if vocabulary.architecture(needs) else "cpu"
        asked = requirement.Requirement(key, "=", needs, "hard", "declared", "the page")
        (reason,) = judge([asked], NodeClass("n", 1, tuple(features.split(",")))).reasons
        assert reason.verdict == verdict, (needs, features)


def test_the_hand_over_is_documented_and_the_same_on_both_sides() -> None:
    header = (ROOT / "spank/handover.h").read_text()
    names = set(re.findall(r'^#define CMETA_HANDOVER_\w+ "(CMETA_\w+)"', header, re.MULTILINE))
    assert len(names) == 6
    page = (DOCS / "protocol.md").read_text()
    assert [name for name in names if f"`{name}`" not in page] == []
    lua = (ROOT / "lua/cmeta.lua").read_text()
    read = {f"CMETA_{name}" for name in re.findall(r"decision\.([A-Z]+)", lua)}
    assert read == names - {"CMETA_IMAGE", "CMETA_MULTI_PROG"}
    assert "SLURM_SPANK_CMETA_IMAGE" in lua


def test_the_stub_in_the_readme_is_the_one_shipped() -> None:
    readme = (ROOT / "README.md").read_text()
    for line in (ROOT / "lua/job_submit.lua").read_text().splitlines():
        assert line in readme


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *DOCS.glob("*.md")], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_man_pages_have_the_version() -> None:
    for page in MAN:
        assert f"slurm-cmeta {__version__}" in page.read_text().splitlines()[0]


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
@pytest.mark.parametrize("page", MAN, ids=lambda p: p.name)
def test_man_pages_are_clean(page: Path) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(page)], capture_output=True, text=True
    )
    assert done.stdout == ""
