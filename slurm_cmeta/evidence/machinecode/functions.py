"""The functions of a file as address ranges, disjoint and ascending."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from slurm_cmeta.evidence.machinecode import eh_frame
from slurm_cmeta.evidence.machinecode.elf_code import STT_FUNC, STT_IFUNC, Elf
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_FUNCTIONS = 250_000


class Functions:
    """Functions by number. What has no symbol and no frame description is in `gaps` at first."""

    def __init__(self, elf: Elf) -> None:
        self.code = elf.executable()
        self.starts: array[int] = array("Q")
        self.ends: array[int] = array("Q")
        self.cut = False
        starts, sizes = array("Q"), array("Q")
        for start, size in self._told(elf):
            if len(starts) >= MAX_FUNCTIONS:
                self.cut = True
                break
            starts.append(start)
            sizes.append(size)
        self._fill(starts, sizes)

    def _told(self, elf: Elf) -> Iterator[tuple[int, int]]:
        """Yield (address, size) of what has a frame description or a symbol; repeats happen."""
        known: set[int] = set()
        for start, size in eh_frame.functions(elf):
            if self.in_code(start):
                if len(known) < MAX_FUNCTIONS:
                    known.add(start)
                yield start, size
        for table in elf.tables():
            for symbol in elf.symbols(table):
                if (
                    symbol.kind in (STT_FUNC, STT_IFUNC)
                    and symbol.section
                    and symbol.size
                    and symbol.value not in known
                    and self.in_code(symbol.value)
                ):
                    if len(known) < MAX_FUNCTIONS:
                        known.add(symbol.value)
                    yield symbol.value, symbol.size

    def _fill(self, starts: array[int], sizes: array[int]) -> None:
        """Cut the ranges where the next one begins, so that none overlap."""
        order = sorted(range(len(starts)), key=starts.__getitem__)
        at = 0
        for low, high in self.code:
            reach = low  # how far the functions seen so far were said to go
            while at < len(order) and starts[order[at]] < high:
                start = starts[order[at]]
                reach = max(reach, min(high, start + sizes[order[at]]))
                at += 1
                following = starts[order[at]] if at < len(order) else high
                if start < low or following == start:
                    continue
                self.starts.append(start)
                # A function within another one splits it; the rest belongs to the inner one.
                self.ends.append(min(reach, following, high))

    def __len__(self) -> int:
        return len(self.starts)

    def at(self, address: int) -> int:
        """Return the number of the function that holds `address`, or -1."""
        index = bisect_right(self.starts, address) - 1
        return index if index >= 0 and address < self.ends[index] else -1

    def size(self) -> int:
        return sum(end - start for start, end in zip(self.starts, self.ends, strict=True))

    def in_code(self, address: int) -> bool:
        index = bisect_right(self.code, (address, 1 << 64)) - 1
        return index >= 0 and address < self.code[index][1]

    def gap_end(self, address: int) -> int:
        """Return where the code around `address`, which is in no function, ends at the latest."""
        index = bisect_right(self.code, (address, 1 << 64)) - 1
        following = bisect_right(self.starts, address)
        end = self.code[index][1]
        return min(end, self.starts[following]) if following < len(self.starts) else end

    def add(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Take in more functions; numbers change."""
        everything = sorted([*zip(self.starts, self.ends, strict=True), *ranges])
        self.starts = array("Q", [start for start, _ in everything])
        self.ends = array("Q", [end for _, end in everything])
