"""The label rules of vocabulary/labels.json."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


def stated(labels: Mapping[str, str], what: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each rule about `what` whose label is there and not blank, with the label's value."""
    if not labels:
        return
    for rule in vocabulary.load("labels")["labels"]:
        if rule["states"] == what:
            value = labels.get(rule["key"], "").strip()
            if value:
                yield rule, value
