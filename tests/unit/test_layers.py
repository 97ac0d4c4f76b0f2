"""Layers: tar archives of every make, what hides what, and what somebody made to hurt."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from oci_files import (
    File,
    Store,
    directory,
    header,
    link,
    need,
    need_libsquashfs,
    pax,
    squash,
    tar,
    write_layout,
)

from slurm_cmeta.image import layers, tarlayer, unpack
from slurm_cmeta.image.content import MAX_WARNINGS, Warnings
from slurm_cmeta.image.filetree import Budget, FileTree, deep_budget, quick_budget
from slurm_cmeta.image.layers import Part, open_stack
from slurm_cmeta.image.oci import Slice
from slurm_cmeta.image.reader import Reader

OUTSIDE = "not in the image"


class Stack:
    """Layers, the upper ones first, opened as an image's."""

    def __init__(self, path: Path, *blobs: bytes, budget: Budget | None = None) -> None:
        self.warnings = Warnings()
        parts = []
        for number, blob in enumerate(blobs, 1):
            file = path / f"blob{number}"
            file.write_bytes(b"before" + blob + b"behind")
            place = Slice(Reader(str(file)), 6, len(blob))
            parts.append(Part(f"layer {number}", "", place))
        self.budget = budget or deep_budget()
        self.found = open_stack(parts, self.warnings, self.budget)

    @property
    def tree(self) -> FileTree:
        assert self.found is not None
        return self.found

    def files(self) -> dict[str, bytes]:
        """Return all files with their content; checks that all warnings are fit to print."""
        found = {entry.path: self.tree.read(entry) for entry in self.tree.walk()}
        assert all(warning.isprintable() for warning in self.warnings)
        assert len(self.warnings) <= MAX_WARNINGS + 1
        return found


def zstd(data: bytes, *options: str) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed (Debian package zstd)")
    return subprocess.run(
        ["zstd", "-q", "-c", *options], input=data, check=True, capture_output=True
    ).stdout


PACKED = [
    pytest.param(lambda data: data, id="plain"),
    pytest.param(gzip.compress, id="gzip"),
    pytest.param(lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]), id="two"),
    pytest.param(lambda data: gzip.compress(data) + bytes(700), id="padded"),
    pytest.param(zstd, id="zstd"),
    pytest.param(lambda data: zstd(data[:1000]) + zstd(data[1000:]), id="frames"),
    pytest.param(lambda data: b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd(data), id="skippable"),
]
BIG = b"\x7fELF" + bytes(range(256)) * 8000


@pytest.mark.parametrize("pack", PACKED)
def test_packings(tmp_path: Path, pack: Any) -> None:
    data = tar(
        directory("bin"),
        File("bin/sh", BIG, mode=0o755),
        File("usr/data", bytes(range(1, 256)) * 9000),
        File("var/lib/dpkg/status", b"Package: x\n" * 300_000),
        link("lib", "usr/lib"),
        File("bin/bash", type=b"1", link="bin/sh"),
        File("dev/null", type=b"3"),
    )
    stack = Stack(tmp_path, pack(data))
    tree = stack.tree
    assert tree.read(tree.find("/bin/sh")) == BIG
    assert tree.read(tree.find("/bin/bash"), 1_000_000, 99) == BIG[1_000_000:1_000_099]
    assert tree.read(tree.find("/var/lib/dpkg/status")) == b"Package: x\n" * 300_000
    assert tree.find("/dev/null") is None
    entry = tree.find("/bin/sh")
    assert entry is not None
    assert (entry.size, entry.mode) == (len(BIG), 0o755)
    assert stack.warnings == []
    whole = tree.read(tree.find("/usr/data"))
    if pack(b"x") == b"x":
        assert len(whole) == 255 * 9000
    else:
        assert whole == (bytes(range(1, 256)) * 9000)[: tarlayer.MAX_HEAD]
        assert "only the first 4096 bytes" in stack.warnings[0]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_archives_of_another_writer(tmp_path: Path, form: int) -> None:
    body = io.BytesIO()
    long = "/".join(["directory"] * 11)
    with tarfile.open(fileobj=body, mode="w", format=form) as made:
        for name in ("./etc/x", f"{long}/file", "häß"):
            info = tarfile.TarInfo(name)
            info.size = 4
            made.addfile(info, io.BytesIO(b"data"))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, f"/{long}"[:99]
        if form != tarfile.USTAR_FORMAT:
            info.linkname = f"/{long}"
            info.pax_headers = {"SCHILY.xattr.user.x": "y\n=" * 50}
        made.addfile(info)
    stack = Stack(tmp_path, body.getvalue())
    assert set(stack.files()) == {"/etc/x", f"/{long}/file", "/häß"}
    if form != tarfile.USTAR_FORMAT:
        assert stack.tree.text("/link/file", 9) == "data"
    assert stack.warnings == []


