"""slurmconf: what Slurm makes of slurm.conf: a table, hostile files, scontrol and slurmctld."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta.cluster import confnodes, hostlist, slurmconf
from slurm_cmeta.errors import ClusterError

FIXTURE = Path(__file__).parent.parent / "fixtures" / "slurmconf"
HEAD = "ClusterName=Test\nSlurmctldHost=localhost\nPartitionName=p Nodes=ALL\n"


def write(directory: Path, text: str | bytes, name: str = "slurm.conf") -> str:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return str(path)


def classes(directory: Path, text: str) -> str:
    """Return the classes in short: `NODES=FEATURE+FEATURE NODES=...`, counts checked."""
    found = confnodes.node_classes(slurmconf.read(write(directory, text)))
    for one in found:
        assert one.node_count == hostlist.count(one.nodes)
    return " ".join(f"{one.nodes}:{'+'.join(one.features)}" for one in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("NodeName=n1", "n1:"),
        ("NodeName=n[1-2] Features=a,b", "n[1-2]:a+b"),
        ("nodename=n1 FEATURE=a", "n1:a"),
        ("NodeName = n1 Feature = a", "n1:a"),
        ("NodeName=n1\tFeatures=a\r\nNodeName=n2 Features=b\r\n", "n1:a n2:b"),
        ("NodeName=n1 Features=a,,b,a,", "n1:a+b"),
        ('NodeName=n1 Features="a,b" Reason="no # here', "n1:a+b"),
        ('NodeName=n1 Reason="two words" Features=a', "n1:a"),
        ('NodeName=n1 Features=""', "n1:"),
        # order within the set does not matter, order of the file does
        ("NodeName=n1 Features=a,b\nNodeName=m1 Features=c\nNodeName=n2 Features=b,a",
         "n[1-2]:a+b m1:c"),
        # comments, escapes and continuations
        ("# NodeName=n9\nNodeName=n1 Features=a # ,b", "n1:a"),
        ("NodeName=n1 Features=a\\#b,c\\\\d", "n1:a#b+c\\d"),
        ("NodeName=n1 Features=a\\\\# comment", "n1:a\\"),
        ("NodeName=n1 \\\n  Features=a,\\\nb", "n1:a+b"),
        ("NodeName=n1 \\  # goes on\n  Features=a", "n1:a"),
        ("NodeName=n1 \\ \t\r\n  Features=a", "n1:a"),
        ("NodeName=n1 Features=a # does not \\\nNodeName=n2", "n1:a n2:"),
        ("NodeName=n1 Features=a \\", "n1:a"),
        # the parser's corners
        ("NodeName=n1 Features= Weight=2", "n1:Weight=2"),
        ("NodeName=n1 Feature+=a", "n1:a"),
        ("NodeName=n1 Feature=a Feature=b", "n1:b"),
        ("NodeName=n1 Features=b Feature=a", "n1:a"),
        ("NodeName=n1 NewKey=7 Features=a", "n1:a"),
        ("Novelty=1 2 3\nNodeName=n1", "n1:"),
        # DEFAULT
        ("NodeName=DEFAULT Features=d\nNodeName=n1\nNodeName=n2 Features=a\nNodeName=n3",
         "n[1,3]:d n2:a"),
        ("NodeName=n1\nNodeName=default Feature=d\nNodeName=n2", "n1: n2:d"),
        ("NodeName=DEFAULT Features=d\nNodeName=DEFAULT Weight=3\nNodeName=n1", "n1:d"),
        ("NodeName=DEFAULT Features=d\nNodeName=DEFAULT Features=e\nNodeName=n1", "n1:e"),
        ("NodeName=DEFAULT Feature=d\nNodeName=DEFAULT Features=e\nNodeName=n1", "n1:d"),
        ("NodeName=DEFAULT Feature=d\nNodeName=n1 Features=a", "n1:a"),
        ("NodeName=DEFAULT Features=d\nNodeName=n1 Features=\"\"", "n1:"),
        # FUTURE
        ("NodeName=n1 State=FUTURE Features=a\nNodeName=n2 State=future\nNodeName=n3", "n3:"),
        ("NodeName=DEFAULT State=FUTURE\nNodeName=n1\nNodeName=n2 State=UNKNOWN", "n2:"),
        # node lists
        ("NodeName=n[1-2]c[0-1],m Features=a", "m,n1c[0-1],n2c[0-1]:a"),
        ("NodeName=n[08-09] Features=a\nNodeName=n10 Features=a\nNodeName=n8", "n[08-10]:a n8:"),
    ],
)  # fmt: skip
def test_classes(tmp_path: Path, text: str, expected: str) -> None:
    assert classes(tmp_path, text) == expected


def test_node_lines_carry_what_the_line_and_default_say(tmp_path: Path) -> None:
    text = (
        "NodeName=DEFAULT RealMemory=1000 Weight=5\n"
        "NodeName=n1 Gres=gpu:a100:4 State=CLOUD RealMemory=0x10k\n"
        "NodeName=n2 Weight=INFINITE \\\n RealMemory=lots\n\nNodeName=n3"
    )
    path = write(tmp_path, text)
    n1, n2, n3 = slurmconf.read(path).nodes
    assert n1 == slurmconf.NodeLine("n1", (), "CLOUD", 5, "gpu:a100:4", 16384, path, 2)
    assert (n2.weight, n2.real_memory, n2.line) == (0xFFFFFFFE, None, 3)
    assert (n3.weight, n3.real_memory, n3.line, n3.future) == (5, 1000, 6, False)


def test_partitions_and_nodesets(tmp_path: Path) -> None:
    text = (
        "PartitionName=DEFAULT Nodes=n[1-4] Default=YES\n"
        "PartitionName=a Nodes=all\nPartitionName=b\n"
        'PartitionName=c Default=no Nodes="n1 n2,set"\n'
        "NodeSet=set Feature=gpu\nNodeSet=two Nodes=n[1-2]\n"
    )
    conf = slurmconf.read(write(tmp_path, text))
    assert conf.partitions == {
        "a": slurmconf.PartitionLine("all", False),
        "b": slurmconf.PartitionLine("n[1-4]", True),  # the last default counts
        "c": slurmconf.PartitionLine("n1,n2,set", False),
    }
    assert conf.partitions["a"].all_nodes
    assert not conf.partitions["b"].all_nodes
    assert conf.nodesets == {
        "set": slurmconf.NodeSet("", "gpu"),
        "two": slurmconf.NodeSet("n[1-2]", ""),
    }


def test_options_and_cluster(tmp_path: Path) -> None:
    text = "clustername=BIG\nLaunchParameters=a,b\nPlugStackConfig=/x y\nMaxNodeCount=100\n"
    conf = slurmconf.read(write(tmp_path, text + "LaunchParameters=c"))
    assert (conf.cluster_name, conf.max_node_count) == ("big", 100)
    assert conf.options["launchparameters"] == "c"
    assert conf.options["plugstackconfig"] == "/x"
    empty = slurmconf.read(write(tmp_path, ""))
    assert (empty.cluster_name, empty.max_node_count, empty.nodes) == (None, None, ())


def test_bytes_that_are_no_utf8_survive(tmp_path: Path) -> None:
    conf = slurmconf.read(write(tmp_path, b"NodeName=n1 Features=\xff,caf\xc3\xa9,a\xc2\xa0b"))
    assert conf.nodes[0].features == ("\udcff", "caf\u00e9", "a\u00a0b")


def test_includes_are_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "NodeName=n2\nInclude deep.conf\n", "nodes_test.conf")
    write(tmp_path / "sub", "NodeName=n3", "deep.conf")
    absolute = write(tmp_path, "NodeName=DEFAULT Features=late", "absolute.conf")
    text = (
        "ClusterName=TEST\nNodeName=DEFAULT Features=early\nNodeName=n1\n"
        f"INCLUDE  sub/nodes_%c.conf  # text\nInclude {absolute}\nNodeName=n4\n"
    )
    conf = slurmconf.read(write(tmp_path, text))
    assert [(n.nodes, *n.features) for n in conf.nodes] == [
        ("n1", "early"), ("n2", "early"), ("n3", "early"), ("n4", "late"),
    ]  # fmt: skip
    assert [os.path.basename(f.path) for f in conf.files] == [
        "slurm.conf", "nodes_test.conf", "deep.conf", "absolute.conf",
    ]  # fmt: skip
    for file in conf.files:
        now = Path(file.path).stat()
        assert file[1:] == (
            now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns,
        )  # fmt: skip


def test_a_nested_include_is_looked_for_beside_slurm_conf_first(tmp_path: Path) -> None:
    """As 24.11; 22.05 would take the other file, see the test above for what both can read."""
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "Include deep.conf", "a.conf")
    write(tmp_path / "sub", "NodeName=beside", "deep.conf")
    write(tmp_path, "NodeName=top", "deep.conf")
    assert classes(tmp_path, "Include sub/a.conf") == "top:"


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "NodeName=n1", "other.conf")
    write(tmp_path, "Include other.conf")
    assert [n.nodes for n in slurmconf.read("slurm.conf").nodes] == ["n1"]


REFUSED = [  # text, the message without the path, does scontrol of the release refuse it, too
    ("NodeName=n1 Features=a, b", "1: not KEY=VALUE: b", True),
    ("\nNodeName=n1 \\\n what", "2: not KEY=VALUE: what", True),
    ("just words", "1: not KEY=VALUE: just words", True),
    ("ClusterName=", "1: not KEY=VALUE: ClusterName=", True),
    (" Include other.conf", "1: Include must stand in column 1 and name a file", True),
    ("NodeName=n1 \\\n# a comment ends it\n Features=a", "3: Features outside a NodeName line (a "
     "broken continuation?)", True),
    ("NodeName=all", "1: NodeName=all is not a node name", True),
    ('NodeName="" Features=a', "1: NodeName= is not a node name", False),
    ("MaxNodeCount=many", "1: MaxNodeCount=many", True),
    ("PartitionName=x\nPartitionName=x", "2: partition x is named twice", False),
    ("Include a.conf b.conf", "1: Include takes one file name", False),
    ("Include no_%c.conf\n", "1: Include with %c before ClusterName", False),
    ("Include nodes*.conf", "1: Include nodes*.conf: Slurm expands no wildcards", False),
    ("NodeName=n1\nNodeName=n[1-3]", "2: node n1 is named twice", False),
    ("NodeName=n[08-12]\n\nNodeName=n1[0-3] State=FUTURE", "3: node n10 is named twice", False),
    ("NodeName=a,a", "1: node a is named twice", False),
    ("NodeName=n[1", "1: host list 'n[1': unbalanced or nested brackets", False),
    ("NodeName=n[0-\x1b]", "1: host list 'n[0-\\x1b]': '0-\\x1b' is not a number or a range of "
     "numbers", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "_"), REFUSED)
def test_refused_with_file_and_line(tmp_path: Path, text: str, message: str, _: bool) -> None:
    with pytest.raises(ClusterError) as error:
        classes(tmp_path, text)
    assert str(error.value) == f"{tmp_path}/slurm.conf:{message}"


def test_messages_are_one_clean_line(tmp_path: Path) -> None:
    directory = tmp_path / "a\nb\x1b"
    directory.mkdir()
    for text in (b"\xff\x1b[2J" * 50, b"NodeName=\x1b[ F=1", b"NodeName=n Z=1 \x07 x"):
        with pytest.raises(ClusterError) as error:
            confnodes.node_classes(slurmconf.read(write(directory, text)))
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 500


def test_files_that_are_no_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, reason in (
        (fifo, "not a regular file"),
        (tmp_path, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path / "x\0y", "not a path"),
    ):
        with pytest.raises(ClusterError, match=reason):
            slurmconf.read(str(path))
        if "\0" not in str(path):
            with pytest.raises(ClusterError, match=f"slurm.conf:2: Include .*{reason}"):
                classes(tmp_path, f"\nInclude {path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "NodeName=n1")
    os.chmod(path, 0)
    with pytest.raises(ClusterError, match="Permission denied"):
        slurmconf.read(path)


def test_binary_and_huge_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match="not a text file"):
        slurmconf.read(write(tmp_path, b"\x7fELF\x02\x01\0\0" * 100))
    path = write(tmp_path, "")
    os.truncate(path, 100 << 20)
    with pytest.raises(ClusterError, match="more than 32 MiB"):
        slurmconf.read(path)
    monkeypatch.setattr(slurmconf, "MAX_BYTES", 1000)
    write(tmp_path, "#" * 600, "a.conf")
    with pytest.raises(ClusterError, match="of configuration"):
        classes(tmp_path, "Include a.conf\nInclude a.conf\n")


def test_includes_come_to_an_end(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"slurm.conf:1: Include .*includes itself"):
        classes(tmp_path, "Include slurm.conf")
    write(tmp_path, "Include b.conf", "a.conf")
    write(tmp_path, "Include a.conf", "b.conf")
    with pytest.raises(ClusterError, match=r"b.conf:1: Include .*a.conf: includes itself"):
        classes(tmp_path, "Include a.conf")
    for i in range(40):
        write(tmp_path, f"Include d{i + 1}", f"d{i}")
    with pytest.raises(ClusterError, match="16 includes inside each other"):
        classes(tmp_path, "Include d0")
    for i in range(15):
        write(tmp_path, f"Include e{i + 1}\n" * 2, f"e{i}")
    write(tmp_path, "", "e15")
    with pytest.raises(ClusterError, match="more than 1000 files"):
        classes(tmp_path, "Include e0")
    write(tmp_path, "", "twice")
    assert classes(tmp_path, "Include twice\nInclude twice\n") == ""


def test_hostile_lines_take_no_long_time(tmp_path: Path) -> None:
    size = 1 << 20
    for text in (b" " * size, b"a" * size, b'a="' * size, b"a=b " * size, b"a\\\n" * size,
                 b"\\" * size + b"#", b"NodeName=a " + b"b= " * size,
                 b"a" + b" " * size, b"Include " + b"x " * size):  # fmt: skip
        path = write(tmp_path, text)
        start = time.perf_counter()
        with contextlib.suppress(ClusterError):
            slurmconf.read(path)
        assert time.perf_counter() - start < 5, text[:10]


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text('NodeName=Ftus \\#"\n[1-]', max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp(), data, "any.conf")
    try:
        confnodes.node_classes(slurmconf.read(path))
    except ClusterError as error:
        assert str(error).isprintable()  # noqa: PT017  # the file is refused, in one line


NODE = st.tuples(
    st.integers(0, 30), st.integers(0, 4), st.lists(st.sampled_from("abcd"), max_size=4)
)


@settings(deadline=None)
@given(st.lists(NODE, max_size=12))
def test_classes_partition_the_nodes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[int, int, list[str]]]
) -> None:
    """Compared with the plain way: every node expanded."""
    text = ""
    nodes: dict[str, frozenset[str]] = {}
    for first, more, features in lines:
        names = [f"n{i}" for i in range(first, first + more + 1)]
        if nodes.keys() & set(names):
            continue
        nodes.update(dict.fromkeys(names, frozenset(features)))
        text += f"NodeName=n[{first}-{first + more}] Weight=2"
        text += f" Features={','.join(features)}\n" if features else "\n"
    path = write(tmp_path_factory.getbasetemp(), text, "nodes.conf")
    found = confnodes.node_classes(slurmconf.read(path))
    assert len({frozenset(c.features) for c in found}) == len(found)
    assert {n: frozenset(c.features) for c in found for n in hostlist.expand(c.nodes)} == nodes
    assert sum(c.node_count for c in found) == len(nodes)


def test_ten_thousand_nodes_in_200_classes(tmp_path: Path) -> None:
    text = "".join(
        f"NodeName=n[{i * 50:05d}-{i * 50 + 49:05d}] CPUs=64 Features=x86_64,c{i}\n"
        for i in range(200)
    )
    path = write(tmp_path, text)
    found = confnodes.node_classes(slurmconf.read(path))
    assert len(found) == 200
    assert sum(c.node_count for c in found) == 10_000


@pytest.mark.skipif(
    shutil.which("scontrol") is None, reason="scontrol (Debian: slurm-client) is not installed"
)
@pytest.mark.parametrize("text", [text for text, _, refused in REFUSED if refused])
def test_scontrol_refuses_it_too(tmp_path: Path, text: str) -> None:
    def scontrol(text: str) -> int:
        environment = {"SLURM_CONF": write(tmp_path, text), "PATH": os.environ["PATH"]}
        command = ["scontrol", "show", "hostnames", "n1"]
        return subprocess.run(command, env=environment, capture_output=True).returncode

    assert scontrol(HEAD) == 0
    assert scontrol(f"{HEAD}{text}\n") != 0


@pytest.mark.skipif(
    not (shutil.which("slurmctld") and shutil.which("sinfo")) or os.geteuid() != 0,
    reason="needs slurmctld and sinfo (Debian: slurmctld, slurm-client), and root",
)
def test_slurmctld_sees_the_same_nodes(tmp_path: Path) -> None:
    """tests/fixtures/slurmconf holds the corners of the syntax; sinfo says what they mean."""
    shutil.copytree(FIXTURE, tmp_path / "etc")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "etc" / "slurm.conf"
    for file in (tmp_path / "etc").rglob("*.conf"):
        text = file.read_text().replace("@DIR@", str(tmp_path)).replace("@PORT@", str(port))
        file.write_text(text)
    (tmp_path / "state").mkdir()
    environment = {**os.environ, "SLURM_CONF": str(path)}
    with (tmp_path / "out").open("w") as out:
        daemon = subprocess.Popen(
            ["slurmctld", "-D", "-i", "-f", str(path)], env=environment, stdout=out, stderr=out
        )
    try:
        listed = _sinfo(environment, daemon)
    finally:
        daemon.terminate()
        daemon.wait(30)
    assert listed, (tmp_path / "out").read_text()[-2000:]
    conf = slurmconf.read(str(path))
    ours = {
        (name, frozenset(line.features), line.weight, line.real_memory or 1)
        for line in conf.nodes
        if not line.future
        for name in hostlist.expand(line.nodes)
    }
    assert listed == ours


def _sinfo(
    environment: dict[str, str], daemon: subprocess.Popen[bytes]
) -> set[tuple[str, frozenset[str], int, int]]:
    deadline = time.monotonic() + 30
    command = ["sinfo", "-h", "-N", "-o", "%N|%f|%w|%m"]
    while time.monotonic() < deadline and daemon.poll() is None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        rows = [line.split("|") for line in done.stdout.splitlines()]
        if done.returncode == 0 and rows:
            return {
                (name, frozenset(set(features.split(",")) - {"", "(null)"}), int(weight), int(size))
                for name, features, weight, size in rows
            }
        time.sleep(0.2)
    return set()


@pytest.mark.parametrize(
    ("text", "hints"),
    [
        ("ClusterName=a\n", (False, False, False)),
        ("NodeFeaturesPlugins=node_features/helpers\n", (True, False, False)),
        ("nodefeaturesplugins = knl\n", (True, False, False)),
        ("#NodeFeaturesPlugins=x\nNodeFeaturesPlugins=\n", (False, False, False)),
        ("JobSubmitPlugins=lua\n", (False, True, False)),
        ("CliFilterPlugins=lua\n", (False, True, False)),
        ("DefMemPerCPU=4000\n", (False, False, True)),
        ("NodeName=a\nPartitionName=p Nodes=a DefMemPerNode=8000\n", (False, False, True)),
        ("# DefMemPerCPU=1\n", (False, False, False)),
    ],
)
def test_what_else_counts_for_jobs(
    tmp_path: Path, text: str, hints: tuple[bool, bool, bool]
) -> None:
    (tmp_path / "slurm.conf").write_text(text)
    path = str(tmp_path / "slurm.conf")
    assert slurmconf.hints(path) == hints
    if not text.endswith("Plugins=\n"):  # which Slurm refuses
        assert slurmconf.read(path).hints == hints


def test_what_counts_for_jobs_may_stand_in_an_include(tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=a\nInclude plugins.conf\n")
    (tmp_path / "plugins.conf").write_text("JobSubmitPlugins=lua\nDefMemPerNode=1\n")
    assert slurmconf.read(str(tmp_path / "slurm.conf")).hints == (False, True, True)


LINES = st.sampled_from(
    [
        *("NodeName=n1 Features=a", "NodeName=n2 Features=a", "NodeName=n3 Features=a"),
        *("NodeName=n4  Features=a", "NodeName=n5 Features=a # text", "nodename=n6 Features=a"),
        *("NodeName=n7 Features=b", "NodeName=m[1-2] Features=a", "NodeName=x-1 Features=a"),
        *(
            "NodeName=DEFAULT Features=a",
            "NodeName=DEFAULT Features=c",
            "NodeName=n8",
            "NodeName=n9",
        ),
        *(
            "NodeName=ALL Features=a",
            "NodeName= Features=a",
            "NodeName=n10 \\",
            "Features=a",
            "# b",
        ),
        *("NodeName=n11 Features=a State=FUTURE", "NodeName=n12 Features=a RealMemory=5", ""),
    ]
)


@settings(deadline=None, max_examples=300)
@given(lines=st.lists(LINES, max_size=12))
def test_lines_that_are_read_together_say_what_each_says(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = write(tmp_path_factory.mktemp("together"), HEAD + "\n".join(lines))

    def outcome(*, exact: bool) -> object:
        try:
            return confnodes.read(slurmconf.read(path, exact=exact))
        except ClusterError as error:
            return str(error)

    assert outcome(exact=False) == outcome(exact=True)
