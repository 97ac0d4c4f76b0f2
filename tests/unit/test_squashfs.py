"""The files in a squashfs: read as mksquashfs packed them, and harmless when they are damaged."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from sif_files import EMPTY_SQUASHFS, build, need_tools, partition, raw_json, run

from slurm_cmeta import evidence
from slurm_cmeta.image import filetree, libsquashfs_abi, libsquashfs_build, open_image, squashfs
from slurm_cmeta.image.content import Warnings
from slurm_cmeta.image.filetree import Budget, FileTree, deep_budget, quick_budget
from slurm_cmeta.image.reader import Reader

ROOT = Path(__file__).parents[2]
COMPRESSORS = ("gzip", "xz", "zstd", "lz4", "lzo")
LARGE = random.Random(7).randbytes(700_000)  # noqa: S311


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all that a path can meet."""
    need_tools()
    top = tmp_path_factory.mktemp("squashfs") / "tree"
    for directory in ("usr/bin", "etc", "many", "deep" + "/d" * 80, "empty"):
        (top / directory).mkdir(parents=True)
    (top / "bin").symlink_to("usr/bin")
    (top / "usr/bin/real").write_bytes(b"\x7fELF" + b"x" * 5000)
    (top / "usr/bin/real").chmod(0o755)
    (top / "usr/bin/sh").symlink_to("/bin/real")
    (top / "etc/up").symlink_to("../../../../usr/bin/real")
    (top / "etc/hi").write_text("hi\n")
    (top / "etc/nothing").touch()
    (top / "large").write_bytes(LARGE)
    with (top / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    (top / "loop").symlink_to("loop")
    (top / "here").symlink_to("here/../there")
    (top / "there").symlink_to("there/../here")
    os.mkfifo(top / "fifo")
    for number in range(3000):
        (top / "many" / f"n{number:04}").touch()
    name = os.fsencode(top) + b"/etc/\xff\xfe"
    with open(name, "wb") as odd:
        odd.write(b"odd")
    return top


def packed(tree: Path, target: Path, *options: str) -> Path:
    run("mksquashfs", tree, target, "-noappend", "-quiet", "-no-progress", *options)
    return target


def opened(path: Path, budget: Budget | None = None) -> tuple[FileTree | None, Warnings]:
    warnings = Warnings()
    reader = Reader(str(path))
    found = squashfs.open_squashfs(
        reader, 0, reader.size, "the squashfs", warnings, budget or quick_budget()
    )
    return found, warnings


def sound(path: Path, budget: Budget | None = None) -> tuple[FileTree, Warnings]:
    found, warnings = opened(path, budget)
    assert found is not None, warnings
    return found, warnings


@pytest.mark.parametrize(
    "options",
    [
        *(("-comp", compressor) for compressor in COMPRESSORS),
        ("-comp", "xz", "-Xbcj", "x86"),
        ("-b", "1M"),
        ("-b", "4K", "-no-fragments"),
        ("-always-use-fragments",),
        ("-noI", "-noD", "-noF", "-noX"),
        ("-no-xattrs", "-no-exports"),
    ],
    ids=" ".join,
)
def test_files_are_those_that_were_packed(
    tree: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    files, warnings = sound(packed(tree, tmp_path / "x.squashfs", *options))
    for path in ("usr/bin/real", "etc/hi", "etc/nothing", "large", "sparse"):
        entry = files.find(path)
        assert entry is not None
        data = (tree / path).read_bytes()
        assert (entry.path, entry.size) == (f"/{path}", len(data))
        assert files.read(entry) == data
        assert files.read(entry, 1000, 70) == data[1000:1070]
    large = files.find("/large")
    assert files.read(large, 699_990, 100) == LARGE[699_990:]
    assert files.read(large, 700_000) == b""
    assert files.read(large, -1) == b""
    assert warnings == []


def test_links_stay_inside(tree: Path, tmp_path: Path) -> None:
    files, warnings = sound(packed(tree, tmp_path / "x.squashfs"))
    for path in ("/bin/sh", "/usr/bin/sh", "etc/up", "/../../etc/../bin//./real", "/etc/up"):
        entry = files.find(path)
        assert entry is not None
        assert (entry.path, entry.mode) == ("/usr/bin/real", 0o755)
    link = files.find("/bin/sh", follow=False)
    assert link is not None
    assert (link.kind, link.path) == ("symlink", "/usr/bin/sh")
    for path in (
        "/loop",
        "/here",
        "/etc/hi/x",
        "/none",
        "/none/x",
        "/etc/nothing/..",
        "\0",
        "x" * 5000,
    ):
        assert files.find(path) is None
    fifo = files.find("/fifo")
    assert fifo is not None
    assert fifo.kind == "other"
    assert files.read(fifo) == files.read(None) == files.read(files.find("/etc")) == b""
    assert warnings == []


def test_lists_and_walks(tree: Path, tmp_path: Path) -> None:
    files, warnings = sound(packed(tree, tmp_path / "x.squashfs"))
    assert dict(files.list("/etc")) == {
        "hi": "file",
        "nothing": "file",
        "up": "symlink",
        "\udcff\udcfe": "file",
    }
    assert len(files.list("/many")) == 3000
    assert files.list("/none") == files.list("/etc/hi") == files.list("/empty") == []
    assert warnings == []
    assert len(files.list("/many", 10)) == 10
    assert warnings == [
        "/many in the squashfs holds more than 10 names: the others are not looked at"
    ]
    found = {entry.path: entry.size for entry in files.walk("/", frozenset(("/many",)))}
    assert found == {
        "/etc/hi": 3,
        "/etc/nothing": 0,
        "/etc/\udcff\udcfe": 3,
        "/large": 700_000,
        "/sparse": 3_000_003,
        "/usr/bin/real": 5004,
    }
    assert "more than 64 deep" in warnings[-1]
    assert [entry.path for entry in files.walk("/etc/hi")] == ["/etc/hi"]
    assert list(files.walk("/none")) == []


def test_the_budget_ends_it_with_one_warning(tree: Path, tmp_path: Path) -> None:
    path = packed(tree, tmp_path / "x.squashfs")
    for budget, reason in (
        (Budget(100_000, 1000, 60.0), "too much would have to be read"),
        (Budget(1 << 30, 40, 60.0), "too many files would have to be looked at"),
    ):
        files, warnings = sound(path, budget)
        walked = [files.read(entry, 0, 9000) for entry in files.walk()]
        assert len(walked) < 3000
        assert files.find("/usr/bin/sh") is None
        assert warnings == [f"the squashfs was read in part only: {reason}"]
    files, warnings = sound(path, Budget(1 << 30, 1 << 30, 60.0))
    files.budget.deadline = 0
    assert files.find("/etc/hi") is None
    assert warnings == ["the squashfs was read in part only: reading took more than 60 s"]


def test_progress_is_told(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filetree, "PROGRESS_SECONDS", 0.0)
    budget = quick_budget()
    told: list[tuple[float, int]] = []
    budget.progress = lambda seconds, left: told.append((seconds, left))
    files, _ = sound(packed(tree, tmp_path / "x.squashfs"), budget)
    files.find("/etc/hi")
    assert told
    assert told[-1][1] < told[0][1] <= 20_000


def test_reading_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """The same look-ups take the same number of steps beside 5,000 other files."""
    need_tools()
    spent = []
    for files in (0, 5000):
        top = tmp_path / f"tree{files}"
        (top / "usr/bin").mkdir(parents=True)
        (top / "usr/bin/real").write_bytes(b"x" * 5000)
        (top / "data").mkdir()
        for number in range(files):
            (top / "data" / f"{number}").write_text(str(number))
        budget = quick_budget()
        found, _ = sound(packed(top, tmp_path / f"{files}.squashfs"), budget)
        assert found.read(found.find("/usr/bin/real"))
        spent.append((20_000 - budget.operations, (64 << 20) - budget.bytes))
    assert spent[1][0] <= spent[0][0] + 4
    assert spent[1][1] <= spent[0][1] + 40_000


def test_the_callbacks_let_go_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(build(partition()))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        image = open_image(str(path))
        assert image.tree() is not None
        del image
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_partition_beyond_its_own_is_read(tmp_path: Path) -> None:
    """A squashfs that points behind its end meets the end, not the next object of the SIF."""
    data = bytearray(EMPTY_SQUASHFS[:155])
    struct.pack_into("<Q", data, 32, 4096 << 16)  # the root's inode, 4 KiB further on
    path = tmp_path / "img.sif"
    path.write_bytes(build(partition(data=bytes(data)), partition(kind=3)))
    with open_image(str(path)) as image:
        assert image.tree() is None
        assert "partition 1 has no root directory: it points outside of itself" in image.warnings[0]


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"nope", "no squashfs"),
        (12, struct.pack("<I", 12345), "block size"),
        (20, struct.pack("<H", 77), ""),
        (28, struct.pack("<HH", 3, 0), "another version"),
        (32, b"\xff" * 8, ""),
        (64, b"\xff" * 8, ""),
        (72, b"\xff" * 8, ""),
    ],
)
def test_a_broken_superblock_is_a_warning(
    tmp_path: Path, offset: int, value: bytes, reason: str
) -> None:
    data = bytearray(EMPTY_SQUASHFS)
    data[offset : offset + len(value)] = value
    path = tmp_path / "x.squashfs"
    path.write_bytes(data)
    found, warnings = opened(path)
    if found is None:
        assert len(warnings) == 1
        assert warnings[0].startswith("the squashfs ")
        assert warnings[0].endswith(": only header and metadata were looked at")
        assert reason in warnings[0]
    else:
        assert found.find("/etc") is None


