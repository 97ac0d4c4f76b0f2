"""This machine as if the project had never been on it, to install its packages in.

A view is an overlay of `/` alone: nothing that is mounted below it, the checkout among it, is
there. What is changed in it lies in memory, and is gone with it. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from trouble import ToolError

BROUGHT = Path("/mnt")
"""Where what is brought lies in the view."""

ENTER = 'cd "$1" && shift && pivot_root . . && umount -l . && cd / && exec "$@"'
"""Run by a shell with mounts of its own. Not chroot: Apptainer does not run in one."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CleanView:
    """A view that is mounted at `place`/root while the context lasts; `place` is there, empty."""

    def __init__(self, place: Path, bring: Mapping[str, Path]) -> None:
        """`bring`: directories that can be read in the view, by their names below BROUGHT."""
        self._place, self._bring = place, dict(bring)
        self._mounted: list[Path] = []

    def __enter__(self) -> CleanView:
        root = self.root
        try:
            self._mount("tmpfs", "tmpfs", self._place)
            for name in ("upper", "work", "root"):
                (self._place / name).mkdir(mode=0o755)
            layers = f"lowerdir=/,upperdir={self._place}/upper,workdir={self._place}/work"
            self._mount("overlay", "overlay", root, layers)
            self._mount("proc", "proc", root / "proc")
            for name in ("dev", "sys"):
                self._mount("--rbind", f"/{name}", root / name)
            for name in ("run", "tmp"):
                self._mount("tmpfs", "tmpfs", root / name, "mode=1777")
            self._mount("tmpfs", "tmpfs", root / BROUGHT.relative_to("/"))
            for name, source in self._bring.items():
                target = root / BROUGHT.relative_to("/") / name
                target.mkdir()
                self._mount("--bind", str(source), target)
                self._mount("--bind", str(source), target, "remount,ro")
        except BaseException:
            self._unmount()
            raise
        # Test roots leave out manuals and documentation.
        (root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unmount()

    @property
    def root(self) -> Path:
        """The view's `/`, seen from outside."""
        return self._place / "root"

    def try_run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the view, as root, with a small environment; return how it ended."""
        environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "USER": "root"}
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self.root), *argv],
            env={**environment, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def run(self, *argv: str) -> str:
        """Run a command in the view and return its output. Raises ToolError when it fails."""
        done = self.try_run(argv)
        if done.returncode:
            raise ToolError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _mount(self, kind: str, source: str, target: Path, options: str = "") -> None:
        how = [kind] if kind.startswith("--") else ["-t", kind]
        argv = ["mount", *how, *(["-o", options] if options else []), source, str(target)]
        done = subprocess.run(argv, capture_output=True, text=True, env=os.environ)
        if done.returncode:
            raise ToolError(f"no clean view: {done.stderr.strip()}")
        if target not in self._mounted:
            self._mounted.append(target)

    def _unmount(self) -> None:
        while self._mounted:
            argv = ["umount", "--recursive", "--lazy", str(self._mounted.pop())]
            subprocess.run(argv, check=False, capture_output=True)
