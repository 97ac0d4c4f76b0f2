"""All that a reference names: the images of an index, each with what it needs.

Read are indexes, manifests and configurations; the layers are not. What an image's files would tell
is therefore not known: its platform, labels, annotations and variables are, each as evidence/ reads
them of an image on disk.
"""

from __future__ import annotations

from slurm_cmeta import evidence, vocabulary
from slurm_cmeta.facts import Fact
from slurm_cmeta.image import Image, oci
from slurm_cmeta.image.content import Warnings
from slurm_cmeta.image.filetree import quick_budget
from slurm_cmeta.image.metadata import DocumentError, load
from slurm_cmeta.image.ociimage import Config, Configs, OciImage
from slurm_cmeta.pull import compat
from slurm_cmeta.pull.variant import Offer, Variant
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry.errors import BROKEN, RegistryError
from slurm_cmeta.registry.reference import LAYOUT
from slurm_cmeta.requirement import from_facts
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from slurm_cmeta.image.filetree import Budget, FileTree
    from slurm_cmeta.pull.compat import Notes
    from slurm_cmeta.registry.access import Access
    from slurm_cmeta.registry.client import Registry
    from slurm_cmeta.registry.reference import Reference

_LISTED = "OCI index"


class _Opened:
    """Where a reference leads: its document, and the blobs beside it."""

    def __init__(
        self,
        digest: str,
        document: dict[str, Any],
        blobs: oci.Blobs,
        problems: Mapping[str, RegistryError],
        prefetch: Callable[[Iterable[str], bool], None],
        registry: Registry | None = None,
    ) -> None:
        self.registry = registry
        self.digest, self.document, self.blobs = digest, document, blobs
        self.problems, self.prefetch = problems, prefetch


class _Unread(OciImage):
    """An image of which nothing is read but documents."""

    __slots__ = ()

    def open_tree(self, budget: Budget) -> FileTree | None:
        """Return nothing: the layers are not here."""
        return None


class _Nowhere:
    """Stands for the file that an image in a registry has not."""

    path = ""
    identity = None

    def close(self) -> None:
        """Do nothing."""


def read(
    reference: Reference,
    access: Access,
    strengths: Mapping[str, str] | None = None,
    families: frozenset[str] | None = None,
    *,
    attached: bool = False,
) -> Offer:
    """Return what `reference` names. `strengths` is the site's policy (requirement.from_facts).

    Of images for architectures that none of `families` (archspec's names) runs, no more is read
    than what the index says. `attached`: compatibility artifacts are looked for, too, with one
    request for each image. Raises RegistryError, or ImageError for a layout on disk.
    """
    warnings = Warnings()
    budget = quick_budget(max(access.left, 0.0))
    opened = _open(reference, access, warnings, budget)
    document = opened.document
    listed = document.get("manifests")
    if not isinstance(listed, list):
        document = {"manifests": [_itself(opened.digest, document)]}
        listed = document["manifests"]
    below = oci.descriptors(listed, oci.MAX_DESCRIPTORS)
    images = [d for d in below if not d.attached]
    # An index may name one manifest for several platforms.
    wanted = dict.fromkeys(d.digest for d in images if not _is_of_others(d, families))
    passed = {d.digest: d for d in images if d.digest not in wanted}
    opened.prefetch(filter(oci.is_digest, wanted), True)
    # What the registry does not show now may be shown another time.
    passed |= {d.digest: d for d in images if _is_late(d, opened.problems)}
    document["manifests"] = [
        one for one in listed if not (isinstance(one, dict) and one.get("digest") in passed)
    ]
    allowance = oci.Allowance(budget)
    found = oci.Found(opened.blobs, warnings, allowance, sif=True)
    found.follow(document)
    opened.prefetch(
        (m.config.digest for m in found.manifests if oci.is_digest(m.config.digest)), False
    )
    configs = Configs(opened.blobs, warnings, allowance)
    noted = _noted(opened, [m.digest for m in found.manifests]) if attached else {}
    said = [w for notes in noted.values() for w in notes.warnings]
    of_images: dict[str, list[str]] = {}
    made = {}
    for one in found.manifests:
        notes = noted.get(one.digest, compat.NOTHING)
        own = Warnings()
        made[one.digest] = _variant(one, opened.blobs, configs, strengths, notes, said, own)
        for text in own:
            of_images.setdefault(text, []).append(made[one.digest].platform or one.digest[:19])
    for text in (*said, *_named(of_images, len(found.manifests))):
        warnings.add(text)
    made |= {d.digest: _not_read(d, strengths) for d in passed.values()}
    order = [d.digest for d in below] + [m.digest for m in found.manifests]
    variants = tuple(made[digest] for digest in dict.fromkeys(order) if digest in made)
    known = {*made, *(m.config.digest for m in found.manifests)}
    for digest, problem in opened.problems.items():
        # What it is for is not even in the index: who fits none of the others may fit this one.
        if problem.passing and digest not in known:
            raise problem
    if not variants:
        for problem in opened.problems.values():
            raise problem
        why = found.problems[0] if found.problems else "there is no image in it"
        raise RegistryError(f"{reference}: {clean(why, 300)}", BROKEN)
    late = any(problem.passing for problem in opened.problems.values())
    late = late or access.left <= 0 or any(one.partial for one in noted.values())
    plain = opened.registry is not None and opened.registry.plain
    return Offer(opened.digest, variants, tuple(warnings), late, plain)


