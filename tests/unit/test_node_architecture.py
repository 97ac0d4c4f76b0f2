"""The probe `arch`: which word counts, and what is said when words differ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from elf_files import MACHINES, elf
from host_tree import look, recorded, unknown, write

from slurm_cmeta.node import Found, architecture
from slurm_cmeta.node.architecture import KERNEL_ARCH
from slurm_cmeta.node.cpuinfo import PATH
from slurm_cmeta.node.host import Host

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu {} sse2\n"
ARM = "processor\t: 0\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: {}\n"
POWER = "processor\t: 0\ncpu\t\t: POWER9 (raw), altivec supported\nclock\t\t: 3800.000000MHz\n"


@pytest.mark.parametrize(
    ("text", "family"),
    [
        (X86.format("lm"), "x86_64"),
        # CONFIG_X86_32 (arch/x86/kernel/cpu/proc.c, show_cpuinfo_misc): a 32-bit kernel on lm
        (X86.format("lm") + "fdiv_bug\t: no\nf00f_bug\t: no\n", "x86"),
        (ARM.format("fp asimd evtstrm", 8), "aarch64"),
        # arch/arm/kernel/setup.c on a Cortex-A53: architecture 8, the kernel is 32-bit
        (ARM.format("half thumb fastmult vfp edsp neon", 8), "arm"),
        (ARM.format("half thumb fastmult vfp edsp neon", 7), "arm"),
        ("processor\t: 0\nhart\t: 0\nisa\t: rv64imafdc_zicntr\nmmu\t: sv39\n", "riscv64"),
        ("vendor_id       : IBM/S390\nfeatures\t: esan3 zarch stfle\n", "s390x"),
        ("system type : generic\n\nprocessor : 0\nisa : loongarch32 loongarch64\n", "loongarch64"),
    ],
)
def test_the_shape_of_cpuinfo_alone_tells(text: str, family: str, tmp_path: Path) -> None:
    found = look(write(tmp_path, {PATH: text}), architecture)
    assert found.value("arch") == family
    assert found.facts[0].source == PATH


@pytest.mark.parametrize("family", ["ppc64", "ppc64le"])
def test_the_byte_order_of_power_is_that_of_a_program(family: str, tmp_path: Path) -> None:
    if family not in MACHINES:
        pytest.skip("no such ELF files")
    found = look(write(tmp_path, {PATH: POWER, "/bin/sh": elf(family)}), architecture)
    assert found.value("arch") == family
    assert not found.warnings


def test_power_without_a_program_is_unknown(tmp_path: Path) -> None:
    found = look(write(tmp_path, {PATH: POWER}), architecture)
    assert "byte order" in unknown(found, "arch")


@pytest.mark.parametrize("path", architecture.PROGRAMS)
def test_any_usual_program_tells(path: str, tmp_path: Path) -> None:
    found = look(write(tmp_path, {path: elf("aarch64")}), architecture)
    assert found.value("arch") == "aarch64"
    assert found.facts[0].source == f"ELF header of {path}"


def test_scripts_and_damage_are_passed_over(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/bin/sh": "#!/bin/busybox\n",
        "/usr/bin/env": b"\x7fELF\x09\x09" + bytes(60),
        "/sbin/init": b"\x7fELF",
        "/bin/ls": elf("s390x") if "s390x" in MACHINES else elf("aarch64"),
    }
    found = look(write(tmp_path, files), architecture)
    assert found.value("arch") in ("s390x", "aarch64")


def test_a_32_bit_userland_does_not_count(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {PATH: X86.format("lm"), "/bin/sh": elf("x86")}
    found = look(write(tmp_path, files), architecture)
    assert found.value("arch") == "x86_64"
    assert len(found.warnings) == 1
    assert "/bin/sh is for x86" in found.warnings[0]


@pytest.mark.parametrize(
    ("files", "family"),
    [
        ({**recorded("uname -m", "aarch64\n"), KERNEL_ARCH: "ppc64le\n"}, "aarch64"),
        ({KERNEL_ARCH: "ppc64le\n"}, "ppc64le"),
        ({**recorded("uname -m", "i686\n")}, "x86"),
        ({**recorded("uname -m", "\x1b[2J"), KERNEL_ARCH: "aarch64\n"}, "aarch64"),
        ({**recorded("uname -m", ""), KERNEL_ARCH: "z" * 9999}, "x86_64"),
    ],
)
def test_the_kernels_own_word_counts_first(
    files: dict[str, str | bytes], family: str, tmp_path: Path
) -> None:
    found = look(write(tmp_path, {PATH: X86.format("lm"), **files}), architecture)
    assert found.value("arch") == family


@pytest.mark.parametrize(
    "text", ["", "\x00\xff", "flags : lm_ \n", "isa : rv\n", ": : :\n", "cpu :"]
)
def test_garbage_is_unknown(text: str, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {PATH: text, "/bin/sh": "no program"}
    found = look(write(tmp_path, {**files, **recorded("uname -m", "zen4")}), architecture)
    assert "zen4" in unknown(found, "arch")
    assert PATH in unknown(found, "arch")


def test_an_empty_root_is_unknown(tmp_path: Path) -> None:
    assert unknown(look(tmp_path, architecture), "arch")


def test_this_machine_is_what_uname_says(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found()
    architecture.probe(Host(), found)
    assert [f.source for f in found.facts] == ["uname -m"]
    real = os.uname()
    monkeypatch.setattr(
        os,
        "uname",
        lambda: os.uname_result((*real[:4], "riscv64")),
    )
    found = Found()
    architecture.probe(Host(), found)
    assert found.value("arch") == "riscv64"
    assert found.warnings  # this machine's programs are for another
