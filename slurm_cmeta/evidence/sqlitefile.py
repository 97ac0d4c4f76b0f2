"""The rows of one table in an SQLite file, read without SQLite.

    page 1      100 bytes of header, then the root of the table `sqlite_schema`
    page n      interior:  5 | ... | cells: left child, rowid        | rightmost child
                leaf:     13 | ... | cells: size, rowid, payload     | first overflow page
    overflow    next page | up to page size - 4 bytes of payload

Source: "Database File Format" of the SQLite documentation. A database file is a program for SQLite
(views, generated columns, triggers) that can ask for any amount of memory, and its library reads
files of the host only: a copy as large as the database, commonly 10 to 200 MB, would be needed.
This reads pages where they are, runs nothing, and keeps no more than one row.
"""

from __future__ import annotations

import struct

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_PAYLOAD = 64 * 1024
"""Bytes of one row that are read, from its begin."""

MAX_PAGES = 500_000
"""Pages of one table: 2 GB at the usual 4 kB."""

MAX_ROWS = 300_000
"""Rows of one table."""

MAX_READ = 1024 * 1024 * 1024
"""Bytes that are taken as pages and as rows in all. Rows that overlap could ask for the same ones
again and again; 20,000 real packages take 0.6 GB."""

WINDOW = 64 * 1024
"""Bytes read from the file at once. Neighbouring pages are used together."""

MAX_WINDOWS = 32
"""Windows that are kept, 2 MB."""

MAGIC = b"SQLite format 3\0"
_SCHEMA_COLUMNS = 4
"""Type, name, table and root page (sqlite_schema)."""

_INTERIOR, _LEAF = 5, 13
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
"""Bytes of a value of the serial types 0 to 9."""

Value = int | bytes | None


class DamagedError(Exception):
    """The file is no database, or is damaged."""


