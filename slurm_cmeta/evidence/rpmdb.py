"""Names and versions in the database of RPM.

Since RPM 4.16 it is an SQLite file, rpmdb.sqlite, with a table Packages of header blobs:

    entries, bytes of data (4 bytes each, big-endian)
    16 bytes for each entry: tag, type, offset in the data, count
    data

Source: rpm's documentation, "RPM v4 header format", lib/header.cc and lib/backend/sqlite.cc. The
older Berkeley DB and ndb formats are not read.
"""

from __future__ import annotations

import struct

from slurm_cmeta.evidence import sqlitefile
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.image.filetree import Entry, FileTree

DIRECTORIES = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
"""Of Fedora 36, SUSE and newer; of RHEL and older ones, where it may be a link to the first."""

MAX_STRING = 256
"""Bytes of one name, version or release."""

MAX_TAGS = 512
"""Entries of one header that are looked at. They are in the order of their numbers, and the largest
number wanted here is the least of all but a dozen; real headers have about 100."""

_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_INT32, _STRING = 4, 6


def packages(tree: FileTree) -> Iterator[tuple[str, str, str]]:
    """Yield name, version (`[EPOCH:]VERSION-RELEASE`) and the file of each installed package.

    A database that cannot be read, or in part only, gives a warning of the image.
    """
    for directory in DIRECTORIES:
        path = f"{directory}/rpmdb.sqlite"
        entry = tree.find(path)
        if entry is not None and entry.kind == "file":
            yield from _of_database(tree, entry)
            return
        for name in ("Packages", "Packages.db"):
            if tree.find(f"{directory}/{name}") is not None:
                tree.warnings.add(
                    f"packages of RPM are not listed: {directory}/{name} has a format from before "
                    "RPM 4.16 (Berkeley DB) or of SUSE (ndb), which is not read"
                )
                return


def _of_database(tree: FileTree, entry: Entry) -> Iterator[tuple[str, str, str]]:
    path = clean(entry.path)
    journal = tree.find(f"{entry.path}-wal")
    if journal is not None and journal.size:
        tree.warnings.add(f"{path} has changes in a journal, which are not seen")

    def read(offset: int, size: int) -> bytes:
        return tree.read(entry, offset, size)

    try:
        database = sqlitefile.Database(read, entry.size, tree.step)
        for row in database.rows("Packages", 2):
            blob = row[1] if len(row) > 1 else None
            found = package(blob) if isinstance(blob, bytes) else None
            if found is not None and found[0] != "gpg-pubkey":  # a key, not a package
                yield *found, path
    except sqlitefile.DamagedError as problem:
        tree.warnings.add(f"packages of RPM are not all listed: {path}: {problem}")


def package(blob: bytes) -> tuple[str, str] | None:
    """Return name and version in a header of which `blob` is the begin, None if it has none."""
    if len(blob) < 8:
        return None
    entries, _ = struct.unpack_from(">II", blob)
    data = 8 + 16 * entries
    if data > len(blob):  # so that sqlitefile.MAX_PAYLOAD bounds the entries, too
        return None
    texts: dict[int, str] = {}
    epoch = 0
    for place in range(8, min(data, 8 + 16 * MAX_TAGS), 16):
        tag, kind, offset, _ = struct.unpack_from(">IIII", blob, place)
        at = data + offset
        if tag == _EPOCH and kind == _INT32 and at + 4 <= len(blob):
            (epoch,) = struct.unpack_from(">I", blob, at)
        elif tag in (_NAME, _VERSION, _RELEASE) and kind == _STRING:
            text = blob[at : at + MAX_STRING].partition(b"\0")[0]
            texts.setdefault(tag, text.decode("utf-8", "replace"))
    if not texts.get(_NAME):
        return None
    version = texts.get(_VERSION, "")
    if texts.get(_RELEASE):
        version += f"-{texts[_RELEASE]}"
    return texts[_NAME], f"{epoch}:{version}" if epoch else version
