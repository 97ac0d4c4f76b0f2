"""What the symbols and relocations of an x86-64 file say of dispatch."""

from __future__ import annotations

import re
from array import array

from slurm_cmeta.evidence.machinecode.elf_code import (
    MAX_ARRAYS,
    STT_FUNC,
    STT_IFUNC,
    STT_OBJECT,
    Elf,
    Relocation,
    Symbol,
    Table,
)

ASKS_CPU = re.compile(
    r"(?i)cpu_?(?:id|info|flag|feature|support|has|have|model|cap|type|arch|indicator|detect)|"
    r"(?:has|have|(?<!sched_)get|detect|check)_?cpu(?!set|clock|alloc|free|count|time|usage)|"
    r"ia32cap|hardware_?(?:support|feature)|has_?(?:sse|avx|fma|bmi)|(?:chosen|supported)_?target|"
    r"simd_?(?:level|support|detect)|std_detect|_rtld_global_ro"
)
"""Names of functions and data that tell of the CPU."""
VARIANT = re.compile(
    r"(?i)(?:^|[^a-z])(?:avx|icelake)|(?:^|[^a-z])(?:"
    r"s?sse[0-9]?(?:[_.]?[0-9])?|x86_(?:64_)?v[234]|fma[0-9]?|bmi2|xop|vaes|gfni|evex|nehalem|"
    r"westmere|sandybridge|haswell|skylakex?|zen[0-9]?|cooperlake|sapphirerapids|bulldozer|"
    r"piledriver|steamroller|excavator|barcelona|knl|prescott|penryn|dunnington|core2|atom|nano|"
    r"opteron|bobcat|katmai|coppermine|northwood|banias|athlon)(?:$|[^a-z]|[EI])|^_ZGV[cdeCDE]|"
    r"(?-i:[a-z0-9](?:Avx|AVX|Ssse|SSSE|Sse[1-4]|SSE[1-4]))"
)
"""Names of functions made for some CPUs only; the last is the psABI's vector function ABI."""

R_64, R_GLOB_DAT, R_JUMP_SLOT, R_RELATIVE, R_IRELATIVE = 1, 6, 7, 8, 37


MAX_KEPT = 100_000
"""Entries of each kind that are kept; bounds memory."""


def within(ranges: list[tuple[int, int]], address: int) -> bool:
    """Say whether `address` is in one of a few ranges; any() with a generator takes three times."""
    for low, high in ranges:  # noqa: SIM110
        if low <= address < high:
            return True
    return False


class Links:
    """What relocations and symbols say: slots of imports and of functions, resolvers, exports."""

    def __init__(self, elf: Elf) -> None:
        self.resolvers: set[int] = set()
        self.imports: dict[int, str] = {}
        """Slot -> name of an imported function or variable that tells of the CPU."""
        self.targets: dict[int, int] = {}
        """Slot -> address in this file that the loader puts there."""
        self.objects: dict[int, int] = {}
        """Address -> size of a variable."""
        self.exports = array("Q")
        self.variants: set[int] = set()
        """Exported functions that are, by name, for some CPUs only."""
        self.tellers: set[int] = set()
        """Exported functions that, by name, tell of the CPU."""
        self._names: dict[int, str] = {}
        self._values = array("Q")
        self._writable = [(s.address, s.address + s.memory) for s in elf.segments if s.flags & 2]
        self._kept = (
            elf.initialisers()[1]
            + [
                (section.address, section.size)
                for section in elf.sections
                if section.name == ".got"
            ][:MAX_ARRAYS]
        )
        dynamic = elf.dynamic_table()
        for table in elf.tables():
            for symbol in elf.symbols(table):
                if symbol.section:
                    self._defined(symbol)
                if table == dynamic:
                    self._dynamic(elf, table, symbol)
        self.asks = bool(self._names)
        for entry in elf.relocations():
            self._relocation(entry)

    def _defined(self, symbol: Symbol) -> None:
        if symbol.kind == STT_IFUNC and len(self.resolvers) < MAX_KEPT:
            self.resolvers.add(symbol.value)
        elif symbol.kind == STT_OBJECT and symbol.size < 1 << 16 and len(self.objects) < MAX_KEPT:
            self.objects[symbol.value] = symbol.size

    def _dynamic(self, elf: Elf, table: Table, symbol: Symbol) -> None:
        self._values.append(symbol.value if symbol.section else 0)
        if not symbol.section:
            name = elf.name(table, symbol)
            if ASKS_CPU.search(name) and len(self._names) < MAX_KEPT:
                self._names[len(self._values) - 1] = name
        elif symbol.kind == STT_FUNC and symbol.binding == 1:  # weak ones are C++ inlines
            name = elf.name(table, symbol)
            self.exports.append(symbol.value)
            if ASKS_CPU.search(name):
                self.tellers.add(symbol.value)
            if VARIANT.search(name):
                self.variants.add(symbol.value)

    def _relocation(self, entry: Relocation) -> None:
        if entry.kind == R_IRELATIVE:
            if len(self.resolvers) < MAX_KEPT:
                self.resolvers.add(entry.addend)
        elif entry.kind in (R_64, R_GLOB_DAT, R_JUMP_SLOT):
            if entry.symbol in self._names:
                self.imports[entry.offset] = self._names[entry.symbol]
            elif entry.kind != R_64 and entry.symbol < len(self._values):
                self._keep(entry.offset, self._values[entry.symbol])
        elif entry.kind == R_RELATIVE and (
            within(self._writable, entry.addend) or within(self._kept, entry.offset)
        ):
            self._keep(entry.offset, entry.addend)

    def _keep(self, slot: int, target: int) -> None:
        if target > 0 and len(self.targets) < MAX_KEPT:
            self.targets[slot] = target
