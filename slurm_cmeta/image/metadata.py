"""The JSON objects that Apptainer and SingularityCE store in clear text in an image.

Shape of `inspect-metadata.json` (apptainer pkg/inspect/metadata.go):
    {"data": {"attributes": {"labels": {KEY: VALUE}, "environment": {PATH: SCRIPT},
                             "runscript": SCRIPT, ...}}, "type": "container"}
Shape of `oci-config.json`: the `config` member of an OCI image configuration
(image-spec config.md): {"Env": ["KEY=VALUE"], "Labels": {KEY: VALUE}, "Entrypoint": [...],
"Cmd": [...], ...}; the whole configuration, which has that under `config`, is taken as well.
"""

from __future__ import annotations

from slurm_cmeta.image import shell
from slurm_cmeta.image.document import member
from slurm_cmeta.leanjson import loads
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean, encodable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from slurm_cmeta.image.content import Warnings

MAX_JSON = 1024 * 1024
"""Bytes of one metadata object that are read: real ones have 2 to 5 kB, and 1 MiB of JSON made to
hurt (`[[],[],...`) grows to about 25 MB in memory. Nesting is bounded by Python's own recursion
limit, which the parser keeps."""

MAX_VARIABLES = 1000
"""Variables of an environment that are kept: real images have up to about 80."""

MAX_WORDS = 64
"""Words of an entry point that are kept."""

_SPECIAL = frozenset(" \t;&|<>()'\"#*?$`\\{}[]!~")
"""Characters that mean something to a shell in a word without quotes."""
_ESCAPED = frozenset('"$`\\')
_LISTS = {"PATH": shell.DEFAULT_PATH, "LD_LIBRARY_PATH": ""}
"""Lists of directories, with what they are where nobody sets them."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


class DocumentError(Exception):
    """The document is not believed; the message says why, after the document's name."""


def parse(data: bytes, name: str, warnings: Warnings) -> dict[str, Any] | None:
    """Return the JSON object `data`, called `name`, or None with a warning."""
    try:
        return load(data)
    except DocumentError as problem:
        warnings.add(f"{name} {problem}: it is ignored")
        return None


def load(data: bytes) -> dict[str, Any]:
    """Return the JSON object `data`; raise DocumentError if it is none.

    Of equal keys the last one counts, and bytes that are not UTF-8 become U+FFFD, both as in Go's
    encoding/json, by which Apptainer reads the same object.
    """
    if len(data) > MAX_JSON:
        raise DocumentError(f"has {len(data)} bytes, more than {MAX_JSON}")
    try:
        # No label is a number, and a megabyte of digits is none that anybody needs.
        document = loads(
            data.decode("utf-8", "replace"),
            parse_int=_small,
            parse_float=_not_text,
            parse_constant=_not_text,
        )
    except RecursionError:
        raise DocumentError("is nested too deeply") from None
    except ValueError:
        raise DocumentError("is not valid JSON") from None
    if not isinstance(document, dict):
        raise DocumentError("is not a JSON object")
    return document


def labels(document: Any, name: str, warnings: Warnings) -> dict[str, str]:
    """Return the labels in a metadata object called `name`; what is no text is left out."""
    found = member(document, "data", "attributes", "labels")
    if found is None:
        found = member(document, "Labels")
    if found is None:
        found = member(document, "config", "Labels")
    if found is None:
        return {}
    return text_labels(found, name, warnings)


def text_labels(found: Any, name: str, warnings: Warnings) -> dict[str, str]:
    """Return the members of the JSON object `found` that are text; a warning names the others."""
    if not isinstance(found, dict):
        warnings.add(f"the labels in {name} are not a JSON object: they are ignored")
        return {}
    kept = {
        encodable(key): encodable(value) for key, value in found.items() if isinstance(value, str)
    }
    odd = [key for key, value in found.items() if not isinstance(value, str)]
    if odd:
        warnings.add(
            f"{name} holds {len(odd)} label(s) that are not text, ignored: {clean(odd[0], 60)}"
            + (", ..." if len(odd) > 1 else "")
        )
    return kept


def oci_environment(document: Any) -> dict[str, str]:
    """Return the variables that an OCI configuration sets."""
    found = member(document, "Env")
    if found is None:
        found = member(document, "config", "Env")
    return variables(found)


