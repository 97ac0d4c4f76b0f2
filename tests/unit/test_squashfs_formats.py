"""A squashfs that is an image by itself: enroot's, and Singularity's before 3.0."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
from oci_files import need, need_libsquashfs, squash

from slurm_cmeta import evidence
from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import Run, open_image

LAUNCH = b"#!/usr/bin/env run-singularity\n"
RC = """\
# cpu.target zen3
# maintainer Somebody <s@localhost>
# empty 

mkdir -p "/" 2> /dev/null
cd "/" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec 'sh' "$@"
fi
"""  # noqa: W291 - as enroot writes it


@pytest.fixture
def root(tmp_path: Path) -> Path:
    need("mksquashfs")
    need_libsquashfs()
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "bin" / "sh").write_text("x")
    return root


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(str(path))
    assert str(caught.value).isprintable()
    return str(caught.value)[len(f"{path}: ") :]


def test_enroot(tmp_path: Path, root: Path) -> None:
    (root / "etc" / "rc").write_text(RC)
    (root / "etc" / "environment").write_text("PATH=/bin\nA=b=c\n# no\nnonsense\n")
    path = tmp_path / "image.sif"
    squash(root, path)
    with open_image(str(path)) as image:
        assert image.format == "squashfs"
        assert image.content.filesystem == "squashfs"
        assert image.labels() == {
            "cpu.target": "zen3",
            "maintainer": "Somebody <s@localhost>",
            "empty": "",
        }
        assert image.environment() == {"PATH": "/bin", "A": "b=c"}
        assert image.run() == Run(RC)
        facts = {fact.key: fact for fact in evidence.read(image).facts}
        assert facts["filesystem"][1:3] == ("squashfs", "squashfs superblock")


def test_rc_of_somebody_else(tmp_path: Path, root: Path) -> None:
    (root / "etc" / "rc").write_text("# /etc/rc of some BSD\n")
    path = tmp_path / "image"
    squash(root, path)
    with open_image(str(path)) as image:
        assert image.labels() == {}
        assert image.run() == Run()


def test_singularity_2(tmp_path: Path, root: Path) -> None:
    hidden = root / ".singularity.d"
    (hidden / "env").mkdir(parents=True)
    (hidden / "labels.json").write_text('{"cpu.target": "zen3", "n": 1}')
    (hidden / "runscript").write_text("exec /bin/sh")
    path = tmp_path / "image.simg"
    path.write_bytes(LAUNCH + squash(root, tmp_path / "root.sq"))
    with open_image(str(path)) as image:
        assert image.format == "squashfs"
        assert image.labels() == {"cpu.target": "zen3"}
        assert image.run() == Run("exec /bin/sh")
        tree = image.tree()
        assert tree is not None
        assert tree.text("/bin/sh", 9) == "x"


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (28, struct.pack("<H", 3), "has squashfs version 3, only 4 is known"),
        (40, struct.pack("<Q", 1 << 40), "is truncated: its squashfs has 1099511627776 bytes"),
    ],
)
@pytest.mark.parametrize("launch", [b"", LAUNCH])
def test_superblocks_that_cannot_be(
    tmp_path: Path, offset: int, value: bytes, reason: str, launch: bytes
) -> None:
    block = bytearray(b"hsqs" + bytes(92) + bytes(4000))
    struct.pack_into("<HH", block, 28, 4, 0)
    block[offset : offset + len(value)] = value
    path = tmp_path / "image"
    path.write_bytes(launch + block)
    assert reason in refused(path)


def test_every_truncation_of_the_superblock(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "image"
    for launch in (b"", LAUNCH):
        path.write_bytes(launch + squash(root, tmp_path / "root.sq"))
        used = struct.unpack_from("<Q", path.read_bytes(), len(launch) + 40)[0] + len(launch)
        for length in (used - 1, *range(len(launch) + 97, -1, -1)):
            os.truncate(path, length)
            with pytest.raises(ImageError):
                open_image(str(path))


def test_without_the_library(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slurm_cmeta.image import squashfs

    path = tmp_path / "image"
    squash(root, path)
    monkeypatch.setattr(squashfs, "LIBRARY", "libmissing.so")
    monkeypatch.setattr(squashfs, "_loaded", [])
    with open_image(str(path)) as image:
        assert image.tree() is None
        assert image.labels() == {}
        assert "libmissing.so is not installed" in image.warnings[0]
        assert len(image.warnings) == 1


def test_flipped_bytes(tmp_path: Path, root: Path) -> None:
    """A result or an error of one line, whatever the bytes say."""
    (root / "etc" / "rc").write_text(RC)
    whole = squash(root, tmp_path / "root.sq")
    chance = random.Random(4)  # noqa: S311
    path = tmp_path / "image"
    used = struct.unpack_from("<Q", whole, 40)[0]
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice((chance.randrange(4, 96), chance.randrange(4, used)))
            data[at] = chance.choice((0, 255, chance.randrange(256)))
        path.write_bytes(data)
        try:
            with open_image(str(path)) as image:
                image.labels()
                tree = image.tree()
                if tree is not None:
                    for entry in tree.walk():
                        tree.read(entry, 0, 1 << 20)
                assert all(warning.isprintable() for warning in image.warnings)
        except ImageError as problem:
            message = str(problem)
            assert message.isprintable()
