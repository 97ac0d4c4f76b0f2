"""Which instructions of one function run whatever the CPU says.

A check is an instruction that asks for the CPU or reads what was kept of the answer. What runs
before any check runs always; so does what every way from the check to the function's end passes
(its post-dominators): `if (avx2) a(); else b(); c();` runs c. Everything else is guarded.
"""

from __future__ import annotations

from slurm_cmeta.evidence.machinecode.decode import (
    ADDRESS,
    CALLS,
    CONDITIONAL,
    ENDS,
    SHIFT,
    UNCONDITIONAL,
    Decoder,
)
from slurm_cmeta.evidence.machinecode.features import FEATURE, FLOW, MEMORY
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeAlias

MAX_BLOCKS = 1500
"""Of more basic blocks only those before the first check count; bounds time and memory."""
MAX_PASSES = 64
"""Over the blocks, until their post-dominators are known; compilers' code takes a few."""
MAX_BYTES = 64 * 1024


class Unconditional(NamedTuple):
    first: dict[int, int]
    """Instruction form -> where it is first."""
    refers: set[int]
    """Packed references from code before any check."""


_Step: TypeAlias = "tuple[int, int, int, tuple[int, ...], int, int, bool]"
"""Address, the next one, form, packed references, kind of flow, target in sight, is it a check."""
_IP: Final = 0
_AFTER: Final = 1
_CODE: Final = 2
_REFERS: Final = 3
_FLOW: Final = 4
_TARGET: Final = 5
_CHECK: Final = 6


def unconditional(
    decoder: Decoder, start: int, end: int, is_check: Callable[[int, int], bool], wanted: bool
) -> Unconditional:
    """Return what of the function from `start` to `end` runs unconditionally.

    `is_check(reference, ip)` says whether a packed reference is a check; CPUID itself is one.
    What runs behind a check is looked for only if it is `wanted`.
    """
    end = min(end, start + MAX_BYTES)
    steps = [_step(decoder, i, is_check) for i in decoder.instructions(start, end)]
    blocks, leaders = _blocks(steps, start, end)
    before, checked = _before(steps, blocks, leaders)
    result = Unconditional({}, set())
    always = set(before)
    if wanted and checked and len(blocks) <= MAX_BLOCKS:
        always |= _after(steps, blocks, leaders, checked)
    for index in sorted(always):
        low, high = blocks[index]
        for step in steps[low:high]:
            result.first.setdefault(step[_CODE], step[_IP])
            # What is called behind a check may be told the answer, as an argument or in memory.
            # An address taken before it may be the one to choose or not to choose (cmov).
            if index in before:
                result.refers.update(r for r in step[_REFERS] if r >> SHIFT != ADDRESS)
    return result


def _step(decoder: Decoder, i: Any, is_check: Callable[[int, int], bool]) -> _Step:
    code = i.code
    kind = decoder.iced.kinds[code]
    if not kind & ~FEATURE or (kind & ~FEATURE == MEMORY and not i.is_ip_rel_memory_operand):
        return i.ip, i.next_ip, code, (), 0, 0, False
    refers = []
    if kind & MEMORY and i.is_ip_rel_memory_operand:
        refers.append(decoder.memory_reference(i))
    target = flow = 0
    if kind & ~(FEATURE | MEMORY):
        refers.append(decoder.reference(i, kind))
        if kind & FLOW:
            flow = i.flow_control
            if flow in (UNCONDITIONAL, CONDITIONAL):
                target = i.near_branch_target
    kept = tuple(reference for reference in refers if reference)
    check = decoder.is_cpuid(kind) or any(is_check(reference, i.ip) for reference in kept)
    return i.ip, i.next_ip, code, kept, flow, target, check


def _blocks(
    steps: list[_Step], start: int, end: int
) -> tuple[list[tuple[int, int]], dict[int, int]]:
    """Return the basic blocks as ranges of `steps`, and block numbers by first address."""
    starts = {start}
    for step in steps:
        if start <= step[_TARGET] < end:
            starts.add(step[_TARGET])
        if step[_CHECK] or step[_FLOW] in ENDS or step[_FLOW] == CONDITIONAL:
            starts.add(step[_AFTER])
    blocks = []
    low = 0
    for index, step in enumerate(steps):
        if step[_AFTER] in starts or index + 1 == len(steps):
            blocks.append((low, index + 1))
            low = index + 1
    return blocks, {steps[low][_IP]: number for number, (low, _) in enumerate(blocks)}


def _successors(steps: list[_Step], block: tuple[int, int], leaders: dict[int, int]) -> list[int]:
    """Return the blocks that may follow; -1 for leaving the function."""
    last = steps[block[1] - 1]
    found = []
    if last[_FLOW] in (UNCONDITIONAL, CONDITIONAL):
        found.append(leaders.get(last[_TARGET], -1))
    elif last[_FLOW] in ENDS:
        found.append(-1)
    if last[_FLOW] not in ENDS:
        found.append(leaders.get(last[_AFTER], -1))
    if last[_FLOW] == CALLS and last[_AFTER] in leaders:
        found.append(-1)  # a call just before a join may be one that does not return
    return found


def _before(
    steps: list[_Step], blocks: list[tuple[int, int]], leaders: dict[int, int]
) -> tuple[set[int], set[int]]:
    """Return the blocks that run before any check, and those of them that end in one."""
    seen: set[int] = set()
    checked = set()
    todo = [0] if blocks else []
    while todo:
        block = todo.pop()
        if block in seen or block < 0:
            continue
        seen.add(block)
        if steps[blocks[block][1] - 1][_CHECK]:
            checked.add(block)
        else:
            todo += _successors(steps, blocks[block], leaders)
    return seen, checked


def _after(
    steps: list[_Step], blocks: list[tuple[int, int]], leaders: dict[int, int], checked: set[int]
) -> set[int]:
    """Return the post-dominators of the blocks in `checked`."""
    follow = [_successors(steps, block, leaders) for block in blocks]
    leaves = {index for index, after in enumerate(follow) if -1 in after}
    into: list[list[int]] = [[] for _ in blocks]
    for index, after in enumerate(follow):
        for other in after:
            if other >= 0:
                into[other].append(index)
    todo = list(leaves)
    while todo:
        for other in into[todo.pop()]:
            if other not in leaves:
                leaves.add(other)
                todo.append(other)
    for index, after in enumerate(follow):
        if index not in leaves:
            after.append(-1)  # a loop without end: nothing behind it is certain
    everything = (1 << len(blocks)) - 1
    dominators = [everything] * len(blocks)
    for _ in range(MAX_PASSES):
        changed = False
        for index in range(len(blocks) - 1, -1, -1):
            common = everything
            for other in follow[index]:
                common &= dominators[other] if other >= 0 else 0
            common |= 1 << index
            if common != dominators[index]:
                dominators[index] = common
                changed = True
        if not changed:
            break
    else:
        return set()
    found = set()
    for block in checked:
        bits = dominators[block]
        found |= {index for index in range(len(blocks)) if bits >> index & 1}
    return found
