"""Text that came from outside (an image, a label, a path) made safe to print.

Everything an image says is hostile input: it may hold escape sequences that move the cursor, line
breaks that forge a second message, or a megabyte of text.
"""

MAX_PRINTED = 200
"""Characters of one outside value that a message shows; longer ones end in an ellipsis."""


def clean(value: str, limit: int = MAX_PRINTED) -> str:
    """Return `value` on one line, without control characters, at most `limit` characters long.

    Bytes that were not UTF-8 (surrogate escapes, as in os.fsdecode) and every character that
    str.isprintable() rejects become backslash escapes, so that what was there can still be told.
    """
    if len(value) > limit:
        value = value[: limit - 1] + "…"
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else _escape(c) for c in value)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, kept by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def encodable(value: str) -> str:
    """Replace lone surrogates, which JSON can write (`\\ud800`) and no output can encode."""
    if value.isascii():
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
