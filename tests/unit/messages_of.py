"""What the product can print to people, taken from its sources."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

HOLE = "\0"
"""What stands in a message for a value."""

SAID = ("narrowed", "advice", "memory_advice", "unknown", "no_node")
"""Functions of words.py whose texts are shown at every submission that they are about."""


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
        return function.id.endswith("Error") and not hasattr(builtins, function.id)
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


def of_words() -> Iterator[tuple[str, str]]:
    """Yield (place, message) for each thing that is said of a decision."""
    path = ROOT / "slurm_cmeta/words.py"
    for function in ast.parse(path.read_text()).body:
        if isinstance(function, ast.FunctionDef) and function.name in SAID:
            for node in ast.walk(function):
                if isinstance(node, ast.JoinedStr):
                    yield f"slurm_cmeta/words.py:{node.lineno}", _texts(node)[0]


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


def fixed(message: str) -> tuple[str, ...]:
    """Return the parts of a message that are always the same, with two words or more; the first
    one and the longest.
    """
    message = re.sub(r"^(?:cmeta: )?(?:warning: |error: )", "", message)
    parts = [part.strip(" :,;()'\"`") for part in message.split(HOLE)]
    spoken = [part for part in parts if " " in part and "/" not in part.split(" ")[0]]
    return tuple(dict.fromkeys((spoken[0], max(spoken, key=len)))) if spoken else ()
