"""x86-64: the archspec flags that a file's code needs."""

from __future__ import annotations

import functools
import operator
import re
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, TypeAlias

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
from slurm_cmeta.evidence.machinecode.features import BAD, BIT, FLOW, LEGACY, VECTOR, flags, iced
from slurm_cmeta.evidence.machinecode.functions import Functions
from slurm_cmeta.evidence.machinecode.links import R_RELATIVE, Links
from slurm_cmeta.evidence.machinecode.program import MAX_REFERENCES, Program, generic_base, mixed

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable

Scan: TypeAlias = "tuple[int, array[int], bool]"
_ASKS = re.compile(rb"\x0f\xa2|\x0f\x01\xd0")
_FLAGS = sum(BIT.values())
_BY_HAND = {"aes", "pclmulqdq", "sha_ni", "gfni", "vaes", "vpclmulqdq", "sha512", "sm3", "sm4"}
MAX_DATA = 64 << 20
"""Bytes of data that are looked through for addresses of functions."""
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
            chooses = _follow(program, counted, variants, chooses)
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
    where = counted.where if "avx" in counted.where else _without_avx(counted.where, chooses)
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


def _follow(program: Program, counted: Counted, variants: set[int], own: bool) -> bool:
    """Count what is reached from the file's entries whatever the CPU is.

    `own` says that the file, not only its libc, is known to choose; return whether it does.
    """
    functions = program.functions
    shared = program.start < 0
    roots = program.roots()
    if shared:
        exported = {functions.at(address) for address in program.links.exports}
        exported -= variants | {-1} | program.resolvers
        if generic_base(program.masks):
            # What such a library exports beyond its base is for those who asked the CPU.
            exported = {index for index in exported if not program.masks[index] & _FLAGS}
        roots |= exported
    own = own or _own_dispatch(program, roots, shared)
    variants = variants | program.chosen()
    if not own and not shared:
        roots |= _in_tables(program)
    # (function, whether one on the way is not evidently made with AVX)
    todo = [(index, False) for index in sorted(roots - variants)]
    done: set[tuple[int, bool]] = set()
    while todo:
        index, generic = todo.pop()
        if (index, generic) in done or (index, False) in done:
            continue
        done.add((index, generic))
        mask = program.masks[index]
        if own and mask & _FLAGS and (generic or mask & LEGACY):
            continue  # who calls it, or which part of it runs, may be chosen out of sight
        if program.checks(index):
            always = program.unguarded(index, bool(mask & _FLAGS & ~counted.bits))
            counted.forms(always.first)
            after = program.successors(always.refers, own)
            mask = program.decoder.mask(set(always.first))
        else:
            counted.function(mask, functions.starts[index], functions.ends[index])
            after = program.successors(program.refers[index], own)
        generic |= own and index != program.start and not mask & VECTOR
        todo += [(other, generic) for other in after - variants]
    return own


def _without_avx(where: dict[str, int], chooses: bool) -> dict[str, int]:
    """Return what counts of `where` in a file that does not need AVX.

    No compiler emits AES or SHA instructions by itself, and whoever asks for them by -march gets
    AVX too: they are for callers that asked the CPU (abseil has them in a library of their own).
    Where the program chooses by itself, all else may be a choice whose reason is out of sight, such
    as a flag that is passed on as an argument (zstd) or kept in an object (libgcrypt); what is lost
    are needs that every CPU since 2009 meets.
    """
    return {} if chooses else {flag: at for flag, at in where.items() if flag not in _BY_HAND}


def _in_tables(program: Program) -> set[int]:
    """Return the functions that data points to (virtual ones, tables), but nobody chooses.

    Only for programs in which libc alone asks for the CPU: its variants are what resolvers, and
    functions that look at the answer, refer to.
    """
    elf, functions = program.elf, program.functions
    starts = set(functions.starts)
    found: set[int] = set()
    left = MAX_DATA
    for segment in elf.segments:
        for low in range(0, segment.size if not segment.flags & 1 else 0, 1 << 20):
            left -= 1 << 20
            if left < 0:
                break
            found.update(starts.intersection(elf.pointers(segment.address + low, 1 << 20)))
    for entry in elf.relocations():
        if entry.kind == R_RELATIVE and entry.addend in starts:
            found.add(entry.addend)
    chosen = set(program.resolvers)
    for index in range(len(program.masks)):
        if index in program.resolvers or program.checks(index):
            chosen |= program.successors(program.refers[index])
    return {functions.at(address) for address in found} - chosen


def _own_dispatch(program: Program, roots: set[int], shared: bool) -> bool:
    """Say whether the program itself, not only its libc's start-up, asks for the CPU."""
    if shared or program.links.asks or not program.resolvers:
        # A static glibc has resolvers; Go, which has none, runs all from its start-up.
        return bool(program.asking) or program.links.asks
    seen = set(program.startup)
    todo = list(roots - program.startup)
    while todo:
        index = todo.pop()
        if index in seen:
            continue
        seen.add(index)
        if index in program.asking:
            return True
        todo += program.successors(program.refers[index])
    return False
