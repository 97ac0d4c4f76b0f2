"""The headers of a tar archive, one after the other, each bounded.

tarfile of the standard library is made for honest archives: it reads a pax header of a gigabyte
into memory and follows GNU sparse headers for ever. What is needed here is less: names, kinds,
links, and where the data is.

    0 name [100]   100 mode [8]   124 size [12]   148 checksum [8]   156 type [1]
    157 link name [100]   257 magic [6] "ustar"   345 prefix [155]

Numbers are octal text, or big-endian with the top bit set (GNU). The data follows, padded to 512
bytes. Types L and K (GNU) and x and g (pax) hold names for the header after them. Sources: POSIX
pax(1), "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

from typing import Protocol

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512

MAX_EXTENSION = 256 * 1024
"""Bytes of one pax or GNU header that are read: real ones have less than 10 kB, mostly xattrs."""

MAX_CHAIN = 16
"""Extension headers before one member; real archives have one to three."""

MAX_SPARSE = 4096
"""Blocks of one old GNU sparse header, of 21 pieces of a file each."""

REGULAR, LINK, SYMLINK, DIRECTORY, OTHER = "file", "link", "symlink", "directory", "other"
_KINDS = {
    b"0": REGULAR,
    b"\0": REGULAR,
    b"7": REGULAR,
    b"1": LINK,
    b"2": SYMLINK,
    b"5": DIRECTORY,
}


class TarError(Exception):
    """The archive is damaged here; nothing behind can be found."""


class Source(Protocol):
    """Where the archive's bytes come from, front to back."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""

    def skip(self, size: int) -> None:
        """Go on `size` bytes."""

    def tell(self) -> int:
        """Return how many bytes came before."""


class Member(NamedTuple):
    """One member. Its data comes next in the source, and is skipped by what is left of it."""

    name: bytes
    kind: str
    size: int
    """Bytes of data in the archive."""
    mode: int
    target: bytes
    """Where a link points."""
    sparse: bool
    """The data is not the file's content as it is."""


def looks_like_tar(head: bytes) -> bool:
    """Tell whether `head` begins with a tar header: its checksum is right and it has a name."""
    return len(head) >= BLOCK and bool(head[0]) and _checksum_is_right(head[:BLOCK])


def members(source: Source) -> Iterator[Member]:
    """Yield the members; the caller may read the data of each before it asks for the next.

    Raises TarError where the archive is damaged or ends too early.
    """
    while True:
        name = target = b""
        size: int | None = None
        sparse = False
        for _ in range(MAX_CHAIN):
            block = source.read(BLOCK)
            if not block or not block.strip(b"\0"):
                return
            if len(block) < BLOCK:
                raise TarError("ends inside a header")
            if not _checksum_is_right(block):
                raise TarError("has a damaged header")
            kind = block[156:157]
            length = _number(block[124:136])
            if kind not in b"LKxgXA":
                break
            data = _extension(source, length)
            if kind == b"L":
                name = data.split(b"\0", 1)[0]
            elif kind == b"K":
                target = data.split(b"\0", 1)[0]
            elif kind in b"xX":
                found = _pax(data)
                name = found.get(b"path", name)
                target = found.get(b"linkpath", target)
                name = found.get(b"GNU.sparse.name", name)
                sparse = sparse or any(key.startswith(b"GNU.sparse.") for key in found)
                if b"size" in found:
                    size = _decimal(found[b"size"])
        else:
            raise TarError(f"has more than {MAX_CHAIN} extension headers for one file")
        yield from _member(source, block, name, target, length if size is None else size, sparse)


def _member(
    source: Source, block: bytes, name: bytes, target: bytes, size: int, sparse: bool
) -> Iterator[Member]:
    kind = _KINDS.get(block[156:157], OTHER)
    if block[156:157] == b"S":
        kind, sparse = REGULAR, True
        _skip_map(source, block[482])
    if not name:
        name = _field(block[:100])
        prefix = _field(block[345:500]) if block[257:263] == b"ustar\0" else b""
        if prefix:
            name = prefix + b"/" + name
    if kind == REGULAR and name.endswith(b"/"):
        kind = DIRECTORY  # as before POSIX
    if kind not in (REGULAR, OTHER):
        # A size of what has no data is to be ignored (POSIX), except that some archivers, pax
        # among them, write a hard link's data too: then its size says so.
        size = size if kind == LINK else 0
    begin = source.tell()
    yield Member(name, kind, size, _mode(block), target or _field(block[157:257]), sparse)
    source.skip(begin + size + -size % BLOCK - source.tell())


def _skip_map(source: Source, extended: int) -> None:
    """Go behind the blocks of GNU's old sparse header, of which each says whether one follows."""
    for _ in range(MAX_SPARSE):
        if not extended:
            return
        more = source.read(BLOCK)
        if len(more) < BLOCK:
            raise TarError("ends inside a header")
        extended = more[504]
    raise TarError(f"has a sparse file of more than {MAX_SPARSE} headers")


def _extension(source: Source, length: int) -> bytes:
    if length > MAX_EXTENSION:
        # Without it the member behind would be taken for another one.
        raise TarError(f"has an extension header of {length} bytes")
    data = source.read(length + -length % BLOCK)
    if len(data) < length:
        raise TarError("ends inside a header")
    return data[:length]


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Return the `LENGTH KEY=VALUE\\n` records that can be read."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0:
            break
        length = _decimal(data[at:space])
        if length <= space - at or at + length > len(data):
            break
        key, sign, value = data[space + 1 : at + length - 1].partition(b"=")
        if sign:
            found[key] = value
        at += length
    return found


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise TarError("has a damaged extension header")
    return int(digits)


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if digits and not all(0x30 <= digit <= 0x37 for digit in digits):
            raise TarError("has a damaged header")
        value = int(digits, 8) if digits else 0
    if value >= 1 << 60:
        raise TarError("states an absurd size")
    return value


def _mode(block: bytes) -> int:
    try:
        return _number(block[100:108]) & 0o7777
    except TarError:
        return 0


def _field(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _checksum_is_right(block: bytes) -> bool:
    """Compare the sum of all bytes, its own eight taken as spaces.

    Some old archivers summed signed bytes; then only headers of plain ASCII agree here.
    """
    digits = block[148:156].strip(b" \0")
    if not digits or not all(0x30 <= digit <= 0x37 for digit in digits):
        return False
    return int(digits, 8) == sum(block) - sum(block[148:156]) + 8 * 0x20
