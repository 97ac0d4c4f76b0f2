"""What the site wants of decisions, as cmeta.yaml says it: plain values, no reading of files."""

from __future__ import annotations

from slurm_cmeta.nodefacts import NO_NAMES, SiteNames
from slurm_cmeta.record import NamedTuple

REJECT = "reject"
WARN = "warn"
ACCEPT = "accept"
ADVISE = "advise"
ADD = "add"
IGNORE = "ignore"
RAISE = "raise"

SPARE_GPU = "gpu"
SPARE_MEMORY = "memory"
SPARE_SCARCE = "scarce"


class Policy(NamedTuple):
    """The policy for one submission; the defaults are those of a site without cmeta.yaml."""

    on_mismatch: str = REJECT
    """`reject` or `warn`: what becomes of a job that no node can run."""
    on_unknown: str = ACCEPT
    """`accept`, `warn` or `reject`: what becomes of a job where nothing could be compared."""
    prefer: bool = True
    """Whether the closest of the nodes that fit are preferred."""
    spare: tuple[str, ...] = (SPARE_GPU,)
    """What is left to those who need it, where an image does not: `gpu`, `memory`, `scarce`."""
    memory: str = RAISE
    """`raise` or `ignore`: what becomes of a job that asks for no memory, and whose image does."""
    gpu_request: str = ADVISE
    """`advise`, `add` or `ignore`: the same for a GPU."""
    names: SiteNames = NO_NAMES
    """What the site's own features mean."""
