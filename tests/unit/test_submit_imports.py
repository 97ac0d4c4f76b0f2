"""What a submission imports: each module here was found to cost more than it was worth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sif_files

ROOT = Path(__file__).resolve().parents[2]

HEAVY = {
    *("argparse", "asyncio", "concurrent.futures", "dataclasses", "datetime", "email"),
    *("importlib.metadata", "importlib.resources", "inspect", "logging", "pathlib", "pickle"),
    *("random", "shutil", "socket", "subprocess", "tempfile", "textwrap", "typing"),
    *("threading", "urllib", "archspec", "cffi", "pyslurm", "spython", "yaml"),
}

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
sys.argv = ["cmeta-decide", "--image", {image!r}, "--slurm-conf", {conf!r}]
from slurm_cmeta.cli import decide
code = decide.main()
sys.stderr.write(" ".join(sorted(sys.modules)))
sys.exit(code)
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "img.sif"
    labels = sif_files.metadata({"io.archspec.cpu.target": "zen3"})
    path.write_bytes(sif_files.build(sif_files.partition(), labels))
    return path


def test_the_submit_path_imports_nothing_heavy(tmp_path: Path, image: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=c\nNodeName=n[1-2] Features=x86_64,zen3\n")
    script = SCRIPT.format(root=str(ROOT), image=str(image), conf=str(conf))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "verdict match" in done.stdout
    loaded = set(done.stderr.split())
    assert "slurm_cmeta.evidence.cpu" in loaded
    assert loaded & HEAVY == set(), "a submission pays for each of these"


def test_without_a_container_there_is_no_python() -> None:
    """The plugin starts one program in one place, and only where there is an image. On the node, a
    child of it looks at the image, and becomes no other program; cmeta-run, which starts the
    container, starts `cmeta pull` where a registry has the image."""
    code = {path.name: path.read_text() for path in (ROOT / "spank").glob("*.c")}
    starts = {name for name, text in code.items() if "fork()" in text or "posix_spawn" in text}
    assert starts == {"matcher.c", "guard.c", "pull.c"}
    programs = {name for name, text in code.items() if "execv" in text}
    assert programs == {"matcher.c", "cmeta_run.c", "pull.c"}
    assert [name for name, text in code.items() if "cmeta_pull(" in text and name != "pull.c"] == [
        "cmeta_run.c"
    ]
    assert [name for name, text in code.items() if "cmeta_matcher_run(" in text] == [
        name for name in code if name in ("matcher.c", "submit.c")
    ]
