"""x86-64: the archspec flags that a file's code needs."""

from __future__ import annotations

import functools
import operator
import re
from bisect import bisect_right, insort

from slurm_cmeta.evidence.machinecode.choice import follow, mixed, without_avx
from slurm_cmeta.evidence.machinecode.decode import (
    ADDRESS,
    CALL,
    ENDS,
    JUMP,
    LOW,
    SHIFT,
    Decoder,
)
from slurm_cmeta.evidence.machinecode.elf_code import ET_EXEC, Elf
from slurm_cmeta.evidence.machinecode.features import BAD, BIT, FLOW, flags, iced
from slurm_cmeta.evidence.machinecode.functions import Functions
from slurm_cmeta.evidence.machinecode.links import Links
from slurm_cmeta.evidence.machinecode.program import MAX_REFERENCES, Program
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable
    from typing import TypeAlias

Scan: TypeAlias = "tuple[int, array[int], bool]"
_ASKS = re.compile(rb"\x0f\xa2|\x0f\x01\xd0")
_FLAGS = sum(BIT.values())
MAX_FOUND = 50_000
"""Functions found by following calls in files that do not say where their functions are."""


class Counted:
    """What has been counted so far: bits, and where each was first seen."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.where: dict[str, int] = {}
        self.bits = 0

    def function(self, mask: int, start: int, end: int) -> None:
        if mask & _FLAGS & ~self.bits:
            first: dict[int, int] = {}
            for i in self.decoder.instructions(start, end):
                first.setdefault(i.code, i.ip)
            self.forms(first)

    def forms(self, first: dict[int, int]) -> None:
        masks = self.decoder.iced.masks
        for code, ip in first.items():
            new = masks[code] & _FLAGS & ~self.bits
            if new:
                self.bits |= new
                self.where.update(dict.fromkeys(flags(new), ip))


def examine(elf: Elf) -> tuple[dict[str, int], frozenset[str], int, str]:
    """Return flag -> address, flags seen only behind dispatch, bytes examined, what was not read.

    Raises ImportError without iced-x86.
    """
    decoder = Decoder(elf, iced())
    functions = Functions(elf)
    links = Links(elf)
    counted = Counted(decoder)
    total = sum(end - start for start, end in functions.code)
    known = functions.size() * 2 >= total
    variants = _variants(elf, functions, links)
    dispatching = bool(variants or links.resolvers or links.asks)
    dispatching = dispatching or _asks(elf, functions, decoder)
    chooses = bool(variants)
    masks: list[int] = []
    if known and not dispatching:
        masks = [
            decoder.mask(decoder.codes(start, end))
            for start, end in zip(functions.starts, functions.ends, strict=True)
        ]
    if masks and not mixed(masks):
        for index, mask in enumerate(masks):
            counted.function(mask, functions.starts[index], functions.ends[index])
        cut = functions.cut
    else:
        scans: dict[int, Scan] = {}
        functions.add(_discover(elf, functions, decoder, links, known, scans))
        variants = _variants(elf, functions, links)
        program = Program(elf, decoder, functions, links, scans)
        masks = program.masks
        # Code with AVX in a file without was chosen by somebody, however that was done.
        chooses = chooses or (not dispatching and mixed(masks))
        if dispatching or chooses:
            chooses = follow(program, counted, variants, chooses)
        else:
            for index, mask in enumerate(masks):
                counted.function(mask, functions.starts[index], functions.ends[index])
        cut = functions.cut or program.cut
    seen = functools.reduce(operator.or_, masks, 0)
    unread = "too many functions, or too large ones" if cut or decoder.cut else ""
    if functions.size() * 2 < total:
        unread = "most of the code is in functions that the file does not tell of"
    if elf.cut:
        unread = "the file is damaged or cut short"
    where = counted.where if "avx" in counted.where else without_avx(counted.where, chooses)
    dispatched = frozenset(flags(seen & _FLAGS)) - set(where)
    return where, dispatched, functions.size(), unread


def _asks(elf: Elf, functions: Functions, decoder: Decoder) -> bool:
    """Say whether any function has a CPUID or XGETBV; in doubt, yes."""
    looked = set()
    for low, high in functions.code:
        offset, left = elf.offset(low)
        for match in _ASKS.finditer(elf.view[offset : offset + min(left, high - low)]):
            index = functions.at(low + match.start())
            if index in looked:
                continue
            looked.add(index)
            if index < 0 or len(looked) > 2000:
                return True
            codes = decoder.codes(functions.starts[index], functions.ends[index])
            if any(decoder.is_cpuid(decoder.iced.kinds[code]) for code in codes):
                return True
    return False


def _variants(elf: Elf, functions: Functions, links: Links) -> set[int]:
    """Return the exported functions of a library that are, by name, for some CPUs only."""
    if elf.type == ET_EXEC:
        return set()
    return {functions.at(address) for address in links.variants} - {-1}


def _discover(
    elf: Elf,
    functions: Functions,
    decoder: Decoder,
    links: Links,
    known: bool,
    scans: dict[int, Scan],
) -> Iterable[tuple[int, int]]:
    """Return functions outside the known ones, by following calls into there.

    What is scanned on the way is left in `scans`, by first address.

    Addresses taken are followed only in files that say nothing of their functions: elsewhere what
    lies outside may be a table of constants.
    """
    kinds = (CALL, JUMP) if known else (CALL, JUMP, ADDRESS)
    todo = [elf.entry, *elf.initialisers()[0]]
    for low, size in elf.initialisers()[1]:
        todo += elf.pointers(low, size)

    def outside(address: int) -> bool:
        return functions.at(address) < 0 and functions.in_code(address)

    left = MAX_REFERENCES
    for start, end in zip(functions.starts, functions.ends, strict=True):
        scan = decoder.scan(start, end)
        left -= len(scan[1])
        if left > 0 and len(scans) < MAX_FOUND:
            scans[start] = scan
        if left > 0:
            todo += {r & LOW for r in scan[1] if r >> SHIFT in kinds and outside(r & LOW)}
    if not known:
        todo += links.exports
    found: list[tuple[int, int]] = []
    tried: set[int] = set()
    budget = 2 * sum(high - low for low, high in functions.code)  # bytes; hostile files overlap
    while todo and len(found) < MAX_FOUND and budget > 0:
        start = todo.pop()
        if start in tried or not outside(start):
            continue
        tried.add(start)
        at = bisect_right(found, (start, 1 << 64))
        if at and start < found[at - 1][1]:
            continue
        limit = min(functions.gap_end(start), found[at][0] if at < len(found) else 1 << 64)
        end, read = _extent(decoder, start, limit)
        budget -= read + 16
        if end > start:
            insort(found, (start, end))
            scan = scans[start] = decoder.scan(start, end)
            todo += [r & LOW for r in scan[1] if r >> SHIFT in kinds and outside(r & LOW)]
    return found


def _extent(decoder: Decoder, start: int, limit: int) -> tuple[int, int]:
    """Return where the function at `start` ends, and how many bytes were read to tell.

    That is at an end that no earlier branch jumps over. A function with an instruction that does
    not exist is none: it ends where it starts.
    """
    furthest = start
    kinds = decoder.iced.kinds
    for i in decoder.instructions(start, min(limit, start + (1 << 20))):
        kind = kinds[i.code]
        if kind & BAD:
            return start, i.ip - start
        if kind & FLOW:
            flow = i.flow_control
            if flow == 3 or (flow == 1 and i.near_branch_target < i.ip + 4096):
                target = i.near_branch_target
                if start <= target < limit:
                    furthest = max(furthest, target)
            if flow in ENDS and i.next_ip > furthest:
                return i.next_ip, i.next_ip - start
    return (limit if limit - start < 1 << 20 else start), min(limit - start, 1 << 20)
