"""Ways to choose code at run time that were once taken for needs, each as a small program."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm_cmeta.evidence.machinecode import Emitted, examine

pytestmark = [
    pytest.mark.skipif(
        not importlib.util.find_spec("iced_x86"),
        reason="disassembler iced-x86 is not installed: pip install slurm-cmeta[deep]",
    ),
    pytest.mark.skipif(
        not shutil.which("gcc") or not shutil.which("strip"),
        reason="gcc or strip is not installed",
    ),
]

FUNCTION = """
    .globl {0}
    .type {0}, @{2}
    .p2align 6
{0}:
    {1}
    .size {0}, . - {0}
"""
VECTOR = "vpaddd %ymm0, %ymm1, %ymm2\n    .skip 64, 0x90\n    vzeroupper\n    "


def assembled(place: Path, **bodies: str) -> Emitted:
    """Examine a static program of assembly functions; of `pick`, the resolver."""
    source, target = place / "a.s", place / "a"
    kinds = {"pick": "gnu_indirect_function"}
    text = [FUNCTION.format(n, b, kinds.get(n, "function")) for n, b in bodies.items()]
    source.write_text("\n.text\n" + "".join(text))
    command = ["gcc", "-nostdlib", "-static", "-no-pie", "-o"]
    subprocess.run([*command, target, source], check=True)
    return both(target)


def library(place: Path, source: str, *options: str) -> Emitted:
    path, target = place / "l.c", place / "l.so"
    path.write_text(source)
    command = ["gcc", "-O2", "-shared", "-fPIC", *options, "-o"]
    subprocess.run([*command, target, path], check=True)
    return both(target)


def both(target: Path) -> Emitted:
    """Examine `target` with symbols and without; the answer has to be the same."""
    found = examine(target.read_bytes(), "x86_64")
    subprocess.run(["strip", target], check=True)
    bare = examine(target.read_bytes(), "x86_64")
    assert set(bare.needs) == set(found.needs)
    assert bare.dispatched == found.dispatched
    return found


CFI = "\n    .cfi_startproc\n    {}\n    .cfi_endproc"
PICK = CFI.format("lea plain(%rip), %rax\n    lea fast(%rip), %rdx\n    ret")
LAST = CFI.format(VECTOR + "ret")


def test_a_constant_into_the_middle_of_a_function_is_no_address(tmp_path: Path) -> None:
    # glibc 2.41's futex code has a mask of bits that looks like one: mov $0x440801,%ecx; bt.
    def started(operand: str) -> Emitted:
        start = CFI.format(f"call pick\n    mov ${operand}, %ecx\n    bt %rdx, %rcx\n    ret")
        return assembled(
            tmp_path,
            _start=start,
            pick=PICK,
            plain=CFI.format("ret"),
            fast=LAST,
            apart=CFI.format(VECTOR + "ret"),
        )

    assert not started("apart + 1").needs
    assert not started("fast").needs
    assert set(started("apart").needs) == {"avx", "avx2"}


@pytest.mark.parametrize("going_on", ["", "jmp further", "cmp %ecx, %eax\n    je further\n    ret"])
def test_what_a_chosen_variant_goes_on_in_is_chosen_too(tmp_path: Path, going_on: str) -> None:
    # As __strcasecmp_avx2_rtm falls into __strcasecmp_l_avx2_rtm.
    emitted = assembled(
        tmp_path,
        _start=CFI.format("call pick\n    call further\n    ret"),
        pick=PICK,
        plain=CFI.format("ret"),
        fast=CFI.format(VECTOR + going_on),
        further=LAST,
    )
    assert not emitted.needs
    assert {"avx", "avx2"} <= emitted.dispatched


ASKING = """
#include <cpuid.h>
__attribute__((visibility("hidden"))) unsigned kept[2];
__attribute__((noinline)) static void ask(unsigned *to) {
    unsigned a, b, d; __cpuid_count(7, 0, a, to[1], b, d); }
__attribute__((constructor)) static void set(void) { ask(kept); }
__attribute__((noinline, target("avx2"))) static void fast(int *to) {
    for (int i = 0; i < 64; i++) to[i] *= 3; }
"""


@pytest.mark.parametrize(("option", "needs"), [("-O2", set()), ("-mavx", {"avx"})])
def test_a_function_of_which_nothing_tells_may_ask(
    tmp_path: Path, option: str, needs: set[str]
) -> None:
    # OpenSSL 3.5's rsaz_avx2_eligible has no frame description, as few others there.
    source = ASKING + (
        '__attribute__((visibility("hidden"))) int eligible(void);\n'
        'asm(".text\\neligible: mov kept+4(%rip), %eax\\n and $32, %eax\\n ret");\n'
        "void work(int *to, float *also) {\n"
        "    for (int i = 0; i < 9; i++) also[i] /= 3;\n"
        "    if (eligible()) fast(to); else *to = 1; }\n"
        'void filler(void) { asm volatile(".rept 65536; nop; .endr"); }\n'
    )
    emitted = library(tmp_path, source, option)
    assert set(emitted.needs) == needs
    assert "avx2" in emitted.dispatched


def test_a_choice_kept_where_it_is_not_seen(tmp_path: Path) -> None:
    source = ASKING + (
        "struct object { int fit; int data[64]; };\n"
        "void make(struct object *o) { o->fit = kept[1] & 32; }\n"
        "void work(struct object *o) { if (o->fit) fast(o->data); else o->data[0] = 1; }\n"
    )
    emitted = library(tmp_path, source)
    assert not emitted.needs
    assert {"avx", "avx2"} <= emitted.dispatched


def test_callers_choose_from_variants_that_are_exported(tmp_path: Path) -> None:
    # libgegl-0.4 never asks for the CPU itself.
    source = (
        '__attribute__((noinline, target("avx2"))) static void inner(int *to) {\n'
        "    for (int i = 0; i < 64; i++) to[i] *= 3; }\n"
        '__attribute__((target("avx2"))) void work_x86_64_v3(int *to) { inner(to); *to += 1; }\n'
        "void work_generic(int *to) { for (int i = 0; i < 64; i++) to[i] *= 3; }\n"
    )
    emitted = library(tmp_path, source)
    assert not emitted.needs
    assert {"avx", "avx2"} <= emitted.dispatched


def test_code_with_avx_in_a_file_without_was_chosen_somehow(tmp_path: Path) -> None:
    # Rust's programs may ask a libstd.so whose names tell nothing.
    source = (
        "extern int what(void);\n"
        '__attribute__((noinline, target("avx2"))) static void fast(int *to) {\n'
        "    for (int i = 0; i < 64; i++) to[i] *= 3; }\n"
        "void work(int *to) { if (what()) fast(to); else *to = 1; }\n"
        "void also(int *to) { for (int i = 0; i < 64; i++) to[i] *= 3; }\n"
    )
    assert not library(tmp_path, source, "-O3").needs
    assert set(library(tmp_path, source, "-O3", "-mavx").needs) == {"avx", "avx2"}
