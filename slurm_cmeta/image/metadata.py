"""Labels from the JSON objects that Apptainer and SingularityCE store in clear text in an image.

Shape of `inspect-metadata.json` (apptainer pkg/inspect/metadata.go):
    {"data": {"attributes": {"labels": {KEY: VALUE}, ...}}, "type": "container"}
Shape of `oci-config.json`: the `config` member of an OCI image configuration
(image-spec config.md): {"Env": [...], "Labels": {KEY: VALUE}, ...}; the whole configuration,
with the labels under `config`, is taken as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.image.content import Warnings

MAX_JSON = 1024 * 1024
"""Bytes of one metadata object that are read: real ones have 2 to 5 kB, and 1 MiB of JSON made to
hurt (`[[],[],...`) grows to about 25 MB in memory. Nesting is bounded by Python's own recursion
limit, which the parser keeps."""


def labels_of(data: bytes, name: str, warnings: Warnings) -> dict[str, str]:
    """Return the labels in the JSON object `data`, called `name`; what is no label is left out.

    Of equal keys the last one counts, and bytes that are not UTF-8 become U+FFFD, both as in Go's
    encoding/json, by which Apptainer reads the same object.
    """
    document = _parse(data, name, warnings)
    if document is None:
        return {}
    if not isinstance(document, dict):
        warnings.add(f"{name} is not a JSON object: its labels are ignored")
        return {}
    found = _find(document, ("data", "attributes", "labels"))
    if found is None:
        found = _find(document, ("Labels",))
    if found is None:
        found = _find(document, ("config", "Labels"))
    if found is None:
        return {}
    if not isinstance(found, dict):
        warnings.add(f"the labels in {name} are not a JSON object: they are ignored")
        return {}
    labels = {_text(key): _text(value) for key, value in found.items() if isinstance(value, str)}
    if len(labels) < len(found):
        odd = [key for key, value in found.items() if not isinstance(value, str)]
        if odd:
            warnings.add(
                f"{name} holds {len(odd)} label(s) that are not text, ignored: {clean(odd[0], 60)}"
                + (", ..." if len(odd) > 1 else "")
            )
    return labels


def _parse(data: bytes, name: str, warnings: Warnings) -> Any:
    import json

    try:
        # No label is a number; leaving numbers unconverted keeps a megabyte of digits harmless.
        return json.loads(
            data.decode("utf-8", "replace"),
            parse_int=_not_text,
            parse_float=_not_text,
            parse_constant=_not_text,
        )
    except RecursionError:
        warnings.add(f"{name} is nested too deeply: its labels are ignored")
    except ValueError:
        warnings.add(f"{name} is not valid JSON: its labels are ignored")
    return None


def _not_text(_: str) -> int:
    return 0


def _find(document: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if not isinstance(document, dict):
            return None
        document = document.get(step)
    return document


def _text(value: str) -> str:
    """Replace lone surrogates, which JSON can write (`\\ud800`) and no output can encode."""
    if value.isascii():
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
