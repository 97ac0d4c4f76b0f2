"""What is known about an image: facts, each with the place it was read from."""

from __future__ import annotations

from slurm_cmeta.record import NamedTuple

Condition = tuple[str, str, str]
"""Key, operator and value: `("driver", ">=", "470")`."""

DECLARED = "declared"
"""Somebody wrote it down: a label, a header field, a build file."""

OBSERVED = "observed"
"""Read from the content itself: an ELF file, a library's name."""


class Fact(NamedTuple):
    """One thing known about an image.

    Keys that become requirements are those of docs/requirements.md (`arch`, `cpu`, ...); all other
    keys describe the image (`format`, `base`, ...). Values are spelled as archspec, OCI or Slurm
    spell them, whatever the image wrote.
    """

    key: str
    value: str
    source: str
    """Where it was read, in words for people: `SIF partition descriptor 3`, `label cpu.target`."""
    evidence: str = DECLARED
    hint: bool = False
    """True for a mere wish of the image's author (`optimized for`): a soft requirement."""
    op: str = ""
    """The operator of the requirement; empty for the key's own (see requirement.KEYS)."""
    alternatives: tuple[tuple[Condition, ...], ...] = ()
    """What would do instead: conjunctions of conditions. The requirement is met by the fact's own
    condition, or by any conjunction that is met whole."""
