"""Which programs' instructions count, and how hard: the machine code itself is a stand-in here."""

from __future__ import annotations

from typing import Any, cast

import pytest
from elf_files import elf
from memory_tree import MemoryContent, MemoryImage

from slurm_cmeta.evidence import isa, machinecode
from slurm_cmeta.evidence.machinecode import Emitted
from slurm_cmeta.evidence.subject import Subject
from slurm_cmeta.image import Image

PROGRAM = {"interpreter": "/lib64/ld-linux-x86-64.so.2"}


def program(needs: str, size: int = 100, **more: Any) -> bytes:
    """An ELF file whose code, as the stand-in reads it, has `size` bytes and these needs."""
    return elf(**{**PROGRAM, **more}, sections={f".needs {needs} {size}": b"x"})


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(data: bytes, family: str) -> Emitted:
        words = bytes(data).split(b".needs ", 1)
        if len(words) < 2:
            return Emitted({}, frozenset(), 10, "")
        *flags, size = words[1].split(b"\0", 1)[0].decode().split()
        needed = {flag: "main" for flag in flags if not flag.startswith("?")}
        behind = frozenset(flag[1:] for flag in flags if flag.startswith("?"))
        return Emitted(needed, behind, int(size), "broken" if "broken" in flags else "")

    monkeypatch.setattr(machinecode, "examine", examine)


def read(files: dict[str, bytes | str], **more: Any) -> isa.Report:
    image = MemoryImage(MemoryContent({"bin/sh": program(""), **files}, **more), deep=True)
    subject = Subject(cast(Image, image))
    subject.family = "x86_64"
    return isa.read(subject)


def found(report: isa.Report) -> list[tuple[str, str]]:
    return [
        (fact.value, "soft" if fact.hint else "hard")
        for fact in report.facts
        if fact.key in ("isa", "cpu")
    ]


def test_one_application() -> None:
    report = read({"opt/app/bin/app": program("avx2 fma")})
    assert found(report) == [("avx2 fma", "hard")]
    assert report.facts[0].source == "instructions of /opt/app/bin/app"
    assert report.complete


def test_what_the_larger_part_needs_is_hard() -> None:
    tools: dict[str, bytes | str] = {f"opt/t/bin/t{n}": program("", 100) for n in range(9)}
    assert found(read({**tools, "opt/t/bin/a": program("avx2", 100)})) == [("avx2", "soft")]
    assert found(read({**tools, "opt/t/bin/a": program("avx2", 9000)})) == [("avx2", "hard")]


def test_the_image_s_own_program_decides_alone() -> None:
    tools: dict[str, bytes | str] = {f"opt/t/bin/t{n}": program("", 9000) for n in range(9)}
    report = read({**tools, "opt/t/bin/a": program("avx2", 1)}, words=("/opt/t/bin/a",))
    assert found(report) == [("avx2", "hard")]


def test_libraries_count_with_the_programs_that_need_them() -> None:
    library = elf(soname="libown.so.1", sections={".needs avx512f 50": b"x"})
    files: dict[str, bytes | str] = {
        "opt/app/bin/app": program("", needed=("libown.so.1",), runpath="$ORIGIN/../lib"),
        "opt/app/lib/libown.so.1": library,
        "opt/app/lib/plugin.so": elf(sections={".needs fma4 50": b"x"}),
    }
    assert found(read(files)) == [("avx512f", "hard"), ("fma4", "soft")]


def test_two_builds_beside_each_other_need_what_both_need() -> None:
    names = ("solver", "solver512", "solver.spr", "solver_v4")
    needs = ("sse3 avx", "sse3 avx avx512f", "avx sse3 amx_tile", "sse3 avx avx2")
    files: dict[str, bytes | str] = {
        f"opt/app/bin/{name}": program(flags) for name, flags in zip(names, needs, strict=True)
    }
    report = read(files)
    assert found(report) == [("avx sse3", "hard"), ("amx_tile avx2 avx512f", "soft")]
    assert report.complete