class Database:
    """An SQLite file of `size` bytes that `read(offset, size)` reads."""

    def __init__(
        self, read: Callable[[int, int], bytes], size: int, go_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Read the header; raise DamagedError if it is none.

        `go_on` is asked before each row; when it says no, nothing more is read.
        """
        self._read = read
        self._go_on = go_on
        self._size = size
        self._windows: dict[int, bytes] = {}
        self._taken = 0
        head = self._bytes(0, 100)
        if head[:16] != MAGIC or len(head) < 100:
            raise DamagedError("it is no SQLite database")
        (page,) = struct.unpack_from(">H", head, 16)
        self._page = 65536 if page == 1 else page
        self._usable = self._page - head[20]
        if self._page < 512 or self._page & (self._page - 1) or self._usable < 480:
            raise DamagedError("its page size is none")

    def rows(self, table: str, columns: int) -> Iterator[list[Value]]:
        """Yield the first `columns` of the rows of a table: integers, and the first bytes of texts
        and blobs.

        A float is None, as is the column that the row's number stands for. Raises DamagedError if
        there is no such table, or if nothing more can be read.
        """
        for row in self._rows(1, _SCHEMA_COLUMNS):
            if len(row) >= 4 and row[0] == b"table" and row[1] == table.encode():
                if isinstance(row[3], int):
                    yield from self._rows(row[3], columns)
                    return
                break
        raise DamagedError(f"it has no table {table}")

    def _bytes(self, offset: int, size: int) -> bytes:
        """Return bytes that may lie in two windows, fewer at the end of the file."""
        self._take(size)
        number, start = divmod(offset, WINDOW)
        data = self._window(number)[start : start + size]
        while len(data) < size and (number + 1) * WINDOW < self._size:
            number += 1
            data += self._window(number)[: size - len(data)]
        return data

    def _take(self, size: int) -> None:
        self._taken += size
        if self._taken > MAX_READ:
            raise DamagedError("too much of it would have to be read")

    def _window(self, number: int) -> bytes:
        data = self._windows.pop(number, None)
        if data is None:
            data = self._read(number * WINDOW, min(WINDOW, max(0, self._size - number * WINDOW)))
        self._windows[number] = data  # the last used one is the last in the dictionary
        if len(self._windows) > MAX_WINDOWS:
            del self._windows[next(iter(self._windows))]
        return data

    def _page_at(self, number: int) -> bytes:
        if number < 1 or number * self._page > self._size + self._page - 1:
            raise DamagedError(f"it has no page {number}")
        data = self._bytes((number - 1) * self._page, self._page)
        if len(data) < self._usable:
            raise DamagedError(f"page {number} cannot be read")
        return data

    def _rows(self, root: int, columns: int) -> Iterator[list[Value]]:
        stack, seen, rows = [root], {root}, 0
        while stack:
            number = stack.pop()
            page = self._page_at(number)
            start = 100 if number == 1 else 0
            kind = page[start]
            if kind not in (_INTERIOR, _LEAF):
                raise DamagedError(f"page {number} is no page of a table")
            count = int.from_bytes(page[start + 3 : start + 5], "big")
            first = start + (8 if kind == _LEAF else 12)
            children: list[int] = []
            for place in range(first, first + 2 * count, 2):
                cell = int.from_bytes(page[place : place + 2], "big")
                if place + 2 > self._usable or cell + 4 > self._usable:
                    raise DamagedError(f"page {number} has a cell outside of it")
                if kind == _INTERIOR:
                    children.append(int.from_bytes(page[cell : cell + 4], "big"))
                    continue
                rows += 1
                if rows > MAX_ROWS:
                    raise DamagedError(f"it has more than {MAX_ROWS} rows")
                if not self._go_on():
                    raise DamagedError("reading it was given up")
                data = self._payload(page, cell)
                self._take(len(data))
                yield _record(data, columns)
            if kind == _INTERIOR:
                children.append(int.from_bytes(page[start + 8 : start + 12], "big"))
            for child in reversed(children):
                if child in seen or len(seen) > MAX_PAGES:
                    raise DamagedError("its pages form no tree")
                seen.add(child)
                stack.append(child)

    def _payload(self, page: bytes, cell: int) -> bytes:
        """Return the first bytes of a leaf cell's payload."""
        size, place = _varint(page, cell)
        _, place = _varint(page, place)
        usable = self._usable
        local = size
        if size > usable - 35:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (usable - 4)
            if local > usable - 35:
                local = least
        if place + local > usable:
            raise DamagedError("it has a row outside of its page")
        data = page[place : place + local]
        wanted = min(size, MAX_PAYLOAD)
        if size > local:
            following = page[place + local : place + local + 4]
            while len(data) < wanted:
                overflow = self._page_at(int.from_bytes(following, "big"))
                following = overflow[:4]
                data += overflow[4:usable]
        return data[:wanted]


def _record(data: bytes, limit: int) -> list[Value]:
    """Return the first `limit` columns of a row whose first bytes are `data`."""
    end, place = _varint(data, 0)
    if end > len(data):
        raise DamagedError("it has a row with too many columns")
    columns: list[Value] = []
    at = end
    while place < end and len(columns) < limit:
        kind, place = _varint(data, place)
        size = (kind - 12) // 2 if kind >= 12 else _SIZES[kind] if kind < 10 else 0
        piece = data[at : at + size]
        at += size
        if kind >= 12:
            columns.append(piece)
        elif kind in (0, 7, 10, 11):
            columns.append(None)
        elif kind > 7:
            columns.append(kind - 8)
        else:
            columns.append(int.from_bytes(piece, "big", signed=True))
    return columns


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of 1 to 9 bytes and the place behind it."""
    value = 0
    for index, byte in enumerate(data[place : place + 9]):
        if index == 8:
            return value << 8 | byte, place + 9
        value = value << 7 | byte & 127
        if byte < 128:
            return value, place + index + 1
    raise DamagedError("it has a number that does not end")
