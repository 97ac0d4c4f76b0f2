"""The product as an administrator installs it, for tests and the demonstration."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from trouble import ToolError

PROJECT = Path(__file__).resolve().parents[2]

NODES = {
    "old1": "x86_64,x86_64_v2,ivybridge",
    "mid[1-2]": "x86_64,x86_64_v2,x86_64_v3,zen3",
    "top1": "x86_64,x86_64_v2,x86_64_v3,x86_64_v4,zen4,bigmem",
    "ice1": "x86_64,x86_64_v2,x86_64_v3,x86_64_v4,icelake",
    "arm1": "aarch64,neoverse_v1,bigmem",
}
"""A mixed cluster: two architectures, four CPU generations. The features are make-believe: all
nodes are this machine."""


class Product(NamedTuple):
    """An installed slurm-cmeta."""

    prefix: Path

    @property
    def plugin(self) -> Path:
        """The SPANK plugin."""
        return self.prefix / "plugins/cmeta_spank.so"

    @property
    def matcher(self) -> Path:
        """The program that decides."""
        return self.prefix / "bin/cmeta-decide"

    def plugstack_line(self, *arguments: str) -> str:
        """Return the line for plugstack.conf."""
        return " ".join(["optional", str(self.plugin), *arguments])

    def job_submit(self) -> str:
        """Return job_submit.lua, as shipped but for the place of the module."""
        text = (PROJECT / "lua/job_submit.lua").read_text()
        return text.replace("/usr/local/share/slurm-cmeta", str(self.prefix / "share/slurm-cmeta"))


class CountedMatcher:
    """A product's matcher that leaves a mark each time that it runs."""

    def __init__(self, product: Product, directory: Path) -> None:
        """Put it into `directory`, which is there."""
        self.program, self._marks = directory / "matcher", directory / "marks"
        self._marks.touch()
        first = "import sys\n"
        mark = f"{first}open({str(self._marks)!r}, 'a').write('x')\n"
        self.program.write_text(product.matcher.read_text().replace(first, mark, 1))
        self.program.chmod(0o755)

    @property
    def runs(self) -> int:
        """How often it ran."""
        return self._marks.stat().st_size


def install(prefix: Path) -> Product:
    """Run `make install` into `prefix`. Raises ToolError with make's words when it fails."""
    done = subprocess.run(
        [
            *("make", "--no-print-directory", "-C", str(PROJECT), "install"),
            *(f"PREFIX={prefix}", f"PLUGINDIR={prefix}/plugins", f"OUT={prefix}/build"),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ToolError(f"make install failed: {done.stderr.strip()}")
    return Product(prefix)


def build_python(source: Path, built: Path, *options: str) -> None:
    """Copy the checkout to `source` and build wheel and sdist of it into `built` (PyPI's build).

    Raises ToolError with build's words when it fails.
    """
    leavings = shutil.ignore_patterns(".build", ".git", "dist", "__pycache__", "build", ".*_cache")
    shutil.copytree(PROJECT, source, ignore=leavings)
    argv = [sys.executable, "-m", "build", "--no-isolation", *options]
    done = subprocess.run(
        [*argv, "--outdir", str(built), str(source)], capture_output=True, text=True
    )
    if done.returncode:
        raise ToolError(f"build failed: {done.stderr[-3000:]}")
