"""The list of formats: complete, documented, and no burden on a submission."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import sif_files

from slurm_cmeta import image

ROOT = Path(__file__).parents[2]


def test_every_format_has_its_module() -> None:
    for kind in image.FORMATS:
        module = importlib.import_module(f"slurm_cmeta.image.{kind.module}")
        assert callable(module.read)
        assert (kind.recognises is None) == bool(kind.entry)


def test_every_format_is_documented() -> None:
    schema = json.loads((ROOT / "docs/schema/cmeta.image-1.json").read_text())
    page = (ROOT / "docs/images.md").read_text()
    for name in schema["properties"]["format"]["enum"]:
        assert f"\n| `{name}` |" in page


def test_a_sif_needs_no_other_format(tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(sif_files.build(sif_files.metadata({"a": "b"}), sif_files.partition()))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from slurm_cmeta.image import open_image\n"
        f"with open_image({str(path)!r}) as image: image.labels()\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "slurm_cmeta.image.sif" in loaded
    others = {kind.module for kind in image.FORMATS} - {"sif"}
    others |= {"oci", "ocisif", "directory", "layers", "tarheaders", "tarlayer", "unpack"}
    assert {f"slurm_cmeta.image.{name}" for name in others} & loaded == set()
    assert {"tarfile", "zlib", "hashlib", "tempfile", "ctypes"} & loaded == set()
