"""Dispatch analysis: which functions of an x86-64 file run whatever the CPU is.

Functions are followed from where the file is entered, by direct calls and jumps and by addresses
that code takes, not through data, not through ifunc resolvers, and in functions that check the CPU
only from what runs unconditionally (guard.py). What may hold the answer about the CPU:
- data that a function with CPUID writes, or whose address it (or its caller) takes;
- the return value of such a function, up to three calls up, where the caller looks at it;
- imported symbols whose names say so, such as __cpu_model or av_get_cpu_flags.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from slurm_cmeta.evidence.machinecode.decode import (
    ADDRESS,
    CALL,
    CALLS,
    INDIRECT_CALL,
    JUMP,
    LOW,
    READ,
    RETURN,
    SHIFT,
    SLOT,
    WRITE,
    Decoder,
)
from slurm_cmeta.evidence.machinecode.elf_code import ET_EXEC, Elf
from slurm_cmeta.evidence.machinecode.features import BRANCH, CALLED
from slurm_cmeta.evidence.machinecode.functions import Functions
from slurm_cmeta.evidence.machinecode.guard import Unconditional, unconditional
from slurm_cmeta.evidence.machinecode.links import Links, within
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ARRAY = 64
"""Bytes behind a taken address that belong to the answer when no symbol says how many."""
SMALL = 512
"""Bytes: a larger function that checks the CPU does not merely return the answer."""
MAX_STUBS = 50_000
HELPER = 160
"""Bytes: a larger function with CPUID is no mere wrapper of the instruction."""
LEVELS = 5
"""Calls up which a returned answer is followed."""
MANY = 12
"""Functions whose addresses one function takes before it is seen as filling a table."""
MAX_REFERENCES = 3_000_000


class References:
    """The packed references of each function, in one array: lists would take ten times as much."""

    def __init__(self) -> None:
        self._all = array("Q")
        self._ends = array("Q", [0])

    def append(self, values: array[int]) -> None:
        self._all.extend(values)
        self._ends.append(len(self._all))

    def __getitem__(self, index: int) -> array[int]:
        return self._all[self._ends[index] : self._ends[index + 1]]

    def __iter__(self) -> Iterator[array[int]]:
        return (self[index] for index in range(len(self._ends) - 1))


class Program:
    """The functions of one file with all that their code refers to."""

    def __init__(
        self,
        elf: Elf,
        decoder: Decoder,
        functions: Functions,
        links: Links,
        scans: dict[int, tuple[int, array[int], bool]],
    ) -> None:
        self.elf, self.decoder, self.functions, self.links = elf, decoder, functions, links
        self._stubs: dict[int, int] = {}
        self._text = max(functions.code, key=lambda code: code[1] - code[0], default=(0, 0))
        self.masks: list[int] = []
        self.refers = References()
        self.asking: set[int] = set()
        self.cut = False
        left = MAX_REFERENCES
        for start, end in zip(functions.starts, functions.ends, strict=True):
            known = scans.pop(start, None)
            if known is None:
                known = decoder.scan(start, end) if left > 0 else (0, array("Q"), False)
            mask, refers, cpuid = known
            left -= len(refers)
            for number, reference in enumerate(refers):
                if reference >> SHIFT in (CALL, JUMP):
                    refers[number] = reference & ~LOW | self.real(reference & LOW) & LOW
            if cpuid:
                self.asking.add(len(self.masks))
            self.masks.append(mask)
            self.refers.append(refers)
        self.cut = left <= 0
        at = functions.at
        self.resolvers = {at(a) for a in links.resolvers} - {-1}
        self.start = at(elf.entry) if elf.entry else -1
        self.startup = set()
        if self.start >= 0:
            self.startup = {at(r & LOW) for r in self.refers[self.start] if r >> SHIFT == CALL}
        self.tainted: list[tuple[int, int]] = []
        self._taint_starts: list[int] = []
        self.uses: dict[int, set[int]] = {}
        self.reading: set[int] = set()
        self._learn()

    def _learn(self) -> None:
        """Find what holds the answer about the CPU, and who looks at it, in a few rounds."""
        starts, ends = self.functions.starts, self.functions.ends
        own = self.startup if self.start >= 0 else set()
        self._adopt()
        packed = self._packed(self.asking)
        callers = {i for i, refers in enumerate(self.refers) if not packed.isdisjoint(refers)}
        spans = [s for i in self.asking | callers for s in self._spans(i, (WRITE, ADDRESS))]
        if self.links.imports:
            self.reading = {
                i for i, refers in enumerate(self.refers) if any(map(self.is_check, refers))
            }
        addresses, owners = self._data()
        writable = [(s.address, s.address + s.memory) for s in self.elf.segments if s.flags & 2]
        self._pointers = [
            (slot, target)
            for slot, target in self.links.targets.items()
            if within(writable, target)
        ]
        telling: set[int] = set()
        named = {self.functions.at(address) for address in self.links.tellers} - {-1}
        new = self.asking | {i for i in self.reading | named if ends[i] - starts[i] <= SMALL}
        for _ in range(LEVELS):
            self._taint(spans)
            reading = {
                owner
                for address, owner in zip(addresses, owners, strict=True)
                if self.is_tainted(address)
            }
            new |= {i for i in reading if ends[i] - starts[i] <= SMALL}
            self.reading |= reading
            new -= telling | (own - self.asking)
            # What a small function sets after a look at the answer is an answer too: Go's MaxLen.
            spans += [span for i in new - self.asking for span in self._spans(i, (WRITE,))]
            if not new:
                break
            packed = self._packed(new)
            telling |= new
            new = set()
            for index, refers in enumerate(self.refers):
                if index in self.asking or index in own or packed.isdisjoint(refers):
                    continue
                called = {r & LOW for r in packed.intersection(refers)} - {starts[index]}
                sites = self._looks(index, called) if called else set()
                if sites:
                    self.uses.setdefault(index, set()).update(sites)
                    spans += self._spans(index, (WRITE,))
                    if ends[index] - starts[index] <= SMALL:
                        new.add(index)
        self._taint(spans)
        self.reading |= {
            owner
            for address, owner in zip(addresses, owners, strict=True)
            if self.is_tainted(address)
        }

    def _adopt(self) -> None:
        """Count those who have a helper execute CPUID for them as if they did it themselves.

        Such a helper is small and keeps nothing: it answers by its result or through pointers.
        """
        starts, ends = self.functions.starts, self.functions.ends
        new, known = self.asking - self.startup, set(self.asking)
        for _ in range(3):  # a wrapper may have a wrapper: Go has one for each calling convention
            helpers = {
                index
                for index in new
                if ends[index] - starts[index] <= HELPER and not any(self._spans(index, (WRITE,)))
            }
            packed = self._packed(helpers)
            targets = {starts[index] for index in helpers}
            new = {
                index
                for index, refers in enumerate(self.refers)
                if index not in known and not packed.isdisjoint(refers)
            }
            known |= new
            for index in new:
                self.uses[index] = {
                    i.ip
                    for i in self.decoder.instructions(starts[index], ends[index])
                    if self.real(i.near_branch_target) in targets
                }
        self.asking |= known

    def _data(self) -> tuple[array[int], array[int]]:
        """Return the writable addresses that code reads or takes, and the functions that do."""
        addresses, owners = array("Q"), array("L")
        writable = [(s.address, s.address + s.memory) for s in self.elf.segments if s.flags & 2]
        for index, refers in enumerate(self.refers):
            for reference in refers:
                if reference >> SHIFT in (READ, ADDRESS):
                    address = reference & LOW
                    if within(writable, address):
                        addresses.append(address)
                        owners.append(index)
        return addresses, owners

    def _spans(self, index: int, kinds: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Yield the ranges of data in which function `index` may leave the answer."""
        for reference in self.refers[index]:
            what, address = reference >> SHIFT, reference & LOW
            if what not in kinds:
                continue
            segment = self.elf.segment(address)
            if segment is None or segment.flags & 3 != 2:
                continue
            if what == WRITE and index in self.startup:
                continue  # libc's start-up writes a hundred variables of its own
            size = self.links.objects.get(address, ARRAY if what == ADDRESS else 8)
            if index in self.startup:
                size = max(size, 512)  # glibc's struct cpu_features
            yield address, address + max(size, 1)

    def _taint(self, spans: list[tuple[int, int]]) -> None:
        """Keep `spans` merged, and pointers into them, which the linker set, with them."""
        self._merge(spans)
        pointers = [(s, s + 8) for s, target in self._pointers if self.is_tainted(target)]
        if pointers:
            self._merge(spans + pointers)

    def _merge(self, spans: list[tuple[int, int]]) -> None:
        merged: list[tuple[int, int]] = []
        for low, high in sorted(spans):
            if merged and low <= merged[-1][1] + ARRAY:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        self.tainted = merged
        self._taint_starts = [low for low, _ in merged]

    def is_tainted(self, address: int) -> bool:
        at = bisect_right(self._taint_starts, address) - 1
        return at >= 0 and address < self.tainted[at][1]

    def is_check(self, reference: int) -> bool:
        """Say whether a packed reference alone is a look at the answer about the CPU."""
        what, address = reference >> SHIFT, reference & LOW
        if what in (READ, ADDRESS):
            return address in self.links.imports or self.is_tainted(address)
        if what == SLOT:
            return address in self.links.imports
        return what in (CALL, JUMP) and self._stub(address) in self.links.imports

    def real(self, address: int) -> int:
        """Return where a call of `address` leads: through a PLT entry if it is one."""
        low, high = self._text
        if low <= address < high:
            return address  # the usual case, fast
        return self.links.targets.get(self._stub(address), address)

    def _stub(self, address: int) -> int:
        """Return the slot that the PLT entry at `address` jumps through, or 0."""
        if address not in self._stubs:
            if len(self._stubs) > MAX_STUBS:
                return 0
            self._stubs[address] = self._read_stub(address)
        return self._stubs[address]

    def _read_stub(self, address: int) -> int:
        if self.functions.in_code(address):
            return 0
        raw = self.elf.read(address, 16)
        at = 4 if raw[:4] == b"\xf3\x0f\x1e\xfa" else 0
        at += raw[at : at + 1] == b"\xf2"
        if raw[at : at + 2] != b"\xff\x25" or len(raw) < at + 6:
            return 0
        return address + at + 6 + int.from_bytes(raw[at + 2 : at + 6], "little", signed=True)

    def _packed(self, indices: Iterable[int]) -> set[int]:
        """Return the packed calls and jumps that lead to the functions `indices`."""
        starts = self.functions.starts
        return {kind << SHIFT | starts[index] for index in indices for kind in (CALL, JUMP)}

    def _looks(self, index: int, callees: set[int]) -> set[int]:
        """Return the call sites in function `index` behind which the result is looked at."""
        iced = self.decoder.iced
        factory = iced.info()
        results = {getattr(iced.register, name) for name in ("RAX", "EAX", "AX", "AL", "AH")}
        reading = {iced.access.READ, iced.access.COND_READ, iced.access.READ_WRITE,
                   iced.access.READ_COND_WRITE}  # fmt: skip
        found: set[int] = set()
        site = left = 0
        start, end = self.functions.starts[index], self.functions.ends[index]
        kinds = iced.kinds
        for i in self.decoder.instructions(start, end):
            branches = kinds[i.code] & (BRANCH | CALLED)
            if site:
                flow, left = i.flow_control, left - 1
                used = {u.register: u.access for u in factory.info(i).used_registers()}
                if flow == RETURN or any(used.get(r) in reading for r in results):
                    found.add(site)
                    site = 0
                elif left <= 0 or flow in (CALLS, INDIRECT_CALL) or results & set(used):
                    site = 0
            if branches and self.real(i.near_branch_target) in callees:
                if branches & CALLED:
                    site, left = i.ip, 24
                else:
                    found.add(i.ip)  # a jump: what it returns, this function returns
        return found

    def checks(self, index: int) -> bool:
        """Say whether function `index` looks at the answer about the CPU anywhere."""
        return index in self.asking or index in self.uses or index in self.reading

    def unguarded(self, index: int, wanted: bool = True) -> Unconditional:
        """Return what of function `index` runs whatever the CPU is; see guard.unconditional."""
        sites = self.uses.get(index, set())
        return unconditional(
            self.decoder,
            self.functions.starts[index],
            self.functions.ends[index],
            lambda reference, ip: ip in sites or self.is_check(reference),
            wanted,
        )

    def roots(self) -> set[int]:
        """Return the functions that run, or may be called, when the file is used."""
        at = self.functions.at
        found = {self.start} | self.startup
        plain, arrays = self.elf.initialisers()
        found |= {at(address) for address in plain}
        for low, size in arrays:
            if self.elf.type != ET_EXEC:
                inside = (t for o, t in self.links.targets.items() if low <= o < low + size)
                found |= {at(target) for target in inside}
            found |= {at(pointer) for pointer in self.elf.pointers(low, size)}
        if self.start >= 0:
            for reference in self.refers[self.start]:
                if reference >> SHIFT == READ:
                    found.add(at(self.links.targets.get(reference & LOW, 0)))
        return found - {-1} - self.resolvers

    def taken(self, reference: int) -> int:
        """Return the function whose address a packed reference is, or -1.

        Only a first byte counts: a constant such as a mask of bits may lie in the middle of one.
        """
        index = self.functions.at(reference & LOW)
        return index if index >= 0 and self.functions.starts[index] == reference & LOW else -1

    def successors(self, refers: Iterable[int], own: bool = False) -> set[int]:
        """Return the functions that packed references lead to, resolvers left out.

        In a program with dispatch of its `own`, code that takes many addresses fills a table of
        variants, by a rule that may be out of sight (x265 passes the CPU's flags as an argument).
        """
        at = self.functions.at
        found = set()
        refers = list(refers)
        taken = {self.taken(r) for r in refers if r >> SHIFT == ADDRESS} - {-1} if own else set()
        if len(taken) > MANY:
            refers = [r for r in refers if r >> SHIFT != ADDRESS]
        for reference in refers:
            what = reference >> SHIFT
            if what in (CALL, JUMP):
                found.add(at(self.real(reference & LOW)))
            elif what == ADDRESS:
                found.add(self.taken(reference))
            elif what == SLOT:
                found.add(at(self.links.targets.get(reference & LOW, 0)))
        return found - {-1} - self.resolvers
