"""Prediction against truth: what `examine` says of real programs, and what emulated CPUs say.

    python3 tests/tools/cpu_truth.py            print the table and the speed

Programs of tests/fixtures/machinecode are compiled with gcc for several -march, linked statically,
and run under qemu-x86_64-static with several CPU models, and natively. A CPU's flags are asked of
the CPU itself by a program that prints CPUID. An instruction that the CPU lacks ends the program
with SIGILL; some (lzcnt) are another instruction on an older CPU, so that the output differs.
qemu 7.2 has no AVX-512 in any model.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = PROJECT / "tests/fixtures/machinecode"
QEMU = "qemu-x86_64-static"
NATIVE = "native"
MARCHES = (
    "x86-64",
    "x86-64-v2",
    "x86-64-v3",
    "x86-64-v4",
    "haswell",
    "znver3",
    "sapphirerapids",
    "bdver4",
)
PLAIN = ("floats", "fused", "integers", "table")
"""Programs without dispatch of their own."""
CHOOSING = ("clones", "supports", "byhand")
"""Programs that choose at run time, and run everywhere when compiled for x86-64."""
MODELS = (
    "Conroe",
    "Nehalem",
    "SandyBridge",
    "IvyBridge",
    "Haswell-noTSX",
    "EPYC-v3",
    "max",
    NATIVE,
)


class Program(NamedTuple):
    source: str
    march: str
    level: str
    static: bool = True

    @property
    def name(self) -> str:
        return f"{self.source}-{self.march}-{self.level}{'' if self.static else '-dynamic'}"


class Outcome(NamedTuple):
    program: Program
    model: str
    predicted: bool
    ran: bool
    lacking: frozenset[str]


def missing() -> str:
    """Return what of the tools is not here, or the empty string."""
    return ", ".join(tool for tool in ("gcc", "strip", QEMU) if not shutil.which(tool))


def programs() -> list[Program]:
    """Return the programs of the table."""
    plain = [Program(s, m, o) for s in PLAIN for m in MARCHES for o in ("O0", "O3")]
    choosing = [Program(s, "x86-64", o) for s in CHOOSING for o in ("O0", "O2", "O3")]
    beyond = [Program(s, "haswell", "O2") for s in CHOOSING]
    return plain + choosing + beyond


def compile_all(wanted: list[Program], place: Path) -> dict[Program, Path]:
    """Compile `wanted` below `place`; two at a time."""

    def one(program: Program) -> Path:
        target = place / program.name
        if not target.exists():
            command = ["gcc", f"-march={program.march}", f"-{program.level}", "-w"]
            command += ["-static"] if program.static else []
            source = SOURCES / f"{program.source}.c"
            subprocess.run([*command, "-o", target, source], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))


def stripped(path: Path) -> Path:
    """Return a copy of the program at `path` without symbols."""
    target = path.with_name(path.name + "-stripped")
    subprocess.run(["strip", "-o", target, path], check=True)
    return target


def run(path: Path, model: str) -> tuple[int, str]:
    """Return the exit status (132 for SIGILL) and the output of a program on a CPU model."""
    command = [str(path)] if model == NATIVE else [QEMU, "-cpu", model, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return 124, ""
    return done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout


def flags_of(models: tuple[str, ...], place: Path) -> dict[str, frozenset[str]]:
    """Return the archspec flags of each model, by its own CPUID."""
    asking = Program("cpuid", "x86-64", "O2")
    path = compile_all([asking], place)[asking]
    return {model: frozenset(run(path, model)[1].split()) for model in models}


def outcomes(
    paths: dict[Program, Path], flags: dict[str, frozenset[str]], needs: dict[Program, set[str]]
) -> list[Outcome]:
    """Run every program on every model, two at a time."""
    right: dict[tuple[str, str], str] = {}
    for program, path in paths.items():
        if program.march == "x86-64":
            right.setdefault((program.source, ""), run(path, "max")[1])

    def one(pair: tuple[Program, str]) -> Outcome:
        program, model = pair
        status, text = run(paths[program], model)
        lacking = frozenset(needs[program] - flags[model])
        ran = status == 0 and text == right[program.source, ""]
        return Outcome(program, model, not lacking, ran, lacking)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, [(p, m) for p in paths for m in flags]))


def table(found: list[Outcome]) -> str:
    """Return the outcomes as text: a row a program, a column a model, predicted/actual."""
    models = list(dict.fromkeys(outcome.model for outcome in found))
    cells = {(o.program, o.model): o for o in found}
    width = max(len(o.program.name) for o in found)
    lines = [" " * width + "  " + "  ".join(models)]
    for program in dict.fromkeys(o.program for o in found):
        row = []
        for model in models:
            o = cells[program, model]
            mark = "" if o.predicted == o.ran else "!"
            text = f"{'yes' if o.predicted else 'no'}/{'yes' if o.ran else 'no'}{mark}"
            row.append(text.ljust(len(model)))
        lines.append(f"{program.name.ljust(width)}  {'  '.join(row)}".rstrip())
    right = sum(o.predicted == o.ran for o in found)
    refused = sum(not o.predicted and o.ran for o in found)
    missed = sum(o.predicted and not o.ran for o in found)
    lines.append(
        f"{len(found)} pairs: {right} right, {refused} falsely refused, {missed} falsely let pass "
        "(predicted/actual; ! marks a difference)"
    )
    return "\n".join(lines)


def speed(path: Path) -> float:
    """Return how many MB of machine code a second `examine` does of the file at `path`."""
    from slurm_cmeta.evidence.machinecode import examine

    data = path.read_bytes()
    start = time.perf_counter()
    found = examine(data, "x86_64")
    return found.examined / 1e6 / (time.perf_counter() - start)


def main() -> int:
    sys.path.insert(0, str(PROJECT))
    from slurm_cmeta.evidence.machinecode import examine

    lacking = missing()
    if lacking:
        print(f"cpu_truth: not installed: {lacking}", file=sys.stderr)
        return 1
    say: Callable[[str], None] = print
    with tempfile.TemporaryDirectory(prefix="cmeta-truth-") as name:
        place = Path(name)
        paths = compile_all(programs(), place)
        needs = {p: set(examine(path.read_bytes(), "x86_64").needs) for p, path in paths.items()}
        say(table(outcomes(paths, flags_of(MODELS, place), needs)))
        for path in [paths[Program("floats", "x86-64-v3", "O3")], *map(Path, sys.argv[1:])]:
            say(f"{path.name}: {speed(path):.1f} MB of machine code a second")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    sys.exit(main())
