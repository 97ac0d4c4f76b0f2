"""What an admin adds to a node's features, denies and renames."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slurm_cmeta.errors import ConfigError
from slurm_cmeta.node import Found, site
from slurm_cmeta.node.features import Feature, features


def read(directory: Path, text: str) -> site.Site:
    (directory / "50-site.conf").write_text(text)
    return site.read(str(directory))


def published(directory: Path, text: str, found: Found) -> list[str]:
    wishes = read(directory, text)
    return [f.name for f in site.with_names(features(site.with_facts(found, wishes)), wishes)]


ZEN3 = {"arch": "x86_64", "cpu": "zen3", "cpu.level": "x86_64_v3", "kernel": "6.1.0-28-amd64"}


def zen3() -> Found:
    found = Found()
    for key, value in ZEN3.items():
        found.fact(key, value, "a test")
    found.fact("cpu.ancestors", "x86_64 x86_64_v2 x86_64_v3 zen zen2", "a test")
    return found


def test_features_are_added(tmp_path: Path) -> None:
    names = published(
        tmp_path, "feature bigmem  # for the genomics people\nfeature rack=r12", zen3()
    )
    assert names[-2:] == ["bigmem", "rack=r12"]
    assert names[0] == "x86_64"


def test_a_fact_replaces_what_was_found(tmp_path: Path) -> None:
    found = zen3()
    found.cannot_tell("cuda", "no driver")
    names = published(tmp_path, "fact kernel=5.14.0\nfact cuda = 12.4", found)
    assert "kernel=5.14" in names
    assert "kernel=6.1" not in names
    assert "cuda=12.4" in names
    assert "cmeta=1" in names  # it is told now


def test_a_fact_none_is_certain(tmp_path: Path) -> None:
    found = zen3()
    found.cannot_tell("nvidia.count", "no /sys")
    assert "cmeta=1" not in published(tmp_path, "", found)
    assert "cmeta=1" in published(tmp_path, "fact nvidia.count=none", found)


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ("deny zen2", {"zen2", "cmeta=1"}),
        ("deny kernel=*", {"kernel=6.1", "cmeta=1"}),
        ("deny zen[12]\ndeny zen", {"zen", "zen2", "cmeta=1"}),
        ("deny nothing-like-it", set()),
    ],
)
def test_denied_features_are_left_out_and_then_the_list_is_not_complete(
    tmp_path: Path, rules: str, gone: set[str]
) -> None:
    assert set(published(tmp_path, "", zen3())) - set(published(tmp_path, rules, zen3())) == gone


def test_names_are_changed_and_prefixed(tmp_path: Path) -> None:
    wishes = "prefix hw.\nrename zen3 milan-node\nfeature bigmem"
    names = published(tmp_path, wishes, zen3())
    assert "hw.milan-node" in names
    assert "hw.x86_64_v3" in names
    assert "bigmem" in names
    assert "hw.zen3" not in names


def test_a_published_name_leads_back_to_ours(tmp_path: Path) -> None:
    wishes = read(tmp_path, "prefix hw.\nrename zen3 milan-node")
    assert wishes.original("hw.milan-node") == "zen3"
    assert wishes.original("hw.cuda=12.4") == "cuda=12.4"
    assert wishes.original("cuda=12.4") is None
    assert wishes.original("hw.zen3") is None  # it is called otherwise here: somebody else's


def test_files_are_read_in_the_order_of_their_names_and_others_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "90-last.conf").write_text("prefix b.\n")
    (tmp_path / "10-first.conf").write_text("prefix a.\n")
    (tmp_path / "notes.txt").write_text("not a rule\n")
    (tmp_path / ".hidden.conf").write_text("not a rule\n")
    assert site.read(str(tmp_path)).prefix == "b."


def test_no_directory_says_nothing_unless_it_was_asked_for(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    assert site.read(absent) == site.Site()
    with pytest.raises(ConfigError, match="no such directory"):
        site.read(absent, required=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("features bigmem", r"unknown word 'features'; known words: feature, fact, deny"),
        ("feature", "cannot be"),
        ("feature a,b", "cannot be"),
        ("feature a&b", "cannot be"),
        ("feature two words", "cannot be"),
        ("fact cuda", "expected KEY=VALUE"),
        ("fact cuda>=12", "expected KEY=VALUE"),
        ("fact colour=blue", "expected KEY=VALUE"),
        ("fact cuda=new", "'new' is no value of cuda"),
        ("fact nvidia.arch=80", "'80' is no value of nvidia.arch"),
        ("fact kernel=rt", "'rt' is no value of kernel"),
        ("deny", "expected one pattern"),
        ("deny a b", "expected one pattern"),
        ("rename a", "expected the old name and the new one"),
        ("rename a b|c", "cannot be"),
        ("prefix a(", "cannot be"),
        ("\x1b[31mred", "unknown word .*x1b"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"50-site.conf:2: .*{message}"):
        read(tmp_path, f"# a comment\n{line}\n")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.conf").mkdir()
    with pytest.raises(ConfigError, match=r"a\.conf: "):
        site.read(str(tmp_path))
    (tmp_path / "a.conf").rmdir()
    (tmp_path / "a.conf").write_bytes(b"#" * (site.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        site.read(str(tmp_path))


def test_names_are_kept_once(tmp_path: Path) -> None:
    wishes = site.Site(added=("x86_64", "bigmem"))
    listed = site.with_names([Feature("x86_64", "arch")], wishes)
    assert [f.name for f in listed] == ["x86_64", "bigmem"]


def test_what_follows_from_a_stated_cpu_follows(tmp_path: Path) -> None:
    names = published(tmp_path, "fact cpu=zen4", zen3())
    assert {"zen4", "zen3", "zen2", "x86_64_v4"} <= set(names)
    names = published(tmp_path, "fact cpu=haswell", zen3())
    assert "zen3" not in names
    assert {"haswell", "x86_64_v3", "nehalem"} <= set(names)


def test_a_stated_architecture_makes_the_cpu_unknown(tmp_path: Path) -> None:
    names = published(tmp_path, "fact arch=aarch64", zen3())
    assert names == ["aarch64", "kernel=6.1"]


@pytest.mark.parametrize(
    ("rules", "complete"),
    [
        ("fact nvidia.count=2", False),  # what they are is not said
        ("fact nvidia.count=2\nfact nvidia.arch=sm_80\nfact driver=550.54\nfact cuda=12.4", True),
        ("fact nvidia.count=none", True),
        ("fact amd.count=1", False),
    ],
)
def test_a_stated_gpu_is_complete_with_what_belongs_to_it(
    tmp_path: Path, rules: str, complete: bool
) -> None:
    assert ("cmeta=1" in published(tmp_path, rules, zen3())) == complete


def test_a_fifo_is_an_error_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.conf")
    with pytest.raises(ConfigError, match=r"a\.conf: no regular file"):
        site.read(str(tmp_path))
