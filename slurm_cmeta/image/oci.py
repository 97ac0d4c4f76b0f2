"""OCI indexes, manifests and configurations, wherever their blobs are kept.

    index     {"manifests": [DESCRIPTOR...], "annotations": {...}}; an index may name indexes
    manifest  {"config": DESCRIPTOR, "layers": [DESCRIPTOR...], "annotations": {...}}
    config    {"architecture", "variant", "os", "created", "config": {"Env", "Labels", ...}}
    DESCRIPTOR {"mediaType", "digest", "size", "annotations", "artifactType",
                "platform": {"architecture", "variant", "os"}}

Sources: opencontainers/image-spec image-index.md, manifest.md, config.md, descriptor.md; Docker's
manifest lists and manifests (distribution/docs/spec/manifest-v2-2.md) have the same members. A blob
of JSON is believed only if it has the digest by which it is named. Runtimes go by what a document
holds rather than by its media type, and so does this.
"""

from __future__ import annotations

from typing import Protocol

from slurm_cmeta.image.document import member, table, text
from slurm_cmeta.image.filetree import OutOfBudgetError
from slurm_cmeta.image.metadata import MAX_JSON, DocumentError, load
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget
    from slurm_cmeta.image.reader import Reader

MAX_NESTING = 4
"""Indexes inside each other: tools make two (index.json, and one of several platforms)."""

MAX_DESCRIPTORS = 256
"""Manifests and indexes that are looked at: images for 20 platforms have some 50 of them."""

MAX_TOTAL = 8 * MAX_JSON
"""Bytes of JSON that are read for one image."""

MAX_LAYERS = 127
"""Layers of one image; container engines have this limit, too (moby layer/layer.go, 125; overlayfs
and OCI-SIF 127)."""

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "",
)
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
"""Of a SIF that `apptainer push` made an artifact (apptainer internal/pkg/client/oras)."""
_HEX = frozenset("0123456789abcdef")
_DIGITS = {"sha256": 64, "sha512": 128}
REFERENCE = "org.opencontainers.image.ref.name"


class Slice(NamedTuple):
    """Where a blob is: in an open file, from `offset`, `size` bytes long."""

    reader: Reader
    offset: int
    size: int


class Blobs(Protocol):
    """Where an image keeps its blobs."""

    def find(self, digest: str) -> Slice | None:
        """Return where the blob of that digest is, None if it is not in this image."""


class Descriptor(NamedTuple):
    """A descriptor, as stated."""

    media_type: str
    digest: str
    architecture: str = ""
    variant: str = ""
    system: str = ""
    annotations: dict[str, str] = {}  # noqa: RUF012 - never changed
    attached: bool = False
    """It is about an image (a signature, an attestation), and is none."""
    size: int = 0
    """Bytes, as stated; 0 where nothing sensible is."""


class Manifest(NamedTuple):
    """One image: a manifest and what the indexes on the way to it say of it."""

    digest: str
    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str]
    """Its own, then those of its descriptors and of the indexes that it has not itself."""

    @property
    def name(self) -> str:
        """How a person tells it from others: its tag, or the beginning of its digest."""
        tag = self.descriptor.annotations.get(REFERENCE, "")
        return clean(tag, 60) if tag else self.digest[:19]


class BlobError(Exception):
    """A blob is not there or not believed; the message says why, after its name."""


class MissingError(BlobError):
    """The blob is not in the image."""


def is_digest(digest: str) -> bool:
    """Tell whether `digest` is one that can be verified here."""
    algorithm, _, digits = digest.partition(":")
    return len(digits) == _DIGITS.get(algorithm, -1) and _HEX.issuperset(digits)


def verify(data: bytes, digest: str) -> bool:
    """Tell whether `data` has `digest`, which is one by is_digest()."""
    import hashlib

    algorithm, _, digits = digest.partition(":")
    return hashlib.new(algorithm, data).hexdigest() == digits


class Allowance:
    """How much JSON may still be read for one image."""

    __slots__ = ("_budget", "_left")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._left = MAX_TOTAL

    def take(self, size: int) -> None:
        """Take `size` bytes; raise BlobError where there is no more of them, or of time."""
        self._left -= size
        if self._left < 0:
            raise BlobError(f"is not read: there are more than {MAX_TOTAL} bytes of JSON")
        try:
            self._budget.spend(size)
        except OutOfBudgetError as problem:
            raise BlobError(f"is not read: {problem}") from None


def document(blobs: Blobs, digest: str, allowance: Allowance) -> dict[str, Any]:
    """Return the JSON object in the blob `digest`; raise BlobError if it is not to be had."""
    if not is_digest(digest):
        raise BlobError(f"has no usable digest ({clean(digest, 80)})")
    place = blobs.find(digest)
    if place is None:
        allowance.take(0)  # who has no time to look cannot say that it is not there
        raise MissingError("is not in the image")
    if place.size > MAX_JSON:
        raise BlobError(f"has {place.size} bytes, more than {MAX_JSON}")
    allowance.take(place.size)
    data = place.reader.read(place.offset, place.size)
    place.reader.release()
    if not verify(data, digest):
        raise BlobError("is damaged: it has not the digest that it is named by")
    try:
        return load(data)
    except DocumentError as problem:
        raise BlobError(str(problem)) from None