def test_archive_of_gnu_tar_with_a_sparse_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with open(tmp_path / "in" / "sparse", "wb") as file:
        for number in range(40):
            file.seek(number * 1_000_000)
            file.write(b"x" * 5000)
    (tmp_path / "in" / "zafter").write_text("after")
    need("tar")
    for form in ("--format=gnu", "--format=pax"):
        command = ["tar", "-C", str(tmp_path / "in"), "--sort=name", "-c", "--sparse", form, "."]
        data = subprocess.run(command, check=True, capture_output=True).stdout
        stack = Stack(tmp_path, data)
        files = stack.files()
        assert files == {"/sparse": b"", "/zafter": b"after"}
        assert "is sparse" in stack.warnings[0]


def test_whiteouts(tmp_path: Path) -> None:
    lower = tar(
        File("a/one", b"1"),
        File("a/two", b"2"),
        File("b/one", b"1"),
        File("c/d/one", b"1"),
        File("e", b"1"),
        link("f", "a"),
        File("g/x", b"1"),
        File("h", b"1"),
        File("i/x", b"1"),
    )
    upper = tar(
        File("a/.wh.one"),
        File("a/three", b"3"),
        File("b/.wh..wh..opq"),
        File("b/new", b"n"),
        File(".wh.c"),
        File("e/now/a/directory", b"d"),
        File("f", b"file"),
        File("g", b"file"),
        File("h", type=b"3"),
        File(".wh.i"),
        File("i/y", b"2"),
        File("j/.wh.nothing"),
    )
    files = Stack(tmp_path, upper, lower).files()
    assert files == {
        "/a/two": b"2",
        "/a/three": b"3",
        "/b/new": b"n",
        "/e/now/a/directory": b"d",
        "/f": b"file",
        "/g": b"file",
        "/i/y": b"2",
    }
    tree = Stack(tmp_path, upper, lower).tree
    assert sorted(name for name, _ in tree.list("/")) == ["a", "b", "e", "f", "g", "i", "j"]
    assert tree.list("/j") == []
    for path in ("/a/one", "/a/.wh.one", "/b/.wh..wh..opq", "/c", "/h", "/i/x"):
        assert tree.find(path) is None, path


def test_three_layers(tmp_path: Path) -> None:
    top = tar(File("x/c", b"3"))
    middle = tar(File("x/.wh..wh..opq"), File("x/b", b"2"))
    files = Stack(tmp_path, top, middle, tar(File("x/a", b"1"), File("y", b"1"))).files()
    assert files == {"/x/c": b"3", "/x/b": b"2", "/y": b"1"}


def test_whiteouts_of_everything(tmp_path: Path) -> None:
    stack = Stack(tmp_path, tar(File(".wh..wh..opq"), File(".wh.a")), tar(File("a", b"1")))
    assert stack.files() == {}
    assert stack.tree.find("/a") is None


