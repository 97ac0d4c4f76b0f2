r"""The Singularity Image Format (SIF), as read by Apptainer and SingularityCE.

Source: apptainer/sif pkg/sif/{sif,arch,descriptor,load}.go, and files made by Apptainer 1.4 and
siftool. All numbers are little-endian, packed, unaligned.

      0 +--------------------------------------------------------------------------------------+
        | global header, 128 bytes                                                             |
        |   0 launch script [32]: "#!/usr/bin/env run-singularity\n", or zeros                 |
        |  32 magic [10] "SIF_MAGIC\0"     42 version [3] "01\0"       45 architecture [3]     |
        |  48 UUID [16]                    64 created i64              72 modified i64         |
        |  80 descriptors free i64         88 descriptors total i64                            |
        |  96 descriptors offset i64      104 descriptors size i64                             |
        | 112 data offset i64             120 data size i64                                    |
   4096 +--------------------------------------------------------------------------------------+
        | descriptors, 585 bytes each, `total` of them (48 unless there was need for more)     |
        |   0 type i32       4 used u8     5 id u32      9 group u32    13 link u32            |
        |  17 offset i64    25 size i64   33 size with padding i64                             |
        |  41 created i64   49 modified i64             57 uid i64      65 gid i64             |
        |  73 name [128]   201 extra [384], by type:                                           |
        |       partition:  0 file system i32   4 partition type i32   8 architecture [3]      |
        |       signature:  0 hash i32          4 entity [256], 20 bytes of fingerprint first  |
        |       SBOM:       0 format i32                                                       |
  32176 +--------------------------------------------------------------------------------------+
        | objects in the order in which they were added: deffile, inspect-metadata.json,       |
        | oci-config.json, primary system partition (page-aligned), signatures, overlays, ...  |
        +--------------------------------------------------------------------------------------+

A descriptor of a deleted object is zeroed, and others follow it. The header and the primary
partition both name the architecture. Sizes and offsets are whatever the writer of the file wanted:
each is checked before it is used.
"""

from __future__ import annotations

import struct

from slurm_cmeta.image import metadata
from slurm_cmeta.image.content import Content, Run, Signature, Stated, StoredObject, Warnings
from slurm_cmeta.image.metadata import MAX_JSON
from slurm_cmeta.image.reader import error
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from slurm_cmeta.image.filetree import Budget, FileTree
    from slurm_cmeta.image.reader import Reader

MAX_DESCRIPTORS = 1024
"""More descriptors than any writer makes: 48 is the default, an OCI-SIF has one a blob and at most
127 layers. 1,024 of them are 600 kB to read and under 3 ms to parse."""

MAX_DEFFILE = 64 * 1024
"""Bytes of a definition file that are read: only its first lines are used."""

_HEADER = struct.Struct("<32s10s3s3s16sqqqqqqqq")
_DESCRIPTOR = struct.Struct("<iBIIIqqqqqqq128s384s")
_TWO_INTS = struct.Struct("<ii")

_LAUNCH = b"#!/usr/bin/env run-singularity"
_MAGIC = b"SIF_MAGIC\0"
_VERSION = b"01\0"
_GROUP = 0xF0000000
"""Set in a group number, and in a link that means a group and not an object."""

ARCHITECTURES = {
    b"01": "386",
    b"02": "amd64",
    b"03": "arm",
    b"04": "arm64",
    b"05": "ppc64",
    b"06": "ppc64le",
    b"07": "mips",
    b"08": "mipsle",
    b"09": "mips64",
    b"10": "mips64le",
    b"11": "s390x",
    b"12": "riscv64",
    b"13": "loong64",
}
"""Architecture codes (sif pkg/sif/arch.go); `00` states none."""

DEFFILE = 0x4001
PARTITION = 0x4004
SIGNATURE = 0x4005
JSON = 0x4006
OCI_ROOT_INDEX = 0x400A
OCI_BLOB = 0x400B
KINDS = {
    DEFFILE: "deffile",
    0x4002: "environment",
    0x4003: "labels",
    PARTITION: "partition",
    SIGNATURE: "signature",
    JSON: "json",
    0x4007: "generic",
    0x4008: "cryptmsg",
    0x4009: "sbom",
    OCI_ROOT_INDEX: "oci-root-index",
    OCI_BLOB: "oci-blob",
}
FILESYSTEMS = {
    1: "squashfs",
    2: "ext3",
    3: "immutable-object",
    4: "raw",
    5: "encrypted-squashfs",
    6: "gocryptfs-squashfs",
}
SQUASHFS = 1
ENCRYPTED = frozenset((5, 6))
PRIMARY = 2
OVERLAY = 4
HASHES = {1: "sha256", 2: "sha384", 3: "sha512", 4: "blake2s-256", 5: "blake2b-256"}