def descriptors(found: Any, limit: int) -> list[Descriptor]:
    """Return the first `limit` descriptors in the array `found`."""
    if not isinstance(found, list):
        return []
    return [_descriptor(item) for item in found[:limit] if isinstance(item, dict)]


def _descriptor(item: dict[str, Any]) -> Descriptor:
    annotations = table(item, "annotations")
    architecture, system = text(item, "platform", "architecture"), text(item, "platform", "os")
    return Descriptor(
        text(item, "mediaType"),
        text(item, "digest"),
        architecture,
        text(item, "platform", "variant"),
        system,
        annotations,
        bool(text(item, "artifactType"))
        or "vnd.docker.reference.type" in annotations
        or (architecture == system == "unknown"),
        _size(item.get("size")),
    )


def _size(found: Any) -> int:
    return found if isinstance(found, int) and found > 0 else 0


class Found:
    """The images that an index names, directly or through other indexes."""

    def __init__(
        self, blobs: Blobs, warnings: Warnings, allowance: Allowance, *, sif: bool = False
    ) -> None:
        """`sif`: whether a SIF that was pushed as an artifact is an image, too."""
        self.manifests: list[Manifest] = []
        self.problems: list[str] = []
        """Why others are not among them."""
        self._blobs = blobs
        self._warnings = warnings
        self._seen: set[str] = set()
        self._allowance = allowance
        self._configs = (*_CONFIGS, SIF_CONFIG) if sif else _CONFIGS

    def follow(self, index: dict[str, Any], depth: int = 0) -> None:
        """Add what `index` names."""
        listed = index.get("manifests")
        below = descriptors(listed, MAX_DESCRIPTORS)
        inherited = table(index, "annotations")
        if isinstance(listed, list) and len(below) < len(listed):
            self._warnings.add(
                f"{len(listed) - len(below)} of {len(listed)} entries of an index are ignored: "
                "they are no descriptors, or too many"
            )
        # The document may hold a million little things: let go of it before the next is read.
        index.clear()
        for descriptor in below:
            if descriptor.digest in self._seen or descriptor.attached:
                continue
            if len(self._seen) >= MAX_DESCRIPTORS:
                self._warnings.add(f"more than {MAX_DESCRIPTORS} manifests: the rest is ignored")
                return
            self._seen.add(descriptor.digest)
            self._follow_one(descriptor, inherited, depth)

    def _follow_one(self, descriptor: Descriptor, inherited: dict[str, str], depth: int) -> None:
        what = f"manifest {clean(descriptor.digest[:19])}"
        if descriptor.system not in ("", "linux"):
            self._skip(f"{what} is for {clean(descriptor.system, 40)}, not for Linux")
            return
        if descriptor.media_type not in (*INDEXES, *MANIFESTS, ""):
            self._skip(f"{what} is of the unknown media type {clean(descriptor.media_type, 80)}")
            return
        try:
            found = document(self._blobs, descriptor.digest, self._allowance)
        except MissingError as problem:
            # The image was made for fewer platforms than the index has: nothing is wrong.
            self.problems.append(f"{what} {problem}")
            return
        except BlobError as problem:
            self._skip(f"{what} {problem}")
            return
        inherited = {**inherited, **descriptor.annotations}
        if isinstance(found.get("manifests"), list):
            if depth + 1 >= MAX_NESTING:
                self._skip(f"{what} is an index inside {MAX_NESTING} others")
                return
            found["annotations"] = {**inherited, **table(found, "annotations")}
            self.follow(found, depth + 1)
            return
        problem_text = _not_an_image(found, self._configs)
        if problem_text:
            self._skip(f"{what} {problem_text}")
            return
        self._take(found, descriptor, inherited)

    def _skip(self, problem: str) -> None:
        self.problems.append(problem)
        self._warnings.add(f"{problem}: it is ignored")

    def _take(
        self, found: dict[str, Any], descriptor: Descriptor, inherited: dict[str, str]
    ) -> None:
        config = found.get("config")
        layers = found.get("layers")
        if isinstance(layers, list) and len(layers) > MAX_LAYERS:
            self._warnings.add(
                f"{len(layers)} layers are more than the {MAX_LAYERS} that can be run"
            )
        self.manifests.append(
            Manifest(
                descriptor.digest,
                descriptor,
                _descriptor(config if isinstance(config, dict) else {}),
                tuple(descriptors(layers, MAX_LAYERS)),
                {**inherited, **table(found, "annotations")},
            )
        )


def _not_an_image(found: dict[str, Any], configs: Sequence[str]) -> str:
    if not isinstance(found.get("config"), dict) or not isinstance(found.get("layers"), list):
        if "fsLayers" in found:
            return "has Docker's first schema, which is not read"
        return "is neither an index nor the manifest of an image"
    media_type = text(found, "config", "mediaType")
    if text(found, "artifactType") or media_type not in configs:
        return f"is of something else than an image ({clean(media_type, 80)})"
    if member(found, "subject", "digest") is not None:
        return "is about another image"
    types = [layer.media_type for layer in descriptors(found["layers"], MAX_LAYERS)]
    if types and not any(not kind or "layer" in kind or "rootfs" in kind for kind in types):
        return f"holds no layers, but {clean(types[0], 80)}"
    return ""
