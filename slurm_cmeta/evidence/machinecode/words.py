"""Architectures with instructions of one 32-bit word: aarch64 and ppc64le.

Dispatch is followed as on x86-64, only coarser. A file that asks for the CPU by itself (getauxval,
ID registers, ppc64le's __parse_hwcap...) needs nothing for sure. In one that has ifunc resolvers
only, as a static glibc program, functions are followed from the entry by calls and addresses taken.
gcc's outline atomics (__aarch64_ldadd4_acq and its like) choose at run time and do not count, nor
does their own use of getauxval.
"""

from __future__ import annotations

from array import array

from slurm_cmeta.evidence.machinecode import arm_table
from slurm_cmeta.evidence.machinecode.elf_code import STT_IFUNC, Elf
from slurm_cmeta.evidence.machinecode.functions import Functions
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_ASKING = ("getauxval", "__getauxval", "elf_aux_info", "__parse_hwcap_and_convert_at_platform",
           "__aarch64_cpu_features", "__aarch64_get_cpu", "_rtld_global_ro")  # fmt: skip
_IRELATIVE = {"aarch64": 1032, "ppc64le": 248}
_JUMP_SLOT = {"aarch64": 1026, "ppc64le": 21}

Found = tuple[dict[str, int], frozenset[str], int, str]


class _Function(NamedTuple):
    flags: frozenset[str]
    after: frozenset[int]
    """Addresses that its code calls, jumps to or takes."""
    asks: bool


def power(words: set[int]) -> dict[int, set[str]]:
    """Return those of `words` that need a POWER9 or POWER10, by archspec's name of the CPU.

    archspec has no flags for ppc64le, so the key is the first CPU with the instruction. Source:
    Power ISA 3.0B and 3.1, appendices by version: prefixed instructions (primary opcode 1) are 3.1;
    of 3.0 a set that compilers emit often.
    """
    found = {}
    for word in words:
        opcode, extended = word >> 26, word >> 1 & 0x3FF
        if opcode == 1:
            found[word] = {"power10le"}
        elif (
            (opcode == 4 and word & 63 in (48, 49, 51))  # maddhd, maddhdu, maddld
            or (opcode == 61 and word & 7 in (1, 5))  # lxv, stxv
            or (opcode == 19 and word >> 1 & 31 == 2)  # addpcis
            # modud, moduw, lxvx, stxvx, mtvsrdd, extswsli, cnttzw, cnttzd, modsd, modsw
            or (opcode == 31 and extended in (265, 267, 268, 396, 435, 538, 570, 777, 779))
            or (opcode == 31 and extended >> 1 == 445)
        ):
            found[word] = {"power9le"}
    return found


CLASSIFY: dict[str, Callable[[set[int]], dict[int, set[str]]]] = {
    "aarch64": arm_table.interesting,
    "ppc64le": power,
}


def examine(elf: Elf) -> Found:
    """Return flag -> address, flags behind dispatch, bytes examined, what was not read."""
    functions = Functions(elf)
    classify = CLASSIFY[elf.machine]
    resolvers, imports = _links(elf)
    where: dict[str, int] = {}
    seen: set[str] = set()
    asks = bool(set(imports.values()) & set(_ASKING))
    details = []
    outline = 0
    keep = asks or bool(resolvers)
    for start, end in zip(functions.starts, functions.ends, strict=True):
        words = _words(elf, start, end)
        needed = classify(set(words))
        found = {flag for flags in needed.values() for flag in flags}
        if "atomics" in found and _is_outline(words, needed):
            outline += 1
            found.discard("atomics")
            seen.add("atomics")
        seen |= found
        if keep or elf.machine == "aarch64":
            details.append(_function(elf, words, start, end, found, imports))
        if not keep and found - where.keys():
            _locate(words, start, needed, found, where)
    own = {index for index, function in enumerate(details) if function.asks}
    if outline and len(own) == 1:
        small = {i for i in own if functions.ends[i] - functions.starts[i] <= 96}
        own -= small  # libgcc's constructor that asks whether there are LSE atomics
    unread = "the file is damaged or cut short" if elf.cut else ""
    if functions.size() * 2 < sum(end - start for start, end in functions.code):
        unread = "most of the code is in functions that the file does not tell of"
    if resolvers and elf.entry and not asks:
        where = {}
        for index in _reached(elf, functions, details, {functions.at(a) for a in resolvers}):
            found = set(details[index].flags)
            if found - where.keys():
                words = _words(elf, functions.starts[index], functions.ends[index])
                _locate(words, functions.starts[index], classify(set(words)), found, where)
    elif own or resolvers:
        where = {}
    elif keep:
        for index, function in enumerate(details):
            if function.flags - where.keys():
                words = _words(elf, functions.starts[index], functions.ends[index])
                needed = classify(set(words))
                _locate(words, functions.starts[index], needed, set(function.flags), where)
    return where, frozenset(seen - where.keys()), functions.size(), unread