_INSPECT = "inspect-metadata.json"
_OCI_CONFIG = "oci-config.json"
_METADATA_OBJECTS = (_INSPECT, _OCI_CONFIG)
"""Weakest last: Apptainer builds the first from the second and the definition file."""


class Header(NamedTuple):
    """The global header, as stated. Times in seconds since 1970, all else in bytes or a count."""

    launch: bytes
    magic: bytes
    version: bytes
    architecture: bytes
    uuid: bytes
    created: int
    modified: int
    descriptors_free: int
    descriptors_total: int
    descriptors_offset: int
    descriptors_size: int
    data_offset: int
    data_size: int


class Descriptor(NamedTuple):
    """One descriptor, as stated. Times in seconds since 1970, offset and sizes in bytes."""

    type: int
    used: int
    id: int
    group: int
    link: int
    offset: int
    size: int
    padded_size: int
    created: int
    modified: int
    uid: int
    gid: int
    name: bytes
    extra: bytes


class Partition(NamedTuple):
    """The primary system partition."""

    stored: StoredObject
    filesystem: int
    architecture: bytes


def recognises(head: bytes) -> bool:
    """Tell whether a file that starts with `head` is a SIF, be it a damaged one."""
    if head[32:42] == _MAGIC:
        return True
    return len(head) < _HEADER.size and head.startswith(_LAUNCH)


def read(reader: Reader, warnings: Warnings, budget: Budget) -> Content:
    """Return what the SIF holds; raise ImageError if no runtime could use it."""
    header = _read_header(reader)
    _check_data_section(reader, header, warnings)
    descriptors = _read_descriptors(reader, header)
    types = {descriptor.type for descriptor in descriptors}
    if OCI_ROOT_INDEX in types and PARTITION not in types:
        from slurm_cmeta.image.ocisif import OciSif

        return OciSif(reader, warnings, header, descriptors, budget)
    return Sif(reader, warnings, header, descriptors)


