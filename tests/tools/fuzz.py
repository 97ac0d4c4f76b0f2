"""Feed `cmeta inspect` damaged images: `make fuzz`, or `fuzz.py [--seconds N] [--seed N] [--deep]`.

Real images of every format are built and mutated: flipped bits, numbers at the extremes, cuts at
any byte, pieces moved. Each input is inspected in a child process as a user would. What must come
out is an answer or a one-line error; never a traceback, a crash, more than SECONDS of time or
MEGABYTES of memory, or a control character. What fails is kept below .build/fuzz with its seed.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests/unit"), str(PROJECT / "tests/tools")]

SECONDS, DEEP_SECONDS = 10, 60
"""One input may take so long: 5 s is what a quick look allows itself, the rest is the machine; a
deep look reads all that an image states, and it may state a file of 256 MB of code."""

MEGABYTES = 64
"""Memory of the whole process, interpreter and libraries included."""

CHILD_INPUTS = 150
"""Inputs that one child process inspects: leaks add up, and a crash is told apart."""


def corpus(work: Path) -> list[Path]:
    """Build the sound images; a directory stands for an image that is one."""
    import fuzz_corpus

    return fuzz_corpus.build(work)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few things wrong with it."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        size = len(changed)
        if not size:
            break
        where = chance.random()
        if where < 0.25:
            place = chance.randrange(min(size, 256))
        elif where < 0.5:
            place = min(size - 1, 4096 + chance.randrange(6 * 585))  # SIF descriptors
        elif where < 0.7:
            place = size - 1 - chance.randrange(min(size, 4096))
        else:
            place = chance.randrange(size)
        how = chance.randrange(6)
        if how == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif how in (1, 2):
            width = chance.choice((2, 4, 8))
            number = chance.choice(
                (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), chance.getrandbits(8 * width))
            )
            changed[place : place + width] = number.to_bytes(
                width, chance.choice(("little", "big"))
            )
        elif how == 3:
            length = chance.choice((1, 16, 512, 4096))
            source = chance.randrange(size)
            changed[place : place + length] = changed[source : source + length]
        elif how == 4:
            text = chance.choice((b"[" * 3000, b"\x1b]0;x\x07", b'{"a":', b"\0" * 64, b"../" * 20))
            changed[place : place + len(text)] = text
        elif chance.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def inspect(path: Path, deep: bool) -> None:
    """Inspect one image as the command does; raise AssertionError for what must not be."""
    import contextlib
    import io

    from slurm_cmeta.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    words = ["inspect", *(["--deep"] if deep else []), str(path)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    assert code in (0, 3), f"exit status {code}"
    for line in (out.getvalue() + err.getvalue()).split("\n"):
        assert line.isprintable(), f"unprintable: {line!r}"
    assert (code == 3) == ("cmeta: error: " in err.getvalue())


class Trial:
    """One mutated image, made anew from its seed alone."""

    def __init__(self, images: list[Path], seed: int) -> None:
        self.seed = seed
        self._chance = random.Random(seed)  # noqa: S311
        self.image = self._chance.choice(images)

    def write(self, place: Path) -> Path:
        """Write the mutated image into the empty folder `place`; return its path."""
        target = place / self.image.name
        if self.image.is_file():
            target.write_bytes(mutate(self.image.read_bytes(), self._chance))
            return target
        shutil.copytree(self.image, target, symlinks=True)
        files = sorted(p for p in target.rglob("*") if p.is_file() and not p.is_symlink())
        for _ in range(self._chance.choice((1, 2))):
            victim = self._chance.choice(files)
            victim.write_bytes(mutate(victim.read_bytes(), self._chance))
        return target


def child(images: list[Path], seeds: range, place: Path, deep: bool) -> int:
    """Inspect the mutated images of `seeds`; return the child's exit status."""
    for seed in seeds:
        (place / "seed").write_text(str(seed))
        folder = place / "input"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = Trial(images, seed).write(folder)
        signal.alarm(DEEP_SECONDS if deep else SECONDS)
        try:
            inspect(path, deep)
        except BaseException:
            import traceback

            (place / "why").write_text(traceback.format_exc())
            return 1
        signal.alarm(0)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if used > MEGABYTES:
            (place / "why").write_text(f"{used} MB of memory")
            return 1
    return 0


def run(images: list[Path], work: Path, seconds: float, seed: int, deep: bool) -> tuple[int, int]:
    """Try inputs until `seconds` have passed; return how many, and how many failed."""
    ends = time.monotonic() + seconds
    running: dict[int, tuple[range, Path]] = {}
    tried = failed = 0
    free = [work / f"child{number}" for number in range(os.cpu_count() or 1)]
    for place in free:
        place.mkdir()
    while running or time.monotonic() < ends:
        while free and time.monotonic() < ends:
            seeds, place = range(seed, seed + CHILD_INPUTS), free.pop()
            seed += CHILD_INPUTS
            pid = _forked(functools.partial(child, images, seeds, place, deep))
            running[pid] = seeds, place
        pid, status = os.wait()
        seeds, place = running.pop(pid)
        free.append(place)
        at = int((place / "seed").read_text())
        tried += at - seeds.start + 1
        if status:
            failed += 1
            _keep(place, at, os.waitstatus_to_exitcode(status))
    return tried, failed


def _forked(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = work()
    finally:
        os._exit(status)


def _keep(place: Path, seed: int, status: int) -> None:
    kept = PROJECT / ".build/fuzz" / str(seed)
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(place / "input", kept, symlinks=True)
    why = place / "why"
    reason = why.read_text() if why.exists() else f"ended by signal {-status}"
    (kept / "why").write_text(reason)
    why.unlink(missing_ok=True)
    print(f"fuzz: seed {seed} failed, kept in {kept}: {reason.strip().splitlines()[-1]}")


def main() -> int:
    """Fuzz; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1000)
    parser.add_argument("--deep", action="store_true", help="with --deep, which reads more")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cmeta-fuzz-", dir="/dev/shm") as name:
        work = Path(name)
        (work / "corpus").mkdir()
        images = corpus(work / "corpus")
        print(f"fuzz: {len(images)} images, first seed {arguments.seed}", flush=True)
        tried, failed = run(images, work, arguments.seconds, arguments.seed, arguments.deep)
    print(f"fuzz: {tried} inputs tried in {arguments.seconds:g} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
