"""JSON by CPython's own scanner, without the modules that `json` imports for its other parts.

`import json` brings `re`, `enum`, `functools` and `collections`, which takes a submission longer
than reading an image. The scanner and the encoder are those of `json` itself (Modules/_json.c),
called as json/decoder.py and json/encoder.py call them; where they are not to be had, `json` does
it. tests/unit/test_leanjson.py compares the two.
"""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BLANKS = " \t\n\r"


class _Context:
    """What the scanner looks up in a JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner has a memo of its own

    def __init__(
        self,
        parse_int: Callable[[str], Any],
        parse_float: Callable[[str], Any],
        parse_constant: Callable[[str], Any],
    ) -> None:
        self.parse_int, self.parse_float, self.parse_constant = (
            parse_int,
            parse_float,
            parse_constant,
        )


def loads(
    text: str,
    parse_int: Callable[[str], Any] = int,
    parse_float: Callable[[str], Any] = float,
    parse_constant: Callable[[str], Any] = float,
) -> Any:
    """Return the value of a JSON document. Raises ValueError or RecursionError, as json.loads()."""
    try:
        from _json import make_scanner
    except ImportError:
        import json

        return json.loads(
            text, parse_int=parse_int, parse_float=parse_float, parse_constant=parse_constant
        )
    start = len(text) - len(text.lstrip(_BLANKS))
    try:
        context: Any = _Context(parse_int, parse_float, parse_constant)
        value, end = make_scanner(context)(text, start)
    except StopIteration as problem:
        raise ValueError(f"no JSON value at character {problem.value}") from None
    if text[end:].strip(_BLANKS):
        raise ValueError(f"more than one JSON value, from character {end} on")
    return value


def dumps(value: Any) -> str:
    """Return a value of dicts by text, lists, tuples, texts, numbers, bools and None as JSON.

    Raises TypeError for anything else, as json.dumps().
    """
    try:
        from _json import encode_basestring_ascii, make_encoder
    except ImportError:
        import json

        return json.dumps(value)
    encoder = make_encoder(
        None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True
    )
    return "".join(encoder(value, 0))


def _refuse(value: object) -> None:
    raise TypeError(f"{type(value).__name__} is no JSON")
