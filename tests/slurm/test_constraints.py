"""The constraint language against a real slurmctld: an oracle, not a belief.

For generated expressions and additions, slurmctld says of each node whether a job with that
expression may run there: it is submitted to begin in an hour, on that node alone. The number of
cases is that of the environment variable CASES (`make matrix CASES=5000`), the seed that of SEED.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Node

from slurm_cmeta import match
from slurm_cmeta.cluster import Cluster as Known
from slurm_cmeta.cluster import NodeClass, Partition
from slurm_cmeta.compare import MATCH
from slurm_cmeta.constraint.addition import add
from slurm_cmeta.constraint.grammar import parse
from slurm_cmeta.constraint.select import Expression
from slurm_cmeta.decide import Wishes, decide
from slurm_cmeta.requirement import KEYS, Requirement

CASES = int(os.environ.get("CASES", "100"))
SEED = int(os.environ.get("SEED", "1"))

NODES = {
    "p1": "a,x",
    "p2": "b,x,y",
    "p3": "a,b,p",
    "p4": "c,x,p",
    "p5": "a,c,q,y",
    "p6": "b,c,x,y,p,q",
    "p7": "d",
    "p8": "a,b,c,d,x,y,p",
}
HALF = ("p1", "p2", "p3", "p4")
"""The nodes of the second partition."""

NAMES = sorted({name for features in NODES.values() for name in features.split(",")})


@pytest.fixture(scope="module")
def oracle(place: Path) -> Iterator[Oracle]:
    """Return what asks slurmctld; its nodes are in the cloud, so that none has to run."""
    conf = [
        *("SuspendProgram=/bin/true", "ResumeProgram=/bin/true", "ResumeTimeout=3600"),
        *("SuspendTime=INFINITE", "MaxJobCount=100000", "MinJobAge=2"),
    ]
    for name, features in NODES.items():
        address = f"NodeAddr=127.0.0.1 NodeHostname={name}"
        conf.append(f"NodeName={name} {address} CPUs=4 Features={features} State=CLOUD")
    conf.append("PartitionName=all Nodes=ALL Default=YES State=UP")
    conf.append(f"PartitionName=half Nodes={','.join(HALF)} State=UP")
    with Cluster(place / "o", [Node("n1", "d")], conf=conf) as cluster:
        yield Oracle(cluster)


class Oracle:
    """Asks a slurmctld."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def takes(self, expression: str, *words: str) -> bool:
        """Tell whether a job with this constraint is accepted."""
        wanted = ["-C", expression] if expression else []
        argv = ["sbatch", "--begin=now+1hour", "--parsable", *wanted, *words, "--wrap", "true"]
        return self.cluster.run(argv).returncode == 0

    def set_features(self, features: dict[str, list[str]]) -> None:
        """Give the nodes other features."""
        for node, listed in features.items():
            text = ",".join(listed)
            self.cluster.run(
                ["scontrol", "update", f"NodeName={node}", f"AvailableFeatures={text}",
                 f"ActiveFeatures={text}"]
            )  # fmt: skip

    def nodes(self, expression: str, *words: str) -> set[str]:
        """Return the nodes on which such a job may run."""
        found = {node for node in NODES if self.takes(expression, "-N1", "-w", node, *words)}
        self.cluster.run(["scancel", "--user=root"])
        return found


def expression(chance: random.Random) -> str:
    """Return a user's expression of any form without counts."""

    def names(most: int) -> str:
        some = [chance.choice(NAMES) for _ in range(chance.randint(1, most))]
        text = some[0]
        for name in some[1:]:
            text += chance.choice("&|,") + name
        return text

    def item() -> str:
        return f"({names(3)})" if chance.random() < 0.4 else chance.choice(NAMES)

    form = chance.random()
    if form < 0.1:
        return ""
    if form < 0.3:
        return names(3)
    if form < 0.8:
        text = item()
        for _ in range(chance.randint(0, 2)):
            text += chance.choice("&|,") + item()
        return text
    alternatives = "|".join(chance.choice(NAMES) for _ in range(chance.randint(2, 3)))
    beside = [chance.choice(NAMES)] if chance.random() < 0.5 else []
    parts = [f"[{alternatives}]", *beside]
    chance.shuffle(parts)
    return "&".join(parts)


def addition(chance: random.Random) -> Expression:
    names = tuple(dict.fromkeys(chance.choice("xyp") for _ in range(chance.randint(0, 2))))
    group = tuple(dict.fromkeys(chance.choice("xypq") for _ in range(chance.randint(2, 3))))
    return Expression(names, group if not names or chance.random() < 0.4 else ())


def allowed(features: Expression) -> set[str]:
    return {node for node, listed in NODES.items() if features.allows(listed.split(","))}


@pytest.mark.parametrize("case", range(CASES))
def test_slurmctld_reads_an_expression_as_we_do(oracle: Oracle, case: int) -> None:
    """What we add is required of every node, and nothing else changes."""
    chance = random.Random(f"{SEED}.{case}")  # noqa: S311 - reproducible
    user, more = expression(chance), addition(chance)
    parsed = parse(user)
    assert parsed is not None, user
    by_slurm = oracle.nodes(user)
    by_us = {node for node, listed in NODES.items() if parsed.allows(listed.split(","))}
    assert by_us == by_slurm, user
    text = add(parsed, more)
    assert text is not None
    assert oracle.nodes(text) == by_slurm & allowed(more), (user, text)


