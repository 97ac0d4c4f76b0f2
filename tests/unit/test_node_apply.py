"""What --apply changes on a node, and what it leaves."""

from __future__ import annotations

import pytest

from slurm_cmeta.node.apply import Node, plan
from slurm_cmeta.node.owned import fact_key
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


def test_a_stale_name_goes_unless_slurm_conf_gives_it() -> None:
    assert plan(node("icelake,nvidia"), WANTED).removed == ("icelake", "nvidia")
    by_hand = plan(node("icelake,nvidia"), WANTED, written_by_hand=("icelake",))
    assert (by_hand.removed, by_hand.kept) == (("nvidia",), ("icelake",))
    nobody_knows = plan(node("icelake,nvidia"), WANTED, written_by_hand=None)
    assert (nobody_knows.removed, nobody_knows.kept) == ((), ("icelake", "nvidia"))


def test_what_could_not_be_told_now_stays() -> None:
    before = node("cuda=12.2,driver=535.1,nvidia,sm=80,cmeta=1")
    planned = plan(before, ("x86_64",), unknown={"cuda", "nvidia.count", "nvidia.arch", "driver"})
    assert planned.removed == ("cmeta=1",)
    assert set(planned.after.active) == {"cuda=12.2", "driver=535.1", "nvidia", "sm=80", "x86_64"}


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
        ("m1", None),  # a rack as likely as an Apple
        ("grace", None),
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
