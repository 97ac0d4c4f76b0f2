"""This machine as if the project had never been on it, to install its packages in.

A view is an overlay of `/` alone: nothing that is mounted below it, the checkout among it, is
there. What is changed in it lies in memory, and is gone with it. Needs root.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import namespaces
from trouble import ToolError

BROUGHT = Path("/mnt")
"""Where what is brought lies in the view."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CleanView:
    """A view that is mounted at `place`/root while the context lasts; `place` is there, empty."""

    def __init__(self, place: Path, bring: Mapping[str, Path]) -> None:
        """`bring`: directories that can be read in the view, by their names below BROUGHT."""
        self._place, self._bring = place, dict(bring)

    def __enter__(self) -> CleanView:
        root, work = self.root, self._place
        try:
            self._mount("tmpfs", work)
            for name in ("upper", "work", "root"):
                (work / name).mkdir(mode=0o755)
            self._mount("overlay", root, f"lowerdir=/,upperdir={work}/upper,workdir={work}/work")
            self._mount("proc", root / "proc")
            for name in ("dev", "sys"):
                namespaces.bind(Path("/", name), root / name)
                # Else what is unmounted here in the end would be unmounted there, too.
                flags = namespaces.MS_REC | namespaces.MS_PRIVATE
                namespaces.mount("none", root / name, flags=flags)
            for name in ("run", "tmp", BROUGHT.name):
                self._mount("tmpfs", root / name, "mode=1777")
            for name, source in self._bring.items():
                target = root / BROUGHT.relative_to("/") / name
                target.mkdir()
                namespaces.bind(source, target, read_only=True, recursive=False)
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
            list(argv),
            preexec_fn=self._enter,
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

    def _enter(self) -> None:
        # Not chroot: Apptainer does not run in one.
        namespaces.own_mounts()
        namespaces.pivot(self.root)

    def _mount(self, kind: str, target: Path, options: str = "") -> None:
        namespaces.mount(kind, target, kind, data=options)

    def _unmount(self) -> None:
        for place in (self.root, self._place):
            argv = ["umount", "--recursive", "--lazy", str(place)]
            subprocess.run(argv, check=False, capture_output=True)
