"""Evidence: the instructions that a file's machine code really holds.

A label or an ELF note says what somebody asked the compiler for; the instructions say what the CPU
must have. A file may also hold code for CPUs that it looks for at run time; such code is reported
apart (`dispatched`) and never as a need, because a need that is none refuses good nodes.
"""

from __future__ import annotations

import struct

from slurm_cmeta.evidence.machinecode import elf_code
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap

MAX_CODE = 256 * 1024 * 1024
"""Bytes of machine code in one file that are examined, in about a minute: a browser has 200 MB."""

MISSING = "the disassembler is missing: pip install slurm-cmeta[deep]"


class Emitted(NamedTuple):
    """What the machine code of one file needs."""

    needs: dict[str, str]
    """archspec flag (ppc64le: archspec target) -> where first seen, `main+0x1c` or `0x401136`."""
    dispatched: frozenset[str]
    """Flags of code that runs only where the program finds the CPU fit for it."""
    examined: int
    """Bytes of machine code."""
    unread: str
    """Why not everything was examined, or the empty string."""


def examine(data: bytes | mmap.mmap | memoryview, family: str) -> Emitted:
    """Return what the ELF file `data` needs of a CPU of archspec's `family`.

    Nothing is raised for a damaged file. Only the program and the libraries that it is linked with
    are worth examining, not what is loaded after a look at the CPU: in glibc-hwcaps directories or
    MKL's libmkl_avx2.so the code itself does not tell that somebody has chosen it.

    A file chooses where it, or what its names tell of, asks for the CPU, where it exports variants,
    or where it was made without AVX and has some code with it. What is not found there: needs
    below AVX; needs of code that no entry of the file leads to by way of AVX code alone, direct
    calls and taken addresses, as of AVX code behind a `main` without; functions in both encodings.
    In a static program in which only glibc chooses, everything reached counts, except what ifunc
    resolvers, those of the program too, choose from. A choice made in another file without a name
    that tells (links.ASKS_CPU, links.VARIANT) counts if the chosen code is most of a file.
    """
    with memoryview(data) as view, view.cast("B") as octets:
        return _survive(octets, family)


def _survive(octets: memoryview, family: str) -> Emitted:
    try:
        elf = elf_code.Elf(octets)
        if elf.machine != family:
            return Emitted({}, frozenset(), 0, f"machine code of {elf.machine}, not {family}")
        return _examine(elf, family)
    except ImportError:
        return Emitted({}, frozenset(), 0, MISSING)
    except elf_code.Damaged as error:
        return Emitted({}, frozenset(), 0, str(error))
    except (ArithmeticError, LookupError, ValueError, struct.error) as error:
        # No damaged file is known that gets here; if there is one, it gives no evidence.
        return Emitted({}, frozenset(), 0, f"the file is damaged ({type(error).__name__})")


def _examine(elf: elf_code.Elf, family: str) -> Emitted:
    if sum(end - start for start, end in elf.executable()) > MAX_CODE:
        return Emitted({}, frozenset(), 0, f"more than {MAX_CODE} bytes of machine code")
    # What a family needs is imported only then: x86_64 needs a package that may be missing.
    if family == "x86_64":
        from slurm_cmeta.evidence.machinecode import x86

        found = x86.examine(elf)
    elif family == "riscv64":
        from slurm_cmeta.evidence.machinecode import riscv

        found = riscv.examine(elf)
    else:
        from slurm_cmeta.evidence.machinecode import words

        found = words.examine(elf)
    where, dispatched, examined, unread = found
    needs = dict(zip(sorted(where), elf.places(where[flag] for flag in sorted(where)), strict=True))
    return Emitted(needs, dispatched, examined, unread)
