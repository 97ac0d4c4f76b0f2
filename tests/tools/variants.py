"""An OCI layout with several images of one application, each a busybox that knows its own name."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import images

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Made(NamedTuple):
    """One image."""

    architecture: str
    variant: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    truly: str = ""
    """The architecture of its programs, where it is not the one that is stated."""
    listed: str = ""
    """The architecture that the index states, where its configuration states another."""

    @property
    def name(self) -> str:
        """What its /etc/image says."""
        return "-".join(filter(None, (self.architecture, self.variant, *self.labels.values())))


def layout(place: Path, made: Sequence[Made]) -> Path:
    """Write the layout `place`, whose one entry is an index of the images, in that order."""
    (place / "blobs/sha256").mkdir(parents=True)
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entries = [_image(place, one) for one in made]
    index = _blob(place, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, INDEX)
    top = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]}
    (place / "index.json").write_text(json.dumps(top))
    return place


def digests(place: Path) -> list[tuple[str, str]]:
    """Return the digests of each image's manifest and configuration, in the order of the index."""

    def load(digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((place / "blobs" / digest.replace(":", "/")).read_text())
        return found

    top = json.loads((place / "index.json").read_text())["manifests"][0]["digest"]
    manifests = [entry["digest"] for entry in load(top)["manifests"]]
    return [(digest, load(digest)["config"]["digest"]) for digest in manifests]


def _image(place: Path, made: Made) -> dict[str, Any]:
    layer = _layer(place, made)
    config = {
        "architecture": made.architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": dict(made.labels)},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        **({"variant": made.variant} if made.variant else {}),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(place, config, "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
        "annotations": dict(made.annotations),
    }
    platform = {"architecture": made.listed or made.architecture, "os": "linux"}
    if made.variant:
        platform["variant"] = made.variant
    return {**_blob(place, manifest, MANIFEST), "platform": platform}


def _layer(place: Path, made: Made) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        tree, packed = Path(name) / "tree", Path(name) / "layer.tar"
        architecture = made.truly or made.architecture
        busybox = next((p for p in images.BUSYBOX.get(architecture, ()) if p.is_file()), None)
        images.fill(tree, made.name, busybox)
        with tarfile.open(packed, "w") as archive:
            archive.add(tree, ".")
        return _blob(place, packed.read_bytes(), "application/vnd.oci.image.layer.v1.tar")


def _blob(place: Path, data: bytes | dict[str, Any], media_type: str) -> dict[str, Any]:
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    digits = hashlib.sha256(data).hexdigest()
    (place / "blobs/sha256" / digits).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digits}", "size": len(data)}
