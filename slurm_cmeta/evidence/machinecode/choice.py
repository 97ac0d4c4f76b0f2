"""What of an x86-64 file counts where somebody chooses from its code by the CPU.

Where only a static libc chooses, all that is reached counts, but not what its resolvers choose
from. Where the file chooses itself, or may, code with AVX counts only where an entry of the file is
such code, or other such code leads to it: a choice that is not seen (a flag in an object, an
answer passed on as an argument) is made by code that runs everywhere.
"""

from __future__ import annotations

from slurm_cmeta.evidence.machinecode.decode import ADDRESS, CALL, JUMP, LOW, SHIFT
from slurm_cmeta.evidence.machinecode.features import BIT, LEGACY, VECTOR
from slurm_cmeta.evidence.machinecode.links import R_RELATIVE
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.evidence.machinecode.program import Program
    from slurm_cmeta.evidence.machinecode.x86 import Counted

_FLAGS = sum(BIT.values())
_BY_HAND = {"aes", "pclmulqdq", "sha_ni", "gfni", "vaes", "vpclmulqdq", "sha512", "sm3", "sm4"}
MAX_DATA = 64 << 20
"""Bytes of data that are looked through for addresses of functions."""


def generic_base(masks: Sequence[int]) -> bool:
    """Say whether functions of these `masks` were, as a whole, compiled without AVX."""
    plain = sum(1 for mask in masks if mask & LEGACY and not mask & VECTOR)
    return plain * 8 > sum(1 for mask in masks if mask & VECTOR)


def mixed(masks: Sequence[int]) -> bool:
    """Say whether a file compiled without AVX has some code with it."""
    return any(mask & VECTOR for mask in masks) and generic_base(masks)


def without_avx(where: dict[str, int], chooses: bool) -> dict[str, int]:
    """Return what counts of `where` in a file that does not need AVX.

    No compiler emits AES or SHA instructions by itself, and whoever asks for them by -march gets
    AVX too: they are for callers that asked the CPU (abseil has them in a library of their own).
    Where the program chooses by itself, all else may be a choice whose reason is out of sight, such
    as a flag that is passed on as an argument (zstd) or kept in an object (libgcrypt); what is lost
    are needs that every CPU since 2009 meets.
    """
    return {} if chooses else {flag: at for flag, at in where.items() if flag not in _BY_HAND}


def follow(program: Program, counted: Counted, variants: set[int], own: bool) -> bool:
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
    variants = variants | _chosen(program)
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


def _chosen(program: Program) -> set[int]:
    """Return what ifunc resolvers choose from, and the code with AVX that this goes on in.

    One variant jumps or falls into another, which has an address of its own (glibc 2.41:
    __strcasecmp_avx2_rtm into __strcasecmp_l_avx2_rtm).
    """
    at = program.functions.at
    asked = set(program.resolvers)
    for index in program.resolvers:
        calls = (r for r in program.refers[index] if r >> SHIFT in (CALL, JUMP))
        asked |= {at(r & LOW) for r in calls} - {-1}
    addresses = (r for i in asked for r in program.refers[i] if r >> SHIFT == ADDRESS)
    found = {program.taken(r) for r in addresses} - {-1}
    seen = set(found)
    todo = list(found)
    while todo:
        jumps = (r for r in program.refers[todo.pop()] if r >> SHIFT == JUMP)
        after = {at(r & LOW) for r in jumps} - {-1} - seen
        found |= {index for index in after if program.masks[index] & VECTOR}
        seen |= after
        todo += after
    return found
