"""What an image asks of NVIDIA's driver, in the variables that NVIDIA's own runtime reads.

Source: NVIDIA/nvidia-container-toolkit d34b304, internal/requirements/constraints (grammar) and
internal/config/image/cuda_image.go (variables); NVIDIA/libnvidia-container src/cli/dsl.c, which
checks the same text in the older runtime. Where the two differ the one that lets more run counts:

    NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=535

is `cuda>=12.4`, or a tesla with a driver of branch 470, or ...: a space means or, a comma and.
Several NVIDIA_REQUIRE_* must all be met. Properties: cuda (the newest CUDA that the driver
supports), driver (its version), arch (compute capability), brand. Unknown properties are left out,
as the toolkit does; a text that it refuses asks for nothing here and gives a warning.
"""

from __future__ import annotations

from slurm_cmeta.facts import Fact
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_cmeta.image.content import Warnings

Condition = tuple[str, str, str]
"""Key, operator, value."""
Terms = tuple[tuple[Condition, ...], ...]
"""Any of these conjunctions, none of them empty."""

PREFIX = "NVIDIA_REQUIRE_"
CUDA = "NVIDIA_REQUIRE_CUDA"
JETPACK = "NVIDIA_REQUIRE_JETPACK"
LEGACY = "CUDA_VERSION"
DISABLE = "NVIDIA_DISABLE_REQUIRE"
DEVICES = "NVIDIA_VISIBLE_DEVICES"

MAX_VARIABLES = 16
"""NVIDIA_REQUIRE_* that are read; images have one, seldom two."""

MAX_TEXT = 65536
"""Characters of one; the longest of NVIDIA's own images have about 4,000."""

MAX_TERMS = 512
"""Alternatives of one; NVIDIA's own images have about 70. A longer text asks for nothing: to leave
alternatives out would make it stricter."""

MAX_CONDITIONS = 16
"""Conditions of one alternative; NVIDIA's own images have three."""

_OPERATORS = ("!=", "<=", ">=", "==", "=", "<", ">")
"""In the order in which they are tried. The toolkit knows no `==`; here it means `=`."""

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
"""Go's strconv.ParseBool."""

_MAX_MAJOR = 99
"""A CUDA_VERSION above it (`118`) is a number of somebody else's, not a version of CUDA."""


class Demand(NamedTuple):
    """What one variable asks for."""

    source: str
    terms: Terms


class TermsError(ValueError):
    """A text that is not of the grammar; its words go into a warning."""


def demands(environment: Mapping[str, str], warnings: Warnings) -> list[Demand]:
    """Return what the variables ask for, all of which must be met.

    NVIDIA_DISABLE_REQUIRE and NVIDIA_VISIBLE_DEVICES are not looked at: see disabled() and asked().
    """
    found = []
    names = variables(environment)
    if len(names) > MAX_VARIABLES:
        warnings.add(f"of {len(names)} variables {PREFIX}* only {MAX_VARIABLES} are read")
    for name in names[:MAX_VARIABLES]:
        try:
            terms = parse(environment[name])
        except TermsError as problem:
            warnings.add(f"variable {clean(name, 60)} is not understood and ignored: {problem}")
            continue
        if terms:
            found.append(Demand(clean(name, 60), terms))
    version = legacy_version(environment, warnings)
    if version:
        found.append(Demand(LEGACY, ((("cuda", ">=", version),),)))
    return found


