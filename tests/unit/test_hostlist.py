"""hostlist: Slurm's host lists, against a table, hypothesis and scontrol itself."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta.cluster import hostlist
from slurm_cmeta.errors import ClusterError

NAMES = st.lists(
    st.one_of(
        st.from_regex(r"[a-z]{0,2}[0-9]{1,4}", fullmatch=True),
        st.from_regex(r"[a-c][0-9]{0,2}[-.a-c]?[0-9]{0,3}", fullmatch=True),
        st.from_regex(r"n[0-9]{17,20}", fullmatch=True),
    ),
    max_size=40,
)

EXPANDED = [
    ("", ""),
    (" ,\t,\n", ""),
    ("n1", "n1"),
    ("n[1-3]", "n1 n2 n3"),
    ("n[1-3,07-10],login", "n1 n2 n3 n07 n08 n09 n10 login"),
    ("n[1-2]c[0-3]", "n1c0 n1c1 n1c2 n1c3 n2c0 n2c1 n2c2 n2c3"),
    ("n[1-2][3-4]", "n13 n14 n23 n24"),
    ("a[1-2]b[1-2]c[1-2]", "a1b1c1 a1b1c2 a2b1c1 a2b1c2 a1b2c1 a1b2c2 a2b2c1 a2b2c2"),
    ("a n2\tb", "a n2 b"),
    ("n1,n1", "n1 n1"),
    ("n[5-]", "n5"),
    ("n[01-3]", "n01 n02 n03"),
    ("n[1-03]", "n1 n2 n3"),
    ("n[98-101]", "n98 n99 n100 n101"),
    ("[1-3],007", "1 2 3 007"),
]


@pytest.mark.parametrize(("text", "names"), EXPANDED)
def test_expand(text: str, names: str) -> None:
    assert hostlist.expand(text) == names.split()
    assert hostlist.count(text) == len(names.split())


def test_text_after_the_last_bracket_is_a_suffix() -> None:
    """24.11 has it; 22.05, against which scontrol is compared below, refuses it."""
    assert hostlist.expand("n[1-2]-ib,a[1-2]b[3]x") == ["n1-ib", "n2-ib", "a1b3x", "a2b3x"]
    assert hostlist.join(hostlist.spans("n[1-2]-ib,a[1-2]b[3]4")) == "a1b34,a2b34,n1-ib,n2-ib"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n[1", "brackets"),
        ("n1]", "brackets"),
        ("n[[1-2]]", "brackets"),
        ("n[1]]", "brackets"),
        ("n[", "brackets"),
        ("n[3-1]", "backwards"),
        ("n[]", "not a number"),
        ("n[1,]", "not a number"),
        ("n[-3]", "not a number"),
        ("n[1--3]", "not a number"),
        ("n[1-2-3]", "not a number"),
        ("n[a-b]", "not a number"),
        ("n[1a-3]", "not a number"),
        ("n[1, 2]", "not a number"),
        ("n[0-10:2]", "not a number"),
        ("n[\u0661-3]", "not a number"),
        ("n[9999999999999999999]", "not a number"),
        ("n[0-99999999999]", "more than 65536 hosts"),
        ("n[0-65536]", "more than 65536 hosts"),
        ("n[0-65535,0-9]c[0-1]", "more than 65536 hosts"),
        ("n[0-999]c[0-9999]", "more than 1000000 hosts"),
        (",".join(["n[0-65535]"] * 16), "more than 1000000 hosts"),
        ("n[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]" * 50, "more than 1000000 hosts"),
        ("n\x1b[2J\n[1", "brackets"),
    ],
)
def test_hostile_text_is_refused_in_one_line(text: str, reason: str) -> None:
    for function in (hostlist.expand, hostlist.count, hostlist.spans):
        with pytest.raises(ClusterError) as error:
            function(text)
        assert reason in str(error.value)
        assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "a[1]" * 100_000, "a" * 1_000_000, "," * 1_000_000]
)
def test_long_texts_take_no_long_time(text: str) -> None:
    start = time.perf_counter()
    with contextlib.suppress(ClusterError):
        hostlist.count(text)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("", ""),
        ("n1", "n1"),
        ("n3 n1 n2 n2", "n[1-3]"),
        ("n9 n10 n11", "n[9-11]"),
        ("n08 n09 n10", "n[08-10]"),
        ("n1 n01", "n[1,01]"),
        ("n099 n100 n999 n1000", "n[099-100,999-1000]"),
        ("b a1 a", "a,a1,b"),
        ("n10c1 n9c1 n9c2", "n9c[1-2],n10c1"),
        ("7 5 6", "[5-7]"),
    ],
)
def test_compress(names: str, text: str) -> None:
    assert hostlist.compress(names.split()) == text


@pytest.mark.parametrize("name", ["", "a,b", "a b", "n[1]", "n]"])
def test_compress_refuses_names_that_no_list_can_hold(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot hold the name"):
        hostlist.compress(["n1", name])


def test_ranges_stay_readable_for_slurm() -> None:
    names = [f"n{i}" for i in range(70_000)]
    assert hostlist.compress(names) == "n[0-65535,65536-69999]"
    assert len(hostlist.expand(hostlist.compress(names))) == len(names)


@given(NAMES)
def test_compressed_names_expand_to_themselves(names: list[str]) -> None:
    names = [name for name in names if name]
    text = hostlist.compress(names)
    assert hostlist.expand(text) == list(dict.fromkeys(hostlist.expand(text)))
    assert set(hostlist.expand(text)) == set(names)
    assert text == hostlist.compress(reversed(names))
    assert hostlist.join(hostlist.spans(",".join(names))) == text


@given(
    st.lists(
        st.from_regex(r"[a-z]{0,2}(\[[0-9]{1,2}(-1[0-9]{2})?\][a-z0-9]?){0,3}", fullmatch=True)
    )
)
@settings(deadline=None)
def test_spans_are_what_expand_gives(words: list[str]) -> None:
    text = ",".join(words)
    try:
        size = hostlist.count(text)
    except ClusterError:
        return
    if size > 20_000:
        return
    names = hostlist.expand(text)
    assert len(names) == size
    spans = hostlist.spans(text)
    assert sum(s.last - s.first + 1 for s in spans) == size
    assert hostlist.join(spans) == hostlist.compress(names)


@given(st.text(alphabet="n19[]-, :x\u00e9", max_size=30))
def test_any_text_is_a_list_or_a_cluster_error(text: str) -> None:
    try:
        assert len(hostlist.expand(text)) == hostlist.count(text)
    except ClusterError as error:
        assert str(error).isprintable()  # noqa: PT017  # the text is refused, in one line


def test_ten_thousand_nodes_compress_to_one_range() -> None:
    assert hostlist.compress([f"n{i:05d}" for i in range(10_000)]) == "n[00000-09999]"


needs_scontrol = pytest.mark.skipif(
    shutil.which("scontrol") is None, reason="scontrol (Debian: slurm-client) is not installed"
)


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    path.write_text(
        "ClusterName=t\nSlurmctldHost=localhost\nNodeName=n1\nPartitionName=p Nodes=n1\n"
    )
    return path


def scontrol(conf: Path, what: str, text: str) -> list[str]:
    done = subprocess.run(
        ["scontrol", "show", what, text],
        capture_output=True,
        text=True,
        check=True,
        env={"SLURM_CONF": str(conf), "PATH": "/usr/bin:/usr/sbin:/bin"},
    )
    return done.stdout.split("\n")[:-1]


@needs_scontrol
@pytest.mark.parametrize("text", [text for text, _ in EXPANDED if text.strip(" ,\t\n")])
def test_expand_is_what_scontrol_says(conf: Path, text: str) -> None:
    assert hostlist.expand(text) == scontrol(conf, "hostnames", text)


@needs_scontrol
@settings(max_examples=60, deadline=None)
@given(NAMES)
def test_scontrol_reads_what_compress_writes(conf: Path, names: list[str]) -> None:
    # strtoul ruins numbers of 20 digits (MAX_DIGITS)
    names = [name for name in names if name and len(name) < 20]
    if names:
        text = hostlist.compress(names)
        assert scontrol(conf, "hostnames", text) == hostlist.expand(text)


@needs_scontrol
@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 130), min_size=1), st.sampled_from(["{}", "{:03d}"]))
def test_compress_writes_what_scontrol_sorts(conf: Path, numbers: set[int], form: str) -> None:
    names = [f"{stem}{form.format(i)}" for stem in ("r1n", "r10n", "r9n") for i in numbers]
    assert [hostlist.compress(names)] == scontrol(conf, "hostlistsorted", ",".join(names))
