"""What the examination of machine code needs of an ELF file: a small reader with hard bounds.

Only 64-bit little-endian files; the layout is that of the System V gABI, the relocation numbers are
those of the processor supplements. Every number in the file is hostile: what does not lie within
the file is cut or dropped, counts are bounded, and the one exception raised is `Damaged`.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MACHINES = {62: "x86_64", 183: "aarch64", 21: "ppc64le", 243: "riscv64"}
ET_EXEC = 2
MAX_ADDRESS = 1 << 55
"""Addresses above are no user's on any of the architectures; callers pack a kind above them."""
MAX_SECTIONS = 65_280
MAX_SEGMENTS = 64
MAX_ARRAYS = 16
"""Initialiser arrays that are looked at; a linker makes three."""
MAX_SYMBOLS = 2_000_000
MAX_RELOCATIONS = 2_000_000

_PT_LOAD, _PT_DYNAMIC, _PT_GNU_EH_FRAME = 1, 2, 0x6474E550
_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS, _SHT_DYNSYM = 2, 4, 8, 11
_SHT_ARRAYS = (14, 15, 16)  # SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY
_DT_ARRAYS = ((25, 27), (26, 28), (32, 33))  # the same three as DT_x, DT_xSZ
_DT_INIT, _DT_FINI = 12, 13
STT_OBJECT, STT_FUNC, STT_IFUNC = 1, 2, 10


class Damaged(ValueError):  # noqa: N818  (a state of the file, caught by the caller)
    """The file is no ELF file that can be examined; the text says why."""


class Section(NamedTuple):
    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


class Segment(NamedTuple):
    address: int
    size: int
    """Bytes in the file; never beyond the file's end."""
    memory: int
    offset: int
    flags: int


class Symbol(NamedTuple):
    name: int
    """Offset of the name; `Elf.name(table, symbol)` reads it."""
    kind: int
    binding: int
    section: int
    value: int
    size: int


class Relocation(NamedTuple):
    offset: int
    kind: int
    symbol: int
    addend: int


class Table(NamedTuple):
    """A symbol table: where it and its strings are in the file."""

    offset: int
    symbols: int
    strings: int
    strings_size: int