def test_agrees_with_umoci(tmp_path: Path) -> None:
    """Random layers, merged here and by umoci."""
    need("umoci", "cp")
    chance = random.Random(7)  # noqa: S311
    names = ["a", "b", "a/c", "a/d", "b/c", "b/d", "a/c/e", "b/c/e"]
    run = 0
    for _ in range(12):
        store, blobs = Store(), []
        for level in range(3):
            kinds: dict[str, str] = {}
            files = []
            for name in names:
                parent = name.rpartition("/")[0]
                kind = chance.choice(("file", "directory", "nothing", "whiteout", "link"))
                if parent and kinds.get(parent) != "directory":
                    kind = "nothing"
                kinds[name] = kind
                if kind == "file":
                    files.append(File(name, f"{level}".encode()))
                elif kind == "directory":
                    files.append(directory(name))
                    if chance.random() < 0.2:
                        files.append(File(f"{name}/.wh..wh..opq"))
                elif kind == "link":
                    files.append(link(name, "target"))
                elif kind == "whiteout" and level:
                    base = name.rpartition("/")[2]
                    files.append(File(f"{parent}/.wh.{base}" if parent else f".wh.{base}"))
            blobs.append(tar(*files))
        tag = {"org.opencontainers.image.ref.name": "x"}
        diff = [f"sha256:{__import__('hashlib').sha256(blob).hexdigest()}" for blob in blobs]
        more = {"rootfs": {"type": "layers", "diff_ids": diff}, "config": {}}
        made = store.image("amd64", *blobs, config=more, listed=tag)
        layout = write_layout(tmp_path / f"l{run}", store, store.index(made))
        bundle = tmp_path / f"b{run}"
        run += 1
        command = ["umoci", "unpack", "--rootless", "--image", f"{layout}:x", str(bundle)]
        if subprocess.run(command, capture_output=True).returncode:
            continue
        real = {}
        for here, below, found in os.walk(bundle / "rootfs"):
            for name in (*below, *found):
                path = Path(here, name)
                shown = f"/{path.relative_to(bundle / 'rootfs')}"
                real[shown] = (
                    "directory"
                    if path.is_dir() and not path.is_symlink()
                    else ("symlink" if path.is_symlink() else path.read_text())
                )
        tree = Stack(tmp_path, *blobs[::-1]).tree
        ours = {}
        todo = ["/"]
        while todo:
            top = todo.pop()
            for name, kind in tree.list(top):
                shown = f"{top.rstrip('/')}/{name}"
                ours[shown] = tree.text(shown, 9) if kind == "file" else kind
                if kind == "directory":
                    todo.append(shown)
        assert ours == real
    assert run == 12


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "/proc/1/root"])
def test_links_never_lead_out(tmp_path: Path, target: str) -> None:
    stack = Stack(tmp_path, tar(link("etc/link", target), link("up", "../..")))
    assert stack.tree.find("/etc/link") is None
    assert stack.tree.find("/up/etc/passwd") is None
    assert stack.warnings == []


def test_names_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(OUTSIDE)
    stack = Stack(
        tmp_path,
        tar(
            File("../out", b"x"),
            File("a/../../out", b"x"),
            File("/absolute", b"inside"),
            File("//./also", b"inside"),
            File("hard", type=b"1", link=str(tmp_path / "secret")),
            File("hard2", type=b"1", link="../secret"),
            File("dirlink", type=b"1", link="/"),
            link("to", "/"),
            File("to/below", b"x"),
            File("x\x1b[31m\n", b"x"),
            File(b"\xff\xfe", b"x"),
            File("", b"x"),
            File(".", b"x"),
        ),
    )
    files = stack.files()
    assert files == {
        "/absolute": b"inside",
        "/also": b"inside",
        "/x\x1b[31m\n": b"x",
        "/\udcff\udcfe": b"x",
    }
    text = "\n".join(stack.warnings)
    assert "impossible name ../out" in text
    assert "hard link" in text
    assert "puts to/below below what is no directory" in text


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    stack = Stack(
        tmp_path,
        tar(
            File("a", b"old"),
            File("a", b"new"),
            File("d/x", b"1"),
            File("d", b"file"),
            directory("d"),
            File("e", b"file"),
            directory("e"),
            File("e/x", b"1"),
        ),
    )
    assert stack.files() == {"/a": b"new", "/e/x": b"1"}
    assert stack.tree.list("/d") == []


BOMB = 256 << 20


def test_bombs_are_counted(tmp_path: Path) -> None:
    """256 MB of nothing, in 256 kB."""
    packer = __import__("zlib").compressobj(9, wbits=31)
    data = packer.compress(header(File("bomb", size=BOMB)))
    data += b"".join(packer.compress(bytes(1 << 20)) for _ in range(BOMB >> 20)) + packer.flush()
    stack = Stack(tmp_path, data, budget=Budget(50 << 20, 10**6, 60.0, deep=True))
    assert stack.files() == {"/bomb": b""} or stack.files() == {}
    assert "was read in part only" in stack.warnings[0]


