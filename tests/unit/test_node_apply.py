"""What --apply changes on a node, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm_cmeta.node.apply import Node, ours, plan
from slurm_cmeta.node.owned import fact_key, remember, remembered
from slurm_cmeta.node.site import Site

WANTED = ("x86_64", "zen3", "cuda=12.4")


def node(available: str, active: str | None = None) -> Node:
    names = tuple(filter(None, available.split(",")))
    return Node(names, names if active is None else tuple(filter(None, active.split(","))))


def test_an_empty_node_gets_all() -> None:
    planned = plan(node(""), WANTED)
    assert planned.after == Node(WANTED, WANTED)
    assert planned.added == WANTED


def test_others_features_stay_in_their_place() -> None:
    planned = plan(node("bigmem,rack=r12,ib-hdr"), WANTED)
    assert planned.after.active == ("bigmem", "rack=r12", "ib-hdr", *WANTED)
    assert planned.removed == ()


def test_nothing_changes_when_all_is_there() -> None:
    assert not plan(node("cuda=12.4,bigmem,zen3,x86_64"), WANTED).changes


def test_a_stale_value_goes() -> None:
    planned = plan(node("x86_64,zen3,cuda=12.2,bigmem"), WANTED)
    assert planned.after.active == ("x86_64", "zen3", "bigmem", "cuda=12.4")
    assert planned.removed == ("cuda=12.2",)


def test_a_stale_value_goes_even_where_slurm_conf_gives_it() -> None:
    planned = plan(node("cuda=12.2"), WANTED, written_by_hand=("cuda=12.2",))
    assert planned.removed == ("cuda=12.2",)


@pytest.mark.parametrize(
    "name",
    [
        *("mpi=intel", "kernel=rt", "driver=lustre2.15", "page=huge", "runtime=docker"),
        *("isa=mine", "sm=big", "cuda="),
    ],
)
def test_a_value_that_we_would_not_write_is_somebody_elses(name: str) -> None:
    planned = plan(node(name), WANTED)
    assert name in planned.after.active
    assert planned.removed == ()


def test_a_bare_name_goes_only_when_we_have_put_it_there() -> None:
    before = node("icelake,nvidia,l40,bigmem")
    nobody = plan(before, WANTED)
    assert (nobody.removed, nobody.kept) == ((), ("icelake", "nvidia", "l40"))
    ours = plan(before, WANTED, remembered={"icelake", "l40", "x86_64"})
    assert (ours.removed, ours.kept) == (("icelake", "l40"), ("nvidia",))
    both = plan(before, WANTED, remembered={"icelake", "nvidia"}, written_by_hand=("icelake",))
    assert (both.removed, both.kept) == (("nvidia",), ("icelake", "l40"))


def test_what_an_admin_has_taken_from_the_drop_in_files_goes() -> None:
    before = node("gpu_nvidia,hw.zen3,rack7")
    planned = plan(before, WANTED, remembered={"gpu_nvidia", "hw.zen3", "rack7"})
    assert planned.removed == ("gpu_nvidia", "hw.zen3", "rack7")


def test_what_could_not_be_told_now_stays() -> None:
    before = node("cuda=12.2,driver=535.1,nvidia,sm=80,cmeta=1")
    planned = plan(
        before,
        ("x86_64",),
        unknown={"cuda", "nvidia.count", "nvidia.arch", "driver"},
        remembered=set(before.active),
    )
    assert planned.removed == ("cmeta=1",)
    assert set(planned.after.active) == {"cuda=12.2", "driver=535.1", "nvidia", "sm=80", "x86_64"}


def test_what_is_remembered_is_what_we_added(tmp_path: Path) -> None:
    """A name that was there before us is not ours, even if we want it as well."""
    planned = plan(node("bigmem,zen3"), WANTED)
    assert set(ours(planned, None)) == {"x86_64", "cuda=12.4"}
    path = str(tmp_path / "below/features")
    assert remembered(path, "n1") is None
    assert remember(path, "n1", ours(planned, None)) == ""
    assert remembered(path, "n1") == frozenset(("x86_64", "cuda=12.4"))
    assert remembered(path, "n2") is None  # the disk moved to another node
    again = plan(planned.after, ("x86_64", "zen3"), remembered=remembered(path, "n1"))
    assert again.removed == ("cuda=12.4",)
    assert ours(again, remembered(path, "n1")) == ["x86_64"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/deep/features: Not a directory" in remember(
        str(tmp_path / "file/deep/features"), "n1", []
    )


def test_features_of_a_plugin_stay_available_and_not_active() -> None:
    planned = plan(node("bigmem,cache,flat", "bigmem,flat"), WANTED)
    assert planned.after.available == ("bigmem", "cache", "flat", *WANTED)
    assert planned.after.active == ("bigmem", "flat", *WANTED)


def test_what_is_available_only_becomes_active() -> None:
    planned = plan(node("x86_64,zen3,cuda=12.4", ""), WANTED)
    assert planned.changes
    assert planned.after.active == WANTED


def test_a_site_with_a_prefix_owns_only_what_has_it() -> None:
    wishes = Site(prefix="hw.", renamed=(("nvidia", "nv"),))
    planned = plan(
        node("zen2,hw.zen2,hw.nv,hw.bigmem,cuda=11.0,hw.cuda=11.0"),
        ("hw.zen3",),
        remembered={"hw.zen2", "hw.nv"},
        original=wishes.original,
    )
    assert planned.removed == ("hw.zen2", "hw.nv", "hw.cuda=11.0")
    assert planned.after.active == ("zen2", "hw.bigmem", "cuda=11.0", "hw.zen3")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("x86_64_v3", "cpu"),
        ("zen4", "cpu"),
        ("neoverse_v2", "cpu"),
        ("cuda=12.4", "cuda"),
        ("sm=80", "nvidia.arch"),
        ("gfx90a", "amd.arch"),
        ("a100", "nvidia.model"),
        ("mi250x", "amd.model"),
        ("infiniband", "network"),
        ("runtime=ext3", "runtime"),
        ("cmeta=1", ""),
        ("bigmem", None),
        ("rack=r12", None),
        ("milan", None),  # a spelling that we read, and never write
        ("znver3", None),
        ("mpi=intel", None),
        ("kernel=rt", None),
        ("isa=sha_ni", "isa"),
        ("intel", None),
        ("amd", None),
        ("gpu", None),
        ("gpu_v100", None),
        ("gfx", None),
        ("gpu=a100", None),
        ("", None),
    ],
)
def test_whose_a_name_is(name: str, key: str | None) -> None:
    assert fact_key(name) == key
