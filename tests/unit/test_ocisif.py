"""OCI-SIFs, whose layers are file systems inside the file."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from oci_files import SQUASHFS, Store, need, need_libsquashfs, oci_sif, run, squash, tar
from sif_files import DESCRIPTOR_SIZE, TABLE, Part, partition, signature

from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import Image, open_image, sif
from slurm_cmeta.image.filetree import deep_budget
from slurm_cmeta.image.ocisif import OciSif


def opened(tmp_path: Path, data: bytes, *, deep: bool = False) -> Image:
    path = tmp_path / "image"
    path.write_bytes(data)
    return open_image(str(path), deep_budget() if deep else None)


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        opened(tmp_path, data)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture
def layers(tmp_path: Path) -> list[bytes]:
    """Return two squashfs layers: the upper one takes away a file of the lower, as overlayfs."""
    need("mksquashfs")
    need_libsquashfs()
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "bin").mkdir(parents=True)
    (lower / "etc").mkdir()
    (lower / "bin" / "sh").write_bytes(b"\x7fELF" + bytes(300_000))
    (lower / "etc" / "old").write_text("old")
    (lower / "etc" / "os-release").write_text("ID=debian\n")
    (lower / "etc" / "gone").write_text("gone")
    (lower / "link").symlink_to("/etc")
    (upper / "etc").mkdir(parents=True)
    (upper / "etc" / "new").write_text("new")
    (upper / "etc" / ".wh.gone").touch()
    return [
        squash(lower, tmp_path / "lower.sq"),
        squash(upper, tmp_path / "upper.sq", "-p", "/etc/old c 755 0 0 0 0"),
    ]


def test_layers_at_any_offset(tmp_path: Path, layers: list[bytes]) -> None:
    store = Store()
    made = store.image("arm64", *layers, layer_type=SQUASHFS, annotations={"org.x": "y"})
    with opened(tmp_path, oci_sif(store, store.index(made))) as image:
        assert image.format == "oci-sif"
        assert image.content.filesystem == "squashfs"
        assert image.labels() == {"org.x": "y"}
        assert any(stored.offset % 4096 for stored in image.content.objects)
        tree = image.tree()
        assert tree is not None
        assert tree.text("/link/new", 10) == "new"
        assert tree.text("/link/os-release", 10) == "ID=debian\n"
        assert len(tree.read(tree.find("/bin/sh"))) == 300_004
        assert tree.find("/etc/old") is None
        assert tree.find("/etc/gone") is None
        assert sorted(tree.list("/etc")) == [("new", "file"), ("os-release", "file")]
        assert image.warnings == []


def test_one_layer(tmp_path: Path, layers: list[bytes]) -> None:
    store = Store()
    made = store.image("arm64", layers[0], layer_type=SQUASHFS)
    with opened(tmp_path, oci_sif(store, store.index(made))) as image:
        tree = image.tree()
        assert tree is not None
        assert tree.text("/etc/gone", 10) == "gone"


def test_writable_overlay_on_top(tmp_path: Path, layers: list[bytes]) -> None:
    store = Store()
    made = store.image("arm64", layers[0], layer_type=SQUASHFS)
    manifest = json.loads(store.blobs[made["digest"]])
    overlay = store.add(bytes(5000), "application/vnd.sylabs.image.layer.v1.ext3")
    manifest["layers"].append(overlay)
    made = {**made, **store.add(manifest, made["mediaType"])}
    with opened(tmp_path, oci_sif(store, store.index(made))) as image:
        tree = image.tree()
        assert tree is not None
        assert tree.text("/etc/gone", 10) == "gone"
        assert "writable overlay" in image.warnings[0]


def test_damaged_upper_layer_hides_what_is_below(tmp_path: Path, layers: list[bytes]) -> None:
    store = Store()
    made = store.image("arm64", layers[0], b"hsqs" + bytes(5000), layer_type=SQUASHFS)
    with opened(tmp_path, oci_sif(store, store.index(made)), deep=True) as image:
        assert image.tree() is None
        assert "layer 2 of 2" in image.warnings[0]


def test_tar_layers(tmp_path: Path) -> None:
    import gzip

    from oci_files import File

    store = Store()
    made = store.image("arm64", gzip.compress(tar(File("bin/sh", b"x"))))
    data = oci_sif(store, store.index(made))
    with opened(tmp_path, data) as image:
        assert image.tree() is None
        assert image.content.filesystem == ""
    with opened(tmp_path, data, deep=True) as image:
        tree = image.tree()
        assert tree is not None
        assert tree.text("/bin/sh", 9) == "x"


def test_objects_that_siftool_wrote(tmp_path: Path, layers: list[bytes]) -> None:
    """The file is siftool's; only the types, which Debian's does not know, are changed after."""
    need("siftool")
    store = Store()
    made = store.image("arm64", *layers, layer_type=SQUASHFS, labels={"a": "b"})
    path = tmp_path / "image.sif"
    run("siftool", "new", path)
    blobs = [*store.blobs.items(), ("", json.dumps(store.index(made)).encode())]
    for _, blob in blobs:
        (tmp_path / "blob").write_bytes(blob)
        run("siftool", "add", "--datatype", "7", "--groupid", "1", path, tmp_path / "blob")
    data = bytearray(path.read_bytes())
    for number, (digest, _) in enumerate(blobs):
        at = TABLE + number * DESCRIPTOR_SIZE
        struct.pack_into("<i", data, at, 0x400B if digest else 0x400A)
        struct.pack_into("<128s", data, at + 201, digest.encode())
    with opened(tmp_path, bytes(data)) as image:
        assert image.format == "oci-sif"
        assert image.labels() == {"a": "b"}
        assert image.content.uuid != ""
        tree = image.tree()
        assert tree is not None
        assert tree.text("/etc/new", 10) == "new"
        assert image.warnings == []
    listed = run("siftool", "list", path)
    for stored in image.content.objects:
        assert f"{stored.offset}-{stored.offset + stored.size}" in listed


def test_header_and_signatures(tmp_path: Path) -> None:
    store = Store()
    made = store.image("arm64", config={"created": None})
    data = bytearray(oci_sif(store, store.index(made), signature()))
    struct.pack_into("<q", data, 64, 1_700_000_000)
    with opened(tmp_path, bytes(data)) as image:
        assert isinstance(image.content, OciSif)
        assert image.content.created == 1_700_000_000
        assert image.content.created_source == "OCI-SIF header"
        assert image.content.uuid == ""
        assert [signed.link for signed in image.content.signatures] == ["group 1"]
        assert [stored.kind for stored in image.content.objects] == [
            "oci-blob",
            "oci-blob",
            "oci-root-index",
            "signature",
        ]


def test_a_partition_makes_it_a_plain_sif(tmp_path: Path) -> None:
    store = Store()
    index = store.index(store.image("arm64"))
    with opened(tmp_path, oci_sif(store, index, partition(b"06"))) as image:
        assert isinstance(image.content, sif.Sif)
        assert image.content.architectures[0].name == "ppc64le"


def index_part(data: bytes = b"{}", **changed: Any) -> Part:
    return Part(0x400A, data)._replace(**changed)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (index_part(b""), "not valid JSON"),
        (index_part(b"[]"), "not a JSON object"),
        (index_part(b"{}"), "without an image in its index"),
        (index_part(b'{"manifests": {}}'), "without an image in its index"),
        (index_part(b"[" * 10_000), "nested too deeply"),
        (index_part(b'{"a":' + b" " * 1024**2 + b"1}"), "bytes, more than"),
        (index_part(offset=-1), "lies outside the file"),
        (index_part(size=2**62), "lies outside the file"),
    ],
)
def test_broken_root_index(tmp_path: Path, part: Part, reason: str) -> None:
    from sif_files import build

    assert reason in refused(tmp_path, build(part, arch=b"00", total=1))


def test_two_root_indexes(tmp_path: Path) -> None:
    store = Store()
    index = store.index(store.image("arm64"))
    message = refused(tmp_path, oci_sif(store, index, index_part()))
    assert "has 2 OCI root indexes (descriptors 3, 4)" in message


def test_blobs_outside_the_file(tmp_path: Path) -> None:
    store = Store()
    index = store.index(store.image("arm64", b"x" * 5000))
    data = bytearray(oci_sif(store, index))
    for number in range(3):
        changed = bytearray(data)
        struct.pack_into("<q", changed, TABLE + number * DESCRIPTOR_SIZE + 17, 1 << 40)
        if number == 2:
            assert "is not in the image" in refused(tmp_path, bytes(changed))
            continue
        with opened(tmp_path, bytes(changed), deep=True) as image:
            assert "lies outside the file" in image.warnings[0]
            assert image.tree() is None


def test_truncation_at_every_border(tmp_path: Path) -> None:
    store = Store()
    data = oci_sif(store, store.index(store.image("arm64", tar())))
    path = tmp_path / "image"
    borders = {TABLE + n * DESCRIPTOR_SIZE for n in range(5)}
    ends = [struct.unpack_from("<qq", data, TABLE + n * DESCRIPTOR_SIZE + 17) for n in range(4)]
    borders |= {offset + size for offset, size in ends} | {offset for offset, _ in ends}
    path.write_bytes(data)
    for length in sorted({b + d for b in borders for d in (-1, 0, 1)}, reverse=True):
        if 0 <= length < len(data):
            os.truncate(path, length)
            with pytest.raises(ImageError):
                open_image(str(path))