def test_millions_of_members_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarlayer, "MAX_ENTRIES", 60_000)
    data = gzip.compress(
        b"".join(header(File(f"some/directory/or/other/file{n}")) for n in range(70_000)), 1
    )
    tracemalloc.start()
    try:
        stack = Stack(tmp_path, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - len(data) < 0.3 * (64 << 20)  # as 0.3 is of 200,000
    assert "too many files" in stack.warnings[0]
    assert stack.tree.find("/some/directory/or/other/file59000") is not None


def test_names_of_parents_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarlayer, "MAX_ENTRIES", 5000)
    deep = "a/" * 1900
    stack = Stack(
        tmp_path, tar(*(m for n in range(9) for m in (pax(path=f"{n}/{deep}x"), File("x"))))
    )
    assert "too many files" in stack.warnings[0]


def test_quick_look_at_many_members(tmp_path: Path) -> None:
    data = tar(*(File(f"f{n}") for n in range(tarlayer.MAX_QUICK + 1)))
    stack = Stack(tmp_path, data, budget=quick_budget())
    assert stack.found is None
    assert "was read in part only" in stack.warnings[0]


def test_what_is_below_a_damaged_layer_is_not_shown(tmp_path: Path) -> None:
    upper = tar(File("a", b"1"), File("b", b"2" * 600), end=b"")[:-600]
    lower = tar(File("c", b"3"))
    for pack in (gzip.compress, bytes):
        stack = Stack(tmp_path, pack(upper), lower)
        assert stack.tree.text("/a", 9) == "1"
        assert stack.tree.find("/c") is None
        assert "ends inside" in stack.warnings[0]
    assert Stack(tmp_path, upper, lower, budget=quick_budget()).found is None


def test_missing_and_unknown_layers(tmp_path: Path) -> None:
    warnings = Warnings()
    assert open_stack([Part("layer 1", "", None)], warnings, deep_budget()) is None
    assert warnings == ["layer 1 is not in the image: it and what is below are not looked into"]
    stack = Stack(tmp_path, bz2.compress(tar()))
    assert stack.found is None
    assert "of an unknown kind" in stack.warnings[0]


def test_empty_layers(tmp_path: Path) -> None:
    stack = Stack(tmp_path, tar(), b"", gzip.compress(tar()), tar(File("a", b"1")))
    assert stack.files() == {"/a": b"1"}


def extension(size: int, kind: bytes = b"x", data: bytes = b"") -> bytes:
    return header(File("x", size=size, type=kind)) + data


