"""Show slurm-cmeta on a throw-away cluster: `make demo`.

Installs the product as an administrator does, starts a mixed cluster, builds real images, submits
each with plain sbatch, and prints what became of it. Everything lies in a temporary directory,
which is removed at the end, as are all daemons.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import images
from cluster import Cluster, Node
from product import NODES, Product, install
from trouble import ToolError, say

JOB = """\
#!/bin/sh
echo "hello from inside $(cat /etc/image)"
"""


class Case(NamedTuple):
    """One image and what the user types with it."""

    image: str
    architecture: str = "amd64"
    labels: Mapping[str, str] = {}
    options: tuple[str, ...] = ()


V3 = {
    "org.opencontainers.image.architecture": "amd64",
    "org.opencontainers.image.variant": "v3",
}
CASES = (
    Case("plain.sif"),
    Case("plain.sif", options=("-C", "bigmem")),
    Case("v3.sif", labels=V3),
    Case("zen4.sif", labels={"io.archspec.cpu.target": "znver4"}),
    Case("fast.sif", labels={"org.supercontainers.hardware.cpu.optimized.version": "icelake"}),
    Case("arm.sif", "arm64"),
    Case("power.sif", "ppc64le"),
)


class Row(NamedTuple):
    """One line of the table."""

    image: str
    needs: str
    constraint: str
    node: str
    printed: str


HEAD = Row("IMAGE", "NEEDS (HOW THAT IS KNOWN)", "CONSTRAINT OF THE JOB", "NODE", "THE JOB PRINTED")
WIDTHS = Row("12", "52", "24", "6", "42")


def needs(product: Product, image: Path) -> str:
    """Return what `cmeta inspect` says the image needs of a node's CPU, and how that is known."""
    command = [str(product.prefix / "bin/cmeta"), "inspect", "--json", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "; ".join(
        f"{r['value']} ({r['source']}{', a wish' if r['strength'] == 'soft' else ''})"
        for r in json.loads(done.stdout)["requires"]
        if r["key"] in ("arch", "cpu")  # what decides here: all nodes have one kernel
    )


def play(cluster: Cluster, product: Product, case: Case, image: Path, script: Path) -> Row:
    """Submit one case, wait for it, and return what became of it."""
    typed = ["sbatch", *case.options, f"--container={case.image}", script.name]
    print(f"\n$ {' '.join(typed)}", flush=True)
    # Held until its fields are read: a running job shows its preference as its constraint.
    command = [*typed[:1], "--hold", f"--output={script.parent}/%j.out", *typed[1:]]
    done = cluster.run(command, cwd=script.parent)
    print(done.stderr + done.stdout, end="", flush=True)
    name = " ".join([case.image, *case.options])
    known = needs(product, image)
    if done.returncode:
        return Row(name, known, "refused at submit", "-", "-")
    job = int(done.stdout.split()[-1])
    constraint = cluster.job(job)["Features"]
    preferred = [line for line in done.stderr.splitlines() if "prefer " in line]
    if preferred:
        constraint += ", prefer " + preferred[0].partition("prefer ")[2].split(",")[0].strip('"')
    cluster.run(["scontrol", "release", str(job)])
    fields = cluster.wait(job)
    printed = (script.parent / f"{job}.out").read_text().strip()
    return Row(name, known, constraint, fields["NodeList"], printed)


def print_table(rows: list[Row]) -> None:
    """Print the rows below each other, long cells wrapped."""
    print()
    for row in (HEAD, *rows):
        cells = [
            textwrap.wrap(cell, int(width), break_on_hyphens=False) or [""]
            for cell, width in zip(row, WIDTHS, strict=True)
        ]
        for number in range(max(map(len, cells))):
            line = [
                (cell[number] if number < len(cell) else "").ljust(int(width))
                for cell, width in zip(cells, WIDTHS, strict=True)
            ]
            print("  ".join(line).rstrip())
    print()


def show(directory: Path) -> None:
    """Do it all below `directory`."""
    begun = time.monotonic()
    say("installing slurm-cmeta as `make install` does")
    product = install(directory / "product")
    say(f"building images with {'Apptainer' if images.have_apptainer() else 'siftool'}")
    made = {
        case.image: images.build(directory / case.image, case.architecture, case.labels)
        for case in CASES
    }
    script = directory / "job.sh"
    script.write_text(JOB)
    nodes = [Node(names, features) for names, features in NODES.items()]
    say("starting munged, slurmctld and six slurmd; the nodes' features are make-believe:")
    for names, features in NODES.items():
        print(f"         NodeName={names} Features={features}", file=sys.stderr)
    with Cluster(
        directory / "cluster",
        nodes,
        plugstack=[product.plugstack_line()],
        job_submit=product.job_submit(),
    ) as cluster:
        version = "{}.{:02d}".format(*cluster.version)
        say(f"Slurm {version} is up after {time.monotonic() - begun:.0f} s")
        rows = [play(cluster, product, case, made[case.image], script) for case in CASES]
        states = set(cluster.node_states().values())
    print_table(rows)
    if platform.machine() == "x86_64":
        print("arm1 is this x86_64 machine in truth: the last guard on the node kept the job from")
        print("an `Exec format error`. On a real cluster it would have run.")
    if not images.have_apptainer():
        print("Apptainer could not be had from this mirror, so no job could run in its image.")
    print(f"Node states after it all: {', '.join(sorted(states))}. Everything is stopped again.")


def main() -> int:
    """Run the demonstration; return the exit code."""
    try:
        with tempfile.TemporaryDirectory(prefix="cmeta-demo-") as name:
            directory = Path(name)
            directory.chmod(0o755)
            show(directory)
    except (ToolError, images.CannotBuildError) as trouble:
        say(f"error: {trouble}")
        return 1
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
