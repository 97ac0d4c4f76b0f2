"""docs/reference.md has everything that can be typed or set."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from slurm_cmeta import errors, requirement, vocabulary
from slurm_cmeta.cli import surface
from slurm_cmeta.node import site
from slurm_cmeta.settings import SETTINGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference.md").read_text()


def section(title: str) -> str:
    """Return the part of the page below a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_cells(title: str) -> set[str]:
    """Return the code in the first cells of a section's tables."""
    cells = re.findall(r"^\| (.*?) \|", section(title), re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", " ".join(cells)))


def test_the_generated_tables_are_what_the_code_says() -> None:
    argv = [sys.executable, str(ROOT / "tests/tools/reference.py"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_command_has_a_row_and_its_options() -> None:
    programs = surface.programs()
    commands = {f"cmeta {c.name}" for c in programs["cmeta"].commands}
    assert first_cells("Commands") == {
        *commands,
        *("cmeta", "cmeta-features", "cmeta-decide", "cmeta-run"),
    }
    for program in programs.values():
        for command in (program, *program.commands):
            for name in (name for option in command.options for name in option.names[-1:]):
                assert re.search(rf"[`, ]{re.escape(name)}[`, ]", PAGE), name
    for option in surface.matcher_options():
        assert option.names[0] in PAGE


def test_every_key_is_there() -> None:
    source = (ROOT / "spank/settings.c").read_text()
    keys = set(re.findall(r'value_of\(argument, "(\w+)"\)', source))
    assert first_cells("plugstack.conf") == keys
    assert first_cells("cmeta.yaml") == {setting.name for setting in SETTINGS}
    assert first_cells("Requirements of an image") == set(requirement.KEYS)
    lua = "".join(path.read_text() for path in (ROOT / "lua").glob("cmeta*.lua"))
    assert first_cells("job_submit.lua") == set(re.findall(r"\boptions\.(\w+)", lua))
    rules = first_cells("Rules in `/etc/slurm/cmeta-features.d/*.conf`")
    assert {rule.split()[0] for rule in rules} == set(site._LINES)


def test_every_exit_code_is_there() -> None:
    rows = re.findall(r"^\| ?(.*?) ?\| `(\d+)` \|", section("Exit codes"), re.MULTILINE)
    told: dict[str, set[int]] = {}
    of = ""
    for cell, code in rows:
        of = cell or of
        told.setdefault(of, set()).add(int(code))
    codes = {v for k, v in vars(errors).items() if k.startswith("EXIT_")}
    assert told["`cmeta`, `cmeta-decide`, `cmeta-features`"] == codes | {130}
    (listed,) = re.findall(r"enum \{ (EXIT_\w+ = .*?) \}", (ROOT / "spank/cmeta_run.c").read_text())
    of_run = set(map(int, re.findall(r"= (\d+)", listed)))
    assert told["`cmeta-run`"] | told["a task in an image"] == of_run


def python_variables() -> set[str]:
    """Return the environment variables that the Python code names; `{}` stands for a value."""
    names = set()
    for path in (ROOT / "slurm_cmeta").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.environ.get":
                name = node.args[0]
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                name = node.slice
            else:
                continue
            if isinstance(name, ast.Constant):
                names.add(str(name.value))
            elif isinstance(name, ast.JoinedStr):
                names.add("".join(str(p.value) for p in name.values if isinstance(p, ast.Constant)))
    return names


def test_every_environment_variable_is_there() -> None:
    table = section("Environment variables")
    python = python_variables()
    assert {"SLURM_CONF", "SLURMD_NODENAME", "REGISTRY_AUTH_FILE"} <= python
    source = "".join(path.read_text() for path in (ROOT / "spank").glob("*.c"))
    c = set(re.findall(r'getenv\("(\w+)"\)', source))
    assert {"CMETA", "XDG_CACHE_HOME", "SLURM_CONTAINER"} <= c
    assert [name for name in sorted(python | c) if name not in table] == []
    assert 'name.lower().endswith("_proxy")' in (ROOT / "slurm_cmeta/registry/http.py").read_text()
    assert "`https_proxy`" in table


def test_every_kind_of_feature_is_there() -> None:
    source = (ROOT / "slurm_cmeta/node/features.py").read_text()
    names = {f"{name}=" for name in re.findall(r'_version\("[\w.]+", "(\w+)"', source)}
    names |= set(re.findall(r'_gpu\("\w+", "(\w+)"\)', source))
    names |= set(re.findall(r'_each\("\w+", "([\w=]+)"\)', source))
    names |= {f"{name}=" for name in re.findall(r'Feature\(f"(\w+)=', source)} | {"cmeta=1"}
    assert len(names) > 12
    networks = vocabulary.load("network")
    entries = [*networks["drivers"], *networks["nodes"], *networks["layers"]]
    names |= {entry["kind"] for entry in entries} | {"slingshot"}
    table = section("Features of a node")
    assert [name for name in sorted(names) if f"`{name}" not in table] == []


def test_every_file_of_the_product_that_is_named_is_there() -> None:
    table = section("Files")
    for name in ("cmeta_spank.so", "cmeta-run", "cmeta.lua", "cmeta.yaml", "job_submit.lua"):
        assert name in table
    assert site.DIRECTORY in table