def test_a_directory_in_itself_ends(tmp_path: Path) -> None:
    """Every directory entry is made to point to the root's inode."""
    need_tools()
    top = tmp_path / "tree"
    for name in "abcdefgh":
        (top / name).mkdir(parents=True)
        (top / name / "file").touch()
    data = bytearray(
        packed(
            top, tmp_path / "x.squashfs", "-noI", "-noD", "-noF", "-noX", "-no-fragments"
        ).read_bytes()
    )
    (reference,) = struct.unpack_from("<Q", data, 32)
    (table,) = struct.unpack_from("<Q", data, 72)
    # The root's listing is the last in the one metadata block: header, then an entry a name.
    at = data.index(b"a", table + 2)
    at = data.rindex(b"\x07\0\0\0", table, len(data)) + 12  # count - 1, start, inode number
    for _ in "abcdefgh":
        struct.pack_into("<H", data, at, reference & 0xFFFF)
        at += 8 + struct.unpack_from("<H", data, at + 6)[0] + 1
    path = tmp_path / "cyclic"
    path.write_bytes(data)
    files, warnings = sound(path)
    assert list(files.walk()) == []
    assert warnings == ["the squashfs has a directory in more than one place"]
    assert files.find("/a/b/c/d/e/f/g/h/a") is not None


