"""Which A64 instruction needs which archspec flag.

Source: Arm Architecture Reference Manual (DDI 0487), "C4 The A64 Instruction Set Encoding"; the
names are those of /proc/cpuinfo, which archspec uses. Hints (BTI, PACIASP ...) run everywhere and
are left out, as is what only the system needs. SVE2 has its own rows only where it has encodings of
its own that compilers emit; the rest of it counts as SVE.
"""

from __future__ import annotations

TABLE = (
    # mask, value, flag
    (0x3F208C00, 0x38200000, "atomics"),  # LDADD and its like
    (0x3F20FC00, 0x38208000, "atomics"),  # SWP
    (0x3FA07C00, 0x08A07C00, "atomics"),  # CAS
    (0xBFA07C00, 0x08207C00, "atomics"),  # CASP
    (0x3FFFFC00, 0x38BFC000, "lrcpc"),  # LDAPR
    (0x3F200C00, 0x19000000, "ilrcpc"),  # LDAPUR, STLUR
    (0x7FE0E000, 0x1AC04000, "crc32"),
    (0x9FE0FC00, 0x0E809400, "asimddp"),  # SDOT, UDOT
    (0x9FC0F400, 0x0F80E000, "asimddp"),  # by element
    (0x9F60C400, 0x0E400400, "asimdhp"),  # three registers, half precision
    (0x9F7E0C00, 0x0E780800, "asimdhp"),  # two registers, half precision
    (0xBFC0B400, 0x0F001000, "asimdhp"),  # FMLA, FMLS by element
    (0x9FC0F400, 0x0F009000, "asimdhp"),  # FMUL, FMULX by element
    (0xBFF8FC00, 0x0F00FC00, "asimdhp"),  # FMOV, immediate
    (0xFFE00C00, 0x1EE00800, "fphp"),  # two sources
    (0xFFE07C00, 0x1EE04000, "fphp"),  # one source; see NOT
    (0xFFE0FC00, 0x1EE02000, "fphp"),  # FCMP
    (0xFFE00C00, 0x1EE00C00, "fphp"),  # FCSEL
    (0xFFE00C00, 0x1EE00400, "fphp"),  # FCCMP
    (0xFFE01C00, 0x1EE01000, "fphp"),  # FMOV, immediate
    (0xFFC00000, 0x1FC00000, "fphp"),  # FMADD and its like
    (0x7FE0FC00, 0x1EE00000, "fphp"),  # to and from integers
    (0xBFE0FC00, 0x0E20EC00, "asimdfhm"),  # FMLAL
    (0xBFE0FC00, 0x0EA0EC00, "asimdfhm"),  # FMLSL
    (0xBFE0FC00, 0x2E20CC00, "asimdfhm"),  # FMLAL2
    (0xBFE0FC00, 0x2EA0CC00, "asimdfhm"),  # FMLSL2
    (0xBF20F400, 0x2E008400, "asimdrdm"),  # SQRDMLAH, SQRDMLSH
    (0xBF00D400, 0x2F00D000, "asimdrdm"),  # by element
    (0xBF20E400, 0x2E00C400, "fcma"),  # FCMLA
    (0xBF20EC00, 0x2E00E400, "fcma"),  # FCADD
    (0xFFFFFC00, 0x1E7E0000, "jscvt"),
    (0xFFFFCC00, 0x4E284800, "aes"),
    (0xBFE0FC00, 0x0EE0E000, "pmull"),
    (0xFFE0CC00, 0x5E000000, "sha1"),
    (0xFFFFEC00, 0x5E280800, "sha1"),
    (0xFFE0CC00, 0x5E004000, "sha2"),
    (0xFFFFFC00, 0x5E282800, "sha2"),
    (0xFFE0FC00, 0xCE608000, "sha512"),
    (0xFFE0FC00, 0xCE608400, "sha512"),
    (0xFFE0FC00, 0xCE608800, "sha512"),
    (0xFFFFFC00, 0xCEC08000, "sha512"),
    (0xFFE08000, 0xCE000000, "sha3"),  # EOR3
    (0xFFE08000, 0xCE200000, "sha3"),  # BCAX
    (0xFFE0FC00, 0xCE608C00, "sha3"),  # RAX1
    (0xFFE00000, 0xCE800000, "sha3"),  # XAR
    (0xBFE0FC00, 0x2E40FC00, "bf16"),  # BFDOT
    (0xBFC0F400, 0x0F40F000, "bf16"),  # by element
    (0xFFE0FC00, 0x6E40EC00, "bf16"),  # BFMMLA
    (0xBFE0FC00, 0x2EC0FC00, "bf16"),  # BFMLAL
    (0xBFFFFC00, 0x0EA16800, "bf16"),  # BFCVTN
    (0xFFFFFC00, 0x1E634000, "bf16"),  # BFCVT
    (0xDFE0FC00, 0x4E80A400, "i8mm"),  # SMMLA, UMMLA
    (0xFFE0FC00, 0x4E80AC00, "i8mm"),  # USMMLA
    (0xBFE0FC00, 0x0E809C00, "i8mm"),  # USDOT
    (0xBF40F400, 0x0F00F000, "i8mm"),  # USDOT, SUDOT by element
    (0xFFFFFBFF, 0xD65F0BFF, "paca"),  # RETAA, RETAB
    (0x1E000000, 0x04000000, "sve"),
    (0xFF20FC00, 0x04206000, "sve2"),  # MUL, not predicated
    (0xFF20F800, 0x04203800, "sve2"),  # EOR3, BCAX, BSL and its like
    (0xFE000000, 0x44000000, "sve2"),  # see NOT
    (0x9E000000, 0x80000000, "sme"),
)

NOT = (
    (0xFFFFFC00, 0x1EE24000, "fphp"),  # FCVT from half is in Armv8.0
    (0xFFFFFC00, 0x1EE2C000, "fphp"),
    # The unwinder of every libgcc asks for the vector length, in frames with SVE only.
    (0xFF30FC00, 0x0420E000, "sve"),
    (0xFFFFF800, 0x04BF5000, "sve"),
    (0xFF80F800, 0x44800000, "sve2"),  # SDOT, UDOT are in the first SVE
    (0xFFE0FC00, 0x44807800, "sve2"),  # USDOT and what follows: SVE with i8mm
    (0xFFE0F800, 0x44A01800, "sve2"),
    (0xFF20FC00, 0x45009800, "sve2"),
)

_BY_TOP: list[list[tuple[int, int, str]]] = [
    [row for row in TABLE if not (top << 24 ^ row[1]) & row[0] & 0xFF000000] for top in range(256)
]


def flags(word: int) -> set[str]:
    """Return the archspec flags that the instruction `word` needs beyond Armv8.0."""
    found = {flag for mask, value, flag in _BY_TOP[word >> 24] if word & mask == value}
    if found:
        found -= {flag for mask, value, flag in NOT if word & mask == value}
    return found


def interesting(words: set[int]) -> dict[int, set[str]]:
    """Return those of `words` that need a flag, with their flags."""
    found = {}
    for word in words:
        if _BY_TOP[word >> 24]:
            needed = flags(word)
            if needed:
                found[word] = needed
    return found
