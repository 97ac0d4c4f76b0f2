"""Files that are one of several builds of the same, each for other CPUs."""

from __future__ import annotations

VARIANTS = frozenset(
    (
        *("fma", "fma3", "fma4", "xop", "bmi2", "amx", "vnni", "knl", "skx"),
        *("haswell", "broadwell", "skylake", "skylakex", "icelake", "cascadelake"),
        *("sapphirerapids", "neoverse", "a64fx", "sve", "sve2"),
        *("zen2", "zen3", "zen4", "zen5", "znver1", "znver2", "znver3", "znver4", "znver5"),
        *("sse2", "sse3", "ssse3", "sse41", "sse42", "power8", "power9", "power10", "v256"),
    )
)
"""Words of a name that mark one of several builds, of which a wrapper or the loader takes the
fitting one."""

VARIANT_STARTS = ("avx", "sse4", "armv8", "armv9")


def is_variant(path: str) -> bool:
    """Tell whether a file is one of several builds, by its name or those of two directories above.

    The directory that a package manager names after its target (`linux-debian12-zen4`) is none.
    """
    components = path.lower().split("/")[-3:]
    if "glibc-hwcaps" in components:
        return True
    for component in components:
        if component.startswith(("linux-", "cray-")):
            continue
        plain = component.replace("x86-64-v", "avx").replace("x86_64_v", "avx")
        words = "".join(c if c.isalnum() else " " for c in plain).split()
        if any(word in VARIANTS or word.startswith(VARIANT_STARTS) for word in words):
            return True
    return False
