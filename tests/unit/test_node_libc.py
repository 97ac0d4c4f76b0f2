"""The probe `libc`.

Trees mimic: Debian 12 (usrmerge, multi-arch: i386 beside amd64), RHEL 9 (/lib64), NixOS (everything
beside the loader, no ld.so.cache), Alpine 3.20 (musl, apk), Void with musl (no apk).
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from elf_files import elf
from host_tree import look, recorded, unknown, write
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta.node import NONE, Found, architecture, libc
from slurm_cmeta.node.host import Host

LOADER = "/lib64/ld-linux-x86-64.so.2"
BANNER = b"\0GNU C Library (Debian GLIBC %b-9+deb12u10) stable release version %b.\n\0"
KEYS = ("glibc", "libc")

Files = dict[str, str | bytes]


def shell(family: str = "x86_64", interpreter: str = LOADER) -> bytes:
    return elf(family, interpreter=interpreter, needed=["libc.so.6"])


def glibc(number: str, family: str = "x86_64", banner: str = "") -> bytes:
    major, minor = number.split(".")
    versions = [f"GLIBC_{major}.{n}" for n in range(2, int(minor) + 1)]
    name = (banner or number).encode()
    text = {".rodata": BANNER % (name, name)}
    return elf(family, soname="libc.so.6", defined=[*versions, "GLIBC_PRIVATE"], sections=text)


def cache(*paths: str) -> bytes:
    """An ld.so.cache of glibc 2.32 on (sysdeps/generic/dl-cache.h)."""
    head = struct.pack("<20sIIBxxxIxxxxxxxxxxxx", b"glibc-ld.so.cache1.1", len(paths), 0, 2, 0)
    strings, entries = b"", b""
    start = len(head) + 24 * len(paths)
    for path in paths:
        name = path.rpartition("/")[2]
        at = start + len(strings)
        entries += struct.pack("<iIIIQ", 0x303, at, at + len(name) + 1, 0, 0)
        strings += name.encode() + b"\0" + path.encode() + b"\0"
    return head + entries + strings


def probed(root: Path, files: Files) -> Found:
    return look(write(root, files), architecture, libc)


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ({"/lib64/libc.so.6": glibc("2.34")}, "/lib64/libc.so.6"),
        (
            {"/lib/x86_64-linux-gnu/libc.so.6": glibc("2.34")},
            "/lib/x86_64-linux-gnu/libc.so.6",
        ),
        (
            {"/opt/odd/libc.so.6": glibc("2.34"), "/etc/ld.so.cache": cache("/opt/odd/libc.so.6")},
            "/opt/odd/libc.so.6",
        ),
        (  # multi-arch: the list's first, and /lib, are i386's
            {
                "/lib/i386-linux-gnu/libc.so.6": glibc("2.19", "x86"),
                "/lib/libc.so.6": glibc("2.19", "x86"),
                "/lib/x86_64-linux-gnu/libc.so.6": glibc("2.34"),
                "/etc/ld.so.cache": cache(
                    "/lib/i386-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6"
                ),
            },
            "/lib/x86_64-linux-gnu/libc.so.6",
        ),
        (  # a list that is out of date, or damaged
            {"/lib64/libc.so.6": glibc("2.34"), "/etc/ld.so.cache": cache("/gone/libc.so.6")},
            "/lib64/libc.so.6",
        ),
        (
            {"/lib64/libc.so.6": glibc("2.34"), "/etc/ld.so.cache": cache("/a/libc.so.6")[:60]},
            "/lib64/libc.so.6",
        ),
        (
            {
                "/lib/libc.so.6": glibc("2.34"),
                "/lib64/libc.so.6": "GROUP ( /lib64/libc.so.6 )",  # a linker script
            },
            "/lib/libc.so.6",
        ),
    ],
)
def test_glibc_of_the_nodes_own_architecture(files: Files, path: str, tmp_path: Path) -> None:
    found = probed(tmp_path, {"/bin/sh": shell(), **files})
    assert found.value("glibc") == "2.34"
    assert found.value("libc") == "glibc 2.34"
    assert {f.source for f in found.facts if f.key == "glibc"} == {f"symbol versions of {path}"}
    assert not found.unknown


def test_links_stay_below_the_root(tmp_path: Path) -> None:
    """Usrmerge with absolute links, as some installers write them."""
    root = write(tmp_path, {"/usr/lib64/libc-2.28.so": glibc("2.28"), "/usr/bin/sh": shell()})
    (root / "lib64").symlink_to("/usr/lib64")
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/lib64/libc.so.6").symlink_to("libc-2.28.so")
    found = look(root, architecture, libc)
    assert found.value("glibc") == "2.28"
    assert found.facts[-1].source == "/usr/lib64/libc-2.28.so"


def test_nix_has_it_beside_the_loader(tmp_path: Path) -> None:
    store = "/nix/store/abc-glibc-2.39-52/lib"
    files: Files = {
        "/bin/sh": shell(interpreter=f"{store}/ld-linux-x86-64.so.2"),
        f"{store}/ld-linux-x86-64.so.2": elf("x86_64"),
        f"{store}/libc.so.6": glibc("2.39"),
    }
    assert probed(tmp_path, files).value("glibc") == "2.39"


def test_the_library_may_call_itself_newer_than_its_symbols(tmp_path: Path) -> None:
    """glibc 2.31 (Debian 11) has the symbols of 2.30: images are measured by these, too."""
    files: Files = {"/bin/sh": shell(), "/lib64/libc.so.6": glibc("2.30", banner="2.31")}
    found = probed(tmp_path, files)
    assert found.value("glibc") == "2.30"
    assert found.value("libc") == "glibc 2.31"


MUSL = "/lib/ld-musl-x86_64.so.1"
APK = "C:Q1abc\nP:musl\nV:1.2.5-r1\nA:x86_64\n\nP:busybox\nV:1.36.1-r29\n\n"


@pytest.mark.parametrize(
    ("files", "value"),
    [
        ({"/lib/apk/db/installed": APK}, "musl 1.2.5"),
        ({"/usr/lib/apk/db/installed": APK}, "musl 1.2.5"),
        ({MUSL: elf(sections={".rodata": b"libc.so\0001.2.4\0Version\0"})}, "musl 1.2.4"),
        ({MUSL: elf(sections={".rodata": b"\0001.2.4-git-8-gabc\0"})}, "musl 1.2.4"),
        ({MUSL: elf(), "/lib/apk/db/installed": "P:musl\nV:\x1b[2J\n"}, "musl"),
        ({}, "musl"),
    ],
)
def test_musl(files: Files, value: str, tmp_path: Path) -> None:
    found = probed(tmp_path, {"/bin/sh": shell(interpreter=MUSL), **files})
    assert found.value("libc") == value
    assert [f.value for f in found.facts if f.key == "glibc"] == [NONE]
    assert found.is_unknown("libc") == (value == "musl")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"/bin/sh": "#!/no/program\n"},
        {"/bin/sh": shell()},
        {"/bin/sh": shell(), "/lib64/libc.so.6": b""},
        {"/bin/sh": shell(), "/lib64/libc.so.6": glibc("2.34")[:200]},
        {"/bin/sh": shell(), "/lib64/libc.so.6": glibc("2.34", "aarch64")},
        {"/bin/sh": shell(), "/lib64/libc.so.6": elf(defined=["GLIBC_x.y", "GLIBC_PRIVATE"])},
    ],
)
def test_what_is_not_found_is_unknown(files: Files, tmp_path: Path) -> None:
    found = probed(tmp_path, files)
    for key in KEYS:
        assert "libc.so.6" in unknown(found, key)
    write(tmp_path, recorded("getconf GNU_LIBC_VERSION", "glibc 2.36\n"))
    found = look(tmp_path, architecture, libc)
    assert (found.value("glibc"), found.value("libc")) == ("2.36", "glibc 2.36")


@pytest.mark.parametrize("text", ["", "2.36", "musl 1.2.5", "glibc x", "glibc 2.36 2.37", "\x1b"])
def test_a_strange_answer_of_getconf_is_none(text: str, tmp_path: Path) -> None:
    found = probed(tmp_path, recorded("getconf GNU_LIBC_VERSION", text))
    for key in KEYS:
        assert unknown(found, key).isprintable()


def test_a_root_that_is_gone_is_unknown(tmp_path: Path) -> None:
    found = look(tmp_path / "gone", architecture, libc)
    for key in KEYS:
        assert "gone" in unknown(found, key)


def test_a_library_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "lib64/libc.so.6").mkdir(parents=True)
    (tmp_path / "etc").symlink_to("etc")
    found = probed(tmp_path, {"/bin/sh": shell()})
    for key in KEYS:
        assert unknown(found, key)


def test_this_machine_is_told_by_its_files() -> None:
    import os

    found = Found()
    architecture.probe(Host(), found)
    libc.probe(Host(), found)
    if found.value("glibc") is None:
        pytest.skip("no glibc here")
    assert found.value("libc") == os.confstr("CS_GNU_LIBC_VERSION")
    assert not found.unknown


@given(
    st.sampled_from(["/bin/sh", "/lib64/libc.so.6", "/etc/ld.so.cache", "/lib/apk/db/installed"]),
    st.binary(max_size=400),
    st.integers(0, 300),
)
@settings(max_examples=150, deadline=None)
def test_no_file_makes_it_fail(path: str, data: bytes, at: int) -> None:
    import tempfile

    sound: Files = {
        "/bin/sh": shell(),
        "/lib64/libc.so.6": glibc("2.34"),
        "/etc/ld.so.cache": cache("/lib64/libc.so.6"),
        "/lib/apk/db/installed": APK,
    }
    whole = sound[path]
    content = whole.encode() if isinstance(whole, str) else whole
    with tempfile.TemporaryDirectory() as root:
        found = probed(Path(root), {**sound, path: content[:at] + data + content[at + len(data) :]})
    answered = {f.key for f in found.facts} | {u.key for u in found.unknown}
    assert answered >= set(KEYS)
