"""Looks into JSON documents of an image, of which nothing is certain but that they are JSON."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import encodable

if TYPE_CHECKING:
    from typing import Any


def member(document: Any, *path: str) -> Any:
    """Return what is at `path`, None if there is nothing."""
    for step in path:
        if not isinstance(document, dict):
            return None
        document = document.get(step)
    return document


def text(document: Any, *path: str) -> str:
    """Return the text at `path`, empty if there is none."""
    found = member(document, *path)
    return encodable(found) if isinstance(found, str) else ""


def texts(document: Any, *path: str) -> list[str]:
    """Return the texts in the array at `path`; what is no text is left out."""
    found = member(document, *path)
    if not isinstance(found, list):
        return []
    return [encodable(item) for item in found if isinstance(item, str)]


def table(document: Any, *path: str) -> dict[str, str]:
    """Return the texts in the object at `path`; what is no text is left out."""
    found = member(document, *path)
    if not isinstance(found, dict):
        return {}
    return {
        encodable(key): encodable(value) for key, value in found.items() if isinstance(value, str)
    }
