"""A host's features and facts in the four output formats. Pure functions."""

from __future__ import annotations

import json

from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import encodable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slurm_cmeta.node import Found

SCHEMA = "cmeta.features/1"


def as_slurm(node: str, features: Sequence[str], found: Found) -> str:
    """Return one line for slurm.conf, in the shape of `slurmd -C`."""
    return f"NodeName={node} Features={','.join(features)}\n"


def as_list(node: str, features: Sequence[str], found: Found) -> str:
    """Return the features, one a line."""
    return "".join(f"{name}\n" for name in features)


def as_json(node: str, features: Sequence[str], found: Found) -> str:
    """Return the object of docs/schema/cmeta.features-1.json."""
    value = {
        "schema": SCHEMA,
        "node": node,
        "features": list(features),
        "facts": [
            {"key": f.key, "value": encodable(f.value), "source": encodable(f.source)}
            for f in found.facts
        ],
        "unknown": [{"key": u.key, "reason": encodable(u.reason)} for u in found.unknown],
        "warnings": [encodable(text) for text in found.warnings],
    }
    return json.dumps(value, indent=2) + "\n"


def as_prometheus(node: str, features: Sequence[str], found: Found) -> str:
    """Return a file for the textfile collector of node_exporter."""
    info = {
        "node": node,
        "arch": found.value("arch"),
        "cpu": found.value("cpu"),
        "level": found.value("cpu.level"),
        "kernel": found.value("kernel"),
        "glibc": found.value("glibc"),
        "driver": found.value("driver"),
        "cuda": found.value("cuda"),
        "rocm": found.value("rocm"),
        "apptainer": found.value("apptainer"),
    }
    known = {key: value for key, value in info.items() if value is not None}
    lines = _metric("cmeta_node_info", "What the node is; the value is always 1.", [(known, 1)])
    lines += _metric(
        "cmeta_node_feature",
        "A feature that the node gets in Slurm; the value is always 1.",
        [({"feature": name}, 1) for name in features],
    )
    counts = [
        ({"vendor": vendor}, int(count))
        for vendor in ("nvidia", "amd", "intel")
        if (count := found.value(f"{vendor}.count")) is not None and count.isdigit()
    ]
    lines += _metric("cmeta_node_gpus", "GPUs that the node can use.", counts)
    unknown = sorted({u.key for u in found.unknown})
    lines += _metric(
        "cmeta_node_unknown",
        "A fact that could not be told; the value is always 1.",
        [({"key": key}, 1) for key in unknown],
    )
    return "".join(line + "\n" for line in lines)


def _metric(name: str, text: str, samples: Sequence[tuple[Mapping[str, str], int]]) -> list[str]:
    """Return one metric in the text format of Prometheus; nothing without samples."""
    if not samples:
        return []
    lines = [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{pairs}}} {value}")
    return lines


def _escaped(text: str) -> str:
    escaped = encodable(text).replace("\\", r"\\").replace('"', r"\"")
    return escaped.replace("\n", r"\n")


FORMATS: dict[str, Callable[[str, Sequence[str], Found], str]] = {
    "slurm": as_slurm,
    "list": as_list,
    "json": as_json,
    "prom": as_prometheus,
}
