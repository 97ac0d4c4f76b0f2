"""The choice among variants: by properties, and node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import archspec.cpu
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oci_files import Store
from test_match import need
from test_offer import application, offered

from slurm_cmeta.cluster import NodeClass
from slurm_cmeta.pull.choose import Rated, best, nearest, rate
from slurm_cmeta.pull.variant import Variant
from slurm_cmeta.requirement import Requirement

TARGETS = (
    *("x86_64", "x86_64_v2", "x86_64_v3", "x86_64_v4", "nehalem", "haswell", "skylake_avx512"),
    *("icelake", "sapphirerapids", "zen2", "zen3", "zen4", "zen5"),
    *("aarch64", "armv8.2a", "neoverse_n1", "neoverse_v1", "neoverse_v2"),
    *("ppc64le", "power8le", "power9le", "riscv64", "u74mc"),
)


def variant(name: str, *requirements: Requirement, problem: str = "") -> Variant:
    return Variant(name, "", 0, (), requirements, {}, problem=problem)


def built_for(target: str) -> Variant:
    family = archspec.cpu.TARGETS[target].family.name
    needs = [need("arch", family)] + ([need("cpu", target)] if target != family else [])
    return variant(target, *needs)


def node(features: str) -> NodeClass:
    return NodeClass("n1", 1, tuple(filter(None, features.split(","))))


def chosen(variants: Sequence[Variant], features: str) -> str:
    found = best(rate(variants, node(features)))
    return found.variant.digest if found else ""


# --- properties -----------------------------------------------------------------------------------

needs_ = st.lists(
    st.builds(
        lambda pair, strength: need(pair[0], pair[1], strength),
        st.sampled_from(
            [
                *(("arch", value) for value in ("x86_64", "aarch64")),
                *(("cpu", value) for value in ("x86_64_v2", "x86_64_v4", "zen3", "neoverse_v1")),
                *(("gpu", "nvidia"), ("cuda", "12.2"), ("gpu.arch", "sm_80"), ("mpi", "openmpi")),
                *(("memory", "2048"), ("kernel", "6.1"), ("glibc", "2.36")),
            ]
        ),
        st.sampled_from(["hard", "soft"]),
    ),
    max_size=4,
)
variants_ = st.lists(
    st.builds(
        lambda needs, problem: variant("", *needs, problem=problem),
        needs_,
        st.sampled_from(["", "", "", "is damaged"]),
    ),
    max_size=6,
).map(lambda found: [v._replace(digest=f"v{n}") for n, v in enumerate(found)])
nodes_ = st.lists(
    st.sampled_from(
        [
            *("x86_64", "zen4", "x86_64_v3", "neoverse_v2", "aarch64", "cmeta=1", "nvidia"),
            *("cuda=12.4", "sm=90", "openmpi", "mpich", "kernel=5.14", "glibc=2.34", "bigmem"),
        ]
    ),
    unique=True,
    max_size=6,
).map(",".join)


@settings(max_examples=400, deadline=None)
@given(variants_, nodes_)
def test_what_is_out_is_never_chosen_while_another_fits(found: list[Variant], on: str) -> None:
    rated = rate(found, node(on))
    choice = best(rated)
    fitting = [r for r in rated if r.verdict.verdict == "match" and not r.variant.problem]
    assert (choice is not None) == bool(fitting)
    assert choice is None or choice in fitting
    assert all(r.reason for r in rated), "each is explained"
    near = nearest(rated)
    assert (near is None) == all(v.problem for v in found)


@settings(max_examples=400, deadline=None)
@given(variants_, nodes_, st.randoms(use_true_random=False))
def test_the_order_of_the_index_counts_in_ties_only(
    found: list[Variant], on: str, random: Any
) -> None:
    choice = best(rate(found, node(on)))
    shuffled = list(found)
    random.shuffle(shuffled)
    rated = rate(shuffled, node(on))
    other = best(rated)
    if choice is None or other is None:
        assert choice is other is None
        return
    assert other.score == choice.score
    equals = [r.variant.digest for r in rated if r.score == choice.score]
    assert other.variant.digest == equals[0], "of equals the first"
    assert choice.variant.digest in equals


@settings(max_examples=400, deadline=None)
@given(variants_, nodes_, needs_, st.integers(0, 6), st.booleans())
def test_what_is_out_or_worse_changes_nothing(
    found: list[Variant], on: str, more: list[Requirement], place: int, broken: bool
) -> None:
    before = best(rate(found, node(on)))
    added = variant("added", *more, problem="is damaged" if broken else "")
    after = rate([*found[:place], added, *found[place:]], node(on))
    (own,) = [r for r in after if r.variant.digest == "added"]
    if own.score.fits and (before is None or own.score >= before.score):
        return
    choice = best(after)
    assert (choice and choice.variant) == (before and before.variant)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(TARGETS), min_size=1, unique=True), st.sampled_from(TARGETS))
def test_by_archspecs_own_order_nothing_that_runs_is_nearer(built: list[str], on: str) -> None:
    """Against archspec itself, which knows the order of its targets.

    A machine's name says all; a mere level leaves open which machine it is, so that what is built
    for a machine may be taken where nothing else runs.
    """
    host = archspec.cpu.TARGETS[on]
    generic = host.vendor == "generic"
    runs = [t for t in built if archspec.cpu.TARGETS[t] <= host]
    choice = chosen([built_for(t) for t in built], on if generic else f"{on},cmeta=1")
    if not runs:
        assert choice == "" or generic
        return
    assert choice in runs
    assert not any(archspec.cpu.TARGETS[t] > archspec.cpu.TARGETS[choice] for t in runs)


# --- node by node ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "platform"),
    [
        ("zen4", "linux/amd64/v4"),
        ("zen2", "linux/amd64/v3"),
        ("nehalem", "linux/amd64/v2"),
        ("x86_64,core2", "linux/amd64"),
        ("neoverse_v2", "linux/arm64/v8"),
        ("power9le", "linux/ppc64le"),
        ("u74mc", "linux/riscv64"),
        ("s390x", None),
    ],
)
def test_each_node_takes_its_own_of_one_index(tmp_path: Path, on: str, platform: str) -> None:
    store = Store()
    variants = offered(tmp_path, store, application(store)).variants
    for order in (variants, variants[::-1]):
        found = best(rate(order, node(f"{on},cmeta=1")))
        assert (found.variant.platform if found else None) == platform


def test_a_target_in_a_label_is_nearer_than_a_level(tmp_path: Path) -> None:
    store = Store()
    label = {"io.archspec.cpu.target": "zen3"}
    level, own = store.image("amd64", b"a", variant="v3"), store.image("amd64", b"b", labels=label)
    variants = offered(tmp_path, store, store.index(level, own)).variants
    assert chosen(variants, "zen4") == own["digest"]
    assert chosen(variants, "zen2") == level["digest"]
    assert chosen(variants, "haswell") == level["digest"]


def test_a_label_that_lies_does_not_win(tmp_path: Path) -> None:
    store = Store()
    lying = store.image("arm64", b"a", labels={"io.archspec.cpu.target": "zen4"})
    plain = store.image("amd64", b"b")
    variants = offered(tmp_path, store, store.index(lying, plain)).variants
    assert chosen(variants, "zen4,cmeta=1") == plain["digest"]
    assert chosen(variants, "neoverse_v1,cmeta=1") == lying["digest"]


def test_a_platform_in_the_index_that_the_configuration_denies_does_not_win(tmp_path: Path) -> None:
    store = Store()
    lying = store.image("arm64", b"a")
    lying["platform"] = {"architecture": "amd64", "os": "linux"}
    plain = store.image("amd64", b"b")
    variants = offered(tmp_path, store, store.index(lying, plain)).variants
    assert chosen(variants, "zen4,cmeta=1") == plain["digest"]
    assert chosen(variants, "neoverse_v1,cmeta=1") == lying["digest"]


def test_annotations_alone_tell_enough(tmp_path: Path) -> None:
    store = Store()
    images = [
        store.image("amd64", name, annotations={"io.archspec.cpu.target": target})
        for name, target in ((b"a", "x86_64_v2"), (b"b", "zen3"), (b"c", "sapphirerapids"))
    ]
    variants = offered(tmp_path, store, store.index(*images)).variants
    took = {on: chosen(variants, f"{on},cmeta=1") for on in ("zen4", "sapphirerapids", "nehalem")}
    assert list(took.values()) == [images[n]["digest"] for n in (1, 2, 0)]


X86, V3 = need("arch", "x86_64"), need("cpu", "x86_64_v3")
PLAIN = variant("plain", X86)
CUDA = variant("cuda", X86, need("gpu", "nvidia"), need("cuda", "12.2"))
OPENMPI = variant("openmpi", X86, need("mpi", "openmpi", "soft"))
MPICH = variant("mpich", X86, need("mpi", "mpich", "soft"))
BIG = variant("big", X86, need("memory", "65536"))


@pytest.mark.parametrize(
    ("variants", "on", "choice"),
    [
        ([PLAIN, CUDA], "x86_64,nvidia,cuda=12.4,cmeta=1", "cuda"),
        ([PLAIN, CUDA], "x86_64,nvidia,cuda=11.8,cmeta=1", "plain"),
        ([PLAIN, CUDA], "x86_64,cmeta=1", "plain"),
        # what nobody can check ranks behind what is known to run, wherever it stands
        ([CUDA, PLAIN], "x86_64", "plain"),
        ([CUDA], "x86_64", "cuda"),
        # the CPU comes before the GPU
        ([CUDA, variant("v3", X86, V3)], "zen3,nvidia,cuda=12.4", "v3"),
        ([OPENMPI, MPICH], "x86_64,mpi=mpich,cmeta=1", "mpich"),
        ([MPICH, OPENMPI], "x86_64,mpi=openmpi,cmeta=1", "openmpi"),
        # an MPI may be loaded as a module: none is ever absent for certain
        ([MPICH, PLAIN], "x86_64,mpi=openmpi,cmeta=1", "mpich"),
        ([PLAIN, OPENMPI], "x86_64,mpi=openmpi,cmeta=1", "openmpi"),
        # the GPU comes before MPI
        ([OPENMPI, CUDA], "x86_64,mpi=openmpi,nvidia,cuda=12.4,cmeta=1", "cuda"),
        # of equals the first
        ([PLAIN._replace(digest="first"), PLAIN], "x86_64", "first"),
    ],
)
def test_ties_are_broken_in_the_documented_order(
    variants: list[Variant], on: str, choice: str
) -> None:
    assert chosen(variants, on) == choice


def test_memory_breaks_ties_and_puts_out_what_does_not_fit() -> None:
    roomy, small = (node("x86_64")._replace(memory=(m, m)) for m in (131072, 16384))
    for on, choice in ((roomy, "big"), (small, "plain")):
        found = best(rate([PLAIN, BIG], on))
        assert found is not None
        assert found.variant.digest == choice


def test_a_wish_that_is_not_met_is_worse_than_none() -> None:
    hint = variant("hint", X86, need("cpu", "zen4", "soft"))
    assert chosen([hint, PLAIN], "zen2,cmeta=1") == "plain"
    assert chosen([PLAIN, hint], "zen5,cmeta=1") == "hint"


def reasons(rated: list[Rated]) -> list[str]:
    return [one.reason for one in rated]


def test_each_is_explained() -> None:
    found = rate([variant("v4", X86, need("cpu", "x86_64_v4")), PLAIN, CUDA], node("zen2,cmeta=1"))
    assert reasons(found) == [
        "cpu needs x86_64_v4, has zen2",
        "x86_64",
        "gpu needs nvidia, has no GPU; cuda needs 12.2, has no CUDA",
    ]
    assert reasons(rate([CUDA], node("x86_64"))) == ["x86_64; unchecked: gpu, cuda"]
    assert reasons(rate([variant("x", problem="is damaged")], node("x86_64"))) == ["is damaged"]


def test_the_nearest_miss_is_the_one_with_the_least_amiss() -> None:
    far, near = variant("far", need("arch", "aarch64"), *CUDA.requirements[1:]), built_for("zen5")
    found = nearest(rate([variant("b", problem="is damaged"), far, near], node("zen2,cmeta=1")))
    assert found is not None
    assert (found.variant.digest, found.reason) == ("zen5", "cpu needs zen5, has zen2")