def test_long_lists_of_blocks_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file is nothing but its list of blocks, of 1 MiB for 1 GiB."""
    need_tools()
    monkeypatch.setattr(squashfs, "MAX_LISTS", 2 << 20)
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(12):
        with (top / f"f{number:02}").open("wb") as file:
            file.write(b"%02d" % number * 3000)
            file.truncate(1 << 30)
        (top / f"s{number:02}").write_bytes(b"s")
    files, warnings = sound(packed(top, tmp_path / "x.squashfs", "-b", "4K"), deep_budget())
    before = anonymous()
    entries = list(files.walk())
    entries += files.entries("/")
    entries += [e for n in range(12) if (e := files.find(f"/f{n:02}")) is not None]
    assert len(entries) == 24 + 24 + 12
    assert anonymous() - before < 6 << 20
    for _ in range(2):
        for number, entry in enumerate(entries[-12:]):
            assert files.read(entry, 5990, 20) == (b"%02d" % number * 5).ljust(20, b"\0")
            assert files.read(entry, 4, 4) == b"%02d" % number * 2
    assert anonymous() - before < 8 << 20
    assert warnings == []
    assert files.whole


def anonymous() -> int:
    """Return the bytes of memory of this process that are no file's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def test_listings_that_take_turns(tree: Path, tmp_path: Path) -> None:
    files, warnings = sound(packed(tree, tmp_path / "x.squashfs"))
    root, many = files.find("/"), files.find("/many")
    assert root is not None
    assert many is not None
    both = zip(files._names(many), files._names(many), files._names(root), strict=False)
    for (one, _), (other, _), (top, _) in both:
        assert one == other
        assert files._child(root, top) is not None
        assert files._child(many, one) is not None
    assert sorted(name for name, _ in files._names(many)) == sorted(os.listdir(tree / "many"))
    assert len(files.entries("/many")) == 3000
    assert [e.kind for e in files.entries("/etc")] == ["file"] * 3
    assert warnings == []


def test_half_a_surrogate_in_a_runscript(tmp_path: Path) -> None:
    need_tools()
    (tmp_path / "tree/bin").mkdir(parents=True)
    data = packed(tmp_path / "tree", tmp_path / "x.squashfs").read_bytes()
    script = b'"#!/bin/sh\\nexec /bin/\\ud800\\n"'
    json = b'{"data":{"attributes":{"runscript":' + script + b'}},"type":"container"}'
    path = tmp_path / "img.sif"
    path.write_bytes(build(raw_json(json), partition(data=data)))
    with open_image(str(path)) as image:
        evidence.read(image)


