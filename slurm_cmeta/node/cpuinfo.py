"""/proc/cpuinfo: what all processors of a host have in common, on every architecture.

Source: the kernel's show_cpuinfo() of arch/{x86/kernel/cpu/proc,arm64/kernel/cpuinfo,
powerpc/kernel/setup-common,riscv/kernel/cpu,s390/kernel/processor,loongarch/kernel/proc}.c: lines
`key : value`, one block a processor, what is common to all at the top or at the end.
"""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

PATH = "/proc/cpuinfo"

FLAG_KEYS = ("flags", "Features", "features")
"""Where x86, Arm and LoongArch, and s390 list instruction sets."""

_IDENTITY_KEYS = ("vendor_id", "CPU implementer", "CPU part", "CPU architecture", "uarch")
_NAME_KEYS = ("model name", "Model Name", "cpu", "cpu model", "isa", "hart isa")
_X86_32_KEYS = ("fdiv_bug", "f00f_bug", "coma_bug")
_KEYS = frozenset((*FLAG_KEYS, *_IDENTITY_KEYS, *_NAME_KEYS, *_X86_32_KEYS))

MAX_FLAG = 40
"""Characters of one flag; the longest real ones have some 20."""

MAX_NAME = 100
"""Characters of a name that are kept."""


class CpuInfo:
    """The distinct values of each key that tells something, in the order of the file."""

    def __init__(self, text: str) -> None:
        # A file of 1,024 processors has 2 MB and few distinct lines: only those are taken apart.
        self._values: dict[str, list[str]] = {}
        for line in dict.fromkeys(text.split("\n")):
            key, separator, value = line.partition(":")
            key = key.strip()
            if separator and key in _KEYS:
                self._values.setdefault(key, []).append(value.strip())

    def has(self, key: str) -> bool:
        """Return whether any processor has such a line."""
        return key in self._values

    def values(self, key: str) -> list[str]:
        """Return the distinct values of `key`."""
        return list(dict.fromkeys(self._values.get(key, ())))

    def value(self, key: str) -> str:
        """Return the first value of `key`, on one line, shortened; empty where there is none."""
        first = next(iter(self._values.get(key, ())), "")
        return clean(" ".join(first[: 4 * MAX_NAME].split()), MAX_NAME)

    def flags(self, key: str) -> tuple[frozenset[str], frozenset[str]]:
        """Return the flags that all processors list under `key`, and those that only some do."""
        return _common(value.split() for value in self._values.get(key, ()))

    def extensions(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the RISC-V extensions of all harts, and of some (`rv64imac_zba`: a, c, i, m, zba).

        `hart isa`, where there is one, says what each hart has; `isa` then what all have.
        """
        key = "hart isa" if self.has("hart isa") else "isa"
        return _common(map(_extensions, self._values.get(key, ())))

    def family(self) -> str | None:
        """Return archspec's family by the shape of the file; `power` where the byte order is open.

        None where the shape tells nothing for certain.
        """
        if self.has("CPU implementer") or self.has("CPU architecture"):
            words = self.flags("Features")[0]
            # What a 32-bit kernel calls its instruction sets: arch/arm/kernel/setup.c, hwcap_str
            return "arm" if words & {"half", "thumb"} else "aarch64" if words else None
        if any(self.has(key) for key in _X86_32_KEYS):  # lines of CONFIG_X86_32 only
            return "x86"
        if self.has("flags") and "lm" in self.flags("flags")[0]:
            return "x86_64"
        if self.value("vendor_id") == "IBM/S390":
            return "s390x"
        isa = self.value("isa").lower()
        if isa.startswith(("rv32", "rv64")):
            return f"riscv{isa[2:4]}"
        if isa.startswith("loongarch") or "loongarch64" in isa.split():
            return "loongarch64"
        if self.value("cpu").upper().startswith(("POWER", "PPC970")):
            return "power"
        return None


def _common(lists: Iterable[list[str]]) -> tuple[frozenset[str], frozenset[str]]:
    every: frozenset[str] | None = None
    some: frozenset[str] = frozenset()
    for words in lists:
        sane = frozenset(word for word in words if _is_flag(word))
        every = sane if every is None else every & sane
        some |= sane
    every = every or frozenset()
    return every, some - every


def _is_flag(word: str) -> bool:
    return (
        len(word) <= MAX_FLAG
        and word.isascii()
        and word.replace("_", "").replace(".", "").replace("-", "").isalnum()
    )


def _extensions(isa: str) -> list[str]:
    base, *named = isa.lower().split("_")
    return [*base[4:], *named] if base[:4] in ("rv32", "rv64") else []
