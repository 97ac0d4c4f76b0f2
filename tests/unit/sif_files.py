"""Builds SIF files, sound and broken ones: bytes of our own, or real files made by siftool.

The byte layout is written down here a second time, on purpose: a mistake in the reader's own
structures would otherwise hide itself. Real files (`real_sif`) keep both honest.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

HEADER_SIZE = 128
TABLE = 4096
DESCRIPTOR_SIZE = 585
DATA = 32176
LAUNCH = b"#!/usr/bin/env run-singularity\n"
GROUP = 0xF0000000
ARCH = {"386": b"01", "amd64": b"02", "arm64": b"04", "ppc64le": b"06", "riscv64": b"12"}


EMPTY_SQUASHFS = bytes.fromhex(
    "687371730100000000000000000002000000000001001100c302010004000000"
    "0000000000000000a2000000000000009a00000000000000ffffffffffffffff"
    "6000000000000000820000000000000082000000000000008c00000000000000"
    "20800100ed010000000000000000010000000000000002000000030000000200"
    "000008800000000000000000820000000000000004800000000094"
).ljust(4096, b"\0")
"""What mksquashfs makes of an empty directory (-all-root -mkfs-time 0 -all-time 0 -noI -noD)."""


class Part(NamedTuple):
    """One descriptor and its data; `offset` and `size` override what is true."""

    type: int
    data: bytes = b""
    name: str | bytes = ""
    extra: bytes = b""
    used: int = 1
    id: int | None = None
    group: int = GROUP | 1
    link: int = 0
    offset: int | None = None
    size: int | None = None


def partition(
    arch: bytes = b"02", fs: int = 1, kind: int = 2, data: bytes = EMPTY_SQUASHFS
) -> Part:
    return Part(0x4004, data, "root.sq", struct.pack("<ii3s", fs, kind, arch))


def metadata(labels: object, name: str = "inspect-metadata.json") -> Part:
    document = {"data": {"attributes": {"labels": labels}}, "type": "container"}
    return Part(0x4006, json.dumps(document).encode(), name)


def raw_json(data: bytes, name: str = "inspect-metadata.json") -> Part:
    return Part(0x4006, data, name)


def signature(fingerprint: str = "433FE984155206BD962725E20E8713472A879943") -> Part:
    extra = struct.pack("<i20s", 1, bytes.fromhex(fingerprint))
    return Part(0x4005, b"PGP", "signature", extra, group=GROUP, link=GROUP | 1)


UNUSED = Part(0, used=0)


def build(
    *parts: Part,
    arch: bytes = b"02",
    total: int = 48,
    free: int | None = None,
    version: bytes = b"01",
    magic: bytes = b"SIF_MAGIC",
    launch: bytes = LAUNCH,
    uuid: bytes = bytes(range(16)),
    created: int = 1_700_000_000,
    modified: int = 1_700_000_001,
    table: int = TABLE,
    table_size: int | None = None,
    stated_total: int | None = None,
    data_offset: int | None = None,
    data_size: int | None = None,
) -> bytes:
    """Return a SIF holding `parts`; keyword arguments put any value into the header."""
    table_end = table + total * DESCRIPTOR_SIZE
    body = b""
    descriptors = b""
    for number, part in enumerate(parts, 1):
        offset = table_end + len(body)
        body += part.data
        name = part.name.encode() if isinstance(part.name, str) else part.name
        descriptors += struct.pack(
            "<iBIIIqqqqqqq128s384s",
            part.type,
            part.used,
            number if part.id is None else part.id,
            part.group,
            part.link,
            offset if part.offset is None else part.offset,
            len(part.data) if part.size is None else part.size,
            len(part.data),
            created,
            modified,
            1000,
            1000,
            name,
            part.extra,
        )
    header = struct.pack(
        "<32s10s3s3s16sqqqqqqqq",
        launch,
        magic,
        version,
        arch,
        uuid,
        created,
        modified,
        total - len(parts) if free is None else free,
        total if stated_total is None else stated_total,
        table,
        total * DESCRIPTOR_SIZE if table_size is None else table_size,
        table_end if data_offset is None else data_offset,
        len(body) if data_size is None else data_size,
    )
    descriptors = descriptors.ljust(total * DESCRIPTOR_SIZE, b"\0")
    return header.ljust(table, b"\0") + descriptors + body


def need_tools() -> None:
    """Skip the test unless real SIFs can be built."""
    for tool, package in (("siftool", "siftool"), ("mksquashfs", "squashfs-tools")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian package {package})")


_ARCH_NUMBER = {"386": 1, "amd64": 2, "arm64": 4, "ppc64le": 6, "riscv64": 12}


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True
    )
    return done.stdout


def squashfs(directory: Path) -> Path:
    root = directory / "root"
    (root / "bin").mkdir(parents=True, exist_ok=True)
    (root / "bin" / "hello").write_text("#!/bin/sh\necho hello\n")
    target = directory / "root.sq"
    run("mksquashfs", root, target, "-noappend", "-quiet", "-no-progress")
    return target


def real_sif(
    path: Path,
    *,
    arch: str = "amd64",
    labels: dict[str, str] | None = None,
    oci_labels: dict[str, str] | None = None,
    deffile: str | None = None,
    fs: int = 1,
) -> Path:
    """Build a real SIF with siftool, objects in Apptainer's order."""
    work = path.parent / (path.name + ".work")
    work.mkdir()
    run("siftool", "new", path)
    if deffile is not None:
        (work / "deffile").write_text(deffile)
        _add(path, work / "deffile", "--datatype", "1")
    for name, content in (
        ("inspect-metadata.json", None if labels is None else metadata(labels).data),
        ("oci-config.json", None if oci_labels is None else json.dumps({"Labels": oci_labels})),
    ):
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (work / name).write_bytes(data)
            _add(path, work / name, "--datatype", "6")
    add_partition(path, squashfs(work), arch=arch, fs=fs)
    return path


def add_partition(
    path: Path, content: Path, *, arch: str = "amd64", fs: int = 1, kind: int = 2
) -> None:
    number = str(_ARCH_NUMBER[arch])
    options = ("--parttype", str(kind), "--partfs", str(fs), "--partarch", number)
    _add(path, content, "--datatype", "4", *options)


def _add(path: Path, content: Path, *options: str) -> None:
    """Add an object with a name: siftool leaves it out unless asked, Apptainer writes one."""
    run("siftool", "add", *options, "--groupid", "1", "--filename", content.name, path, content)
