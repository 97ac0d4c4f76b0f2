"""ELF files: programs and libraries, as far as they tell what they need of a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Section(NamedTuple):
    """A section, as stated: offset and size are in bytes and may lie outside the file."""

    offset: int
    size: int
    address: int
    type: int


class Elf:
    """One ELF file. What is not there is empty; what is damaged is as if it were not there."""

    family: str
    """archspec's name of its machine, or `machine N`."""
    bits: int
    little: bool
    type: int
    interpreter: str
    alignment: int
    """Largest alignment of a segment that is loaded, in bytes; 0 if nothing is loaded."""
    isa_needed: int
    """Bits of GNU_PROPERTY_X86_ISA_1_NEEDED: 1 baseline, 2 v2, 4 v3, 8 v4."""
    kernel: str
    """Oldest Linux that it runs on (`3.2.0`), from its ABI note."""
    needed: tuple[str, ...]
    soname: str
    search: tuple[str, ...]
    """Directories of DT_RPATH and DT_RUNPATH, with $ORIGIN unresolved."""
    versions_needed: Mapping[str, tuple[str, ...]]
    """Library -> symbol versions asked of it (`libc.so.6` -> `GLIBC_2.34`, ...)."""
    versions_defined: tuple[str, ...]

    def sections(self) -> Mapping[str, Section]:
        """Return the sections by name; reads them when first asked."""
        raise NotImplementedError


def open_elf(read: Callable[[int, int], bytes], size: int) -> Elf | None:
    """Return the ELF file of `size` bytes that `read(offset, size)` reads, or None if it is none.

    `read` gives fewer bytes at the end of the file, and none where it cannot be read.
    """
    raise NotImplementedError