def variables(found: Any) -> dict[str, str]:
    """Return the variables in a list of `KEY=VALUE`; what is none is left out."""
    kept: dict[str, str] = {}
    for word in found[:MAX_VARIABLES] if isinstance(found, list) else ():
        if isinstance(word, str):
            key, equals, value = word.partition("=")
            if equals and key:
                kept[encodable(key)] = encodable(value)
    return kept


def script_environment(document: Any, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that the environment scripts of inspect-metadata.json set plainly, on
    top of the `inherited` ones.
    """
    scripts = member(document, "data", "attributes", "environment")
    kept = dict(inherited or {})
    for name in sorted(scripts)[:MAX_WORDS] if isinstance(scripts, dict) else ():
        if isinstance(scripts[name], str):
            kept.update(exported(scripts[name], kept))
    return kept


def exported(script: str, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what the lines `export KEY=VALUE` of a shell script surely set.

    No shell is run: a value with an expansion in it is left out, but for the form
    `${KEY:-"VALUE"}` with which Apptainer writes the environment of an OCI image
    (internal/pkg/build/sources/conveyorPacker_oci.go). Of a list of directories only those that
    are expansions are left out, and `$PATH` in PATH is what it was before.
    """
    kept: dict[str, str] = {}
    for words, surely in shell.lines(script):
        if not surely:
            continue
        if words.startswith("export "):
            words = words[7:].lstrip()
        key, equals, value = words.partition("=")
        if not equals or not key or not _PLAIN.issuperset(key) or len(kept) >= MAX_VARIABLES:
            continue
        plain = _unquoted(value.strip(), key)
        if plain is None and key in _LISTS:
            before = kept.get(key) or (inherited or {}).get(key) or _LISTS[key]
            plain = _directories(value.strip().strip("\"'"), key, before)
        if plain is not None:
            kept[key] = encodable(plain)
    return kept


def _directories(value: str, key: str, before: str) -> str:
    """Return a list of directories without those that take an expansion."""
    found: list[str] = []
    for directory in value.replace(f"${{{key}:+:${key}}}", f":${key}").split(":"):
        if directory in (f"${key}", f"${{{key}}}"):
            found += before.split(":")
        elif not _SPECIAL.intersection(directory):
            found.append(directory)
    return ":".join(filter(None, found))


def _unquoted(value: str, key: str) -> str | None:
    """Return what a shell makes of one word, None where that takes an expansion."""
    for start, end in ((f'"${{{key}:-"', '"}"'), (f'"${{{key}:-', '}"'), (f"${{{key}:-", "}")):
        if value.startswith(start) and value.endswith(end):
            return _in_double_quotes(value[len(start) : -len(end)])
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1] if "'" not in value[1:-1] else None
    if len(value) > 1 and value[0] == value[-1] == '"':
        return _in_double_quotes(value[1:-1])
    return None if _SPECIAL.intersection(value) else value


def _in_double_quotes(text: str) -> str | None:
    """Return `text` with its escapes resolved (POSIX, Double-Quotes), None for an expansion."""
    if not _ESCAPED.intersection(text):
        return text
    kept = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters, "")
            kept.append(following if following in _ESCAPED else character + following)
        elif character in _ESCAPED:
            return None
        else:
            kept.append(character)
    return "".join(kept)


def runscript(document: Any) -> str:
    """Return the runscript in inspect-metadata.json, empty if there is none."""
    found = member(document, "data", "attributes", "runscript")
    return encodable(found[: shell.MAX_SCRIPT]) if isinstance(found, str) else ""


def entry_point(document: Any) -> tuple[str, ...]:
    """Return Entrypoint and Cmd of an OCI configuration as one command."""
    words: list[str] = []
    for key in ("Entrypoint", "Cmd"):
        found = member(document, key)
        if found is None:
            found = member(document, "config", key)
        if isinstance(found, list):
            words += [encodable(word) for word in found[:MAX_WORDS] if isinstance(word, str)]
    return tuple(words[:MAX_WORDS])


def _small(digits: str) -> int:
    return int(digits) if len(digits) < 19 else 0


def _not_text(_: str) -> int:
    return 0
