"""The functions of a file as address ranges, disjoint and ascending."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from slurm_cmeta.evidence.machinecode import eh_frame
from slurm_cmeta.evidence.machinecode.elf_code import STT_FUNC, STT_IFUNC, Elf

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_FUNCTIONS = 500_000


class Functions:
    """Functions by number. What has no symbol and no frame description is in `gaps` at first."""

    def __init__(self, elf: Elf) -> None:
        self.code = elf.executable()
        self.starts: array[int] = array("Q")
        self.ends: array[int] = array("Q")
        self.cut = False
        found: dict[int, int] = {}
        for start, size in eh_frame.functions(elf):
            if len(found) >= MAX_FUNCTIONS:
                self.cut = True
                break
            found[start] = max(size, found.get(start, 0))
        for table in elf.tables():
            for symbol in elf.symbols(table):
                if symbol.kind in (STT_FUNC, STT_IFUNC) and symbol.section and symbol.size:
                    if len(found) >= MAX_FUNCTIONS:
                        self.cut = True
                        break
                    found[symbol.value] = max(symbol.size, found.get(symbol.value, 0))
        self._fill(found)

    def _fill(self, found: dict[int, int]) -> None:
        """Cut the ranges where the next one begins, so that none overlap."""
        starts = sorted(found)
        at = 0
        for low, high in self.code:
            while at < len(starts) and starts[at] < low:
                at += 1
            reach = low  # how far the functions seen so far were said to go
            while at < len(starts) and starts[at] < high:
                start = starts[at]
                at += 1
                reach = max(reach, min(high, start + found[start]))
                following = starts[at] if at < len(starts) else high
                self.starts.append(start)
                # A function within another one splits it; the rest belongs to the inner one.
                self.ends.append(min(reach, following))

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
