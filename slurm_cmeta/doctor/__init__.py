"""What is wrong with an installation, as far as one host can tell, and what mends it.

A module for each area, with a function that yields findings; slurm_cmeta.cli.doctor prints them.
"""

from __future__ import annotations

from slurm_cmeta.record import NamedTuple

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
LEVELS = (OK, NOTE, WARNING, ERROR)
"""From what is well to what keeps a half from working. A note is nothing that has to be mended."""

LOGIN, CONTROLLER, COMPUTE = "login", "controller", "compute"
ROLES = (LOGIN, CONTROLLER, COMPUTE)


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: str
    area: str
    """`slurm`, `plugin`, `matcher`, `controller`, `nodes`, `site` or `runtime`."""
    text: str
    """What is so, in one line."""
    mend: str = ""
    """A command or a line that mends it; empty where nothing has to be mended."""
