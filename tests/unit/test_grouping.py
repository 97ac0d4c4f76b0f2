"""Partitions, node sets, classes: each node where Slurm has it, however that is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta.cluster import NodeClass, Partition, confnodes, hostlist, slurmconf
from slurm_cmeta.cluster.grouping import Membership, by_features
from slurm_cmeta.errors import ClusterError

NODES = """\
NodeName=DEFAULT RealMemory=1000
NodeName=n[1-4] Features=a,b
NodeName=n[05-08] Features=b,a RealMemory=2000 Gres=gpu:1
NodeName=m1,m2-ib Features=c State=DRAIN
NodeName=m3 Features=c State=UNKNOWN
NodeName=f[1-9] Features=c State=FUTURE
"""
EVERY = "n[1-4,05-08],m1,m2-ib,m3"


def read(tmp_path: Path, text: str) -> tuple[list[NodeClass], tuple[Partition, ...]]:
    path = tmp_path / "slurm.conf"
    path.write_text(NODES + text + "\n")
    found, partitions = confnodes.read(slurmconf.read(str(path)))
    for one in found:
        assert one.node_count == hostlist.count(one.nodes)
    return found, partitions


def members(found: list[NodeClass], partition: str) -> set[str]:
    """Return the nodes that the classes say are in a partition."""
    return {n for c in found if partition in (c.partitions or ()) for n in hostlist.expand(c.nodes)}


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("PartitionName=p Nodes=ALL", EVERY),
        ("PartitionName=p Nodes=all", EVERY),
        ("PartitionName=p", ""),
        ('PartitionName=p Nodes=""', ""),
        ("PartitionName=p Nodes=n[2-3,06],m2-ib", "n[2-3,06],m2-ib"),
        ("PartitionName=p Nodes=n[1-2],n[2-9]", "n[1-4]"),
        ("PartitionName=p Nodes=n5,f1,x[1-3]", ""),  # n5 is not n05
        ("PartitionName=DEFAULT Nodes=n1\nPartitionName=p", "n1"),
        ("NodeSet=s Feature=c\nPartitionName=p Nodes=s,n1", "m1,m2-ib,m3,n1"),
        ("NodeSet=s1 Feature=c Nodes=n2\nPartitionName=p Nodes=s1", "m1,m2-ib,m3,n2"),
        ("NodeSet=s1 Nodes=n2\nNodeSet=s2 Nodes=n3\nPartitionName=p Nodes=s[1-2]", "n[2-3]"),
        ("NodeSet=s Nodes=ALL\nPartitionName=p Nodes=s", EVERY),
        ("NodeSet=s Nodes=n1\nPartitionName=p Nodes=t", ""),
        ("PartitionName=p Nodes=feature{c},n1", "m1,m2-ib,m3,n1"),
    ],
)
def test_a_partition_holds_its_nodes(tmp_path: Path, text: str, nodes: str) -> None:
    other = "PartitionName=q Nodes=n[2-3],m3 Default=YES"
    found, partitions = read(tmp_path, f"{text}\n{other}" if "=DEFAULT" not in text else text)
    assert members(found, "p") == set(hostlist.expand(nodes))
    assert all(p.exact for p in partitions)
    if "=DEFAULT" not in text:
        assert members(found, "q") == {"n2", "n3", "m3"}
        assert partitions == (Partition("p"), Partition("q", default=True))
    assert {n for c in found for n in hostlist.expand(c.nodes)} == set(hostlist.expand(EVERY))


@pytest.mark.parametrize(
    "nodes", ["block{b1}", "n1,switch{s1}", "feature{a,b}", "feature{a", "n[1", "s", "}{"]
)
def test_a_partition_that_only_slurmctld_can_resolve_is_said_to_be_one(
    tmp_path: Path, nodes: str
) -> None:
    _, (partition,) = read(tmp_path, f"NodeSet=s Nodes=block{{1}}\nPartitionName=p Nodes={nodes}")
    assert not partition.exact


def test_a_class_tells_states_memory_and_gres(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "PartitionName=p Nodes=ALL")
    near, far = found
    assert (near.nodes, near.features) == ("n[1-4,05-08]", ("a", "b"))
    assert (near.states, near.memory, near.gres) == ((), (1000, 2000), ("", "gpu:1"))
    assert (far.nodes, far.states, far.gres) == ("m[1,3],m2-ib", (("drain", 2),), ())


def test_equal_features_in_other_partitions_are_other_classes(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "PartitionName=p Nodes=n[1-2],m1\nPartitionName=q Nodes=n2")
    told = [(c.nodes, c.features, c.partitions) for c in found]
    assert told == [
        ("n1", ("a", "b"), ("p",)),
        ("n2", ("a", "b"), ("p", "q")),
        ("n[3-4,05-08]", ("a", "b"), ()),
        ("m1", ("c",), ("p",)),
        ("m3,m2-ib", ("c",), ()),
    ]
    whole = by_features(found)
    assert [(c.nodes, c.node_count, c.partitions) for c in whole] == [
        ("n[1-4,05-08]", 8, ("p", "q")),
        ("m[1,3],m2-ib", 3, ("p",)),
    ]
    assert whole[0].memory == (1000, 2000)
    assert whole[1].states == (("drain", 2),)
    assert by_features(whole) == whole


def test_cpus_and_gres_are_those_that_all_nodes_have(tmp_path: Path) -> None:
    path = tmp_path / "slurm.conf"
    path.write_text(
        "NodeName=a1 CPUs=8 Features=x Gres=gpu:a100:1\n"
        "NodeName=a2 Sockets=2 CoresPerSocket=8 ThreadsPerCore=2 Features=x\n"
        "NodeName=b1 CPUs=4 Features=y\nNodeName=b2 Features=y\n"
        "NodeName=c1 CPUs=4 Features=z Gres=gpu:2\n"
    )
    found = confnodes.node_classes(slurmconf.read(str(path)))
    assert [(c.cpus, c.gres) for c in found] == [
        (8, ("gpu:a100:1", "")),
        (None, ()),
        (4, ("gpu:2",)),
    ]
    merged = by_features([c._replace(features=("x",)) for c in found])
    assert [(c.cpus, c.gres) for c in merged] == [(None, ("gpu:a100:1", "", "gpu:2"))]


def test_what_is_unknown_stays_so_when_classes_are_put_together() -> None:
    known = NodeClass("n1", 1, ("a",), ("p",))
    unknown = NodeClass("n2", 1, ("a",))
    (both,) = by_features([known, unknown])
    assert both.partitions is None
    assert both.memory is None
    with pytest.raises(ClusterError):
        by_features([known, NodeClass("n[", 1, ("a",))])


RANGES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30)), max_size=4)


@settings(deadline=None)
@given(st.lists(RANGES, max_size=4), st.sets(st.integers(0, 3)), st.integers(1, 90))
def test_membership_is_that_of_each_node(
    partitions: list[list[tuple[int, int]]], everywhere: set[int], size: int
) -> None:
    """Compared with the plain way: each node asked alone."""
    membership, plain = Membership(), {}
    for number, ranges in enumerate(partitions):
        spans = [s for first, more in ranges for s in hostlist.spans(f"n[{first}-{first + more}]")]
        membership.add(str(number), spans)
        plain[number] = {n for s in spans for n in range(s.first, s.last + 1)}
        if number in everywhere:
            membership.add_everywhere(str(number))
            plain[number] = set(range(1, 100))
    told: dict[int, tuple[str, ...]] = {}
    for span in hostlist.spans(f"n[1-{size}]"):
        for part, names in membership.of(span):
            for node in range(part.first, part.last + 1):
                assert node not in told
                told[node] = names
    expected = {n: tuple(str(p) for p in plain if n in plain[p]) for n in range(1, size + 1)}
    assert told == expected
