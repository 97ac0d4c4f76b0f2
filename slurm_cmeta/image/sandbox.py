"""A root file system as a directory: Apptainer's and Singularity's sandbox, or any other."""

from __future__ import annotations

from slurm_cmeta.image.content import Content
from slurm_cmeta.image.directory import DirectoryTree
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.directory import Folder
    from slurm_cmeta.image.filetree import Budget, FileTree


def read(folder: Folder, warnings: Warnings, budget: Budget) -> Sandbox:
    """Return what the directory holds."""
    return Sandbox(folder, warnings)


class Sandbox(Content):
    """A root file system in a directory."""

    __slots__ = ("_folder", "_warnings")

    def __init__(self, folder: Folder, warnings: Warnings) -> None:
        super().__init__("sandbox", "sandbox")
        self.filesystem_source = "directory"
        self._folder = folder
        self._warnings = warnings

    def open_tree(self, budget: Budget) -> FileTree | None:
        """Return the files in the directory."""
        return DirectoryTree(self._folder, "the sandbox", self._warnings, budget)