def variables(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that state requirements, the best known first."""
    names = [
        name
        for name, value in environment.items()
        if name.startswith(PREFIX) and not name.startswith(JETPACK) and value.strip()
    ]
    return sorted(names, key=lambda name: (name != CUDA, name))


def parse(text: str) -> Terms:
    """Return the alternatives that `text` names, each once; none if it asks for nothing.

    Raises TermsError if it is not of the grammar, or longer than anybody's.
    """
    if len(text) > MAX_TEXT:
        raise TermsError(f"it has {len(text)} characters")
    words = text.split(maxsplit=MAX_TERMS)
    if len(words) > MAX_TERMS:
        raise TermsError(f"it has more than {MAX_TERMS} alternatives")
    terms: dict[tuple[Condition, ...], None] = {}
    for word in words:
        factors = word.split(",", MAX_CONDITIONS)
        if len(factors) > MAX_CONDITIONS:
            raise TermsError(f"it has more than {MAX_CONDITIONS} conditions in a row")
        found = [_condition(factor) for factor in factors if factor]
        term = tuple(dict.fromkeys(condition for condition in found if condition is not None))
        if term:
            terms[term] = None
    return tuple(terms)


def _condition(text: str) -> Condition | None:
    """Return one condition, or None if it is about a property that nobody knows.

    A compute capability `8.0` becomes `compute_80`.
    """
    end = min((at for at in map(text.find, "<>=!") if at >= 0), default=-1)
    if end < 0:
        raise TermsError(f"{clean(text, 40)} is no condition")
    name, rest = text[:end].lower(), text[end:]
    if name not in ("cuda", "driver", "arch", "brand"):
        return None
    operator = next((known for known in _OPERATORS if rest.startswith(known)), "")
    value = rest[len(operator) :]
    operator = "=" if operator == "==" else operator
    if name == "brand":
        if operator in ("=", "!=") and 0 < len(value) <= 40 and value.isascii() and value.isalnum():
            return name, operator, value.lower()
    elif operator and is_version(value):
        if name != "arch":
            return name, operator, value
        major, _, rest = value.partition(".")
        minor = rest.partition(".")[0] or "0"
        if len(minor) == 1:
            return "gpu.arch", operator, f"compute_{int(major)}{minor}"
    raise TermsError(f"{clean(text, 40)} is no condition")


def is_version(text: str) -> bool:
    """Tell whether `text` is a version in digits and dots (`12.4`, `535.104.05`)."""
    if not 0 < len(text) <= 40 or not text.isascii():
        return False
    parts = text.split(".")
    return len(parts) <= 6 and all(part.isdigit() and len(part) <= 9 for part in parts)


def legacy_version(environment: Mapping[str, str], warnings: Warnings) -> str:
    """Return major.minor of CUDA_VERSION where it counts: where NVIDIA_REQUIRE_CUDA is not set.

    The toolkit calls such images legacy and requires cuda>=major.minor of them.
    """
    stated = environment.get(LEGACY, "").strip()
    if not stated or environment.get(CUDA, "").strip():
        return ""
    major, _, rest = stated.partition(".")
    version = f"{major}.{rest.partition('.')[0] or '0'}"
    if is_version(version) and int(major) <= _MAX_MAJOR:
        return version
    warnings.add(f"variable {LEGACY} is ignored: {clean(stated, 40)} is no version of CUDA")
    return ""


def disabled(environment: Mapping[str, str]) -> bool:
    """Tell whether the image's author asks not to check any of its conditions."""
    return environment.get(DISABLE, "") in _TRUE


def asked(environment: Mapping[str, str]) -> bool | None:
    """Tell whether the image asks for GPUs: no is `void`, `none` or empty, None not stated."""
    stated = environment.get(DEVICES)
    if stated is None:
        return None
    devices = [device.strip() for device in stated[:MAX_TEXT].split(",") if device.strip()]
    if not devices or "void" in devices:
        return False
    return next((device == "all" for device in devices if device in ("all", "none")), True)


def facts(demand: Demand, hint: bool) -> list[Fact]:
    """Return facts that hold together exactly where `demand` is met.

    One alternative becomes the facts, the others their `alternatives`: (a and b) or c is (a or c)
    and (b or c). A single condition is chosen where there is one, the way it is read aloud.
    """
    main = min(demand.terms, key=lambda term: (len(term), term[0][0] not in ("cuda", "driver")))
    others = tuple(term for term in demand.terms if term != main)
    return [
        Fact(key, value, demand.source, hint=hint, op=operator, alternatives=others)
        for key, operator, value in main
    ]