def test_what_a_runscript_may_start_is_not_sure() -> None:
    script = "if grep -q avx512 /proc/cpuinfo; then exec /opt/a/fast; else exec /opt/b/slow; fi\n"
    files: dict[str, bytes | str] = {
        "opt/a/fast": program("avx512f avx", 900),
        "opt/b/slow": program("avx", 10),
    }
    assert found(read(files, script=script)) == [("avx", "hard"), ("avx512f", "soft")]


def test_the_interpreter_of_an_entry_script_does_not_outweigh_the_application() -> None:
    files: dict[str, bytes | str] = {
        "bin/bash": program("", 100_000),
        "entry.sh": "#!/bin/bash\nset -x\n",
        "opt/app/bin/app": program("avx2", 100),
    }
    report = read(files, words=("/entry.sh",))
    assert found(report) == [("avx2", "hard")]
    assert report.complete


@pytest.mark.parametrize(
    "path",
    [
        "opt/gromacs/bin/gmx_avx2_256",
        "opt/gromacs/avx_512/bin/gmx",
        "opt/app/lib/glibc-hwcaps/x86-64-v3/libown.so",
        "opt/app/bin/app-x86-64-v4",
        "opt/app/bin/app.znver3",
        "opt/bowtie2/bin/bowtie2-align-s-v256",
        "opt/ggml/libggml-cpu-skylakex.so",
        "opt/mkl/lib/libmkl_avx512.so.2",
    ],
)
def test_one_of_several_builds_is_left_out(path: str) -> None:
    report = read({path: program("avx2"), "opt/app/bin/plain": program("")})
    assert found(report) == []
    assert not report.complete


@pytest.mark.parametrize(
    "path",
    [
        "opt/software/linux-debian12-sapphirerapids/gcc-12.2.0/app-1.0-hash/bin/app",
        "opt/software/linux-zen4/app/bin/app",
        "opt/transverse/bin/app",
        "opt/power/bin/zenity",
        "srv/haswell/a/b/c/bin/app",
    ],
)
def test_what_is_no_variant(path: str) -> None:
    report = read({path: program("avx2")})
    assert found(report) == [("avx2", "hard")]
    assert report.complete


def test_the_distribution_s_files_are_left_out() -> None:
    assert found(read({"usr/bin/tool": program("avx2")})) == []
    lists: dict[str, bytes | str] = {
        "var/lib/dpkg/info/tool.list": "/.\n/opt/tool/bin/tool\n/usr/bin/listed\n",
        "opt/tool/bin/tool": program("avx2"),
        "usr/bin/listed": program("fma"),
        "usr/bin/own": program("xop"),
    }
    assert found(read(lists)) == [("xop", "hard")]


def test_nothing_is_complete_that_was_read_in_part() -> None:
    assert not read({"opt/app/bin/app": program("broken avx2")}).complete
    assert not read({}).complete  # no application at all: nothing tells what the image is for
    assert found(read({"opt/app/bin/app": program("power9le")})) == [("power9le", "hard")]


def test_an_application_among_the_distribution_s_files_may_be_left_out() -> None:
    files: dict[str, bytes | str] = {"opt/app/bin/app": program("avx2")}
    assert not read({**files, "usr/bin/solver": program("avx512f")}).complete
    lists: dict[str, bytes | str] = {"var/lib/dpkg/info/x.list": "/usr/bin/solver\n"}
    assert read({**files, **lists, "usr/bin/solver": program("avx512f")}).complete


def test_what_is_chosen_at_run_time_is_told_apart() -> None:
    report = read({"opt/app/bin/app": program("sse3 ?avx2 ?sse3")})
    assert found(report) == [("sse3", "hard")]
    assert [f.value for f in report.facts if f.key == "isa.dispatched"] == ["avx2"]


def test_no_room_for_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa, "IN_MEMORY", 10)
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    report = read({"opt/app/bin/app": program("avx2")})
    assert not report.complete
    monkeypatch.delenv("TMPDIR")
    assert found(read({"opt/app/bin/app": program("avx2")})) == [("avx2", "hard")]
