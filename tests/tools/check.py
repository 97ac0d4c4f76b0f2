"""Run checks and tests: `python3 tests/tools/check.py [lint] [unit] [slurm] [PYTEST-ARGUMENT]...`

`check.py bench [ARGUMENT]...` and `check.py fuzz [ARGUMENT]...` run bench.py and fuzz.py instead.

Meant for the Debian root of root.py; works on any machine that has what the tests use (what is
missing makes tests skip, each with its reason). The Python tools of the tests are installed by pip
into a virtual environment below .build/, made again when pyproject.toml changes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ("lint", "unit", "slurm")


def say(text: str) -> None:
    """Tell on stderr what is going on."""
    print(f"cmeta: {text}", file=sys.stderr, flush=True)


def environment() -> Path:
    """Return the bin/ of the tests' virtual environment, made if need be."""
    name = f"venv-{platform.python_version()}-{hashlib.sha256(sys.prefix.encode()).hexdigest()[:6]}"
    place = PROJECT / ".build" / name
    stamp = place / "stamp"
    wanted = hashlib.sha256((PROJECT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return place / "bin"
    say(f"installing the tests' Python tools into {place}")
    start = time.monotonic()
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    import tomllib  # Python 3.11; the package itself runs on 3.10

    # Only what the project depends on: the tests take the package itself from the checkout.
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted_packages = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    install = [f"{place}/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*install, *wanted_packages], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit("cmeta: error: pip could not install the tests' tools; is PyPI reachable?")
    stamp.write_text(wanted)
    say(f"installed in {time.monotonic() - start:.0f} s")
    return place / "bin"


def lint(tools: Path) -> list[list[str]]:
    """Return the commands of the linters and type checks."""
    commands = [
        [f"{tools}/ruff", "check", "--quiet", "."],
        [f"{tools}/ruff", "format", "--check", "--quiet", "."],
        [f"{tools}/mypy"],
        [
            "make",
            "-sC",
            "spank",
            f"OUT={PROJECT}/.build/lint-spank",
            "WERROR=-Werror",
            "all",
            "core",
        ],
    ]
    if shutil.which("luacheck"):
        commands.append(["luacheck", "--quiet", "lua", "tests/unit/lua_harness.lua"])
    else:
        say("luacheck is not installed (Debian: lua-check): Lua is not checked")
    return commands


SANITIZE = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined"


def sanitized(tools: Path) -> list[str]:
    """Return the command that runs the plugin's C core under gcc's sanitizers."""
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return [
        *("env", f"LD_PRELOAD={' '.join(libraries)}", "ASAN_OPTIONS=detect_leaks=0"),
        *(
            f"CMETA_TEST_CFLAGS={SANITIZE}",
            f"{tools}/pytest",
            "-q",
            "tests/unit/test_spank_core.py",
            "tests/unit/test_spank_hostile.py",
            "tests/unit/test_kept.py",
        ),
    ]


def main(arguments: list[str]) -> int:
    """Run the parts named in `arguments`, all of them by default; return 0 when all is well."""
    parts = [a for a in arguments if a in PARTS] or list(PARTS)
    extra = [a for a in arguments if a not in PARTS]
    os.chdir(PROJECT)
    os.environ["PYTHONPATH"] = str(PROJECT)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    tools = environment()
    if arguments[:1] in (["bench"], ["fuzz"]):
        tool = [f"{tools}/python", f"tests/tools/{arguments[0]}.py"]
        tool += ["--json", ".build/bench.json"] if arguments[0] == "bench" else []
        return subprocess.run([*tool, *arguments[1:]]).returncode
    commands = lint(tools) if "lint" in parts else []
    tests = [f"tests/{part}" for part in ("unit", "slurm") if part in parts]
    if "unit" in parts and any((PROJECT / "tests/tools").glob("test_*.py")):
        tests.append("tests/tools")
    if tests:
        commands.append([f"{tools}/pytest", "-q", "--durations=5", *tests, *extra])
    if "unit" in parts and not extra and shutil.which("gcc"):
        commands.append(sanitized(tools))
    for command in commands:
        say("running " + " ".join(command).replace(f"{tools}/", "").replace(f"{PROJECT}/", ""))
        code = subprocess.run(command).returncode
        if code:
            say(f"error: {Path(command[0]).name} failed with status {code}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
