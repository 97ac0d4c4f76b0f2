"""Values that took long to work out, kept as JSON."""

from __future__ import annotations

import os
import time
from zlib import crc32

from slurm_cmeta.kept import place, sources
from slurm_cmeta.leanjson import dumps, loads
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from slurm_cmeta.kept.sources import Sources


def load(directory: str, kind: str, name: str) -> tuple[Any, Sources] | None:
    """Return the value that keep() put there, and what it was drawn from, if it still holds."""
    data = place.read(_path(directory, kind, name))
    if data is None:
        return None
    try:
        label, (files, absent, until), value = _with_tuples(loads(data.decode("ascii")))
    except (ValueError, TypeError, RecursionError):
        return None
    drawn_from = sources.Sources(tuple(map(sources.SourceFile._make, files)), absent, until)
    if label != _label(kind, name) or not drawn_from.hold(time.time()):
        return None
    return value, drawn_from


def keep(directory: str, kind: str, name: str, value: Any, drawn_from: Sources) -> None:
    """Keep a value of plain tuples, dicts (by text), texts and numbers in the user's directory."""
    whole = drawn_from + sources.of_code()
    if whole.settled(time.time_ns()):
        plain: Any = (tuple(tuple(f) for f in whole.files), whole.absent, whole.until)
        place.write(
            _path(directory, kind, name),
            dumps((_label(kind, name), plain, value)).encode("ascii"),
        )


def _with_tuples(value: Any) -> Any:
    """Return a value as it was before JSON made lists of its tuples."""
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    if isinstance(value, dict):
        return {key: _with_tuples(one) for key, one in value.items()}
    return value


def _label(kind: str, name: str) -> tuple[str, str, str]:
    return (kind, os.uname().nodename, name)


def _path(directory: str, kind: str, name: str) -> str:
    slot = crc32("\0".join(_label(kind, name)).encode("utf-8", "surrogateescape")) % 64
    return f"{directory}/{kind}-{slot:02x}"