@pytest.mark.parametrize(
    "data",
    [
        extension(1 << 30),
        extension(1 << 30, b"L"),
        extension(1 << 59),
        header(File("a", size=1 << 59)),
        header(File("a", size=1 << 70)),
        header(File("a", b"", b"S")) [:482] + b"\1" + bytes(29),
        extension(0, b"g") * 100,
        tar(pax(size="9" * 400), File("a")),
        tar(pax(size="-1"), File("a")),
        tar(pax(size=str(1 << 59)), File("a")),
        tar(File("x", b"99999999999999999999 path=x\n", b"x"), File("a")),
        tar(File("x", b"0 path=x\n", b"x"), File("a")),
        tar(File("x", b"path", b"x"), File("a")),
        tar(File("x", b"", b"L")),
        tar(File("x", b"a\0b", b"L"), File("a")),
        header(File("a"))[:-1],
        header(File("a", b"x" * 5, magic=b"ustar  \0"))[:511] + b"!",
        b"\xff" * 5120,
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_headers_that_hurt(tmp_path: Path, data: bytes, pack: Any) -> None:
    tracemalloc.start()
    try:
        stack = Stack(tmp_path, pack(data))
        if stack.found is not None:
            stack.files()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_sparse_headers_without_end(tmp_path: Path) -> None:
    head = bytearray(header(File("a", type=b"S")))
    head[482] = 1
    total = sum(head) - sum(head[148:156]) + 256
    head[148:156] = b"%06o\0 " % total
    more = bytes(504) + b"\1" + bytes(7)
    for pack in (gzip.compress, bytes):
        stack = Stack(tmp_path, pack(bytes(head) + more * 20_000))
        assert "a sparse file of more than 4096 headers" in stack.warnings[0]
        stack = Stack(tmp_path, pack(bytes(head) + more * 2000))
        assert "ends inside a header" in stack.warnings[0]
        assert not stack.tree.whole


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_truncated_and_flipped(tmp_path: Path, pack: Any) -> None:
    whole = pack(tar(File("a", os.urandom(3000)), File("b", b"x" * 9000), link("c", "a")))
    chance = random.Random(3)  # noqa: S311
    for length in (*range(40), *range(40, len(whole), 61)):
        stack = Stack(tmp_path, whole[:length])
        assert stack.found is None or stack.warnings
    for _ in range(200):
        data = bytearray(whole)
        data[chance.randrange(len(data))] = chance.randrange(256)
        stack = Stack(tmp_path, bytes(data))
        if stack.found is not None:
            stack.files()


def test_flipped_tar(tmp_path: Path) -> None:
    whole = tar(pax(path="p"), File("a", b"x" * 700), link("c", "a"), directory("d"), File("d/e"))
    chance = random.Random(5)  # noqa: S311
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(3):
            at = 512 * chance.randrange(len(data) // 512) + chance.randrange(0, 512)
            data[at] = chance.choice((0, 0x31, 0x80, 0xFF, chance.randrange(256)))
        block = bytes(data[:512])
        data[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
        stack = Stack(tmp_path, bytes(data))
        if stack.found is not None:
            stack.files()


def test_zstd_that_needs_too_much_memory(tmp_path: Path) -> None:
    data = zstd(tar(File("a", os.urandom(3 << 20))), "--long=30", "--no-content-size")
    stack = Stack(tmp_path, data)
    assert stack.files() == {}
    assert "needs too much memory" in stack.warnings[0]
    assert Stack(tmp_path, zstd(tar(File("a", b"x")), "-19")).files() == {"/a": b"x"}


def test_without_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise unpack.UnpackError("is packed with zstd, which is not read here")

    monkeypatch.setattr(unpack, "_zstd", none)
    stack = Stack(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(600))
    assert stack.found is None
    assert "packed with zstd" in stack.warnings[0]


@pytest.mark.parametrize("packed", [gzip.compress(b""), b"stored"], ids=["members", "blocks"])
def test_gzip_that_unpacks_to_nothing(tmp_path: Path, packed: bytes) -> None:
    """Nothing of it counts as unpacked, but the time does."""
    if packed == b"stored":
        data = b"\x1f\x8b\x08" + bytes(6) + b"\xff" + b"\0\0\0\xff\xff" * 400_000
    else:
        data = packed * 100_000
    stack = Stack(tmp_path, data, budget=Budget(1 << 30, 10, 60.0, deep=True))
    assert "was read in part only: too many" in stack.warnings[0]
    assert stack.budget.operations < 0


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarlayer, "MAX_SPOOL", 2000)
    stack = Stack(tmp_path, gzip.compress(tar(File("a", b"x" * 1500), File("b", b"y" * 1500))))
    assert stack.files() == {"/a": b"x" * 1500, "/b": b""}
    assert "could be put aside" in stack.warnings[0]
    assert not stack.tree.whole


def test_disk_that_gets_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There was room when it began."""
    real, calls = os.pwrite, []

    def pwrite(fd: int, data: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    files = tar(File("a", b"x" * 1500), File("b", b"y"), File("c", b"z"))
    stack = Stack(tmp_path, gzip.compress(files))
    assert stack.files() == {"/a": b"x" * 1500, "/b": b"", "/c": b""}
    assert len(calls) == 2
    assert stack.warnings[0] == (
        "files of packed layers could not be put aside: No space left on device"
    )
    assert not stack.tree.whole


def test_no_room_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "")

    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    stack = Stack(tmp_path, gzip.compress(tar(File("a", b"x"))))
    assert stack.files() == {"/a": b""}
    start = "files of packed layers could not be put aside: no temporary file can be made in /"
    assert stack.warnings[0].startswith(start)
    assert stack.warnings[0].endswith(": Read-only file system")
    assert not stack.tree.whole


def test_databases_of_packages_are_put_aside_whole(tmp_path: Path) -> None:
    data = b"SQLite format 3\0" + os.urandom(2 << 20)
    names = (
        "./var/lib/rpm/rpmdb.sqlite",
        "usr/lib/sysimage/rpm/rpmdb.sqlite",
        "opt/spack/.spack-db/index.json",
        "opt/spack/env/spack.lock",
    )
    other = ("usr/lib/sysimage/rpm/Packages.db", "opt/index.json", "spack.lock.old")
    stack = Stack(tmp_path, gzip.compress(tar(*(File(n, data) for n in (*names, *other)))))
    for name in names:
        assert stack.tree.read(stack.tree.find(name)) == data
    assert stack.warnings == []
    for name in other:
        assert stack.tree.read(stack.tree.find(name)) == data[: tarlayer.MAX_HEAD]
    assert stack.tree.whole


def test_large_databases_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarlayer, "MAX_TABLE", 1 << 20)
    monkeypatch.setattr(tarlayer, "MAX_SPACK", 2 << 20)
    monkeypatch.setattr(tarlayer, "MAX_RPM", 3 << 20)
    data = os.urandom((2 << 20) + 1)
    names = ("var/lib/rpm/rpmdb.sqlite", "spack.lock", "etc/x")
    stack = Stack(tmp_path, gzip.compress(tar(*(File(name, data) for name in names))))
    kept = [len(stack.tree.read(stack.tree.find(name))) for name in names]
    assert kept == [len(data), tarlayer.MAX_HEAD, tarlayer.MAX_HEAD]


def reads_of(path: Path, monkeypatch: pytest.MonkeyPatch, *files: File) -> int:
    """Return how many reads it took to open an archive of `files`."""
    counted = []
    real = Reader._pread

    def pread(reader: Reader, offset: int, size: int) -> bytes:
        counted.append(size)
        return real(reader, offset, size)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_pread", pread)
        stack = Stack(path, tar(*files), budget=quick_budget())
    assert stack.warnings == []
    assert max(counted) <= 1 << 16
    for file in files[:: len(files) // 10]:
        assert stack.tree.read(stack.tree.find(str(file.name))) == file.data
    return len(counted)


def test_headers_near_each_other_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [File(f"small{n}", b"%d" % n * 100) for n in range(1000)]
    assert reads_of(tmp_path, monkeypatch, *small) < 30
    large = [File(f"large{n}", b"%d" % n * 100_000) for n in range(20)]
    assert reads_of(tmp_path, monkeypatch, *large) < 50


def test_time_ends_a_quick_look(tmp_path: Path) -> None:
    budget = Budget(1 << 30, 10**6, 0.02)
    stack = Stack(tmp_path, tar(*(File(f"f{n}") for n in range(14_000))), budget=budget)
    assert stack.found is None
    assert stack.warnings == [
        "layer 1 was read in part only: reading took more than 0.02 s",
        "not all layers can be read: what is in the others is looked into by --deep only",
    ]


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(tar(File("a/../b")), id="name"),
        pytest.param(tar(File("a"), File("a/b")), id="way"),
        pytest.param(tar(File("b", type=b"1", link="missing")), id="link"),
        pytest.param(tar(pax(path="d/" * 70 + "x"), File("x")), id="deep"),
        pytest.param(tar(File("s", b"x" * 9, b"S")), id="sparse"),
        pytest.param(tar(File("b", b"x" * 600), end=b"")[:-600], id="cut"),
        pytest.param(bz2.compress(tar()), id="unknown"),
    ],
)
def test_what_is_lost_is_known(tmp_path: Path, layer: bytes) -> None:
    sound = tar(File("c", b"3"), directory("d"))
    for pack in (gzip.compress, bytes):
        stack = Stack(tmp_path, sound, pack(layer))
        stack.files()
        assert not stack.tree.whole
        assert stack.warnings
    stack = Stack(tmp_path, sound, gzip.compress(sound))
    assert stack.files() == {"/c": b"3"}
    assert stack.tree.whole


def test_names_that_do_not_fit_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarlayer, "MAX_ENTRIES", 10)
    stack = Stack(tmp_path, tar(*(File(f"f{n}") for n in range(20))))
    assert len(stack.files()) == 10
    assert not stack.tree.whole


def test_a_writable_overlay_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(tar(File("a", b"1")))
    place = Slice(Reader(str(path)), 0, path.stat().st_size)
    parts = [Part("layer 2", "x.ext3", place), Part("layer 1", "", place)]
    tree = open_stack(parts, Warnings(), deep_budget())
    assert tree is not None
    assert not tree.whole


def squashed(tmp_path: Path, name: str, *files: str) -> bytes:
    need("mksquashfs")
    need_libsquashfs()
    root = tmp_path / name
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(f"{name} {file}")
    return squash(root, tmp_path / f"{name}.squashfs", "-noI", "-noD", "-noF", "-noX")


def test_layers_of_squashfs_are_walked_whole(tmp_path: Path) -> None:
    """Looking up one name must not move the listing of its directory."""
    upper = [f"{d}/f{n}" for d in "abc" for n in range(7)] + ["top"]
    lower = [f"{d}/{n}" for d in "abcz" for n in ("f1", "g", "h/i")] + ["zz", "mid"]
    stack = Stack(
        tmp_path, squashed(tmp_path, "upper", *upper), squashed(tmp_path, "lower", *lower)
    )
    expected = {f"/{file}": f"lower {file}".encode() for file in lower}
    expected |= {f"/{file}": f"upper {file}".encode() for file in upper}
    assert stack.files() == expected
    assert stack.warnings == []
    assert stack.tree.whole


def test_a_directory_in_itself_ends(tmp_path: Path) -> None:
    """As in one squashfs: every entry of the lower root is made to point to the root's inode."""
    data = bytearray(squashed(tmp_path, "lower", *(f"{name}/file" for name in "abcdefgh")))
    (reference,) = struct.unpack_from("<Q", data, 32)
    (table,) = struct.unpack_from("<Q", data, 72)
    at = data.rindex(b"\x07\0\0\0", table, len(data)) + 12
    for _ in "abcdefgh":
        struct.pack_into("<H", data, at, reference & 0xFFFF)
        at += 8 + struct.unpack_from("<H", data, at + 6)[0] + 1
    upper = squashed(tmp_path, "upper", "a/b", "top")
    stack = Stack(tmp_path, upper, bytes(data), budget=Budget(1 << 30, 20_000, 60.0, deep=True))
    assert {"/a/b", "/top"} <= set(stack.files())
    assert "in more than one place" in stack.warnings[0]
    assert len(stack.warnings) == 1
    assert stack.budget.operations > 15_000
    assert not stack.tree.whole


def test_names_that_cannot_be_encoded(tmp_path: Path) -> None:
    """JSON may hold half of a pair of surrogates, a file system may not."""
    upper = squashed(tmp_path, "upper", "bin/sh")
    for blobs in ((upper,), (upper, upper), (tar(File("bin/sh")),)):
        stack = Stack(tmp_path, *blobs)
        for path in ("/bin/\ud800", "/\ud800/x", "\ud800"):
            assert stack.tree.find(path) is stack.tree.find(path, follow=False) is None
            assert stack.tree.list(path) == []
            assert list(stack.tree.walk(path)) == list(stack.tree.entries(path)) == []
        assert stack.warnings == []
        assert stack.tree.whole


def test_names_of_one_directory_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MAX_NAMES", 10)
    stack = Stack(tmp_path, tar(*(File(f"d/{n}") for n in range(20))))
    assert len(stack.tree.list("/d")) == 10
    assert "more than 10 names" in stack.warnings[0]


def test_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    spool = tmp_path / "spool"
    spool.mkdir()
    os.environ["TMPDIR"] = str(spool)
    try:
        stack = Stack(tmp_path, gzip.compress(tar(File("a", b"x"))))
        assert stack.files() == {"/a": b"x"}
        assert os.listdir(spool) == []
    finally:
        del os.environ["TMPDIR"]
    del stack
    assert set(os.listdir("/proc/self/fd")) == before
