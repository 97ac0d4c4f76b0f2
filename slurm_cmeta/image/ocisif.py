"""An OCI-SIF: a SIF that holds an OCI image instead of a partition (SingularityCE 4).

Its objects are a root index (type 0x400a), which is an OCI index, and blobs (0x400b) whose digest
is text in the descriptor's `extra`. The layers are squashfs at any byte offset, media type
application/vnd.sylabs.image.layer.v1.squashfs, or tar; on top may be a writable ext3. Sources:
sylabs/oci-tools pkg/sif, singularity pkg/image/ocisif.go.
"""

from __future__ import annotations

from slurm_cmeta.image import sif
from slurm_cmeta.image.metadata import MAX_JSON, DocumentError, load
from slurm_cmeta.image.oci import Slice
from slurm_cmeta.image.ociimage import OciImage
from slurm_cmeta.image.reader import error
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.image.content import StoredObject, Warnings
    from slurm_cmeta.image.filetree import Budget
    from slurm_cmeta.image.reader import Reader


class Blobs:
    """The blobs of an OCI-SIF by digest; of equal ones the first counts."""

    def __init__(self) -> None:
        self.places: dict[str, Slice] = {}

    def find(self, digest: str) -> Slice | None:
        """Return where the blob of that digest is, None if it is not in this image."""
        return self.places.get(digest)


class OciSif(OciImage):
    """An OCI-SIF."""

    __slots__ = ("header",)

    def __init__(
        self,
        reader: Reader,
        warnings: Warnings,
        header: sif.Header,
        descriptors: Sequence[sif.Descriptor],
        budget: Budget,
    ) -> None:
        blobs = Blobs()
        super().__init__("oci-sif", "OCI-SIF", blobs, warnings)
        self.header = header
        objects = [sif.stored_object(descriptor, reader.size) for descriptor in descriptors]
        self.objects = tuple(objects)
        pairs = list(zip(objects, descriptors, strict=True))
        self.signatures = tuple(
            sif.signature(stored, descriptor.extra)
            for stored, descriptor in pairs
            if descriptor.type == sif.SIGNATURE
        )
        sif.warn_of_unreadable(objects, warnings)
        indexes = []
        for stored, descriptor in pairs:
            if descriptor.type == sif.OCI_ROOT_INDEX:
                indexes.append(stored)
            elif descriptor.type == sif.OCI_BLOB and stored.readable:
                digest = descriptor.extra.split(b"\0", 1)[0].decode("ascii", "replace")
                blobs.places.setdefault(digest, Slice(reader, stored.offset, stored.size))
        self._read_index(reader, indexes, budget)
        self.uuid = sif.uuid(header)
        if self.created is None and 0 < header.created < 1 << 40:
            self.created, self.created_source = header.created, "OCI-SIF header"

    def _read_index(self, reader: Reader, indexes: Sequence[StoredObject], budget: Budget) -> None:
        if len(indexes) > 1:
            numbers = ", ".join(str(stored.number) for stored in indexes[:4])
            raise error(reader.path, f"has {len(indexes)} OCI root indexes (descriptors {numbers})")
        stored = indexes[0]
        what = f"its OCI root index (descriptor {stored.number})"
        if not stored.readable:
            raise error(reader.path, f"is truncated: {what} lies outside the file")
        if stored.size > MAX_JSON:
            raise error(
                reader.path, f"is damaged: {what} has {stored.size} bytes, more than {MAX_JSON}"
            )
        try:
            index = load(reader.read(stored.offset, stored.size))
        except DocumentError as problem:
            raise error(reader.path, f"is damaged: {what} {problem}") from None
        self.choose(reader.path, index, budget)
