"""What a job asks for, and whether some nodes alone could hold it."""

from __future__ import annotations

import pytest

from slurm_cmeta import shape
from slurm_cmeta.cluster import NodeClass
from slurm_cmeta.shape import PLAIN, Shape


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PLAIN),
        ({"nodes": "2"}, Shape(nodes=2)),
        ({"nodes": "2-4"}, Shape(nodes=2)),
        ({"nodes": "1-0"}, PLAIN),  # how an unset --nodes may read
        ({"ntasks": "64", "cpus": "2"}, Shape(tasks=64, cpus=2)),
        ({"cpus": "0"}, PLAIN),
        ({"mem": "4G"}, Shape(memory=4096)),
        ({"mem": "4000M"}, Shape(memory=4000)),
        ({"mem": "2048K"}, Shape(memory=2)),
        ({"mem": "1T"}, Shape(memory=1048576)),
        ({"mem": "500"}, Shape(memory=500)),
        ({"mem": "0?"}, Shape(odd=True)),  # all of the node
        ({"nodes": "many"}, Shape(odd=True)),
        ({"nodes": "2,4"}, Shape(odd=True)),
        ({"odd": "yes"}, Shape(odd=True)),
    ],
)
def test_the_options_are_read(options: dict[str, str], expected: Shape) -> None:
    assert shape.read(options) == expected


SMALL = NodeClass("a[1-2]", 2, (), cpus=4, memory=(1000, 1000))
LARGE = NodeClass("b[1-2]", 2, (), cpus=64, memory=(512_000, 512_000))
UNTOLD = NodeClass("c[1-9]", 9, ())


@pytest.mark.parametrize(
    ("job", "classes", "room"),
    [
        (PLAIN, [SMALL], True),
        (PLAIN, [UNTOLD], True),
        (PLAIN, [], False),
        (Shape(nodes=2), [SMALL], True),
        (Shape(nodes=3), [SMALL], False),
        (Shape(nodes=3), [SMALL, LARGE], True),
        (Shape(nodes=9), [UNTOLD], True),
        (Shape(tasks=8), [SMALL], True),
        (Shape(tasks=9), [SMALL], False),
        (Shape(tasks=9), [LARGE], True),
        (Shape(cpus=5), [SMALL], False),
        (Shape(cpus=5), [UNTOLD], False),
        (Shape(cpus=5, nodes=3), [SMALL, LARGE], False),
        (Shape(tasks=3, cpus=4), [SMALL], False),
        (Shape(memory=1001), [SMALL], False),
        (Shape(memory=1000), [SMALL], True),
        (Shape(memory=1), [UNTOLD], False),
        (Shape(odd=True), [LARGE], False),
    ],
)
def test_whether_nodes_alone_could_hold_it(
    job: Shape, classes: list[NodeClass], room: bool
) -> None:
    assert shape.fits(job, classes) == room
