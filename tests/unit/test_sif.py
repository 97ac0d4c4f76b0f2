"""What is read from sound SIF files: real ones first, then each header field on its own."""

from __future__ import annotations

import gc
import os
import struct
from pathlib import Path

import pytest
from sif_files import (
    ARCH,
    GROUP,
    UNUSED,
    Part,
    build,
    metadata,
    need_tools,
    partition,
    raw_json,
    real_sif,
    run,
    signature,
)

from slurm_cmeta import vocabulary
from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import Image, open_image, sif
from slurm_cmeta.image.reader import WINDOW

FINGERPRINT = "433FE984155206BD962725E20E8713472A879943"


@pytest.fixture
def real(tmp_path: Path) -> Path:
    need_tools()
    return real_sif(
        tmp_path / "img.sif",
        labels={"cpu.target": "zen3", "a": "from inspect"},
        oci_labels={"a": "from oci", "b": "from oci"},
        deffile="Bootstrap: docker\nFrom: debian:12\n",
    )


def opened(tmp_path: Path, data: bytes) -> Image:
    path = tmp_path / "img.sif"
    path.write_bytes(data)
    return open_image(str(path))


def content(image: Image) -> sif.Sif:
    assert isinstance(image.content, sif.Sif)
    return image.content


def test_real_file(real: Path) -> None:
    with open_image(str(real)) as image:
        held = content(image)
        assert image.format == "sif"
        assert [(s.name, s.source) for s in held.architectures] == [
            ("amd64", "SIF partition descriptor 4"),
            ("amd64", "SIF header"),
        ]
        assert held.filesystem == "squashfs"
        assert not held.encrypted
        assert [(o.number, o.kind, o.name, o.group) for o in held.objects] == [
            (1, "deffile", "deffile", 1),
            (2, "json", "inspect-metadata.json", 1),
            (3, "json", "oci-config.json", 1),
            (4, "partition", "root.sq", 1),
        ]
        assert held.signatures == ()
        assert held.deffile() == "Bootstrap: docker\nFrom: debian:12\n"
        assert image.labels() == {"cpu.target": "zen3", "a": "from inspect", "b": "from oci"}
        assert image.warnings == []
        info = real.stat()
        assert image.identity == (
            info.st_dev,
            info.st_ino,
            info.st_size,
            info.st_mtime_ns,
            info.st_ctime_ns,
        )


def test_real_file_agrees_with_siftool(real: Path) -> None:
    with open_image(str(real)) as image:
        held = content(image)
        shown = run("siftool", "header", real)
        assert held.uuid in shown
        assert held.header.created == held.created
        assert f"Descriptors Free:     {held.header.descriptors_free}\n" in shown
        assert f"Data Offset:          {held.header.data_offset}\n" in shown
        listed = run("siftool", "list", real)
        for stored in held.objects:
            assert f"{stored.offset}-{stored.offset + stored.size}" in listed


@pytest.mark.parametrize("arch", sorted(ARCH))
def test_real_file_of_each_architecture(tmp_path: Path, arch: str) -> None:
    need_tools()
    with open_image(str(real_sif(tmp_path / "img.sif", arch=arch))) as image:
        assert [s.name for s in image.content.architectures] == [arch, arch]


def test_real_file_with_signature_after_a_deleted_object(real: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"not a real signature")
    run("siftool", "del", "1", real)
    run(
        *("siftool", "add", "--datatype", "5", "--signentity", FINGERPRINT, "--signhash", "1"),
        *("--link", str(4), real, blob),
    )
    run("siftool", "add", "--datatype", "9", "--sbomformat", "spdx-json", real, blob)
    with open_image(str(real)) as image:
        kinds = [stored.kind for stored in image.content.objects]
        assert sorted(kinds) == ["json", "json", "partition", "sbom", "signature"]
        (signed,) = image.content.signatures
        assert (signed.hash, signed.fingerprint, signed.link) == (
            "sha256",
            FINGERPRINT,
            "object 4",
        )


