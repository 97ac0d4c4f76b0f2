"""The table in docs/pull-choices.md: what tools choose, and that ours is right everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import choices
import pytest
from conftest import PROJECT
from trouble import ToolError

PAGE = PROJECT / "docs/pull-choices.md"


@pytest.fixture(scope="module")
def found(place: Path) -> choices.Choices:
    try:
        return choices.choose(place / "choices")
    except ToolError as problem:
        pytest.skip(str(problem))


def test_ours_is_right_everywhere(found: choices.Choices) -> None:
    wrong = [
        (name, target, by_tool)
        for name, by_target in found.items()
        for target, by_tool in by_target.items()
        if choices.outcome(choices.INDEXES[name], target, by_tool[choices.OURS]) != choices.RIGHT
    ]
    assert wrong == []


def test_each_index_has_one_right_choice_or_equal_ones() -> None:
    for entries in choices.INDEXES.values():
        for targets in choices.TARGETS.values():
            for target in targets:
                best = choices.right(entries, target)
                assert len({entries[n].truth for n in best}) <= 1


def test_the_page_is_what_the_script_prints(found: choices.Choices) -> None:
    """By the same releases of the tools; by others, what is told of ours and of what is right."""
    said = choices.markdown(found)
    page = PAGE.read_text()
    versions = re.compile(r"^Tools: .*$", re.MULTILINE)
    if versions.findall(page) != versions.findall(said):
        assert ours(page) == ours(said)
        return
    assert page == said, "make it anew: tests/tools/choices.py --markdown"


def ours(page: str) -> list[str]:
    """Return the parts of a page that are not other tools'."""
    kept = []
    for line in page.splitlines():
        cells = line.split("|")
        if line.startswith(("Tools: ", "| skopeo", "| apptainer", "| podman")):
            continue
        is_choice = len(cells) == 7 and not line.startswith("| tool") and "---" not in line
        kept.append("|".join((cells[1], cells[5])) if is_choice else line)
    return kept
