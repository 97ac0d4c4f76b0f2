"""The probes `kernel`, `page` and `memory`.

The files mimic: Debian 12 on x86_64 (osrelease, meminfo), RHEL 9 on aarch64 with its kernel-64k
(/lib/modules/RELEASE/config), Asahi Linux (16 KiB pages), RHEL 8 on POWER9.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from host_tree import look, recorded, unknown, write
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta.node import Found, architecture, kernel, memory, page
from slurm_cmeta.node.host import Host

RELEASE = "/proc/sys/kernel/osrelease"
MEMINFO = "MemTotal:       {:>8} kB\nMemFree:         1024 kB\nHugepagesize:       2048 kB\n"
ARM_64K = "CONFIG_ARM64=y\n# CONFIG_ARM64_4K_PAGES is not set\nCONFIG_ARM64_64K_PAGES=y\n"


@pytest.mark.parametrize(
    "text",
    [
        *("6.1.0-28-amd64", "5.14.0-570.12.1.el9_6.aarch64+64k", "4.18.0-553.el8_10.x86_64"),
        *("6.18.44", "5.15.153.1-microsoft-standard-WSL2", "6.12.0-rc3+", "2.6.32-754.el6.x86_64"),
        "6.4.0-150600.23.17_15.0.89-cray_shasta_c",
    ],
)
def test_the_whole_release_of_the_kernel(text: str, tmp_path: Path) -> None:
    found = look(write(tmp_path, {RELEASE: f"{text}\n"}), kernel)
    assert found.facts == [("kernel", text, RELEASE)]


@pytest.mark.parametrize(
    "text",
    ["", "\n", "garbage", "6", "6.x", "6.1\n6.2", "6.1 and more", "6.1\x1b[2J", "6.1" + "a" * 99],
)
def test_what_is_no_release_is_unknown(text: str, tmp_path: Path) -> None:
    found = look(write(tmp_path, {RELEASE: text}), kernel)
    reason = unknown(found, "kernel")
    assert RELEASE in reason
    assert reason.isprintable()
    write(tmp_path, recorded("uname -r", "6.1.0-28-amd64\n"))
    assert look(tmp_path, kernel).value("kernel") == "6.1.0-28-amd64"


def test_no_release_is_unknown(tmp_path: Path) -> None:
    assert "not there" in unknown(look(tmp_path, kernel), "kernel")
    (tmp_path / RELEASE[1:]).mkdir(parents=True)
    assert "directory" in unknown(look(tmp_path, kernel), "kernel")


@pytest.mark.parametrize(
    ("kibibytes", "mebibytes"),
    [(16384256, "16000"), (1024, "1"), (2047, "1"), (6597069766656, "6442450944")],
)
def test_memory_is_rounded_down(kibibytes: int, mebibytes: str, tmp_path: Path) -> None:
    found = look(write(tmp_path, {"/proc/meminfo": MEMINFO.format(kibibytes)}), memory)
    assert found.facts == [("memory", mebibytes, "/proc/meminfo")]


@pytest.mark.parametrize(
    "text",
    [
        *("", "MemFree: 1 kB\n", "MemTotal: -5 kB\n", "MemTotal: 0 kB\n", "MemTotal: 1023 kB\n"),
        *("MemTotal: 16384256\n", "MemTotal: 16384256 MB\n", "XMemTotal: 16384256 kB\n"),
        *("MemTotal: 1e9 kB\n", f"MemTotal: {'9' * 5000} kB\n", "MemTotal: ١٢٣٤٥ kB\n"),
    ],
)
def test_memory_is_unknown_where_the_line_is_not_sound(text: str, tmp_path: Path) -> None:
    found = look(write(tmp_path, {"/proc/meminfo": text}), memory)
    assert "MemTotal" in unknown(found, "memory")


def test_no_meminfo_is_unknown(tmp_path: Path) -> None:
    assert "not there" in unknown(look(tmp_path, memory), "memory")


def paged(root: Path, family: str, files: dict[str, str | bytes]) -> Found:
    return look(write(root, {**files, **recorded("uname -m", family)}), architecture, page)


@pytest.mark.parametrize(
    ("family", "files", "size", "source"),
    [
        ("aarch64", recorded("getconf PAGESIZE", "65536\n"), "65536", "getconf PAGESIZE"),
        (
            "aarch64",
            {RELEASE: "5.14.0+64k", "/lib/modules/5.14.0+64k/config": ARM_64K},
            "65536",
            "/lib/modules/5.14.0+64k/config",
        ),
        (
            "aarch64",  # Asahi
            {"/proc/config.gz": gzip.compress(b"CONFIG_ARM64_16K_PAGES=y\n")},
            "16384",
            "/proc/config.gz",
        ),
        (
            "ppc64le",
            {RELEASE: "4.18.0-1\n", "/boot/config-4.18.0-1": "CONFIG_PPC_64K_PAGES=y\n"},
            "65536",
            "/boot/config-4.18.0-1",
        ),
        (
            "loongarch64",
            {RELEASE: "6.12.1", "/boot/config-6.12.1": "CONFIG_PAGE_SIZE_16KB=y\n"},
            "16384",
            "/boot/config-6.12.1",
        ),
        (
            "aarch64",
            {RELEASE: "6.1.2", "/boot/config-6.1.2": "CONFIG_ARM64_PAGE_SHIFT=12\n"},
            "4096",
            "/boot/config-6.1.2",
        ),
        # mm/huge_memory.c: 4 KiB pages give 2 MiB, 16 KiB 32 MiB, 64 KiB 512 MiB
        ("aarch64", {page.HUGE: "2097152\n"}, "4096", page.HUGE),
        ("aarch64", {page.HUGE: "33554432\n"}, "16384", page.HUGE),
        ("aarch64", {page.HUGE: "536870912\n"}, "65536", page.HUGE),
        ("x86_64", {page.HUGE: "2097152\n"}, "4096", "the only size of x86_64"),
        ("riscv64", {}, "4096", "the only size of riscv64"),
        ("s390x", {}, "4096", "the only size of s390x"),
    ],
)
def test_page(
    family: str, files: dict[str, str | bytes], size: str, source: str, tmp_path: Path
) -> None:
    found = paged(tmp_path, family, files)
    assert [f for f in found.facts if f.key == "page"] == [("page", size, source)]


@pytest.mark.parametrize(
    "files",
    [
        {},
        recorded("getconf PAGESIZE", ""),
        recorded("getconf PAGESIZE", "5000\n"),
        recorded("getconf PAGESIZE", "-4096"),
        recorded("getconf PAGESIZE", "9" * 5000),
        {page.HUGE: "1"},
        {page.HUGE: "\x00\x01"},
        {"/proc/config.gz": b"no gzip"},
        {"/proc/config.gz": gzip.compress(b"CONFIG_ARM64_64K_PAGES=y\n")[:15]},
        {"/proc/config.gz": gzip.compress(b"x" * (64 << 20))},  # a bomb: read to a bound only
        {RELEASE: "6.1.2", "/boot/config-6.1.2": "# CONFIG_ARM64_64K_PAGES is not set\n"},
        {RELEASE: "6.1.2", "/boot/config-6.1.2": "CONFIG_PAGE_SHIFT=99\n"},
        {RELEASE: "../../x", "/boot/config-6.1.2": ARM_64K},
    ],
)
def test_page_is_unknown_where_there_are_several(
    files: dict[str, str | bytes], tmp_path: Path
) -> None:
    found = paged(tmp_path, "aarch64", files)
    assert "several sizes" in unknown(found, "page")


def test_page_is_unknown_where_the_architecture_is(tmp_path: Path) -> None:
    assert "architecture" in unknown(look(tmp_path, architecture, page), "page")


def test_this_machine() -> None:
    found = Found()
    for probe in (kernel, page, memory):
        probe.probe(Host(), found)
    assert found.value("page") == str(os.sysconf("SC_PAGE_SIZE"))
    assert found.value("kernel") == os.uname().release
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert abs(int(found.value("memory") or 0) - total) <= 1
    assert not found.unknown


@given(st.sampled_from([RELEASE, "/proc/meminfo", page.HUGE, "/proc/config.gz"]), st.binary())
@settings(max_examples=100, deadline=None)
def test_no_file_makes_them_fail(path: str, data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        found = paged(Path(root), "aarch64", {path: data})
        rest = look(Path(root), kernel, memory)
    assert len(found.unknown + rest.unknown) + len(found.facts + rest.facts) == 4
