"""An OCI bundle: a directory with config.json and a root file system, what Slurm's own
--container takes.

config.json (opencontainers/runtime-spec config.md): `ociVersion`; `root.path`, absolute or
relative to the bundle; `process.env`, `process.args`; `annotations`. It states no architecture,
but who made it from an image may have left org.opencontainers.image.architecture among the
annotations (image-spec conversion.md; umoci does).
"""

from __future__ import annotations

from slurm_cmeta.errors import ImageError
from slurm_cmeta.image.content import Content, Run, Stated
from slurm_cmeta.image.directory import DirectoryTree, Folder, read_document
from slurm_cmeta.image.document import member, table, text, texts
from slurm_cmeta.image.metadata import variables
from slurm_cmeta.image.reader import MAX_PATH, error
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from typing import Any

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget, FileTree

_ARCHITECTURE = "org.opencontainers.image.architecture"


def read(folder: Folder, warnings: Warnings, budget: Budget) -> Bundle | None:
    """Return what the bundle holds, None if its config.json is that of something else.

    Raises ImageError if no runtime could use it.
    """
    tree = DirectoryTree(folder, "the bundle", warnings, budget)
    found = read_document(tree, "config.json", "is no OCI bundle: its config.json")
    if found is None:
        return None
    config, identity = found
    if not text(config, "ociVersion") and not isinstance(member(config, "process"), dict):
        return None
    folder.identify_with(identity)
    return Bundle(folder, config, warnings)


class Bundle(Content):
    """An OCI bundle."""

    __slots__ = ("_environment", "_labels", "_root", "_warnings", "_words")

    def __init__(self, folder: Folder, config: dict[str, Any], warnings: Warnings) -> None:
        super().__init__("oci-bundle", "OCI bundle")
        self._warnings = warnings
        self._root = _open_root(folder, config)
        self._labels = table(config, "annotations")
        self._environment = variables(member(config, "process", "env"))
        self._words = tuple(texts(config, "process", "args"))
        self.filesystem_source = "directory"
        architecture = self._labels.get(_ARCHITECTURE, "")
        if architecture:
            source = f"annotation {_ARCHITECTURE}"
            self.architectures = (Stated(architecture, source),)

    def labels(self) -> dict[str, str]:
        """Return the annotations of config.json."""
        return self._labels

    def environment(self) -> dict[str, str]:
        """Return process.env of config.json."""
        return self._environment

    def run(self) -> Run:
        """Return process.args of config.json."""
        return Run(words=self._words)

    def open_tree(self, budget: Budget) -> FileTree | None:
        """Return the files in the bundle's root file system."""
        return DirectoryTree(self._root, "the bundle's root", self._warnings, budget)


def _open_root(folder: Folder, config: dict[str, Any]) -> Folder:
    path = text(config, "root", "path")
    if not path:
        raise error(folder.path, "is no OCI bundle that can be run: config.json has no root.path")
    shown = clean(path)
    if len(path) > MAX_PATH:
        raise error(folder.path, f"has an impossible root.path: {shown}")
    try:
        root = Folder(path, beside=folder.fd)
    except ImageError as problem:
        reason = str(problem).removeprefix(f"{clean(path, MAX_PATH)}: ")
        raise error(folder.path, f"has no usable root file system {shown}: {reason}") from None
    folder.keep(root)
    return root