def _named(warnings: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """Return warnings with the images that they are about, of `count` images."""
    if count < 2:
        return list(warnings)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {text}"
        for text, names in warnings.items()
    ]


def _noted(opened: _Opened, digests: Sequence[str]) -> dict[str, Notes]:
    """Return what is attached to each image, and to the index that has them all.

    It may take half of the time that is left: what the images say themselves comes first.
    """
    registry = opened.registry
    if registry is None:
        return {}
    whole = registry.access
    registry.access = whole._replace(until=whole.until - max(whole.left, 0.0) / 2)
    found = compat.of_all(registry, (opened.digest, *digests))
    registry.access = whole
    of_index = found.pop(opened.digest, compat.NOTHING) if opened.digest not in digests else None
    return {d: (of_index or compat.NOTHING) + found.get(d, compat.NOTHING) for d in digests}


def _open(reference: Reference, access: Access, warnings: Warnings, budget: Budget) -> _Opened:
    if reference.transport == LAYOUT:
        return _open_layout(reference, warnings, budget)
    from slurm_cmeta.registry.blobs import Blobs
    from slurm_cmeta.registry.client import Registry

    registry = Registry(reference, access)
    top = registry.manifest()
    try:
        document = load(top.data)
    except DocumentError as problem:
        raise RegistryError(f"{reference}: the manifest {problem}", BROKEN) from None
    blobs = Blobs(registry)
    blobs.keep(top.digest, top.data)
    return _Opened(
        *(top.digest, document, blobs, blobs.problems),
        lambda wanted, manifests: blobs.prefetch(wanted, manifests=manifests),
        registry=registry,
    )


def _open_layout(reference: Reference, warnings: Warnings, budget: Budget) -> _Opened:
    from slurm_cmeta.image.directory import DirectoryTree, Folder, read_document
    from slurm_cmeta.image.layout import Blobs

    folder = Folder(reference.repository)
    tree = DirectoryTree(folder, "the OCI layout", warnings, budget)
    found = read_document(tree, "index.json", "is a damaged OCI layout: index.json")
    if found is None:
        raise RegistryError(f"{reference}: there is no OCI layout (no index.json)", BROKEN)
    blobs = Blobs(tree)
    entries = oci.descriptors(found[0].get("manifests"), oci.MAX_DESCRIPTORS)
    chosen = [d for d in entries if _is_meant(d, reference)]
    if reference.digest and not chosen:
        chosen = [oci.Descriptor("", reference.digest)]
    if len(chosen) != 1:
        names = sorted({d.annotations.get(oci.REFERENCE, "") for d in entries} - {""})
        known = f": it has {', '.join(clean(name, 60) for name in names[:8])}" if names else ""
        cause = "has not that tag" if not chosen else "has several images: name a tag"
        raise RegistryError(f"{reference}: the layout {cause}{known}", BROKEN)
    digest = chosen[0].digest
    try:
        document = oci.document(blobs, digest, oci.Allowance(budget))
    except oci.BlobError as problem:
        raise RegistryError(f"{reference}: its manifest {problem}", BROKEN) from None
    return _Opened(digest, document, blobs, {}, lambda wanted, manifests: None)


