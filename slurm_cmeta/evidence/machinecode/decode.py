"""Decoding x86-64 functions: which instructions, and what they refer to."""

from __future__ import annotations

import itertools
from array import array

from slurm_cmeta.evidence.machinecode.elf_code import ET_EXEC, Elf
from slurm_cmeta.evidence.machinecode.features import (
    BRANCH,
    CALLED,
    CPUID,
    FEATURE,
    FLOW,
    IMMEDIATE,
    MEMORY,
    Iced,
)
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAX_REFERS = 200_000
"""Addresses that one function refers to; no compiler makes such a function."""
PIECE = 1 << 20
"""Bytes decoded at a time: iced-x86 wants a copy."""

# What one instruction says of an address; packed above the address into one number.
CALL, JUMP, ADDRESS, READ, WRITE, SLOT = 1, 2, 3, 4, 5, 6
SHIFT = 56
LOW = (1 << SHIFT) - 1

NEXT, UNCONDITIONAL, INDIRECT_JUMP, CONDITIONAL, RETURN, CALLS, INDIRECT_CALL = range(7)
ENDS = (UNCONDITIONAL, INDIRECT_JUMP, RETURN, 9)
"""Flow kinds after which the next instruction is not executed; 9 is ud2 and what is invalid."""


class Decoder:
    """Decodes the code of one file."""

    def __init__(self, elf: Elf, iced: Iced) -> None:
        self.elf = elf
        self.iced = iced
        self.fixed = elf.type == ET_EXEC
        """Whether addresses are constants in the code."""
        low = [segment.address for segment in elf.segments]
        self.low = min(low, default=0)
        self.high = max((s.address + s.memory for s in elf.segments), default=0)
        self.cut = False
        """Whether a function was too large to be read to its end."""
        self._load = {
            code for code, name in iced.name.items() if name.startswith(("CMP_", "TEST_", "BT_"))
        }
        self._lea = {code for code, name in iced.name.items() if name.startswith("LEA_R")}
        self._memory = iced.memory

    def instructions(self, start: int, end: int) -> Iterator[Any]:
        """Yield the instructions from `start` up to `end`."""
        while start < end:
            raw = self.elf.read(start, min(PIECE, end - start))
            if not raw:
                return
            last = None
            whole = start + len(raw) >= end or len(raw) < PIECE
            for last in self.iced.decoder(64, raw, ip=start):
                if not whole and last.ip + 16 > start + PIECE:
                    break
                yield last
            if whole or last is None:
                return
            start = last.ip

    def codes(self, start: int, end: int) -> set[int]:
        """Return the instruction forms between `start` and `end`: the fast way."""
        return {instruction.code for instruction in self._all(start, end)}

    def mask(self, codes: set[int]) -> int:
        masks = self.iced.masks
        result = 0
        for code in codes:
            result |= masks[code]
        return result

    def scan(self, start: int, end: int) -> tuple[int, array[int], bool]:
        """Return the mask of the features, the packed references, whether there is a CPUID."""
        codes: set[int] = set()
        refers: set[int] = set()
        cpuid = False
        last = None
        for part in self._parts(start, end):
            last, asks = self._scan(part, start, end, codes, refers)
            cpuid |= asks
            if len(refers) > MAX_REFERS:
                self.cut = True
                break
        if last is not None and last not in ENDS and last != CALLS:
            # Falls into what follows; a call at the very end is one that does not return.
            refers.add(JUMP << SHIFT | end)
        refers.discard(0)
        return self.mask(codes), array("Q", sorted(refers)), cpuid

    def _scan(
        self, part: Any, start: int, end: int, codes: set[int], refers: set[int]
    ) -> tuple[int | None, bool]:
        """Add what the instructions of `part` are and refer to; return the last one's flow kind,
        and whether there is a CPUID.
        """
        kinds = self.iced.kinds
        called: set[int] = set()
        jumped: set[int] = set()
        cpuid = False
        i = None
        for i in part:
            code = i.code
            kind = kinds[code]
            if not kind:
                continue
            if kind & BRANCH:
                jumped.add(i.near_branch_target)
            elif kind & MEMORY and i.is_ip_rel_memory_operand:
                refers.add(self.memory_reference(i))
            elif kind & CALLED:
                called.add(i.near_branch_target)
            if kind & FEATURE:
                codes.add(code)
            elif kind & CPUID:
                cpuid = True
            elif kind & IMMEDIATE and self.fixed:
                refers.add(self.reference(i, kind))
        low, high = self.low, self.high
        refers.update(CALL << SHIFT | t for t in called if low <= t < high)
        refers.update(JUMP << SHIFT | t for t in jumped if low <= t < high and not start <= t < end)
        return (None if i is None else i.flow_control), cpuid

    def _parts(self, start: int, end: int) -> Iterator[Any]:
        """Yield iterables of the instructions from `start` to `end`, a piece each."""
        if end - start <= PIECE:
            yield self._all(start, end)
            return
        whole = self.instructions(start, end)
        while True:
            part = list(itertools.islice(whole, PIECE // 16))
            if not part:
                return
            yield part

    def _all(self, start: int, end: int) -> Any:
        """Return an iterable of the instructions from `start` to `end`, the fastest there is."""
        if end - start <= PIECE:
            return self.iced.decoder(64, self.elf.read(start, end - start), ip=start)
        return self.instructions(start, end)

    def is_cpuid(self, kind: int) -> bool:
        return bool(kind & CPUID)

    def memory_reference(self, i: Any) -> int:
        """Return the packed reference of an operand relative to the instruction pointer."""
        address = i.ip_rel_memory_address
        if not self.low <= address < self.high:
            return 0
        code = i.code
        if code in self._lea:
            return int(ADDRESS << SHIFT | address)
        flow = i.flow_control
        if flow in (INDIRECT_CALL, INDIRECT_JUMP):
            return int(SLOT << SHIFT | address)
        if i.op0_kind == self._memory and code not in self._load:
            return int(WRITE << SHIFT | address)
        return int(READ << SHIFT | address)

    def reference(self, i: Any, kind: int) -> int:
        """Return the packed reference of a branch or of an address held as a constant, or 0."""
        if kind & FLOW:
            flow = i.flow_control
            if flow == CALLS:
                target, what = i.near_branch_target, CALL
            elif flow in (UNCONDITIONAL, CONDITIONAL):
                target, what = i.near_branch_target, JUMP
            else:
                return 0
        elif kind & IMMEDIATE and self.fixed:
            target, what = i.immediate(i.op_count - 1), ADDRESS
        else:
            return 0
        return int(what << SHIFT | target) if self.low <= target < self.high else 0
