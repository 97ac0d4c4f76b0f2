"""Large JSON files gone through piece by piece, in little memory.

An SBOM or Spack's index has up to tens of megabytes, and as Python objects ten times that. Only the
members of a few containers near the top are of interest; each is parsed when it is complete, all
else is passed over unparsed.
"""

from __future__ import annotations

from slurm_cmeta.leanjson import loads
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Set
    from typing import Any

CHUNK = 256 * 1024
"""Bytes read at once."""

MAX_MEMBER = 512 * 1024
"""Bytes of one member that is parsed, give or take a chunk: real ones have up to 100 kB, and JSON
made to hurt grows 25 times in memory."""

MAX_STRING = 128 * 1024
"""Bytes of one string: the longest real ones are the texts of licenses, below 40 kB. The regular
expression keeps about 100 bytes for each escape in a string."""

MAX_KEY = 256
"""Bytes of a key that may lead somewhere."""

MAX_VALUES = 100_000
"""Members that are yielded. Of tiny ones a file could hold millions, at 4 s a million."""

_TOKEN = rb'(?s:"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}])'

Path = tuple[str, ...]


def values(
    read: Callable[[int, int], bytes], size: int, wanted: Set[Path]
) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of each object or array directly inside the containers `wanted`.

    `read(offset, size)` reads the file, which has `size` bytes. A container is named by the keys
    that lead to it from the top: `("packages",)` is the array or object `packages` of the top
    object. What is damaged ends it, what is too large is left out. Never raises; numbers come as
    text.
    """
    import re  # few images have such a file, and it costs a submission

    tokens = re.compile(_TOKEN)
    offset, position, buffer = 0, 0, b""
    names: list[str] = []
    """Keys of the open containers that lead to a wanted one, that of the top not counted."""
    depth, found = 0, 0
    key = ""
    start: int | None = None
    """Where the member begins in the buffer that is being collected."""
    while True:
        for token in tokens.finditer(buffer, position):
            text = token[0]
            if text == b'"':  # a string that goes on beyond the buffer
                position = token.start()
                break
            position = token.end()
            on_track = depth == len(names) + 1
            if text[0] == 0x22:
                if on_track and start is None and _ends_key(buffer, position):
                    key = _key(text)
            elif text in b"[{":
                if on_track and start is None:
                    here = tuple(names)
                    if here in wanted:
                        start = token.start()
                    elif any(path[: len(here) + 1] == (*here, key) for path in wanted):
                        names.append(key)
                    key = ""
                depth += 1
            else:
                depth -= 1
                if depth <= 0:
                    return
                if start is not None and depth == len(names) + 1:
                    value = parsed(buffer[start:position])
                    found += 1
                    if value is not None:
                        yield tuple(names), value
                    if found == MAX_VALUES:
                        return
                    start = None
                elif names and depth == len(names):
                    names.pop()
        else:
            position = max(position, len(buffer))
        kept = position if start is None else min(start, position)
        if position - kept > MAX_MEMBER:
            # Too large to be parsed. Without its begin it is no JSON, and comes to nothing when it
            # ends; where that is, the depth still tells.
            start = kept = position
        buffer, position = buffer[kept:], position - kept
        if start is not None:
            start -= kept
        if len(buffer) - position > MAX_STRING or offset >= size:
            return
        more = read(offset, min(CHUNK, size - offset))
        if not more:
            return
        offset += len(more)
        buffer += more


def _ends_key(buffer: bytes, position: int) -> bool:
    """Tell whether a colon follows, or the buffer ends: after a wrong key comes the right one."""
    return buffer[position : position + 8].lstrip()[:1] in (b":", b"")


def _key(text: bytes) -> str:
    if b"\\" not in text:
        return text[1 : MAX_KEY + 1].removesuffix(b'"').decode("utf-8", "replace")
    value = parsed(text) if len(text) < MAX_KEY else None
    return value if isinstance(value, str) else ""


def parsed(data: bytes) -> Any:
    """Return the JSON value `data`, None if it is none.

    Numbers stay text, and are cut: a megabyte of digits would take minutes to convert.
    """
    try:
        return loads(data.decode("utf-8", "replace"), parse_int=_text, parse_float=_text)
    except (ValueError, RecursionError):
        return None


def _text(number: str) -> str:
    return number[:40]
