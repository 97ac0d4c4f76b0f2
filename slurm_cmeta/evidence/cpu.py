"""The CPU that an image was built for, as its labels declare it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.rules import stated
from slurm_cmeta.facts import Fact
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_cmeta.image import Image

SHOWN = 60
"""Characters of a label's value that a warning shows."""


def read(image: Image, family: str | None) -> list[Fact]:
    """Return one fact `cpu` for each target that a label declares for architecture `family`.

    Content wins: a target of another architecture is ignored. A target that is no more than the
    architecture gives no fact when the architecture is known. Targets of which neither implies
    the other are all kept, so that a node has to satisfy each.
    """
    labels = image.labels()
    found: dict[str, Fact] = {}
    for rule, value in stated(labels, "cpu"):
        key = rule["key"]
        target, shown = _target(rule, value, labels, family)
        if target is None:
            image.warnings.add(f"label {key} says {shown}, which is no CPU known here: ignored")
            continue
        of_target = _family(target)
        if family is not None and of_target != family:
            image.warnings.add(
                f"label {key} says {shown}, a CPU of architecture {of_target}, but the image is "
                f"for {family}: the label is ignored"
            )
            continue
        if target == family:
            continue
        fact = Fact("cpu", target, f"label {key}", hint=rule["strength"] == "soft")
        if target not in found or found[target].hint > fact.hint:
            found[target] = fact
    facts = list(found.values())
    _warn_of_contradictions(image, facts)
    return facts


def _target(
    rule: Mapping[str, Any], value: str, labels: Mapping[str, str], family: str | None
) -> tuple[str | None, str]:
    """Return archspec's name of the stated CPU, or None, and the statement as a warning shows it.

    A variant belongs to the architecture beside it, which may have a CPU of its own right: then
    the contradiction with the file's architecture is seen by the caller.
    """
    if rule.get("form") != "oci-variant":
        return vocabulary.cpu_target(value), clean(value, SHOWN)
    beside = labels.get(rule["beside"], "").strip() or family or ""
    shown = f"{clean(beside, SHOWN)}/{clean(value, SHOWN)}"
    return vocabulary.oci_variant(beside, value), shown


def _family(target: str) -> str:
    cpu = vocabulary.cpu(target)
    return cpu.family if cpu else target


def _warn_of_contradictions(image: Image, facts: list[Fact]) -> None:
    for position, one in enumerate(facts):
        for other in facts[position + 1 :]:
            a, b = vocabulary.cpu(one.value), vocabulary.cpu(other.value)
            if a and b and a.name not in b.ancestors and b.name not in a.ancestors:
                end = "both count" if one.hint or other.hint else "a node needs both"
                image.warnings.add(
                    f"{one.source} says {a.name}, {other.source} says {b.name}, "
                    f"and neither implies the other: {end}"
                )