class Elf:
    """One ELF file. `view` is the file's bytes."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        if len(view) < 64 or bytes(view[:4]) != b"\x7fELF":
            raise Damaged("not an ELF file")
        if view[4] != 2 or view[5] != 1:
            raise Damaged("not a 64-bit little-endian ELF file")
        (self.type, machine, _, self.entry, phoff, shoff, self.flags, _, phsize, phnum, shsize,
         shnum, self._names) = struct.unpack_from("<HHIQQQIHHHHHH", view, 16)  # fmt: skip
        self.machine = MACHINES.get(machine, str(machine))
        self.cut = False
        """Whether something named in the headers lies outside the file or over a bound."""
        self.segments: list[Segment] = []
        self.eh_frame_hdr: int | None = None
        self._dynamic: dict[int, int] = {}
        self._read_segments(phoff, phsize, min(phnum, MAX_SEGMENTS))
        self._starts = [segment.address for segment in self.segments]
        self.sections: list[Section] = list(self._read_sections(shoff, shsize, shnum))

    def _read_segments(self, offset: int, size: int, count: int) -> None:
        dynamic = None
        for at in range(offset, offset + size * count, size or 1):
            if size < 56 or at + 56 > len(self.view):
                self.cut = True
                break
            kind, flags, start, address, _, in_file, memory, _ = struct.unpack_from(
                "<IIQQQQQQ", self.view, at
            )
            if kind == _PT_LOAD:
                kept = max(0, min(in_file, len(self.view) - start))
                self.cut |= kept < in_file
                if address + max(memory, kept) >= MAX_ADDRESS:
                    self.cut = True
                    continue
                self.segments.append(Segment(address, kept, max(memory, kept), start, flags))
            elif kind == _PT_DYNAMIC:
                dynamic = (start, in_file)
            elif kind == _PT_GNU_EH_FRAME:
                self.eh_frame_hdr = address
        self.segments.sort()
        if dynamic:
            start, size = dynamic
            for at in range(start, min(start + min(size, 16 * 1024), len(self.view) - 15), 16):
                tag, value = struct.unpack_from("<QQ", self.view, at)
                if not tag:
                    break
                self._dynamic.setdefault(tag, value)

    def _read_sections(self, offset: int, size: int, count: int) -> Iterator[Section]:
        if size < 64 or not offset or count > MAX_SECTIONS:
            return
        raw = []
        for at in range(offset, offset + size * count, size):
            if at + 64 > len(self.view):
                self.cut = True
                break
            raw.append(struct.unpack_from("<IIQQQQIIQQ", self.view, at))
        names, names_size = raw[self._names][4:6] if self._names < len(raw) else (0, 0)
        for name, kind, flags, address, start, length, link, *_ in raw:
            if kind != _SHT_NOBITS and (start > len(self.view) or length > len(self.view) - start):
                self.cut = True
                length = max(0, len(self.view) - start)
            label = self.string(names + name, names + names_size)
            yield Section(label, kind, flags, address, start, length, link)

    def string(self, offset: int, end: int) -> str:
        """Return the text at file offset `offset`, at most 512 bytes of it, none behind `end`."""
        raw = bytes(self.view[offset : min(offset + 512, end, len(self.view))])
        return raw.split(b"\0", 1)[0].decode("ascii", "replace")

    def offset(self, address: int) -> tuple[int, int]:
        """Return the file offset of `address` and how many bytes follow there; (0, 0) if none."""
        segment = self.segment(address)
        if segment is None or address - segment.address >= segment.size:
            return 0, 0
        into = address - segment.address
        return segment.offset + into, segment.size - into

    def segment(self, address: int) -> Segment | None:
        """Return the segment that holds `address` in memory."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        found = self.segments[at]
        return found if address - found.address < found.memory else None

    def read(self, address: int, size: int) -> bytes:
        """Return up to `size` bytes from `address`, as they are in the file."""
        offset, left = self.offset(address)
        return bytes(self.view[offset : offset + min(size, left)])

    def executable(self) -> list[tuple[int, int]]:
        """Return the address ranges of machine code, ascending, disjoint, PLT sections left out.

        Together they are never longer than the file: what a hostile file maps twice is cut.
        """
        ranges = [
            (section.address, section.size)
            for section in self.sections
            if section.kind == 1 and section.flags & 6 == 6 and not section.name.startswith(".plt")
        ] or [(segment.address, segment.size) for segment in self.segments if segment.flags & 1]
        found: list[tuple[int, int]] = []
        left = len(self.view)
        for address, size in sorted(ranges):
            start = max(address, found[-1][1] if found else 0)
            segment = self.segment(start)
            if segment is None or not segment.flags & 1:
                continue
            end = min(address + size, segment.address + segment.size, start + left)
            if end > start:
                found.append((start, end))
                left -= end - start
        return found

    def tables(self) -> list[Table]:
        """Return .dynsym (or what the dynamic section says of it) and .symtab, as far as there."""
        found = {}
        for section in self.sections:
            if section.kind in (_SHT_SYMTAB, _SHT_DYNSYM) and section.link < len(self.sections):
                strings = self.sections[section.link]
                count = min(section.size // 24, MAX_SYMBOLS)
                found[section.kind] = Table(section.offset, count, strings.offset, strings.size)
        symbols, strings_at = self._dynamic.get(6, 0), self._dynamic.get(5, 0)
        if _SHT_DYNSYM not in found and 0 < symbols < strings_at:
            # Linkers put the strings behind the symbols; the count itself is only in hash tables.
            offset, left = self.offset(symbols)
            names, names_left = self.offset(strings_at)
            count = min((strings_at - symbols) // 24, left // 24, MAX_SYMBOLS)
            found[_SHT_DYNSYM] = Table(offset, count, names, names_left)
        return [found[kind] for kind in (_SHT_DYNSYM, _SHT_SYMTAB) if kind in found]

    def dynamic_table(self) -> Table | None:
        """Return the table that relocations refer to."""
        tables = self.tables()
        dynamic = any(s.kind == _SHT_DYNSYM for s in self.sections) or 6 in self._dynamic
        return tables[0] if tables and dynamic else None

    def symbols(self, table: Table) -> Iterator[Symbol]:
        for name, info, _, section, value, size in struct.iter_unpack(
            "<IBBHQQ", self.view[table.offset : table.offset + 24 * table.symbols]
        ):
            yield Symbol(name, info & 15, info >> 4, section, value, size)

    def name(self, table: Table, symbol: Symbol) -> str:
        return self.string(table.strings + symbol.name, table.strings + table.strings_size)

    def places(self, addresses: Iterable[int]) -> list[str]:
        """Return each address as `symbol+0x1c`, or as a number where no symbol covers it."""
        wanted = list(addresses)
        names: dict[int, str] = {}
        open_ = sorted(set(wanted))
        for table in self.tables():
            for symbol in self.symbols(table):
                if not open_:
                    break
                if symbol.kind == STT_FUNC and symbol.section:
                    at = bisect_left(open_, symbol.value)
                    while at < len(open_) and open_[at] < symbol.value + symbol.size:
                        address = open_.pop(at)
                        name = clean(self.name(table, symbol))
                        names[address] = f"{name}+{address - symbol.value:#x}"
        return [names.get(address, hex(address)) for address in wanted]

    def relocations(self) -> Iterator[Relocation]:
        """Yield every relocation with addend: of the sections, else of the dynamic section."""
        spans = [(s.offset, s.size) for s in self.sections if s.kind == _SHT_RELA and s.flags & 2]
        if not spans:
            for start, size in ((7, 8), (23, 2)):  # DT_RELA, DT_RELASZ; DT_JMPREL, DT_PLTRELSZ
                offset, left = self.offset(self._dynamic.get(start, 0))
                spans.append((offset, min(left, self._dynamic.get(size, 0))))
        left = MAX_RELOCATIONS
        for start, size in spans:
            count = min(size // 24, left)
            left -= count
            for offset, info, addend in struct.iter_unpack(
                "<QQq", self.view[start : start + 24 * count]
            ):
                yield Relocation(offset, info & 0xFFFFFFFF, info >> 32, addend)

    def pointers(self, address: int, size: int) -> array[int]:
        """Return the 8-byte words from `address` on, as they are in the file."""
        raw = self.read(address, size)
        return array("Q", raw[: len(raw) & ~7])

    def initialisers(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the addresses of _init and _fini, and the ranges of the arrays beside them."""
        plain = [self._dynamic[tag] for tag in (_DT_INIT, _DT_FINI) if tag in self._dynamic]
        plain += [s.address for s in self.sections if s.name in (".init", ".fini")]
        arrays = [(s.address, min(s.size, 1 << 20)) for s in self.sections if s.kind in _SHT_ARRAYS]
        for start, size in _DT_ARRAYS:
            if start in self._dynamic:
                arrays.append((self._dynamic[start], min(self._dynamic.get(size, 0), 1 << 20)))
        return plain[:MAX_ARRAYS], arrays[:MAX_ARRAYS]
