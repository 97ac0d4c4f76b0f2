"""No shell, no code from data, no unsafe loader: in none of the three languages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

FORBIDDEN_C = (
    r"\b(system|popen|wordexp|exec[lv]p e?|posix_spawnp|strcpy|strcat|v?sprintf|gets)\s*\("
)
FORBIDDEN_LUA = r"\b(os\.execute|io\.popen|loadstring|load|loadfile|dofile)\b\s*[(\"'\[{]"
SHELL = r"/bin/(ba|da)?sh\b|\bsh\s+-c\b"

FORBIDDEN_CALLS = {
    *("os.system", "os.popen", "os.execvp", "os.execlp", "eval", "exec"),
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput"),
    "tempfile.mktemp",
}


OUR_OWN = {"slurm_cmeta/bundle.py": {"marshal.loads", "exec"}}
"""The package's own code, as Python's import system loads it from .pyc files."""


def code(path: Path, comments: str) -> str:
    return re.sub(comments, " ", path.read_text(), flags=re.DOTALL)


def test_no_shell_in_c() -> None:
    sources = sorted((ROOT / "spank").glob("*.[ch]"))
    assert len(sources) > 15
    for path in sources:
        text = code(path, r"/\*.*?\*/")
        assert not re.search(FORBIDDEN_C.replace(" ", ""), text), path
        assert not re.search(SHELL, text), path


def test_no_shell_in_lua() -> None:
    sources = sorted((ROOT / "lua").glob("*.lua"))
    assert len(sources) == 5
    for path in sources:
        text = code(path, r"--[^\n]*")
        assert not re.search(FORBIDDEN_LUA, text), path
        assert not re.search(SHELL, text), path


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_no_shell_in_python() -> None:
    sources = sorted((ROOT / "slurm_cmeta").rglob("*.py"))
    assert len(sources) > 80
    for path in sources:
        forbidden = FORBIDDEN_CALLS - OUR_OWN.get(str(path.relative_to(ROOT)), set())
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            assert called(node) not in forbidden, f"{path}:{node.lineno}"
            keywords = {k.arg for k in node.keywords}
            assert "shell" not in keywords, f"{path}:{node.lineno}"
            # Nothing of an image is unpacked to where its names say.
            assert not called(node).endswith((".extractall", ".extract")), f"{path}:{node.lineno}"
