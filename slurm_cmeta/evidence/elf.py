"""ELF files: programs and libraries, as far as they tell what they need of a machine.

Source: the System V gABI (chapters 4 and 5), the psABI supplements, glibc's elf/elf.h, and for the
property note "Linux Extensions to gABI". Only headers, notes and the dynamic section are read, none
of the code: two or three reads a file, of which the first usually has all that a program tells.
"""

from __future__ import annotations

from struct import Struct, error

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple, cached_property

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAGIC = b"\x7fELF"

HEAD = 4096
"""Bytes read first: header, program headers, interpreter and notes lie there in all real files."""

MAX_SEGMENTS = 256
"""Program headers looked at; real files have 8 to 14."""

MAX_SECTIONS = 4096
"""Section headers looked at; real files have 25 to 60, with -ffunction-sections linked away."""

MAX_TABLE = 1024 * 1024
"""Bytes of one table (notes, dynamic section, section names, versions) that are read."""

MAX_STRINGS = 8 * 1024 * 1024
"""Bytes of a table of strings that are read; that of a library like libLLVM has about 4 MB."""

MAX_ENTRIES = 4096
"""Entries of one kind (libraries needed, versions) that are kept."""

MAX_DIRECTORIES = 64
"""Directories of a search path; those of Spack's programs have up to about 40."""

MAX_STRING = 4096
"""Bytes of one string."""

_MACHINES = {
    3: "x86",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    43: "sparc64",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch64",
}
"""e_machine in archspec's spelling; what depends on word size or byte order is refined."""

EXECUTABLE, SHARED = 2, 3
_LOAD, _DYNAMIC, _INTERP, _NOTE, _PROPERTY = 1, 2, 3, 4, 0x6474E553
_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 5, 10, 14, 15, 29
_FLAGS_1, _DF_1_PIE = 0x6FFFFFFB, 0x08000000
_VERDEF, _VERDEFNUM, _VERNEED, _VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_NT_ABI_TAG, _NT_PROPERTY = 1, 5
_X86_ISA_1_NEEDED = 0xC0008002


class Section(NamedTuple):
    """A section, as stated: offset and size are in bytes and may lie outside the file."""

    offset: int
    size: int
    address: int
    type: int


class _Segment(NamedTuple):
    type: int
    offset: int
    address: int
    size: int
    alignment: int