def test_architecture_codes_are_those_of_the_vocabulary() -> None:
    for code, name in sif.ARCHITECTURES.items():
        assert vocabulary.architecture(name) is not None, code


def test_every_header_field(tmp_path: Path) -> None:
    data = build(partition(b"04"), arch=b"04", total=3, free=2, table=256)
    image = opened(tmp_path, data)
    assert content(image).header == (
        b"#!/usr/bin/env run-singularity\n\0",
        b"SIF_MAGIC\0",
        b"01\0",
        b"04\0",
        bytes(range(16)),
        1_700_000_000,
        1_700_000_001,
        2,
        3,
        256,
        3 * 585,
        256 + 3 * 585,
        4096,
    )
    assert image.content.uuid == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert image.content.created == 1_700_000_000


def test_deterministic_header_states_no_uuid_and_no_date(tmp_path: Path) -> None:
    data = build(partition(), uuid=bytes(16), created=-62135596800, launch=b"")
    image = opened(tmp_path, data)
    assert image.content.uuid == ""
    assert image.content.created is None


def test_goes_on_after_unused_descriptors(tmp_path: Path) -> None:
    image = opened(tmp_path, build(UNUSED, metadata({"a": "b"}), UNUSED, partition(b"06")))
    assert image.labels() == {"a": "b"}
    assert image.content.architectures[0].name == "ppc64le"
    assert [stored.number for stored in image.content.objects] == [2, 4]


def test_last_descriptor_of_a_full_table(tmp_path: Path) -> None:
    parts = [Part(0x4007, b"x", f"o{n}") for n in range(47)]
    image = opened(tmp_path, build(*parts, partition(b"12")))
    assert image.content.architectures[0].name == "riscv64"


def test_more_descriptors_than_the_first_read_holds(tmp_path: Path) -> None:
    parts = [UNUSED] * 200
    image = opened(tmp_path, build(*parts, metadata({"a": "b"}), partition(), total=1024))
    assert image.labels() == {"a": "b"}


def test_only_the_primary_system_partition_counts(tmp_path: Path) -> None:
    overlay = partition(b"04", fs=2, kind=4)
    image = opened(tmp_path, build(overlay, partition(b"02", kind=2), partition(b"06", kind=3)))
    assert image.content.architectures[0][:2] == ("amd64", "SIF partition descriptor 2")
    assert image.content.filesystem == "squashfs"


@pytest.mark.parametrize(
    ("code", "name", "encrypted"),
    [
        (1, "squashfs", False),
        (2, "ext3", False),
        (3, "immutable-object", False),
        (4, "raw", False),
        (5, "encrypted-squashfs", True),
        (6, "gocryptfs-squashfs", True),
        (77, "type 77", False),
        (-1, "type -1", False),
    ],
)
def test_file_systems(tmp_path: Path, code: int, name: str, encrypted: bool) -> None:
    image = opened(tmp_path, build(partition(fs=code)))
    assert image.content.filesystem == name
    assert image.content.encrypted is encrypted


@pytest.mark.parametrize(
    ("link", "words"), [(0, ""), (3, "object 3"), (GROUP | 2, "group 2"), (GROUP, "group 0")]
)
def test_links(tmp_path: Path, link: int, words: str) -> None:
    image = opened(tmp_path, build(partition(), Part(0x4008, b"k", link=link)))
    assert image.content.objects[1].kind == "cryptmsg"
    assert image.content.objects[1].link == words


def test_signature_of_a_group_without_fingerprint(tmp_path: Path) -> None:
    image = opened(tmp_path, build(partition(), signature("00" * 20)))
    assert image.content.signatures == ((2, "sha256", "", "group 1"),)


def test_unknown_object_types_are_kept(tmp_path: Path) -> None:
    image = opened(tmp_path, build(Part(0x5555, b"x", "new"), Part(-7, b"x"), partition()))
    assert [stored.kind for stored in image.content.objects] == [
        "type 0x5555",
        "type -0x7",
        "partition",
    ]


