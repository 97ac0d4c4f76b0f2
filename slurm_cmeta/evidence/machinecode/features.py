"""Which instruction needs which archspec flag, for x86_64.

iced-x86 names the CPUID features of each instruction form; FLAGS says what archspec (0.2.5,
microarchitectures.json) calls them. What is left out, and why:
- the psABI baseline (mmx, sse, sse2, cmov, fxsr, cx8);
- system and hint instructions, which run or are ignored everywhere, or are used by start-up code
  and libraries behind their own checks: CET, MPX, RTM, xsave, rdrand, clflushopt, prefetchw ...;
- tzcnt (BMI1): it is `rep bsf`, which older CPUs run as bsf; gcc emits it in generic code.
"""

from __future__ import annotations

import functools
import importlib

from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

FLAGS = {
    "SSE3": "sse3", "SSSE3": "ssse3", "SSE4_1": "sse4_1", "SSE4_2": "sse4_2", "SSE4A": "sse4a",
    "POPCNT": "popcnt", "LZCNT": "abm", "MOVBE": "movbe", "ADX": "adx", "BMI1": "bmi1",
    "BMI2": "bmi2", "TBM": "tbm", "AES": "aes", "PCLMULQDQ": "pclmulqdq", "SHA": "sha_ni",
    "GFNI": "gfni", "VAES": "vaes", "VPCLMULQDQ": "vpclmulqdq", "SHA512": "sha512", "SM3": "sm3",
    "SM4": "sm4", "AVX": "avx", "AVX2": "avx2", "FMA": "fma", "FMA4": "fma4", "XOP": "xop",
    "F16C": "f16c", "AVX512F": "avx512f", "AVX512BW": "avx512bw", "AVX512CD": "avx512cd",
    "AVX512DQ": "avx512dq", "AVX512VL": "avx512vl", "AVX512ER": "avx512er",
    "AVX512PF": "avx512pf", "AVX512_IFMA": "avx512ifma", "AVX512_VBMI": "avx512vbmi",
    "AVX512_VBMI2": "avx512_vbmi2", "AVX512_VNNI": "avx512_vnni",
    "AVX512_BITALG": "avx512_bitalg", "AVX512_VPOPCNTDQ": "avx512_vpopcntdq",
    "AVX512_BF16": "avx512_bf16", "AVX512_FP16": "avx512_fp16",
    "AVX512_VP2INTERSECT": "avx512_vp2intersect", "AVX_VNNI": "avx_vnni",
    "AVX_VNNI_INT8": "avx_vnni_int8", "AVX_VNNI_INT16": "avx_vnni_int16", "AVX_IFMA": "avx_ifma",
    "AVX_NE_CONVERT": "avx_ne_convert", "CMPCCXADD": "cmpccxadd", "AMX_TILE": "amx_tile",
    "AMX_INT8": "amx_int8", "AMX_BF16": "amx_bf16",
}  # fmt: skip
NAMES = tuple(sorted(set(FLAGS.values())))
BIT = {name: 1 << index for index, name in enumerate(NAMES)}

LEGACY = 1 << 62
"""Marks a vector instruction in SSE encoding that a compiler would encode as AVX if it might."""
VECTOR = 1 << 61
"""Marks a vector instruction in an AVX (VEX, EVEX, XOP) encoding."""
_VECTOR_FLAGS = ("avx", "avx2", "fma", "fma4", "xop", "f16c", "vaes", "vpclmulqdq")
_VECTOR_BITS = sum(BIT[name] for name in _VECTOR_FLAGS)
_AVX512_BITS = sum(bit for name, bit in BIT.items() if name.startswith("avx512"))

# What an instruction is to the analysis of the control flow.
FEATURE, FLOW, MEMORY, IMMEDIATE, CPUID, BAD, BRANCH, CALLED = 1, 2, 4, 8, 16, 32, 64, 128


class Iced:
    """iced-x86 and what is asked of it about each instruction form, once per form."""

    def __init__(self) -> None:
        # By name: the package is optional, and the checks of types run without it too.
        iced: Any = importlib.import_module("iced_x86")
        self.decoder: Any = iced.Decoder
        self.info: Any = iced.InstructionInfoFactory
        self.access: Any = iced.OpAccess
        self.register: Any = iced.Register
        self.memory = int(iced.OpKind.MEMORY)
        self._form: Any = iced.OpCodeInfo
        self._instruction: Any = iced.Instruction
        self._flow: Any = iced.FlowControl
        self._cpuid = _constants(iced.CpuidFeature)
        self._codes = _constants(iced.Code)
        self._kinds_of_operand = _constants(iced.OpCodeOperandKind)
        self._encodings = _constants(iced.EncodingKind)
        self.kinds: dict[int, int] = _Memo(self._kind)
        self.masks: dict[int, int] = _Memo(self._mask)
        self.name: dict[int, str] = self._codes

    def _kind(self, code: int) -> int:
        instruction = self._instruction()
        instruction.code = code
        name = self._codes[code]
        kind = FEATURE if self.masks[code] else 0
        if instruction.flow_control != self._flow.NEXT:
            kind |= FLOW
        if instruction.flow_control == self._flow.CALL and name.startswith("CALL_REL"):
            kind |= CALLED
        elif name.startswith("J") and "_REL" in name:
            kind |= BRANCH
        form = self._form(code)
        operands = [self._kinds_of_operand[form.op_kind(n)] for n in range(form.op_count)]
        if any("MEM" in operand for operand in operands):
            kind |= MEMORY
        if name.startswith(("MOV_", "PUSH")) and operands and operands[-1] in (
            "IMM32", "IMM32SEX64", "IMM64",
        ):  # fmt: skip
            kind |= IMMEDIATE
        if name in ("CPUID", "XGETBV"):
            kind |= CPUID
        if name == "INVALID":
            kind |= BAD
        return kind

    def _mask(self, code: int) -> int:
        instruction = self._instruction()
        instruction.code = code
        name = self._codes[code]
        features = [self._cpuid[feature] for feature in instruction.cpuid_features()]
        mask = 0
        for feature in features:
            mask |= BIT.get(FLAGS.get(feature, ""), 0)
        if name.startswith("TZCNT"):
            mask = 0
        encoding = self._encodings[self._form(code).encoding]
        if encoding == "EVEX":
            mask |= BIT["avx512f"] | VECTOR
        elif mask & _VECTOR_BITS:
            mask |= BIT["avx"] | VECTOR
        elif mask & _AVX512_BITS:
            mask |= VECTOR
        elif (
            encoding == "LEGACY"
            and "XMM" in name
            and any(
                feature in ("SSE", "SSE2", "SSE3", "SSSE3", "SSE4_1", "SSE4_2")
                for feature in features
            )
        ):
            mask |= LEGACY
        return mask


class _Memo(dict[int, int]):
    def __init__(self, ask: Any) -> None:
        super().__init__()
        self._ask = ask

    def __missing__(self, key: int) -> int:
        self[key] = value = int(self._ask(key))
        return value


@functools.cache
def iced() -> Iced:
    """Return the one Iced; ImportError without the package."""
    return Iced()


def _constants(module: Any) -> dict[int, str]:
    return {v: k for k, v in vars(module).items() if k.isupper() and isinstance(v, int)}


def flags(mask: int) -> list[str]:
    """Return the archspec names of the bits of `mask`."""
    return [name for name in NAMES if mask & BIT[name]]