class Elf:
    """One ELF file. What is not there is empty; what is damaged is as if it were not there."""

    def __init__(self, read: Callable[[int, int], bytes], size: int, head: bytes) -> None:
        """Take the file that open_elf() found to be one."""
        self._read = read
        self._size = size
        self._head = head
        self.bits = 64 if head[4] == 2 else 32
        self.little = head[5] == 1
        order = "<" if self.little else ">"
        wide = self.bits == 64
        self._word = Struct(order + "I")
        self._note = Struct(order + "III")
        header = Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
        fields = header.unpack_from(head.ljust(64, b"\0"), 16)
        self.type: int = fields[0]
        self.machine: int = fields[1]
        self.entry: int = fields[3]
        self.flags: int = fields[6]
        self._phoff, self._shoff = fields[4], fields[5]
        self._phentsize, self._phnum, self._shentsize, self._shnum, self._shstrndx = fields[8:13]
        self._phdr = Struct(order + ("IIQQQQQQ" if wide else "IIIIIIII"))
        self._shdr = Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
        self._dyn = Struct(order + ("qQ" if wide else "iI"))
        self.family = self._family()
        """archspec's name of its machine, or `machine N`."""
        self._segments = tuple(self._read_segments())
        loaded = [s.alignment for s in self._segments if s.type == _LOAD]
        self.alignment = max(loaded, default=0)
        """Largest alignment of a segment that is loaded, in bytes; 0 if nothing is loaded."""
        self.interpreter = self._read_interpreter()
        self.isa_needed = 0
        """Bits of GNU_PROPERTY_X86_ISA_1_NEEDED: 1 baseline, 2 v2, 4 v3, 8 v4."""
        self.kernel = ""
        """Oldest Linux that it runs on (`3.2.0`), from its ABI note."""
        self._read_notes()
        self._dynamic: dict[int, list[int]] | None = None
        self._strings: bytes | None = None
        self._sections: dict[str, Section] | None = None

    @property
    def is_program(self) -> bool:
        """Whether it can be started: it has an interpreter, is static, or a static PIE."""
        pie = bool(self._tag(_FLAGS_1) & _DF_1_PIE) if self._tag(_FLAGS_1) >= 0 else False
        return bool(self.interpreter) or not self.is_dynamic or pie

    @property
    def is_dynamic(self) -> bool:
        """Whether it is linked with shared libraries, or is one."""
        return any(s.type == _DYNAMIC for s in self._segments)

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """Sonames of the libraries that it is linked with (DT_NEEDED)."""
        return self._named(_NEEDED)

    @cached_property
    def soname(self) -> str:
        """Its own name as a library (DT_SONAME)."""
        return next(iter(self._named(_SONAME)), "")

    @cached_property
    def rpath(self) -> tuple[str, ...]:
        """Directories of DT_RPATH, with $ORIGIN unresolved; none where there is a DT_RUNPATH."""
        return () if self.runpath else self._directories(_RPATH)

    @cached_property
    def runpath(self) -> tuple[str, ...]:
        """Directories of DT_RUNPATH, with $ORIGIN unresolved."""
        return self._directories(_RUNPATH)

    def _directories(self, tag: int) -> tuple[str, ...]:
        path = next(iter(self._named(tag)), "")
        return tuple(filter(None, path.split(":", MAX_DIRECTORIES)[:MAX_DIRECTORIES]))

    @cached_property
    def versions_needed(self) -> Mapping[str, tuple[str, ...]]:
        """Library -> symbol versions asked of it (`libc.so.6` -> `GLIBC_2.34`, ...)."""
        found: dict[str, tuple[str, ...]] = {}
        table = self._version_table(_VERNEED)
        form = Struct(self._order("IHHII"))
        left = MAX_ENTRIES
        for position, entry in self._chain(table, Struct(self._order("HHIII")), _VERNEEDNUM):
            _, count, file, first, _ = entry
            names = []
            at = position + first
            for _ in range(count):
                aux = _unpack(form, table, at) if left > 0 else None
                left -= 1
                if aux is None:
                    break
                names.append(self._string(aux[3]))
                if not aux[4]:
                    break
                at += aux[4]
            found[self._string(file)] = tuple(filter(None, names))
        return found

    @cached_property
    def versions_defined(self) -> tuple[str, ...]:
        """Symbol versions that it defines as a library (`GLIBC_2.36`), its own name left out."""
        found = []
        table = self._version_table(_VERDEF)
        form = Struct(self._order("II"))
        for position, entry in self._chain(table, Struct(self._order("HHHHIII")), _VERDEFNUM):
            _, flags, _, _, _, first, _ = entry
            aux = _unpack(form, table, position + first)
            if aux is not None and not flags & 1:
                found.append(self._string(aux[0]))
        return tuple(filter(None, found))

    def sections(self) -> Mapping[str, Section]:
        """Return the sections by name; reads them when first asked. None where they are gone."""
        if self._sections is None:
            self._sections = self._read_sections()
        return self._sections

    def _order(self, fields: str) -> str:
        return ("<" if self.little else ">") + fields

    def _family(self) -> str:
        name = _MACHINES.get(self.machine, f"machine {self.machine}")
        if name == "ppc64" and self.little:
            return "ppc64le"
        if name == "riscv":
            return f"riscv{self.bits}"
        if name == "mips":
            return name + ("64" if self.bits == 64 else "") + ("el" if self.little else "")
        if name == "x86_64" and self.bits == 32:
            return "x86_64"  # x32: the same machine
        return name

    def _at(self, offset: int, size: int) -> bytes:
        if offset < 0 or size <= 0 or offset >= self._size:
            return b""
        if offset + size <= len(self._head):
            return self._head[offset : offset + size]
        return self._read(offset, size)

    def _read_segments(self) -> Iterator[_Segment]:
        size = self._phdr.size
        if self._phentsize < size:
            return
        count = min(self._phnum, MAX_SEGMENTS)
        table = self._at(self._phoff, count * self._phentsize)
        for start in range(0, len(table) - size + 1, self._phentsize):
            f = self._phdr.unpack_from(table, start)
            if self.bits == 64:
                yield _Segment(f[0], f[2], f[3], f[5], f[7])
            else:
                yield _Segment(f[0], f[1], f[2], f[4], f[7])

    def _read_interpreter(self) -> str:
        for segment in self._segments:
            if segment.type == _INTERP:
                return _text(self._at(segment.offset, min(segment.size, MAX_STRING)))
        return ""

    def _read_notes(self) -> None:
        for segment in self._segments:
            if segment.type in (_NOTE, _PROPERTY):
                # glibc aligns property notes to 8 bytes in 64-bit files, all others to 4.
                step = 8 if segment.alignment == 8 else 4
                data = self._at(segment.offset, min(segment.size, MAX_TABLE))
                for kind, description in self._notes(data, step):
                    self._take_note(kind, description)

    def _notes(self, data: bytes, step: int) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at + 12 <= len(data):
            name_size, size, kind = self._note.unpack_from(data, at)
            name = data[at + 12 : at + 12 + min(name_size, 8)]
            start = _aligned(at + 12 + name_size, step)
            if name == b"GNU\0":
                yield kind, data[start : start + size]
            at = _aligned(start + size, step)

    def _take_note(self, kind: int, data: bytes) -> None:
        if kind == _NT_ABI_TAG and len(data) >= 16:
            system, *version = (self._word.unpack_from(data, at)[0] for at in (0, 4, 8, 12))
            if system == 0 and max(version) < 1000:
                self.kernel = ".".join(map(str, version))
        elif kind == _NT_PROPERTY:
            step = 8 if self.bits == 64 else 4
            at = 0
            while at + 8 <= len(data):
                (property_type,) = self._word.unpack_from(data, at)
                (size,) = self._word.unpack_from(data, at + 4)
                if property_type == _X86_ISA_1_NEEDED and size == 4 and at + 12 <= len(data):
                    self.isa_needed |= self._word.unpack_from(data, at + 8)[0]
                at = _aligned(at + 8 + size, step)

    def _tags(self) -> dict[int, list[int]]:
        if self._dynamic is None:
            self._dynamic = {}
            for segment in self._segments:
                if segment.type == _DYNAMIC:
                    table = self._at(segment.offset, min(segment.size, MAX_TABLE))
                    for start in range(0, len(table) - self._dyn.size + 1, self._dyn.size):
                        tag, value = self._dyn.unpack_from(table, start)
                        if tag == 0:
                            break
                        values = self._dynamic.setdefault(tag, [])
                        if len(values) < MAX_ENTRIES:
                            values.append(value)
        return self._dynamic

    def _offset(self, address: int) -> int:
        """Return where in the file the byte lies that is loaded to `address`, -1 if nowhere."""
        for segment in self._segments:
            if segment.type == _LOAD and 0 <= address - segment.address < segment.size:
                return address - segment.address + segment.offset
        return -1

    def _tag(self, tag: int) -> int:
        return next(iter(self._tags().get(tag, ())), -1)

    def _named(self, tag: int) -> tuple[str, ...]:
        """Return the strings of a tag; no more bytes of them than of a whole table of strings."""
        found = []
        left = MAX_TABLE
        for value in self._tags().get(tag, ()):
            text = self._string(value)
            left -= len(text)
            if left < 0:
                break
            if text:
                found.append(text)
        return tuple(found)

    def _string(self, at: int) -> str:
        if self._strings is None:
            offset = self._offset(self._tag(_STRTAB))
            self._strings = self._at(offset, min(max(self._tag(_STRSZ), 0), MAX_STRINGS))
        if not 0 <= at < len(self._strings):
            return ""
        return _text(self._strings[at : at + MAX_STRING])

    def _version_table(self, tag: int) -> bytes:
        """Return the bytes from a table of versions on: its size is stated nowhere."""
        if self._tag(tag) < 0:
            return b""
        return self._at(self._offset(self._tag(tag)), 64 * 1024)

    def _chain(
        self, table: bytes, form: Struct, count_tag: int
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield position and fields of the entries of a chain, whose last field leads on."""
        at = 0
        for _ in range(min(max(self._tag(count_tag), 0), MAX_ENTRIES)):
            entry = _unpack(form, table, at)
            if entry is None:
                return
            yield at, entry
            if not entry[-1]:
                return
            at += entry[-1]

    def _read_sections(self) -> dict[str, Section]:
        size, count = self._shdr.size, min(self._shnum, MAX_SECTIONS)
        if self._shentsize < size or not self._shoff:
            return {}
        table = self._at(self._shoff, count * self._shentsize)
        headers = [
            self._shdr.unpack_from(table, start)
            for start in range(0, len(table) - size + 1, self._shentsize)
        ]
        if self._shstrndx >= len(headers):
            return {}
        names = headers[self._shstrndx]
        strings = self._at(names[4], min(names[5], MAX_TABLE))
        found: dict[str, Section] = {}
        for header in headers:
            name = _text(strings[header[0] : header[0] + 256])
            found.setdefault(name, Section(header[4], header[5], header[3], header[1]))
        return found


def open_elf(read: Callable[[int, int], bytes], size: int) -> Elf | None:
    """Return the ELF file of `size` bytes that `read(offset, size)` reads, or None if it is none.

    `read` gives fewer bytes at the end of the file, and none where it cannot be read.
    """
    head = read(0, min(size, HEAD))
    if len(head) < 52 or not head.startswith(MAGIC):
        return None
    if head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    return Elf(read, size, head)


def _aligned(at: int, step: int) -> int:
    return (at + step - 1) // step * step


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _unpack(form: Struct, data: bytes, at: int) -> tuple[int, ...] | None:
    try:
        return form.unpack_from(data, at)
    except error:
        return None
