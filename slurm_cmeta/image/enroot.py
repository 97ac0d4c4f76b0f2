"""/etc/environment and /etc/rc: what enroot keeps inside the squashfs that it makes of an image.

/etc/environment has the image's Env, a line each; the first lines of /etc/rc are its labels,
`# KEY VALUE`, and what follows starts its entry point (enroot src/docker.sh, docker::configure).
"""

from __future__ import annotations

from slurm_cmeta.image import metadata, shell
from slurm_cmeta.image.content import Run
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import FileTree

_SCRIPT = "/etc/rc"
_MARK = "/etc/rc.local"
"""enroot's /etc/rc reads this one; BSD's, and that of old Linux, are told by it."""


def is_in(tree: FileTree) -> bool:
    """Tell whether enroot made the image."""
    return _MARK in tree.text(_SCRIPT, shell.MAX_SCRIPT)


def labels(tree: FileTree, warnings: Warnings) -> dict[str, str]:
    """Return the labels at the beginning of /etc/rc; a value ends with its line."""
    found: dict[str, str] = {}
    for line in tree.text(_SCRIPT, shell.MAX_SCRIPT).splitlines():
        if not line.startswith("# "):
            break
        key, _, value = line[2:].partition(" ")
        if key:
            found[key] = value
    return found


def environment(tree: FileTree) -> dict[str, str]:
    """Return the variables of /etc/environment."""
    lines = tree.text("/etc/environment", shell.MAX_SCRIPT).splitlines()
    return metadata.variables([line for line in lines if not line.startswith("#")])


def run(tree: FileTree) -> Run:
    """Return /etc/rc."""
    return Run(tree.text(_SCRIPT, shell.MAX_SCRIPT))
