"""riscv64: what the file says of itself.

archspec (0.2.5) knows no flags of RISC-V, only the CPU u74mc, so nothing can be compared and no
need is returned. What .riscv.attributes declares beyond RV64GC is put into words instead. Source:
RISC-V ELF psABI, "Attributes": format 'A', vendor "riscv", tag 5 is the architecture string.
"""

from __future__ import annotations

import re

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.evidence.machinecode.elf_code import Elf

_GENERAL = {"i", "m", "a", "f", "d", "c", "zicsr", "zifencei", "zmmul", "zaamo", "zalrsc", "zca",
            "zcd"}  # fmt: skip
_ARCHITECTURE = re.compile(rb"rv64([a-z][a-z0-9_]{0,500})\0")


def examine(elf: Elf) -> tuple[dict[str, int], frozenset[str], int, str]:
    """Return no needs; in words, the extensions declared beyond RV64GC."""
    for section in elf.sections:
        if section.name == ".riscv.attributes":
            raw = bytes(elf.view[section.offset : section.offset + min(section.size, 4096)])
            match = _ARCHITECTURE.search(raw)
            if match:
                names = re.findall(r"([a-z][a-z]*[a-z0-9]*?)\d+p\d+", match[1].decode("ascii"))
                beyond = sorted(set(names) - _GENERAL)
                if beyond:
                    declared = ", ".join(beyond[:20])
                    return {}, frozenset(), 0, f"nothing to compare RISC-V with; it has {declared}"
    return {}, frozenset(), 0, ""