class Sif(Content):
    """A SIF's header and objects. Labels and definition file are read when asked for."""

    __slots__ = ("_documents", "_labels", "_reader", "_warnings", "header", "overlays", "partition")

    def __init__(
        self, reader: Reader, warnings: Warnings, header: Header, descriptors: list[Descriptor]
    ) -> None:
        super().__init__("sif", "SIF")
        self._reader = reader
        self._warnings = warnings
        self._labels: dict[str, str] | None = None
        self._documents: dict[str, Any] = {}
        self.header = header
        objects: list[StoredObject] = []
        signatures: list[Signature] = []
        primaries: list[tuple[StoredObject, Partition]] = []
        self.overlays: list[int] = []
        """Numbers of the partitions that a runtime lays over the system partition."""
        oci = False
        for descriptor in descriptors:
            stored = stored_object(descriptor, reader.size)
            objects.append(stored)
            if descriptor.type == PARTITION:
                filesystem, kind = _TWO_INTS.unpack_from(descriptor.extra)
                if kind == PRIMARY:
                    code = descriptor.extra[8:11]
                    primaries.append((stored, Partition(stored, filesystem, code)))
                elif kind == OVERLAY:
                    self.overlays.append(stored.number)
            elif descriptor.type == SIGNATURE:
                signatures.append(signature(stored, descriptor.extra))
            elif descriptor.type in (OCI_ROOT_INDEX, OCI_BLOB):
                oci = True
        self.objects = tuple(objects)
        self.signatures = tuple(signatures)
        self.partition = self._choose(primaries, oci)
        warn_of_unreadable(objects, warnings)
        self._describe()

    def labels(self) -> dict[str, str]:
        """Return the labels of inspect-metadata.json, and of oci-config.json where it has more.

        Labels of single apps (SCIF) are not the image's and are left out.
        """
        if self._labels is None:
            found: dict[str, str] = {}
            for name in reversed(_METADATA_OBJECTS):
                found.update(metadata.labels(self._document(name), name, self._warnings))
            self._labels = found
        return self._labels

    def environment(self) -> dict[str, str]:
        """Return the variables of oci-config.json and of the scripts in inspect-metadata.json."""
        inherited = metadata.oci_environment(self._document(_OCI_CONFIG))
        return metadata.script_environment(self._document(_INSPECT), inherited)

    def run(self) -> Run:
        """Return the runscript of inspect-metadata.json and the entry point of oci-config.json."""
        return Run(
            metadata.runscript(self._document(_INSPECT)),
            metadata.entry_point(self._document(_OCI_CONFIG)),
        )

    def open_tree(self, budget: Budget) -> FileTree | None:
        """Return the files in the system partition, where that is a squashfs in clear."""
        stored = self.partition.stored
        what = f"the {self.filesystem} in SIF partition {stored.number}"
        if self.partition.filesystem != SQUASHFS:
            how = "is encrypted" if self.encrypted else "is not read"
            self._warnings.add(f"{what} {how}: only header and metadata were looked at")
            return None
        self._warn_of_overlays()
        from slurm_cmeta.image.squashfs import open_squashfs

        return open_squashfs(self._reader, stored.offset, stored.size, what, self._warnings, budget)

    def deffile(self) -> str:
        """Return the first MAX_DEFFILE bytes of the definition file as text, or nothing."""
        for stored in self.objects:
            if stored.kind == KINDS[DEFFILE] and stored.readable:
                data = self._reader.read(stored.offset, min(stored.size, MAX_DEFFILE))
                return data.decode("utf-8", "replace")
        return ""

    def _warn_of_overlays(self) -> None:
        if not self.overlays:
            return
        numbers = ", ".join(map(str, self.overlays[:4]))
        self._warnings.add(
            f"SIF partition {numbers} lies over the system partition: what it changes is not read"
            if len(self.overlays) == 1
            else f"SIF partitions {numbers} lie over the system partition: what they change is "
            "not read"
        )

    def _choose(self, primaries: list[tuple[StoredObject, Partition]], oci: bool) -> Partition:
        """Return the one primary system partition; no runtime starts an image with more or none."""
        path = self._reader.path
        if not primaries:
            if oci:
                raise error(path, "is an OCI-SIF without a root index: nothing in it can be run")
            raise error(path, "has no system partition: nothing in it can be run")
        if len(primaries) > 1:
            numbers = ", ".join(str(stored.number) for stored, _ in primaries[:4])
            raise error(
                path, f"has {len(primaries)} primary system partitions (descriptors {numbers})"
            )
        stored, partition = primaries[0]
        what = f"its system partition (descriptor {stored.number})"
        if not stored.readable:
            if stored.offset < 0 or stored.size < 0:
                raise error(path, f"is damaged: {what} has a negative offset or size")
            raise error(
                path,
                f"is truncated: {what} ends at byte {stored.offset + stored.size}, "
                f"the file at {self._reader.size}",
            )
        if stored.size == 0:
            raise error(path, f"is damaged: {what} is empty")
        table = self.header.descriptors_offset
        table_end = table + self.header.descriptors_total * _DESCRIPTOR.size
        if stored.offset < _HEADER.size or table - stored.size < stored.offset < table_end:
            raise error(path, f"is damaged: {what} overlaps header or descriptors")
        return partition

    def _describe(self) -> None:
        header, partition = self.header, self.partition
        source = f"SIF partition descriptor {partition.stored.number}"
        self.filesystem = FILESYSTEMS.get(partition.filesystem, f"type {partition.filesystem}")
        self.filesystem_source = source
        self.encrypted = partition.filesystem in ENCRYPTED
        self.architectures = tuple(
            Stated(name, where)
            for name, where in (
                (self._architecture(partition.architecture, source), source),
                (self._architecture(header.architecture, "SIF header"), "SIF header"),
            )
            if name
        )
        if 0 < header.created < 1 << 40:
            self.created = header.created
        self.uuid = uuid(header)

    def _architecture(self, code: bytes, where: str) -> str:
        name = ARCHITECTURES.get(code[:2], "") if code[2:] == b"\0" else ""
        if not name and code != b"00\0":
            shown = clean(code.decode("ascii", "backslashreplace"))
            self._warnings.add(f"the {where} states the unknown architecture code {shown}")
        return name

    def _document(self, name: str) -> Any:
        """Return the JSON object called `name`, None if there is none; each is parsed once."""
        if name not in self._documents:
            self._documents[name] = self._read_document(name)
        return self._documents[name]

    def _read_document(self, name: str) -> Any:
        for stored in self.objects:
            if stored.kind == KINDS[JSON] and stored.name == name and stored.readable:
                if stored.size > MAX_JSON:
                    self._warnings.add(
                        f"{name} has {stored.size} bytes, more than {MAX_JSON}: it is ignored"
                    )
                    return None
                data = self._reader.read(stored.offset, stored.size)
                return metadata.parse(data, name, self._warnings)
        return None


