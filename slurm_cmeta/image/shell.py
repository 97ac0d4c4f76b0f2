"""Shell scripts of an image, as far as they can be understood without running them."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SCRIPT = 64 * 1024
"""Characters of a script that are looked at; real ones have a few hundred."""

MAX_LINES = 1000

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH where an image sets none (runc and Apptainer)."""

_OPENING = frozenset(("if", "case", "for", "while", "until", "select", "{", "("))
_CLOSING = frozenset(("fi", "esac", "done", "}", ")"))
_HARMLESS = frozenset(("cd", ".", "source", "export", "set", "umask", "ulimit", "mkdir"))
_LEAVING = frozenset(("exec", "exit", "return"))


def lines(script: str) -> Iterator[tuple[str, bool]]:
    """Yield each line of a POSIX shell script that is no comment, and whether it surely runs.

    A line inside a condition, a loop or a function may not run; nor may one behind a condition that
    can end the script, nor one with `&&` or `||` in it, unless only commands like `cd` stand before
    it. In doubt a line does not surely run.
    """
    depth = 0
    surely = True
    for line in script[:MAX_SCRIPT].splitlines()[:MAX_LINES]:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        words = text.replace(";", " ; ").split()
        opened = sum(word in _OPENING or word.endswith("()") for word in words)
        conditional = bool(depth or opened or "||" in words or not _surely_chained(text))
        yield text, surely and not conditional
        if conditional and _LEAVING.intersection(words):
            surely = False
        depth = max(0, depth + opened - sum(word in _CLOSING for word in words))


def _surely_chained(text: str) -> bool:
    return all(part.split()[:1] and part.split()[0] in _HARMLESS for part in text.split("&&")[:-1])


def assignments(script: str, names: tuple[str, ...]) -> list[str]:
    """Return the values that lines NAME='VALUE' give to `names`, in their order."""
    found: dict[str, str] = {}
    for text, surely in lines(script):
        name, equals, value = text.partition("=")
        if surely and equals and name in names and value[:1] == value[-1:] == "'":
            found[name] = value[1:-1]
    return [found[name] for name in names if name in found]