def _is_meant(descriptor: oci.Descriptor, reference: Reference) -> bool:
    if reference.digest:
        return descriptor.digest == reference.digest
    return not reference.tag or descriptor.annotations.get(oci.REFERENCE) == reference.tag


def _itself(digest: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return the descriptor of a manifest that no index names."""
    return {"digest": digest, "mediaType": document.get("mediaType", "")}


def _is_of_others(descriptor: oci.Descriptor, families: frozenset[str] | None) -> bool:
    if not families or not descriptor.architecture:
        return False
    own = vocabulary.architecture(descriptor.architecture) or descriptor.architecture
    return all(vocabulary.also_runs(family, own) is False for family in families)


def _is_late(descriptor: oci.Descriptor, problems: Mapping[str, RegistryError]) -> bool:
    problem = problems.get(descriptor.digest)
    return bool(descriptor.architecture) and problem is not None and problem.passing


def _variant(
    manifest: oci.Manifest,
    blobs: oci.Blobs,
    configs: Configs,
    strengths: Mapping[str, str] | None,
    notes: Notes,
    said: list[str],
    warnings: Warnings,
) -> Variant:
    is_sif = manifest.config.media_type == oci.SIF_CONFIG
    config = Config() if is_sif else configs.of(manifest)
    if is_sif and not manifest.descriptor.architecture:
        warnings = Warnings()  # a SIF says what it is when it is here: that is no news
    content = _Unread("registry", "image", blobs, warnings)
    annotations = {**dict(notes.attributes), **manifest.annotations}
    content.be(manifest._replace(annotations=annotations), config)
    if is_sif:
        content.filesystem, content.filesystem_source = "sif", "OCI manifest"
    image = Image(_Nowhere(), content, warnings, quick_budget())  # type: ignore[arg-type]
    facts = [f for f in evidence.read(image).facts if f.key not in ("format", "signed")]
    family = next((f.value for f in facts if f.key == "arch"), "")
    more, left = notes.facts(family)
    facts += more
    said += left
    stated = content.architectures[0] if content.architectures else None
    return Variant(
        manifest.digest,
        _platform(stated.name, stated.variant) if stated else "",
        manifest.config.size + sum(layer.size for layer in manifest.layers),
        tuple(facts),
        tuple(from_facts(facts, strengths)),
        content.labels(),
        clean(manifest.descriptor.annotations.get(oci.REFERENCE, ""), 60),
    )


def _not_read(descriptor: oci.Descriptor, strengths: Mapping[str, str] | None) -> Variant:
    """Return an image by what its index says of it alone."""
    family = vocabulary.architecture(descriptor.architecture) or clean(descriptor.architecture)
    facts = [Fact("arch", family, _LISTED)]
    target = vocabulary.oci_variant(descriptor.architecture, descriptor.variant)
    if descriptor.variant and target not in (None, family):
        facts.append(Fact("cpu", str(target), _LISTED))
    return Variant(
        descriptor.digest,
        _platform(descriptor.architecture, descriptor.variant),
        0,
        tuple(facts),
        tuple(from_facts(facts, strengths)),
        descriptor.annotations,
    )


def _platform(architecture: str, variant: str) -> str:
    return clean("/".join(filter(None, ("linux", architecture, variant))), 80)