@pytest.mark.parametrize(
    "text",
    [
        *("a&", "&a", "a||b", "a)", "(a", "()", "(a)b", "((a|b)|c)", "([a|b])", "[a&b]"),
        *("[a*2|b*4]", "[a*2&b]", "[a|b]&[c|d]", "[[a|b]]", "[a|b", "a*2&b", "a*0", "a*x", "[a]"),
        *("a b", "!a", "a&nobody"),
    ],
)
def test_what_we_leave_alone_is_odd(oracle: Oracle, text: str) -> None:
    """What no release takes is not parsed; what only some take is not either."""
    if not oracle.takes(text):
        assert parse(text) is None or "nobody" in text
    oracle.cluster.run(["scancel", "--user=root"])


# --- whole decisions, on clusters of all kinds ----------------------------------------------------

POOL = (
    *("x86_64", "x86_64,x86_64_v2,x86_64_v3,zen,zen2", "x86_64,x86_64_v3,zen3", "zen4", "icelake"),
    *("aarch64", "aarch64,neoverse_v1", "haswell", "skylake", "x86_64_v2", "ppc64le,power9le", ""),
)
EXTRA = (
    *("nvidia,sm=80,cuda=12.2,driver=535.54", "a100", "v100", "mi250x", "cuda=11.8,nvidia", ""),
    *("kernel=4.18", "kernel=6.1,glibc=2.36", "cmeta=1", "infiniband", "mpi=openmpi", ""),
)
OWN = ("a", "b", "c", "x", "bigmem", "rack1")
NEEDS = (
    *(("arch", "x86_64"), ("arch", "aarch64"), ("cpu", "x86_64_v3"), ("cpu", "zen3")),
    *(("cpu", "haswell"), ("gpu", "nvidia"), ("gpu", "amd"), ("gpu.arch", "sm_80")),
    *(("cuda", "12.0"), ("driver", "530"), ("kernel", "5.4"), ("isa", "avx2 fma")),
    *(("isa", "avx512f"), ("mpi", "openmpi"), ("page", "4096")),
)
SOFT = frozenset(("mpi", "glibc"))


def some_features(chance: random.Random) -> list[str]:
    own = [name for name in OWN if chance.random() < 0.35]
    text = ",".join([chance.choice(POOL), chance.choice(EXTRA), chance.choice(EXTRA), *own])
    return list(dict.fromkeys(filter(None, text.split(",")))) or ["plain"]


def needs(chance: random.Random) -> list[Requirement]:
    picked = dict(chance.sample(NEEDS, chance.randint(1, 3)))
    return [
        Requirement(k, KEYS[k], v, "soft" if k in SOFT else "hard", "observed", "a test")
        for k, v in picked.items()
    ]


def user_expression(chance: random.Random, names: list[str]) -> str:
    """Return what a user may write, with names that there are; counts and nonsense, too."""
    form = chance.random()
    if form < 0.35:
        return ""
    one, two, three = (chance.choice(names) for _ in range(3))
    return chance.choice(
        [one, f"{one}&{two}", f"{one},{two}", f"{one}|{two}", f"({one}|{two})&{three}",
         f"({one}&{two})|{three}", f"{one}|{two}&{three}", f"[{one}|{two}]",
         f"[{one}|{two}]&{three}",
         f"{one}*1", f"[{one}*1&{two}*1]", f"({one}){two}"]
    )  # fmt: skip


@pytest.mark.parametrize("case", range(CASES))
def test_jobs_go_where_both_the_user_and_the_image_allow(oracle: Oracle, case: int) -> None:
    """Slurm itself says where the user's expression allows the job, and where ours does."""
    chance = random.Random(f"decision {SEED}.{case}")  # noqa: S311 - reproducible
    features = {node: some_features(chance) for node in NODES}
    oracle.set_features(features)
    names = sorted({name for listed in features.values() for name in listed})
    wishes = Wishes(user_expression(chance, names), partitions=chance.choice(("", "half")))
    requirements = needs(chance)
    classes = tuple(
        NodeClass(node, 1, tuple(listed), ("all", "half") if node in HALF else ("all",))
        for node, listed in features.items()
    )
    known = Known(classes, False, "a test", (Partition("all", True), Partition("half")))
    decision = decide("/i/img.sif", requirements, known, wishes)
    fit = {c.nodes for c in classes if match.judge(requirements, c).verdict == MATCH}
    where = ("-p", wishes.partitions) if wishes.partitions else ()
    by_user = oracle.nodes(wishes.constraint, *where)
    told = f"{wishes} {[(r.key, r.value) for r in requirements]} {features} {decision[:5]}"
    if decision.action == "reject":
        assert not by_user & fit, told
        return
    ours = decision.constraint or wishes.constraint
    excluded = ("-x", decision.exclude) if decision.exclude else ()
    by_us, parsed = oracle.nodes(ours, *where, *excluded), parse(wishes.constraint)
    if parsed is not None and parsed.counted:
        # What a count allows on one node alone depends in slurmctld on the other nodes' names.
        assert by_us <= fit, told
        return
    assert by_us == by_user & fit, told
    if decision.prefer:
        assert oracle.nodes(decision.prefer, *where, *excluded) <= by_user & fit, told
    if case % 10 == 0:
        again = decide("/i/img.sif", requirements, known, wishes)
        assert again == decision  # the same cluster always gives the same
