"""What machine code needs: against emulated CPUs, real libraries and the architecture manuals."""

from __future__ import annotations

import glob
import importlib.util
import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from code_files import elf

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import cpu_truth
from cpu_truth import CHOOSING, PLAIN, Program

from slurm_cmeta.evidence.machinecode import Emitted, arm_table, examine, features, words

FIXTURES = Path(__file__).parents[1] / "fixtures/machinecode"
HERE = "disassembler iced-x86 is not installed: pip install slurm-cmeta[deep]"
deep = pytest.mark.skipif(not importlib.util.find_spec("iced_x86"), reason=HERE)
compiled = pytest.mark.skipif(
    not shutil.which("gcc") or not shutil.which("strip"), reason="gcc or strip is not installed"
)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machinecode")


@pytest.fixture(scope="session")
def paths(place: Path) -> dict[Program, Path]:
    return cpu_truth.compile_all(cpu_truth.programs(), place)


@pytest.fixture(scope="session")
def found(paths: dict[Program, Path]) -> dict[Program, Emitted]:
    return {p: examine(path.read_bytes(), "x86_64") for p, path in paths.items()}


@deep
@compiled
@pytest.mark.skipif(bool(cpu_truth.missing()), reason=f"not installed: {cpu_truth.missing()}")
def test_no_cpu_that_runs_a_program_is_refused(
    place: Path,
    paths: dict[Program, Path],
    found: dict[Program, Emitted],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = cpu_truth.flags_of(cpu_truth.MODELS, place)
    assert "avx2" in flags["Haswell-noTSX"]
    assert "avx" not in flags["Nehalem"]
    outcomes = cpu_truth.outcomes(paths, flags, {p: set(e.needs) for p, e in found.items()})
    with capsys.disabled():
        print()
        print(cpu_truth.table(outcomes))
    refused = [o for o in outcomes if o.ran and not o.predicted]
    assert not refused
    # None is known; a cause that cannot be mended is to be listed here.
    assert [o for o in outcomes if o.predicted and not o.ran] == []
    assert sum(not o.ran for o in outcomes) > 100


@deep
@compiled
def test_programs_that_choose_need_nothing(found: dict[Program, Emitted]) -> None:
    for program, emitted in found.items():
        if program.source in CHOOSING and program.march == "x86-64":
            assert not emitted.needs, program.name
            assert {"avx", "avx2"} <= emitted.dispatched


@deep
@compiled
def test_symbols_and_linking_change_nothing(
    place: Path, paths: dict[Program, Path], found: dict[Program, Emitted]
) -> None:
    dynamic = [
        Program(source, march, "O3", static=False)
        for source in PLAIN
        for march in ("x86-64", "x86-64-v3", "x86-64-v4")
    ]
    linked = cpu_truth.compile_all(dynamic, place)
    for program in dynamic:
        wanted = set(found[program._replace(static=True)].needs)
        assert set(examine(linked[program].read_bytes(), "x86_64").needs) == wanted, program.name
        bare = cpu_truth.stripped(linked[program])
        assert set(examine(bare.read_bytes(), "x86_64").needs) == wanted, program.name
    for source in (*PLAIN, *CHOOSING):
        for march in ("x86-64", "x86-64-v4" if source in PLAIN else "haswell"):
            program = Program(source, march, "O3" if source in PLAIN or march == "x86-64" else "O2")
            bare = cpu_truth.stripped(paths[program])
            assert set(examine(bare.read_bytes(), "x86_64").needs) == set(found[program].needs)


@deep
@compiled
def test_the_place_names_the_function(found: dict[Program, Emitted]) -> None:
    emitted = found[Program("fused", "haswell", "O3")]
    assert emitted.needs["fma"].startswith("dot+0x")
    assert emitted.examined > 100_000
    assert not emitted.unread


@deep
@compiled
def test_a_library_counts_what_it_exports(place: Path) -> None:
    source = place / "lib.c"
    source.write_text(
        "#include <cpuid.h>\n"
        "unsigned kept; void ask(void) { unsigned a, b, d; __cpuid(1, a, b, kept, d); }\n"
        "double dot(double *a, double *b, int n)"
        "{ double s = 0; for (int i = 0; i < n; i++) s += a[i] * b[i]; return s; }\n"
        "double dot_avx2(double *a, double *b, int n) { return dot(b, a, n + 1); }\n"
    )
    needs = {}
    for march in ("x86-64", "haswell"):
        target = place / f"lib-{march}.so"
        command = ["gcc", "-O2", "-shared", "-fPIC", f"-march={march}"]
        subprocess.run([*command, "-o", target, source], check=True)
        needs[march] = set(examine(target.read_bytes(), "x86_64").needs)
    assert needs == {"x86-64": set(), "haswell": {"avx", "fma"}}


LIBRARIES = {
    # All of Debian runs on every x86-64; what chooses at run time is behind that.
    "libc.so.6": ("avx2", "/lib*/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"),
    "ld.so": ("avx", "/lib64/ld-linux-x86-64.so.2"),
    "libm.so.6": ("fma", "/lib*/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6"),
    "libmvec.so.1": ("avx2", "/lib*/x86_64-linux-gnu/libmvec.so.1"),
    "libcrypto": ("aes", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"),
    "openblas": ("avx2", "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblasp-r*.so"),
    "openblas in a wheel": ("avx2", "{site}/numpy.libs/libscipy_openblas*.so"),
    "numpy": (
        "avx2",
        "{site}/numpy/_core/_multiarray_umath.*.so",
        "/usr/lib/python3/dist-packages/numpy/*core/_multiarray_umath.*.so",
    ),
    "busybox": ("avx2", "/usr/bin/busybox", "/bin/busybox"),
    "python3": ("", "/usr/bin/python3"),
}


@deep
@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_that_choose_need_nothing(name: str) -> None:
    behind, *patterns = LIBRARIES[name]
    patterns += [f"/opt/packages/amd64{p}" for p in patterns]  # see tests/tools/packages.sh
    site = next((p for p in sys.path if p.endswith("site-packages")), "/nowhere")
    files = [f for p in patterns for f in glob.glob(p.format(site=site)) if Path(f).is_file()]
    if not files or Path(files[0]).read_bytes()[18:20] != b"\x3e\0":
        pytest.skip(f"{name} is not installed for x86_64")
    with open(files[0], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        emitted = examine(data, "x86_64")
    # numpy 2.4 is built for x86-64-v2, but chooses too: what of v2 it needs is not told.
    assert not emitted.needs
    assert not emitted.unread
    assert not behind or behind in emitted.dispatched or name == "busybox"


@deep
@compiled
def test_speed(paths: dict[Program, Path], place: Path) -> None:
    for path in (paths[Program("floats", "x86-64-v3", "O3")], Path("/usr/bin/python3")):
        if path.exists():
            print(f"{path.name}: {cpu_truth.speed(path):.1f} MB of machine code a second")


def x86(code: str, shared: bool = False) -> Emitted:
    raw = bytes.fromhex(code)
    return examine(elf("x86_64", raw, [("f", 0, len(raw))], shared=shared), "x86_64")


@deep
@pytest.mark.parametrize(
    ("code", "needs"),
    [
        ("f30fbcc0 c3", set()),  # tzcnt, which is bsf
        ("f30fbdc0 c3", {"abm"}),  # lzcnt
        ("f30f1efa f390 0f0d08 660f1f440000 c3", set()),  # endbr64 pause prefetchw nop
        ("0f01f9 f30fc7f8 0fc7f0 0faee8 660fae38 c3", set()),  # rdtscp rdpid rdrand lfence ...
        ("0fae20 480fae20 f20f1ac8 c3", set()),  # xsave, bnd
        ("f30fb8c0 c3", {"popcnt"}),
        ("c5fc58c0 c3", {"avx"}),
        ("c5fdfec0 c3", {"avx", "avx2"}),  # vpaddd ymm
        ("c4e2fdb8c0 c3", {"avx", "fma"}),
        ("c4e278f3c8 c3", {"bmi1"}),  # blsr
        ("c4e2fbf7c0 c3", {"bmi2"}),  # shrx
        ("62f17c4858c0 c3", {"avx512f"}),
        ("62f17c2858c0 c3", {"avx512f", "avx512vl"}),
        ("660f3adfc001 c3", set()),  # AES without AVX: for callers that asked
        ("c4e279dcc0 c3", {"aes", "avx"}),
        ("8fe878c2c000 c3", {"avx", "xop"}),
        ("c4e37969c000 c3", {"avx", "fma4"}),
        ("0f58c0 c3", set()),
    ],
)
def test_instructions(code: str, needs: set[str]) -> None:
    assert set(x86(code).needs) == needs


@deep
def test_what_follows_a_check_is_guarded_and_what_both_ways_join_is_not() -> None:
    # xor eax,eax; cpuid; test ecx,ecx; je over; vpaddd ymm; over: popcnt; ret
    emitted = x86("31c0 0fa2 85c9 7404 c5fdfec0 c5f858c0 c3")
    assert set(emitted.needs) == {"avx"}
    assert emitted.dispatched == {"avx2"}


def test_names_are_archspecs() -> None:
    targets = pytest.importorskip("archspec.cpu").TARGETS
    known = {flag for target in targets.values() for flag in target.features}
    assert set(features.NAMES) <= known
    assert {flag for *_, flag in arm_table.TABLE} <= known
    assert {"power9le", "power10le"} <= set(targets)


def test_missing_disassembler(monkeypatch: pytest.MonkeyPatch) -> None:
    features.iced.cache_clear()
    monkeypatch.setitem(sys.modules, "iced_x86", None)
    emitted = x86("c3")
    assert emitted == Emitted({}, frozenset(), 0, emitted.unread)
    assert "pip install slurm-cmeta[deep]" in emitted.unread
    features.iced.cache_clear()


def test_another_architecture() -> None:
    emitted = examine(elf("aarch64", b"\xc0\x03\x5f\xd6", [("f", 0, 4)]), "x86_64")
    assert emitted.unread == "machine code of aarch64, not x86_64"


def test_a64_instructions() -> None:
    lines = (FIXTURES / "a64.txt").read_text().splitlines()[1:]
    assert len(lines) > 80
    for line in lines:
        word, flags, text = line.split(" ", 2)
        wanted = set() if flags == "-" else set(flags.split(","))
        assert arm_table.flags(int(word, 16)) == wanted, text


def code(*instructions: int) -> bytes:
    return struct.pack(f"<{len(instructions)}I", *instructions)


def test_aarch64_counts_atomics_but_not_outline_ones() -> None:
    plain = code(0xB8200041, 0xD65F03C0)  # ldadd; ret
    assert examine(elf("aarch64", plain, [("f", 0, 8)]), "aarch64").needs == {"atomics": "f+0x0"}
    # adrp x16; ldrb w16; cbz w16; ldadd; ret
    outline = code(0x90000010, 0x39400210, 0x34000050, 0xB8200041, 0xD65F03C0)
    emitted = examine(elf("aarch64", outline, [("f", 0, 20)]), "aarch64")
    assert not emitted.needs
    assert emitted.dispatched == {"atomics"}


def test_aarch64_that_asks_needs_nothing() -> None:
    asking = code(0xD5380600, 0x65820020, 0xD65F03C0)  # mrs x0, id_aa64isar0_el1; fadd z; ret
    emitted = examine(elf("aarch64", asking, [("f", 0, 12)]), "aarch64")
    assert (emitted.needs, emitted.dispatched) == ({}, frozenset({"sve"}))


def test_ppc64le() -> None:
    # Power ISA 3.1: pld is prefixed; 3.0: modsw, lxv; 2.07: add, ld
    assert words.power({0x7C632A14, 0xE8630000}) == {}
    assert set(words.power({0x7C632616, 0xF4030001})) == {0x7C632616, 0xF4030001}
    new = code(0x04100000, 0xE4600000, 0x4E800020)
    assert examine(elf("ppc64le", new, [("f", 0, 12)]), "ppc64le").needs == {"power10le": "f+0x0"}


def test_riscv64() -> None:
    attributes = b"A\x2f\0\0\0riscv\0\x01\x25\0\0\0\x05rv64i2p1_m2p0_a2p1_c2p0_v1p0_zba1p0\0"
    section = (".riscv.attributes", 0x70000003, attributes)
    file = elf("riscv64", code(0x8082), [("f", 0, 4)], extra=section)
    emitted = examine(file, "riscv64")
    assert not emitted.needs
    assert emitted.unread == "nothing to compare RISC-V with; it has v, zba"