def _words(elf: Elf, start: int, end: int) -> array[int]:
    raw = elf.read(start, end - start)
    return array("I", raw[: len(raw) & ~3])


def _is_outline(words: array[int], needed: dict[int, set[str]]) -> bool:
    """Say whether every LSE instruction stands right behind a `cbz w16` or `cbz w17`."""
    for index, word in enumerate(words):
        before = words[index - 1] if index else 0
        if "atomics" in needed.get(word, ()) and before & 0xFF00001E != 0x34000010:
            return False
    return True


def _locate(
    words: array[int],
    start: int,
    needed: dict[int, set[str]],
    found: set[str],
    where: dict[str, int],
) -> None:
    for index, word in enumerate(words):
        for flag in needed.get(word, ()):
            if flag in found:
                where.setdefault(flag, start + 4 * index)


def _links(elf: Elf) -> tuple[set[int], dict[int, str]]:
    """Return the addresses of ifunc resolvers, and slot -> name of the imported functions."""
    resolvers = {
        entry.addend for entry in elf.relocations() if entry.kind == _IRELATIVE[elf.machine]
    }
    for table in elf.tables():
        for symbol in elf.symbols(table):
            if symbol.kind == STT_IFUNC and symbol.section:
                resolvers.add(symbol.value)
    names: dict[int, str] = {}
    dynamic = elf.dynamic_table()
    if dynamic:
        for index, symbol in enumerate(elf.symbols(dynamic)):
            if not symbol.section:
                name = elf.name(dynamic, symbol)
                if name in _ASKING:
                    names[index] = name
    imports = {
        entry.offset: names[entry.symbol] for entry in elf.relocations() if entry.symbol in names
    }
    return resolvers, imports


def _function(
    elf: Elf, words: array[int], start: int, end: int, flags: set[str], imports: dict[int, str]
) -> _Function:
    """Return what an aarch64 function refers to; of a ppc64le one only its flags."""
    after = set()
    asks = bool(imports) and elf.machine != "aarch64"
    pages: dict[int, int] = {}
    if elf.machine == "aarch64":
        for index, word in enumerate(words):
            top = word >> 26
            at = start + 4 * index
            if top in (0x25, 0x05):  # BL, B
                target = at + 4 * ((word & 0x3FFFFFF ^ 0x2000000) - 0x2000000)
                if not start <= target < end:
                    after.add(target)
                    asks |= bool(imports) and _slot(elf, target) in imports
            elif word & 0x9F000000 == 0x90000000:  # ADRP
                low = word >> 29 & 3 | word >> 3 & 0x1FFFFC
                pages[word & 31] = (at & ~0xFFF) + ((low ^ 0x100000) - 0x100000 << 12)
            elif word & 0xFFC00000 == 0x91000000 and word >> 5 & 31 in pages:  # ADD, immediate
                after.add(pages[word >> 5 & 31] + (word >> 10 & 0xFFF))
            elif word & 0xFFC00000 == 0xF9400000 and word >> 5 & 31 in pages:  # LDR, 64 bits
                asks |= pages[word >> 5 & 31] + (word >> 10 & 0xFFF) * 8 in imports
            elif word & 0xFFFFF000 == 0xD5380000:  # MRS of an ID register
                asks = True
    return _Function(frozenset(flags), frozenset(after), asks)


def _slot(elf: Elf, address: int) -> int:
    """Return the slot that the PLT entry at `address` (ADRP x16; LDR x17) jumps through, or 0."""
    raw = elf.read(address, 12)
    words = array("I", raw[: len(raw) & ~3])
    for at in range(len(words) - 1):
        page, load = words[at], words[at + 1]
        if page & 0x9F00001F == 0x90000010 and load & 0xFFC003FF == 0xF9400211:
            low = page >> 29 & 3 | page >> 3 & 0x1FFFFC
            base = (address + 4 * at & ~0xFFF) + ((low ^ 0x100000) - 0x100000 << 12)
            return base + (load >> 10 & 0xFFF) * 8
    return 0


def _reached(
    elf: Elf, functions: Functions, details: list[_Function], resolvers: set[int]
) -> list[int]:
    """Return the functions reached from the entry, not through resolvers or who asks the CPU."""
    plain, arrays = elf.initialisers()
    todo = {functions.at(address) for address in [elf.entry, *plain]}
    for low, size in arrays:
        todo |= {functions.at(pointer) for pointer in elf.pointers(low, size)}
    seen: set[int] = set()
    while todo:
        index = todo.pop()
        if index < 0 or index in seen or index in resolvers:
            continue
        seen.add(index)
        if not details[index].asks:
            todo |= {functions.at(address) for address in details[index].after}
    return sorted(i for i in seen if not details[i].asks)