@pytest.mark.parametrize("options", [("-comp", "gzip"), ("-comp", "zstd", "-noI", "-noF", "-noD")])
def test_mutations(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Nothing is raised, nothing hangs, whatever bytes are changed. `make fuzz` does more."""
    need_tools()
    top = tmp_path / "tree"
    (top / "usr/bin").mkdir(parents=True)
    (top / "bin").symlink_to("usr/bin")
    for number in range(20):
        (top / f"usr/bin/{number}").write_bytes(bytes(range(256)) * number)
    data = packed(top, tmp_path / "x.squashfs", "-b", "4K", *options).read_bytes()
    chance = random.Random(0)  # noqa: S311
    path = tmp_path / "mutated"
    for _ in range(400):
        mutated = bytearray(data)
        for _ in range(chance.randrange(1, 5)):
            place = chance.choice((chance.randrange(96), chance.randrange(len(data))))
            size = chance.choice((1, 2, 4, 8))
            extreme = chance.choice((0, 1, 2 ** (8 * size) - 1, chance.getrandbits(8 * size)))
            mutated[place : place + size] = extreme.to_bytes(size, "little")
        path.write_bytes(mutated[: chance.choice((len(data), chance.randrange(len(data))))])
        found, _ = opened(path, Budget(64 << 20, 20_000, 5.0))
        if found is not None:
            for entry in found.walk():
                found.read(entry, 0, 5000)
            found.read(found.find("/bin/7"))


def without(module: str) -> str:
    """Return a program that opens an image in a Python in which `module` cannot be had."""
    return (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{module}\n"
        "from slurm_cmeta.submission import read_image\nfrom slurm_cmeta import config\n"
        "report = read_image(sys.argv[1], config.defaults())\n"
        "print([r.value for r in report.requirements], *report.warnings, sep='\\n')\n"
    )


@pytest.mark.parametrize(
    ("hide", "named"),
    [
        ("sys.modules['_cffi_backend'] = None", "cffi is not installed"),
        (
            "import slurm_cmeta.image.squashfs as s; s.LIBRARY = 'libnone.so.1'",
            "libnone.so.1 is not installed",
        ),
    ],
)
def test_without_the_library_the_metadata_still_serves(
    tmp_path: Path, hide: str, named: str
) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(build(partition(b"04"), arch=b"04"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", without(hide), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    first, *warnings = done.stdout.splitlines()
    assert first == "['aarch64']"
    assert len(warnings) == 1
    assert named in warnings[0]
    assert "Debian: libsquashfs1 and python3-cffi-backend" in warnings[0]
    assert warnings[0].endswith("only header and metadata were looked at")


def test_the_generated_module_is_what_the_declarations_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "libsquashfs_build.py"
    shutil.copy(libsquashfs_build.__file__, copy)
    monkeypatch.setattr(libsquashfs_build, "__file__", str(copy))
    libsquashfs_build.main()
    written = (tmp_path / "libsquashfs_abi.py").read_text()
    assert written == Path(libsquashfs_abi.__file__).read_text()


def test_the_structures_have_the_sizes_of_the_headers(tmp_path: Path) -> None:
    """cffi lays them out by itself; gcc and the library's own headers have to agree."""
    program = tmp_path / "sizes.c"
    program.write_text(
        "#include <stdio.h>\n#include <stddef.h>\n#include <sqfs/inode.h>\n#include <sqfs/dir.h>\n"
        "#include <sqfs/io.h>\n#include <sqfs/compressor.h>\n#include <sqfs/super.h>\n"
        'int main(void){printf("%zu %zu %zu %zu %zu %zu %zu\\n", sizeof(sqfs_inode_generic_t),'
        "offsetof(sqfs_inode_generic_t, extra), sizeof(sqfs_dir_entry_t), sizeof(sqfs_file_t),"
        "sizeof(sqfs_compressor_t), sizeof(sqfs_compressor_config_t), sizeof(sqfs_super_t));}\n"
    )
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("gcc is not installed")
    built = subprocess.run(
        [gcc, str(program), "-o", str(tmp_path / "sizes")], capture_output=True, text=True
    )
    if built.returncode:
        pytest.skip("sqfs/*.h are not installed (Debian: libsquashfs-dev)")
    ffi = libsquashfs_abi.ffi
    inode = ffi.typeof("sqfs_inode_generic_t")
    sizes = [ffi.sizeof(inode), ffi.offsetof(inode, "extra")]
    sizes += [
        ffi.sizeof(name)
        for name in (
            *("sqfs_dir_entry_t", "sqfs_file_t", "sqfs_compressor_t"),
            *("sqfs_compressor_config_t", "sqfs_super_t"),
        )
    ]
    assert run(tmp_path / "sizes").split() == list(map(str, sizes))
