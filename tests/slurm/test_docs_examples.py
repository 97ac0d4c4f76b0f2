"""The examples of the quick start and the admin guide, in their order, on a real cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import examples
import pytest
from cluster import Cluster, Node
from conftest import ImageMaker
from product import Product

NODES = (
    Node("n[1-2]", "x86_64,x86_64_v2,ivybridge"),
    Node("n3", "x86_64,x86_64_v2,x86_64_v3,zen3"),
)
PARTITIONS = (
    "PartitionName=all Nodes=ALL Default=YES State=UP",
    "PartitionName=debug Nodes=n[2-3] State=UP",
)


@pytest.fixture
def site(place: Path, product: Product, make_image: ImageMaker) -> Iterator[Cluster]:
    """Return a cluster without the plugin, and img.sif, for a newer CPU, where its users work."""
    image = make_image("docs", labels={"io.archspec.cpu.target": "x86_64_v3"})
    lua = product.job_submit()
    with Cluster(place / "docs", NODES, conf=PARTITIONS, job_submit=lua) as cluster:
        shutil.copy(image, cluster.layout.work / "img.sif")
        (cluster.layout.work / "job.sh").write_text("#!/bin/sh\ntrue\n")
        yield cluster


class Reader:
    """Somebody who types what a page says."""

    def __init__(self, cluster: Cluster, product: Product) -> None:
        self.cluster, self.product = cluster, product
        path = f"{product.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        self.env = {"PATH": path}
        self.home = ""
        self.job = "1"
        self.told: dict[str, str] = {}

    def read(self, page: str) -> dict[str, str]:
        """Go through a page; return what each command said."""
        for kind, block in examples.blocks(page):
            if kind == examples.PLUGSTACK:
                options = block.split()[2:]
                self.cluster.set_plugstack([self.product.plugstack_line(*options)])
            elif kind == examples.POLICY:
                self.cluster.conf_path.with_name("cmeta.yaml").write_text(block + "\n")
            elif kind == examples.COMMANDS:
                for command in examples.commands(block):
                    if command not in examples.NOT_RUN:
                        self.type(command)
        return self.told

    def type(self, command: str) -> None:
        if command.startswith("export "):
            name, value = command.split()[1].split("=")
            self.env[name] = value
            return
        typed = command.replace("/etc/slurm/", f"{self.cluster.conf_path.parent}/")
        typed = typed.replace("~/cmeta/bin/", "").replace("1234", self.job)
        done = self.cluster.run(["bash", "-c", typed], env=self.env)
        assert done.returncode == 0, (typed, done.stderr)
        self.told[command] = done.stdout + done.stderr
        if "Submitted batch job" in done.stdout:
            self.job = done.stdout.split()[-1]
            self.told[f"{command}: job"] = self.cluster.job(int(self.job))["Features"]


def test_the_admin_guide_leads_from_nothing_to_production(site: Cluster, product: Product) -> None:
    pytest.importorskip("yaml")
    told = Reader(site, product).read("docs/admin.md")
    assert "constraint  x86_64_v3" in told["cmeta match img.sif"]
    explained = "sbatch --cmeta=explain -p debug --container=img.sif job.sh"
    assert "cmeta: requires cpu >= x86_64_v3" in told[explained]
    assert told[f"{explained}: job"] == "x86_64_v3"
    assert told["sbatch -p debug --container=img.sif job.sh: job"] == "x86_64_v3"
    assert "Features=x86_64_v3" in told["scontrol show job 1234"]
    assert "3 decisions" in told["cmeta report --since 7d"]
    checked = told["cmeta check-config /etc/slurm/cmeta.yaml"]
    assert "partitions.debug.on_mismatch  reject" in checked
    assert "warning" not in checked


def test_the_quick_start_does_what_it_says(site: Cluster, product: Product) -> None:
    site.set_plugstack([product.plugstack_line()])
    told = Reader(site, product).read("docs/quickstart.md")
    submit = "sbatch --container=img.sif job.sh"
    assert told[f"{submit}: job"] == "x86_64_v3"
    assert "cmeta: img.sif needs x86_64_v3" in told[submit]
    (line,) = (c for c in told if c.startswith("options=$(") and not c.endswith(": job"))
    assert told[f"{line}: job"] == "x86_64_v3"
