"""Compatibility artifacts: what somebody attached to an image after it was built.

Two kinds are read: image compatibility specifications of Node Feature Discovery (nfd.py), and
compatibility documents of compspec, whose attributes are our labels. They are found by the
registry's list of referrers, of the index and of each of its images. Where several of a kind are
attached to the same image, the newest counts, as for nfd.

Sources: opencontainers/distribution-spec spec.md, "Listing Referrers"; node-feature-discovery
docs/usage/image-compatibility.md; compspec/compspec-go docs/usage.md (CompatibilitySpec);
compspec/ocifit-k8s (rules of NFD in JSON).
"""

from __future__ import annotations

import threading

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.registry.errors import RegistryError
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from slurm_cmeta.facts import Fact
    from slurm_cmeta.registry.client import Registry

NFD = "application/vnd.nfd.image-compatibility.v1alpha1"
COMPSPEC = (
    "application/vnd.oci.image.compatibilities.v1+json",
    "application/org.supercontainers.compspec",
)
KINDS = (NFD, *COMPSPEC)

CREATED = "org.opencontainers.image.created"
MAX_AT_ONCE = 8
MAX_ASKED = 64
"""Images that are asked for; indexes have some 20 of them."""
MAX_ATTRIBUTES = 128


class Notes(NamedTuple):
    """What artifacts say of one image."""

    specifications: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Documents with rules, each with its source in words."""
    attributes: tuple[tuple[str, str], ...] = ()
    """What compspec says, as labels."""
    warnings: tuple[str, ...] = ()
    partial: bool = False
    """Whether more might have been read with more time, or another time."""

    def __add__(self, other: Notes) -> Notes:  # type: ignore[override]
        """Return both together."""
        return Notes(
            self.specifications + other.specifications,
            self.attributes + other.attributes,
            self.warnings + other.warnings,
            self.partial or other.partial,
        )

    def facts(self, family: str) -> tuple[list[Fact], list[str]]:
        """Return what is asked of nodes of an architecture, and warnings of what is left out."""
        if not self.specifications:
            return [], []
        from slurm_cmeta import vocabulary
        from slurm_cmeta.pull import nfd

        facts, warnings = [], []
        for source, document in self.specifications:
            asked = nfd.asks(document, family, source)
            for fact in asked.facts:
                cpu = vocabulary.cpu(fact.value) if fact.key == "cpu" else None
                if cpu is None or not family or cpu.family == family:
                    facts.append(fact)
            if asked.left:
                more = len(asked.left) - nfd.MAX_NAMED
                named = ", ".join(asked.left[: nfd.MAX_NAMED])
                named += f" and {more} more" if more > 0 else ""
                warnings.append(f"{source}: not looked at: {named}")
        return facts, warnings


NOTHING = Notes()


def of_all(registry: Registry, digests: Iterable[str]) -> dict[str, Notes]:
    """Return what is attached to manifests of a repository. What cannot be had is a warning."""
    wanted = list(dict.fromkeys(digests))[:MAX_ASKED]
    found: dict[str, Notes] = {}
    left = list(wanted)

    def work() -> None:
        while left:
            try:
                digest = left.pop()
            except IndexError:  # another thread was quicker
                return
            found[digest] = _of(registry, digest)

    count = min(MAX_AT_ONCE, len(left)) - 1
    others = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    return {digest: found[digest] for digest in wanted if digest in found}


def _of(registry: Registry, digest: str) -> Notes:
    try:
        listed = registry.referrers(digest)
        newest = _newest(listed)
        return sum((_read(registry, one) for one in newest), NOTHING)
    except RegistryError as problem:
        words = f"what is attached to {digest[:19]} cannot be read: {problem}"
        return Notes(warnings=(words,), partial=problem.passing)


def _newest(listed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last one of each kind that is known, by the time at which it was made."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for one in listed:
        kind = one.get("artifactType")
        annotations = one.get("annotations")
        made = annotations.get(CREATED) if isinstance(annotations, dict) else ""
        made = made if isinstance(made, str) else ""
        if isinstance(kind, str) and kind in KINDS and made >= found.get(kind, ("", {}))[0]:
            found[kind] = (made, one)
    return [one for _, one in found.values()]


def _read(registry: Registry, descriptor: dict[str, Any]) -> Notes:
    from slurm_cmeta.image import oci
    from slurm_cmeta.image.metadata import DocumentError, load
    from slurm_cmeta.pull import nfd

    (own,) = oci.descriptors([descriptor], 1)
    source = f"compatibility artifact {clean(own.digest[7:19])}"
    if not oci.is_digest(own.digest):
        return Notes(warnings=(f"{source} has no digest",))
    try:
        manifest = load(registry.manifest(own.digest).data)
        layers = oci.descriptors(manifest.get("layers"), 4)
        found = NOTHING
        for layer in layers:
            if not oci.is_digest(layer.digest):
                raise nfd.SpecError("names a layer by no digest")
            document = nfd.parse(registry.blob(layer.digest, nfd.MAX_SPEC))
            found += _taken(document, source)
    except (DocumentError, nfd.SpecError) as problem:
        return Notes(warnings=(f"{source} {problem}: not looked at",))
    return found


def _taken(document: dict[str, Any], source: str) -> Notes:
    attributes = []
    for one in document["compatibilities"][:MAX_ATTRIBUTES]:
        listed = one.get("attributes") if isinstance(one, dict) else None
        name = one.get("name") if isinstance(one, dict) else None
        if isinstance(listed, dict):
            for key, value in list(listed.items())[:MAX_ATTRIBUTES]:
                if isinstance(value, str | int | float):
                    attributes.append((f"{name}.{key}", str(value)))
                    attributes.append((str(key), str(value)))
    if attributes:
        return Notes(attributes=tuple(attributes[:MAX_ATTRIBUTES]))
    return Notes(specifications=((source, document),))
