"""The package in one file: the same modules, or none of them."""

from __future__ import annotations

import marshal
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_cmeta import bundle

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
sys.path.insert(0, {place!r})
from slurm_cmeta.bundle import Finder, use
use({place!r})
import slurm_cmeta.cli.decide, slurm_cmeta.image, slurm_cmeta.vocabulary, slurm_cmeta.node
print(type(slurm_cmeta.image.__spec__.loader).__name__, slurm_cmeta.vocabulary.cpu("zen3").family)
print(slurm_cmeta.image.__path__ == [{place!r} + "/slurm_cmeta/image"])
print(type(slurm_cmeta.node.__spec__.loader).__name__)
from slurm_cmeta.kept.sources import of_code
print(of_code().files[0].path)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "slurm_cmeta", tmp_path / "slurm_cmeta", ignore=ignored)
    return tmp_path


def run(place: Path) -> list[str]:
    script = SCRIPT.format(place=str(place))
    done = subprocess.run(
        [sys.executable, "-IS", "-B", "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_modules_come_out_of_the_bundle(place: Path) -> None:
    bundle.write(str(place))
    code = str(place / "slurm_cmeta/__init__.py")
    assert run(place) == ["Finder x86_64", "True", "SourceFileLoader", code]
    assert list(place.glob("slurm_cmeta/image/__pycache__")) == []


def damaged(place: Path) -> list[bytes]:
    bundle.write(str(place))
    data = (place / bundle.NAME).read_bytes()
    found, modules = marshal.loads(data)  # noqa: S302
    other = marshal.dumps((b"\0\0\0\0", modules))
    return [b"", data[:1000], b"rubbish", marshal.dumps(3), marshal.dumps((found,)), other]


@pytest.mark.parametrize("case", range(6))
def test_a_bundle_that_is_not_to_be_used_is_passed_over(place: Path, case: int) -> None:
    (place / bundle.NAME).write_bytes(damaged(place)[case])
    assert run(place)[0] == "SourceFileLoader x86_64"


def test_without_a_bundle_modules_are_imported_as_ever(place: Path) -> None:
    assert run(place)[0] == "SourceFileLoader x86_64"


def test_a_module_that_is_broken_tells_its_line(place: Path) -> None:
    (place / "slurm_cmeta/shape.py").write_text("\n\nraise ValueError('here')\n")
    bundle.write(str(place), "/usr/lib/slurm-cmeta")
    script = f"import sys; sys.path.insert(0, {str(place)!r})\n"
    script += f"from slurm_cmeta.bundle import use; use({str(place)!r})\nimport slurm_cmeta.shape"
    done = subprocess.run(
        [sys.executable, "-IS", "-B", "-c", script], capture_output=True, text=True
    )
    assert 'File "/usr/lib/slurm-cmeta/slurm_cmeta/shape.py", line 3' in done.stderr
