"""What the product can print to people, taken from its sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

HOLE = "\0"
"""What stands in a message for a value."""

SAYING = frozenset({"add", "warn", "append", "print", "write"})
"""Functions that take a message, where their object is a list of warnings or a stream."""


def of_python() -> Iterator[tuple[str, str]]:
    """Yield (place, message) for each exception of the product and each warning."""
    for path in sorted((ROOT / "slurm_cmeta").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and _says(node):
                for text in _texts(node.args[0]):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def _says(call: ast.Call) -> bool:
    """Tell whether a call makes an exception of ours, adds a warning, or prints one."""
    function = call.func
    if isinstance(function, ast.Name):
        if function.id == "print":
            return any("cmeta" in text for text in _texts(call.args[0]))
        return function.id.endswith("Error") and not hasattr(__builtins__, function.id)
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr == "warn":
        return True
    return function.attr in ("add", "append") and "warnings" in ast.unparse(function.value)


def _texts(node: ast.expr) -> list[str]:
    """Return the texts that an expression may have, as far as they are written there."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else HOLE for p in node.values]
        return ["".join(map(str, parts))]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _texts(node.left) or [HOLE], _texts(node.right) or [HOLE]
        return [a + b for a in left for b in right]
    return []


def of_c() -> Iterator[tuple[str, str]]:
    """Yield (place, message) for each line that the plugin and cmeta-run say."""
    for path in sorted((ROOT / "spank").glob("*.c")):
        text = path.read_text()
        for found in re.finditer(r'cmeta_(?:say|format)\(((?:\s*"(?:[^"\\]|\\.)*")+)', text):
            literal = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', found[1]))
            message = re.sub(r"%[.*]*[a-z]", HOLE, literal.replace('\\"', '"'))
            yield f"{path.relative_to(ROOT)}:{text[: found.start()].count(chr(10)) + 1}", message


def of_lua() -> Iterator[tuple[str, str]]:
    """Yield (place, message) for each line that the controller's half says."""
    for path in sorted((ROOT / "lua").glob("cmeta*.lua")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for found in re.findall(r"\bsay\((.*)\)", line):
                text = re.sub(r'"\s*\.\.[^"]*\.\.\s*"', HOLE, found)
                parts = re.findall(r'"([^"]*)"', text)
                yield f"{path.relative_to(ROOT)}:{number}", HOLE.join(parts)


def fixed(message: str) -> str:
    """Return the longest part of a message that is always the same."""
    return max((part.strip(" :,;()'\"`") for part in message.split(HOLE)), key=len)
