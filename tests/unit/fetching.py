"""What the tests of fetching stand on: artifacts in registries, servers that break off, tools."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import hostile_registry as hostile
import pytest

from slurm_cmeta.image.oci import SIF_CONFIG
from slurm_cmeta.pull.artifact import SIF_LAYER
from slurm_cmeta.pull.offer import read
from slurm_cmeta.pull.variant import Variant
from slurm_cmeta.registry.access import Access
from slurm_cmeta.registry.reference import Reference, parse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def found(text: str, seconds: float = 30) -> tuple[Reference, list[Variant], Access]:
    """Return what `cmeta pull` has when it has read what the reference offers."""
    reference, access = parse(text), Access.within(seconds)
    return reference, list(read(reference, access).variants), access


def artifact(sif: bytes, stated: str = "") -> dict[str, bytes]:
    """Return the blobs of a SIF as `apptainer push` writes them, the manifest last."""
    config = b"{}"
    layer = {"mediaType": SIF_LAYER, "digest": stated or digest(sif), "size": len(sif)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": SIF_CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [layer],
    }
    text = json.dumps(manifest).encode()
    return {digest(config): config, layer["digest"]: sif, digest(text): text}  # type: ignore[dict-item]


class Breaking:
    """A registry of one artifact that breaks each transfer of the SIF off after some bytes."""

    def __init__(self, blobs: dict[str, bytes], after: int, *, ranges: bool = True) -> None:
        self.blobs, self.after, self.ranges = blobs, after, ranges
        self.asked: list[str] = []
        """The ranges of the SIF that were asked for; empty for all of it."""

    def __call__(self, request: hostile.Request) -> None:
        *_, manifest = self.blobs
        name = request.path.rpartition("/")[2]
        data = self.blobs.get(name) or self.blobs[manifest]
        kind = MANIFEST if data is self.blobs[manifest] else "application/octet-stream"
        if len(data) < 1000:
            hostile.reply(request, 200, data, {"Content-Type": kind})
            return
        asked = request.headers.get("Range", "")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if self.ranges else 0
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        request.wfile.write(data[start : start + self.after])
        request.close_connection = True


def recorder(place: Path, tool: str) -> Path:
    """Put a tool into `place` that notes its arguments and is then the real one."""
    real = shutil.which(tool)
    if real is None:
        pytest.skip(f"{tool} not installed")
    said = place / f"{tool}.arguments"
    program(place / tool, f'printf "%s\\n" "$@" >>{said}\nexec {real} "$@"')
    return said


def program(path: Path, body: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def entries(place: Path) -> list[Any]:
    return sorted(p.name for p in place.iterdir())
