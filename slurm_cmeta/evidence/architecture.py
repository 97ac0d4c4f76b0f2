"""The architecture an image is for, from the file's own codes; labels are a check only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.rules import stated
from slurm_cmeta.facts import Fact
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.image import Image


def read(image: Image) -> list[Fact]:
    """Return the fact `arch`, or nothing if the image states no architecture."""
    if not image.content.architectures:
        image.warnings.add("the image states no architecture: none is required of a node")
        return []
    best, *others = image.content.architectures
    family = _family(best.name)
    for other in others:
        if _family(other.name) != family:
            image.warnings.add(
                f"the {other.source} says {other.name}, the {best.source} says {best.name}: "
                f"the {other.source} is ignored"
            )
    for rule, value in stated(image.labels(), "architecture"):
        labelled = vocabulary.architecture(value)
        if labelled is not None and labelled != family:
            image.warnings.add(
                f"label {rule['key']} says {clean(value, 60)}, the {best.source} says "
                f"{best.name}: the label is ignored"
            )
    return [Fact("arch", family, best.source)]


def _family(name: str) -> str:
    """Return archspec's spelling, or the name as it is: an unknown one fits no known node."""
    return vocabulary.architecture(name) or name
