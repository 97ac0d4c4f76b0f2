"""What the image is, beside what it needs; only `runtime` becomes a requirement."""

from __future__ import annotations

from slurm_cmeta.evidence.rules import stated
from slurm_cmeta.facts import Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.evidence.subject import Subject
    from slurm_cmeta.image import Image

_YEAR_10000 = 253402300800
"""First second, after 1970, that needs a year of five digits."""


def read(subject: Subject) -> list[Fact]:
    """Return the facts runtime, format, filesystem, base, bootstrap, created, signed, ..."""
    image = subject.image
    content = image.content
    facts: list[Fact] = []
    if content.encrypted:
        facts.append(Fact("runtime", "encrypted", content.filesystem_source))
    elif content.filesystem == "ext3":
        facts.append(Fact("runtime", "ext3", content.filesystem_source))
    if image.format == "oci-sif":
        facts.append(Fact("runtime", "oci-sif", "objects of the SIF"))
    facts.append(Fact("format", image.format, "file content"))
    if content.filesystem:
        facts.append(Fact("filesystem", content.filesystem, content.filesystem_source))
    facts.append(Fact("encrypted", "yes" if content.encrypted else "no", content.filesystem_source))
    facts += _base(image)
    facts += _created(image)
    facts += _signed(image)
    facts += [
        Fact("sbom", "yes", f"{content.title} descriptor {stored.number}")
        for stored in content.objects
        if stored.kind == "sbom"
    ][:1]
    if content.uuid:
        facts.append(Fact("uuid", content.uuid, f"{content.title} header"))
    return facts


def _first_label(image: Image, key: str) -> list[Fact]:
    for rule, value in stated(image.labels(), key):
        return [Fact(key, clean(value), f"label {rule['key']}")]
    return []


def _base(image: Image) -> list[Fact]:
    base, bootstrap = _first_label(image, "base"), _first_label(image, "bootstrap")
    if not (base and bootstrap):
        header = _deffile_header(image.content.deffile())
        if not base and header.get("from"):
            base = [Fact("base", clean(header["from"]), "definition file")]
        if not bootstrap and header.get("bootstrap"):
            bootstrap = [Fact("bootstrap", clean(header["bootstrap"]), "definition file")]
    return base + bootstrap


def _deffile_header(text: str) -> dict[str, str]:
    """Return the `Key: value` lines before the first section of a definition file."""
    header: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("%"):
            break
        key, colon, value = line.partition(":")
        if colon and not key.lstrip().startswith("#"):
            header.setdefault(key.strip().lower(), value.strip())
    return header


def _created(image: Image) -> list[Fact]:
    created = image.content.created
    if created is not None and 0 < created < _YEAR_10000:
        import time

        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
        return [Fact("created", stamp, image.content.created_source)]
    return _first_label(image, "created")


def _signed(image: Image) -> list[Fact]:
    signatures = image.content.signatures
    if not signatures:
        return [Fact("signed", "no", "no signature in the file")]
    facts = [Fact("signed", "yes", f"{len(signatures)} signature(s), not verified")]
    seen: set[str] = set()
    for signature in signatures:
        if signature.fingerprint and signature.fingerprint not in seen:
            seen.add(signature.fingerprint)
            source = f"{image.content.title} signature descriptor {signature.number}, not verified"
            facts.append(Fact("signer", signature.fingerprint, source))
    return facts
