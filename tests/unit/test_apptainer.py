"""Images that a real Apptainer made, and what it says of them itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_cmeta import config
from slurm_cmeta.submission import ImageReport, read_image

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import images

pytestmark = pytest.mark.skipif(
    not shutil.which("apptainer"), reason="Apptainer is not installed (tests/tools/apptainer.sh)"
)

LABELS = {"io.archspec.cpu.target": "x86-64-v3", "note": "größe <&> \"q\" 'x'", "empty.ish": "-"}


def report(path: Path) -> ImageReport:
    return read_image(str(path), config.defaults())


def facts(path: Path) -> dict[str, str]:
    return {fact.key: fact.value for fact in report(path).facts}


def apptainer(*words: str | Path, home: Path | None = None) -> str:
    done = subprocess.run(
        ["apptainer", "--quiet", *map(str, words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **({"HOME": str(home)} if home else {})},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.build(tmp_path_factory.mktemp("images") / "real.sif", "amd64", LABELS)


def test_the_labels_are_those_that_apptainer_shows(image: Path) -> None:
    shown = json.loads(apptainer("inspect", "--json", "--labels", image))
    assert report(image).labels == shown["data"]["attributes"]["labels"]
    assert report(image).labels.items() >= LABELS.items()


def test_what_it_needs_and_where_it_comes_from(image: Path) -> None:
    known = report(image)
    needs = {(r.key, r.value, r.strength) for r in known.requirements}
    assert {n for n in needs if n[0] != "kernel"} == {
        ("arch", "x86_64", "hard"),
        ("cpu", "x86_64_v3", "hard"),
    }
    assert known.warnings == []
    assert facts(image).items() >= {"filesystem": "squashfs", "bootstrap": "localimage"}.items()


@pytest.mark.skipif(
    not any(path.is_file() for path in images.BUSYBOX["arm64"]),
    reason="no arm64 busybox is here (tests/tools/packages.sh)",
)
def test_a_cross_build_is_known_by_its_file_and_not_by_its_label(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(images.BUSYBOX["arm64"][0], tree / "bin/sh")
    path = tmp_path / "arm.sif"
    apptainer("build", path, tree)  # without --arch: the label names the building host
    known = report(path)
    assert known.labels["org.label-schema.build-arch"] == "amd64"
    assert known.requirements[0][:3] == ("arch", "=", "aarch64")
    assert known.requirements[0].evidence == "observed"
    assert any("build-arch" in warning for warning in known.warnings)


def test_a_signature_is_seen(image: Path, tmp_path: Path) -> None:
    signed = tmp_path / "signed.sif"
    shutil.copy(image, signed)
    identity = ("--name", "Test", "--email", "t@localhost", "--comment", "x", "--password", "")
    apptainer("key", "newpair", *identity, "--push=false", home=tmp_path)
    apptainer("sign", signed, home=tmp_path)
    assert facts(image)["signed"] == "no"
    assert facts(signed)["signed"] == "yes"
    assert report(signed).requirements == report(image).requirements


def test_a_deleted_object_leaves_the_image_readable(image: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited.sif"
    shutil.copy(image, edited)
    apptainer("sif", "del", "1", edited)  # the definition file: an empty slot comes first
    assert report(edited).requirements == report(image).requirements


def test_other_squashfs_compressors_make_no_difference(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", tree / "bin/sh")
    for compressor in ("gzip", "zstd", "xz", "lz4", "lzo"):
        path = tmp_path / f"{compressor}.sif"
        apptainer("build", f"--mksquashfs-args=-comp {compressor}", path, tree)
        assert report(path).requirements[0][:3] == ("arch", "=", os.uname().machine)
        assert report(path).requirements[0].source == "ELF header of /bin/sh"