def stored_object(descriptor: Descriptor, file_size: int) -> StoredObject:
    """Return what is known of the object that `descriptor` states."""
    offset, size = descriptor.offset, descriptor.size
    return StoredObject(
        descriptor.id,
        KINDS.get(descriptor.type, f"type {descriptor.type:#x}"),
        descriptor.name.split(b"\0", 1)[0].decode("utf-8", "backslashreplace"),
        descriptor.group & ~_GROUP or None,
        _link(descriptor.link),
        offset,
        size,
        min(offset, size) >= 0 and offset + size <= file_size,
    )


def warn_of_unreadable(objects: Sequence[StoredObject], warnings: Warnings) -> None:
    """Warn of each object that lies outside the file."""
    for stored in objects:
        if not stored.readable:
            warnings.add(
                f"SIF object {stored.number} ({stored.kind}, {clean(stored.name, 60)}) "
                "lies outside the file: it is ignored"
            )


def _check_data_section(reader: Reader, header: Header, warnings: Warnings) -> None:
    path = reader.path
    if header.data_offset < 0 or header.data_size < 0:
        raise error(path, "is damaged: its SIF header states a negative data offset or size")
    end = header.data_offset + header.data_size
    if end >= 1 << 63:
        raise error(path, "is damaged: data offset and size in its SIF header overflow")
    if end > reader.size:
        warnings.add(f"the SIF header states data up to byte {end}, the file ends at {reader.size}")
    if not 0 <= header.descriptors_free <= header.descriptors_total:
        warnings.add(
            f"the SIF header states {header.descriptors_free} free descriptors of "
            f"{header.descriptors_total}"
        )


def _read_header(reader: Reader) -> Header:
    if reader.size < _HEADER.size:
        raise error(reader.path, f"is truncated: {reader.size} bytes end inside the SIF header")
    header = Header(*_HEADER.unpack(reader.read(0, _HEADER.size)))
    if header.version != _VERSION:
        shown = clean(header.version.rstrip(b"\0").decode("ascii", "backslashreplace"))
        raise error(reader.path, f"has SIF version {shown or '(none)'}, only 01 is known")
    return header


def _read_descriptors(reader: Reader, header: Header) -> list[Descriptor]:
    """Return the fields of all descriptors in use, in file order."""
    total, offset = header.descriptors_total, header.descriptors_offset
    if not 0 <= total <= MAX_DESCRIPTORS:
        raise error(
            reader.path,
            f"is damaged: its SIF header states {total} descriptors "
            f"(0 to {MAX_DESCRIPTORS} are read)",
        )
    size = total * _DESCRIPTOR.size
    if header.descriptors_size < size:
        raise error(
            reader.path,
            f"is damaged: {total} descriptors have {size} bytes, "
            f"its SIF header states {header.descriptors_size}",
        )
    if offset < _HEADER.size:
        raise error(reader.path, f"is damaged: its SIF descriptors start at byte {offset}")
    if offset + size > reader.size:
        raise error(
            reader.path,
            f"is truncated: its SIF descriptors end at byte {offset + size}, "
            f"the file at {reader.size}",
        )
    table = reader.read(offset, size)
    return [
        Descriptor(*_DESCRIPTOR.unpack_from(table, start))
        for start in range(0, size, _DESCRIPTOR.size)
        if table[start + 4]
    ]


def uuid(header: Header) -> str:
    """Return the UUID of the header, empty if it has none."""
    if not any(header.uuid):
        return ""
    digits = header.uuid.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def signature(stored: StoredObject, extra: bytes) -> Signature:
    (code,) = struct.unpack_from("<i", extra)
    entity = extra[4:24]
    return Signature(
        stored.number,
        HASHES.get(code, f"type {code}"),
        entity.hex().upper() if any(entity) else "",
        stored.link,
    )


def _link(link: int) -> str:
    if link == 0:
        return ""
    if link & _GROUP == _GROUP:
        return f"group {link & ~_GROUP}"
    return f"object {link}"
