"""Names and versions in a software bill of materials that a SIF carries as an object.

    SPDX 2 (JSON)      {"spdxVersion": ..., "packages": [{"name", "versionInfo"}]}
    CycloneDX (JSON)   {"bomFormat": "CycloneDX", "components": [{"group", "name", "version"}]}
    Syft (JSON)        {"artifacts": [{"name", "version"}], "schema": {...}}

Sources: the specifications of SPDX 2.3 (clause 7) and CycloneDX 1.6, and the JSON schema of
anchore/syft. Other formats that SIF knows (SPDX tag-value, RDF and YAML, CycloneDX XML, GitHub) are
not read.
"""

from __future__ import annotations

from slurm_cmeta.errors import ImageError
from slurm_cmeta.evidence import jsonscan
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from slurm_cmeta.image import Image

MAX_OBJECTS = 8
"""SBOM objects of one image that are read; `singularity sbom` adds one."""

MAX_SIZE = 128 * 1024 * 1024
"""Bytes of one object that are gone through, in about 5 s, and in a minute if made to hurt;
Syft's of a large image has 50 MB."""

_VERSIONS: dict[tuple[str, ...], tuple[str, str]] = {
    ("packages",): ("SPDX", "versionInfo"),
    ("components",): ("CycloneDX", "version"),
    ("artifacts",): ("Syft", "version"),
}


def packages(image: Image) -> Iterator[tuple[str, str, str]]:
    """Yield name, version and source of each package that an SBOM of the image lists."""
    objects = [o for o in image.content.objects if o.kind == "sbom" and o.readable]
    for stored in objects[:MAX_OBJECTS]:
        begin, size = stored.offset, min(stored.size, MAX_SIZE)
        where = f"{image.content.title} descriptor {stored.number}"

        def read(offset: int, length: int, begin: int = begin) -> bytes:
            return image.reader.read(begin + offset, length)

        known = False
        try:
            for path, value in jsonscan.values(read, size, _VERSIONS.keys()):
                kind, field = _VERSIONS[path]
                known = True
                name, version = _package(value, field)
                if name:
                    yield name, version, f"{kind}, {where}"
        except ImageError:
            image.warnings.add(f"the SBOM in {where} cannot be read")
            continue
        if not known:
            image.warnings.add(
                f"the SBOM in {where} lists no packages as SPDX, CycloneDX or Syft do in JSON: "
                "it is not read"
            )


def _package(value: Any, field: str) -> tuple[str, str]:
    """Return name and version of one package; CycloneDX keeps the scope of a name beside it."""
    if not isinstance(value, dict):
        return "", ""
    name, group, version = value.get("name"), value.get("group"), value.get(field)
    if not isinstance(name, str):
        return "", ""
    if isinstance(group, str) and group and name:
        name = f"{group}/{name}"
    known = isinstance(version, str) and version != "NOASSERTION"  # SPDX for `nobody says`
    return name, str(version) if known else ""
