"""/.singularity.d: what Singularity and Apptainer keep inside an image's own file system.

Images of Singularity before 3.7, sandboxes and images of other formats that were made from one have
their labels, environment and runscript only here.

Source: apptainer internal/pkg/build/{assemblers,files}, and images of Singularity 3.0 to 4.1.
"""

from __future__ import annotations

from slurm_cmeta.image import metadata, shell
from slurm_cmeta.image.content import Run
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import FileTree

DIRECTORY = "/.singularity.d"

_ENVIRONMENT = ("10-docker2singularity.sh", "90-environment.sh")
"""Scripts with variables of the image, weakest first; the others are the runtime's own."""


def labels(tree: FileTree, warnings: Warnings) -> dict[str, str]:
    """Return the labels of labels.json, a plain JSON object of text."""
    name = f"{DIRECTORY}/labels.json"
    data = tree.read(tree.find(name), 0, metadata.MAX_JSON)
    if not data:
        return {}
    document = metadata.parse(data, name, warnings)
    return {} if document is None else metadata.text_labels(document, name, warnings)


def environment(tree: FileTree) -> dict[str, str]:
    """Return the variables that the image's scripts set plainly."""
    found: dict[str, str] = {}
    for name in _ENVIRONMENT:
        script = tree.text(f"{DIRECTORY}/env/{name}", shell.MAX_SCRIPT)
        found.update(metadata.exported(script, found))
    return found


def run(tree: FileTree) -> Run:
    """Return the runscript."""
    return Run(tree.text(f"{DIRECTORY}/runscript", shell.MAX_SCRIPT))