@pytest.mark.parametrize("code", [b"00", b"99", b"xx", b"\xff\xfe", b"2\0", b"02x"])
def test_unknown_architecture_code_of_the_partition(tmp_path: Path, code: bytes) -> None:
    image = opened(tmp_path, build(partition(code), arch=b"04"))
    assert [a[:2] for a in image.content.architectures] == [("arm64", "SIF header")]
    assert bool(image.warnings) == (code != b"00")


def test_labels_from_a_whole_oci_configuration(tmp_path: Path) -> None:
    data = b'{"architecture": "arm64", "config": {"Labels": {"x": "y"}}}'
    image = opened(tmp_path, build(raw_json(data, "oci-config.json"), partition()))
    assert image.labels() == {"x": "y"}


def test_labels_of_apps_are_not_the_image_s(tmp_path: Path) -> None:
    data = b'{"data":{"attributes":{"apps":{"a":{"labels":{"cpu.target":"zen3"}}}}}}'
    assert opened(tmp_path, build(raw_json(data), partition())).labels() == {}


def test_image_without_metadata_has_no_labels(tmp_path: Path) -> None:
    image = opened(tmp_path, build(partition()))
    assert image.labels() == {}
    assert image.content.deffile() == ""
    assert image.warnings == []


class Preads:
    """Counts os.pread while it lets it through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[int, int]] = []
        real = os.pread

        def pread(fd: int, size: int, offset: int) -> bytes:
            self.calls.append((offset, size))
            return real(fd, size, offset)

        monkeypatch.setattr(os, "pread", pread)


def test_reads_do_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deffile = Part(0x4001, b"Bootstrap: docker\nFrom: x\n")
    small = build(deffile, metadata({"a": "b"}), partition(data=b"hsqs" + bytes(100_000)))
    big = bytearray(small)
    size = 1 << 30
    struct.pack_into("<q", big, 4096 + 2 * 585 + 25, size)
    counts = []
    for name, data in (("small", bytes(small)), ("big", bytes(big))):
        path = tmp_path / name
        path.write_bytes(data)
        if name == "big":
            os.truncate(path, size + (1 << 20))
        preads = Preads(monkeypatch)
        with open_image(str(path)) as image:
            assert image.labels() == {"a": "b"}
            assert image.content.deffile() != ""
        counts.append(preads.calls)
        monkeypatch.undo()
    assert counts[0] == counts[1] == [(0, WINDOW)]


def test_objects_far_in_the_file_cost_one_read_each_and_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build(partition(data=bytes(200_000)), metadata({"a": "b"}), Part(0x4001, b"From: x\n"))
    path = tmp_path / "img.sif"
    path.write_bytes(data)
    preads = Preads(monkeypatch)
    with open_image(str(path)) as image:
        assert len(preads.calls) == 1
        assert image.labels() == image.labels() == {"a": "b"}
        assert len(preads.calls) == 2
        assert image.content.deffile() == "From: x\n"
        assert len(preads.calls) == 3


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(build(metadata({"a": "b"}), partition()))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 1000), at))
    with open_image(str(path)) as image:
        assert image.labels() == {"a": "b"}


def test_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(build(partition(data=bytes(200_000)), metadata({"a": "b"})))
    with open_image(str(path)) as image:
        os.truncate(path, 100_000)
        for _ in range(2):
            with pytest.raises(ImageError, match="became shorter"):
                image.labels()


def test_closes_its_file(tmp_path: Path) -> None:
    gc.collect()
    before = os.listdir("/proc/self/fd")
    with opened(tmp_path, build(partition())) as image:
        assert image.reader.fd >= 0
    assert image.reader.fd == -1
    image.close()
    left = opened(tmp_path, build(partition()))
    del left
    with pytest.raises(ImageError):
        opened(tmp_path, b"x" * 5000)
    gc.collect()
    assert os.listdir("/proc/self/fd") == before
