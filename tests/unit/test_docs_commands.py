"""The examples of the pages for users and administrators that need no cluster, and labels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import oci_files
import pytest
import sif_files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/tools"))

import examples  # noqa: E402

from slurm_cmeta import config  # noqa: E402
from slurm_cmeta.submission import read_image  # noqa: E402

SLURM_CONF = """\
ClusterName=test
NodeName=n[1-2] Features=aarch64,neoverse_v1
NodeName=n3 Features=x86_64,x86_64_v2,x86_64_v3,zen3
PartitionName=all Nodes=ALL Default=YES
PartitionName=debug Nodes=n[2-3]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with img.sif, a site's files in `etc`, and the commands in `bin`."""
    (tmp_path / "img.sif").write_bytes(sif_files.build(sif_files.partition()))
    for name in ("bin", "etc"):
        (tmp_path / name).mkdir()
    (tmp_path / "etc/slurm.conf").write_text(SLURM_CONF)
    for name, module in {"cmeta": "main", "cmeta-features": "features"}.items():
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m slurm_cmeta.cli.{module} "$@"\n')
        program.chmod(0o755)
    return tmp_path


def typed(place: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_CONF": str(place / "etc/slurm.conf"),
    }
    command = command.replace("/etc/slurm/", f"{place}/etc/")
    return subprocess.run(
        ["sh", "-c", command], cwd=place, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("page", examples.PAGES)
def test_the_commands_that_need_no_cluster_run(page: str, place: Path) -> None:
    pytest.importorskip("yaml")
    ran = 0
    for kind, block in examples.blocks(page):
        if kind == examples.POLICY:
            (place / "etc/cmeta.yaml").write_text(block + "\n")
        if kind != examples.COMMANDS:
            continue
        for command in examples.commands(block):
            if examples.needs_cluster(command) or command in examples.NOT_RUN:
                continue
            done = typed(place, command)
            assert done.returncode == 0, (command, done.stderr)
            assert done.stdout, command
            ran += 1
    assert ran >= 3


def test_each_command_that_is_not_run_is_there_and_is_run_elsewhere() -> None:
    found = {c for page in examples.PAGES for _, b in examples.blocks(page)
             for c in examples.commands(b)}  # fmt: skip
    assert set(examples.NOT_RUN) <= found
    for reason in examples.NOT_RUN.values():
        (name,) = re.findall(r"test_\w+\.py", reason)
        assert list((ROOT / "tests").rglob(name)), reason


def code(title: str) -> str:
    """Return the first indented block below a heading of the page on labels."""
    page = (ROOT / "docs/label-your-image.md").read_text()
    section = page[page.index(f"## {title}\n") :]
    found = re.search(r"(?:^ {4}.+\n)+", section, re.MULTILINE)
    assert found
    return re.sub(r"^ {4}", "", found[0], flags=re.MULTILINE)


def needs(path: Path) -> list[tuple[str, str, str]]:
    report = read_image(str(path), config.defaults())
    assert report.warnings == []
    return [(r.key, r.value, r.strength) for r in report.requirements if r.key in ("cpu", "memory")]


V3, MEMORY = ("cpu", "x86_64_v3", "hard"), ("memory", "16384", "soft")


@pytest.mark.parametrize("title", ["Apptainer", "Dockerfile"])
def test_the_labels_of_the_page_are_read(title: str, tmp_path: Path) -> None:
    lines = [line.strip().removeprefix("LABEL ") for line in code(title).splitlines()]
    pairs = dict(re.split("[ =]", line, maxsplit=1) for line in lines if line != "%labels")
    path = tmp_path / "img.sif"
    path.write_bytes(sif_files.build(sif_files.partition(), sif_files.metadata(pairs)))
    assert needs(path) == [V3, MEMORY]


def test_the_platform_and_the_annotations_of_the_page_are_read(tmp_path: Path) -> None:
    page = (ROOT / "docs/label-your-image.md").read_text()
    (platform,) = re.findall(r'^    (\{"architecture".*\})$', page, re.MULTILINE)
    (annotations,) = re.findall(
        r'^    "annotations": (\{.*?^    \})$', page, re.MULTILINE | re.DOTALL
    )
    store = oci_files.Store()
    stated = json.loads(platform)
    image = store.image(stated["architecture"], variant=stated["variant"])
    assert needs(oci_files.write_layout(tmp_path / "a", store, store.index(image))) == [V3]
    store = oci_files.Store()
    image = store.image("amd64", annotations=json.loads(annotations))
    assert needs(oci_files.write_layout(tmp_path / "b", store, store.index(image))) == [V3]


def test_every_label_of_the_page_is_in_the_full_list() -> None:
    page = (ROOT / "docs/label-your-image.md").read_text()
    named = set(re.findall(r"\b((?:io|org)\.[\w-]+(?:\.[\w-]+)+)", page))
    full = (ROOT / "docs/labels.md").read_text()
    assert len(named) == 5
    assert [name for name in named if f"| `{name}` |" not in full] == []
