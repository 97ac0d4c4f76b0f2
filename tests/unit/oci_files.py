"""Builds OCI images, sound and broken ones, in all that they come in; and tar archives by bytes.

The formats are written down here a second time, as in sif_files.py: tarfile would not write what a
hostile archive holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sif_files

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
SQUASHFS = "application/vnd.sylabs.image.layer.v1.squashfs"
LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'


class File(NamedTuple):
    """One member of a tar archive; `size` overrides what is true."""

    name: str | bytes
    data: bytes = b""
    type: bytes = b"0"
    link: str | bytes = ""
    mode: int = 0o644
    size: int | None = None
    magic: bytes = b"ustar\x0000"
    prefix: bytes = b""
    extra: bytes = b""
    """Put between header and data, as GNU's sparse headers are."""


def directory(name: str) -> File:
    return File(name, type=b"5", mode=0o755)


def link(name: str, target: str) -> File:
    return File(name, type=b"2", link=target)


def pax(**records: str) -> File:
    body = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode()
        length = len(text) + len(str(len(text)))
        length = len(text) + len(str(length))
        body += f"{length}".encode() + text
    return File("PaxHeader", body, b"x")


def header(file: File) -> bytes:
    name = file.name.encode("utf-8", "surrogateescape") if isinstance(file.name, str) else file.name
    target = file.link.encode() if isinstance(file.link, str) else file.link
    size = len(file.data) if file.size is None else file.size
    field = b"%011o\0" % size if 0 <= size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    block = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            b"%07o\0" % file.mode,
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            field,
            b"%011o\0" % 0,
            b" " * 8,
            file.type,
            target[:100].ljust(100, b"\0"),
            file.magic,
            bytes(80),
            file.prefix.ljust(155, b"\0"),
        )
    ).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def tar(*files: File, end: bytes = bytes(1024)) -> bytes:
    body = io.BytesIO()
    for file in files:
        body.write(header(file) + file.extra + file.data + bytes(-len(file.data) % 512))
    return body.getvalue() + end


class Store:
    """Blobs, by digest."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def add(self, data: bytes | dict[str, Any], media_type: str = "") -> dict[str, Any]:
        """Keep a blob; return its descriptor."""
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def image(
        self,
        architecture: str = "amd64",
        *layers: bytes,
        variant: str = "",
        labels: dict[str, Any] | None = None,
        annotations: dict[str, Any] | None = None,
        listed: dict[str, Any] | None = None,
        platform: bool = True,
        layer_type: str = LAYER,
        config: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Keep an image; return the descriptor of its manifest. `listed` is annotated there."""
        document: dict[str, Any] = {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-02-29T12:00:00.25+01:00",
            "config": {
                "Env": ["PATH=/usr/bin", "A=b=c"],
                "Entrypoint": ["/bin/sh"],
                "Cmd": ["-c", "true"],
                "Labels": labels or {},
            },
            **(config or {}),
        }
        stated: dict[str, Any] = {"architecture": architecture, "os": "linux"}
        if variant:
            document["variant"] = stated["variant"] = variant
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add(document, CONFIG),
            "layers": [self.add(layer, layer_type) for layer in layers],
            "annotations": annotations or {},
            **more,
        }
        descriptor = self.add(manifest, MANIFEST)
        descriptor["annotations"] = listed or {}
        if platform:
            descriptor["platform"] = stated
        return descriptor

    def index(self, *manifests: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests), **more}


def write_layout(path: Path, store: Store, index: dict[str, Any] | bytes) -> Path:
    """Write a layout directory."""
    (path / "blobs" / "sha256").mkdir(parents=True)
    (path / "oci-layout").write_bytes(LAYOUT)
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    (path / "index.json").write_bytes(data)
    for digest, blob in store.blobs.items():
        (path / "blobs" / digest.replace(":", "/")).write_bytes(blob)
    return path


def archive(store: Store, index: dict[str, Any] | bytes, *more: File) -> bytes:
    """Return a layout as a tar archive; index.json comes last, as skopeo writes it."""
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    blobs = [File(f"blobs/{d.replace(':', '/')}", blob) for d, blob in store.blobs.items()]
    return tar(*more, File("oci-layout", LAYOUT), *blobs, File("index.json", data))


def oci_sif(store: Store, index: dict[str, Any] | bytes, *more: sif_files.Part) -> bytes:
    """Return an OCI-SIF as SingularityCE 4 writes it: no launch script, no architecture."""
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    blobs = [
        sif_files.Part(0x400B, blob, "", digest.encode(), group=sif_files.GROUP)
        for digest, blob in store.blobs.items()
    ]
    root = sif_files.Part(0x400A, data, "", group=sif_files.GROUP)
    parts = (*blobs, root, *more)
    return sif_files.build(
        *parts, arch=b"00", launch=b"", uuid=bytes(16), created=-62135596800, total=len(parts)
    )


def need(*tools: str) -> None:
    """Skip the test unless `tools` are installed; the Debian packages have the same names."""
    for tool in tools:
        if shutil.which(tool) is None:
            package = "squashfs-tools" if tool == "mksquashfs" else tool
            pytest.skip(f"{tool} is not installed (Debian package {package})")


def need_libsquashfs() -> None:
    """Skip the test unless squashfs can be read."""
    from slurm_cmeta.image import squashfs

    try:
        squashfs._library()
    except squashfs.NotReadableError as problem:
        pytest.skip(f"the squashfs {problem}")


def squash(root: Path, target: Path, *options: str) -> bytes:
    """Return a squashfs of the directory `root`."""
    run("mksquashfs", root, target, "-noappend", "-quiet", "-no-progress", "-all-root", *options)
    return target.read_bytes()


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True
    )
    return done.stdout
