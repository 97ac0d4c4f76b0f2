"""One condition against one node's facts: met, not met, or nobody can tell. Pure functions.

Each key of docs/requirements.md has one function here. What no feature tells is unknown, and
unknown is not absent, unless the node carries `cmeta=1`.
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.nodefacts import UNSAID_ARCH
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slurm_cmeta.facts import Condition
    from slurm_cmeta.nodefacts import NodeFacts

MATCH = "match"
MISMATCH = "mismatch"
UNCHECKED = "unchecked"


class Answer(NamedTuple):
    """Whether a condition is met."""

    verdict: str
    """`match`, `mismatch` or `unchecked`."""
    has: str | None
    """What the node's features say; None when they say nothing of it."""


def condition(asked: Condition, facts: NodeFacts) -> Answer:
    """Return whether a node with these facts meets one condition."""
    key, operator, value = asked
    check = _CHECKS.get(key)
    return Answer(UNCHECKED, None) if check is None else check(operator, value, facts)


def any_of(
    main: Condition, alternatives: Sequence[Sequence[Condition]], facts: NodeFacts
) -> Answer:
    """Return whether `main`, or all conditions of any of `alternatives`, are met."""
    first = condition(main, facts)
    if first.verdict == MATCH or not alternatives:
        return first
    verdicts = [first.verdict]
    verdicts += [_all(condition(c, facts).verdict for c in each) for each in alternatives]
    return Answer(_any(verdicts), first.has or _other_has(alternatives, facts))


def _other_has(alternatives: Sequence[Sequence[Condition]], facts: NodeFacts) -> str | None:
    for each in alternatives:
        for asked in each:
            has = condition(asked, facts).has
            if has:
                return has
    return None


def _any(verdicts: Iterable[str]) -> str:
    found = set(verdicts)
    return MATCH if MATCH in found else UNCHECKED if UNCHECKED in found else MISMATCH


def _all(verdicts: Iterable[str]) -> str:
    found = set(verdicts)
    return MISMATCH if MISMATCH in found else UNCHECKED if UNCHECKED in found else MATCH


def _not_said(facts: NodeFacts) -> Answer:
    return Answer(MISMATCH if facts.complete else UNCHECKED, None)


def _arch(_: str, value: str, facts: NodeFacts) -> Answer:
    if not facts.families:
        return _not_said(facts)
    has = ", ".join(sorted(facts.families))
    answers = {vocabulary.also_runs(family, value) for family in facts.families}
    if True in answers:
        return Answer(MATCH, has)
    unsure = None in answers or len(facts.families) > 1
    return Answer(UNCHECKED if unsure else MISMATCH, has)


def _cpu(_: str, value: str, facts: NodeFacts) -> Answer:
    wanted = vocabulary.cpu(value)
    if wanted is None or len(facts.families) > 1:
        return Answer(UNCHECKED, None)
    shown = most_specific(facts.cpus)
    has = ", ".join(sorted(shown)) or None
    if any(cpu.runs(wanted) for cpu in facts.cpus):
        return Answer(MATCH, has)
    if not facts.families:
        return _not_said(facts)
    if wanted.family not in facts.families:
        return Answer(MISMATCH, has or ", ".join(facts.families))
    named = all((cpu := vocabulary.cpu(name)) is not None and not cpu.generic for name in shown)
    if named and shown:
        later = any((more := vocabulary.may_be_more(n)) and more.runs(wanted) for n in shown)
        return Answer(UNCHECKED if later and not facts.complete else MISMATCH, has)
    if facts.complete:  # a machine without a name: a hypervisor hides some of its flags
        return Answer(MATCH if _has_all_flags(wanted, facts) else MISMATCH, has)
    return Answer(_against_levels(wanted, facts.cpus), has)


def _has_all_flags(wanted: vocabulary.Cpu, facts: NodeFacts) -> bool:
    """Tell whether nodes have every flag that a program built for this CPU can be made of."""
    from slurm_cmeta.vocabulary import cpu_flags

    needed = cpu_flags.surely_has(wanted.name) & vocabulary.emitted_flags()
    return bool(needed) and needed <= _flags(facts)


def _flags(facts: NodeFacts) -> set[str]:
    """Return the flags that nodes are known to have.

    cmeta-features publishes those that archspec does not list (`isa=sha_ni` beside `zen2`), so that
    a list which is complete needs no table of them: a hypervisor may hide them.
    """
    from slurm_cmeta.vocabulary import cpu_flags

    flags_of = cpu_flags.flags_of if facts.complete else cpu_flags.surely_has
    return {flag for cpu in facts.cpus for flag in flags_of(cpu.name)} | set(facts.said("isa"))


def _against_levels(wanted: vocabulary.Cpu, levels: Sequence[vocabulary.Cpu]) -> str:
    """Judge a CPU target against a node that names only psABI levels (or nothing but its family).

    The levels do not tell the machine's name, so a named machine stays unchecked as long as the
    level it implies is there. A node that names a level but not the level needed has it not.
    """
    known = {name for level in levels for name in (level.name, *level.ancestors)}
    if known <= {wanted.family}:
        return UNCHECKED
    needed = {
        name
        for name in (wanted.name, *wanted.ancestors)
        if (cpu := vocabulary.cpu(name)) is not None and cpu.generic
    }
    return UNCHECKED if needed <= known else MISMATCH


def most_specific(cpus: Sequence[vocabulary.Cpu]) -> set[str]:
    """Return the names of the CPUs that are no ancestors of others among them."""
    implied = {ancestor for cpu in cpus for ancestor in cpu.ancestors}
    return {cpu.name for cpu in cpus} - implied


def _isa(_: str, value: str, facts: NodeFacts) -> Answer:
    """Compare flags with those that the CPU's names imply and those that are published.

    Of a machine that has a name all flags are known; a level says only what is there at least.
    """
    from slurm_cmeta.vocabulary import cpu_flags

    wanted = value.split()
    targets = [flag for flag in wanted if vocabulary.cpu(flag) is not None]
    if targets:  # ppc64le: archspec has no flags there, the first CPU with the instruction counts
        answers = [_cpu(">=", target, facts) for target in targets]
        return Answer(_all(a.verdict for a in answers), answers[0].has)
    if not facts.families or len(facts.families) > 1:
        return _not_said(facts) if not facts.families else Answer(UNCHECKED, None)
    (family,) = facts.families
    has = frozenset(_flags(facts))
    missing = [flag for flag in wanted if not cpu_flags.has_flag(flag, has, family)]
    names = most_specific(facts.cpus)
    shown = ", ".join(sorted(names)) or None
    if not missing:
        return Answer(MATCH, shown)
    if facts.complete:
        unsure = all(_not_listed_yet(flag, facts) for flag in missing)
    else:
        later = [more for name in names if (more := vocabulary.may_be_more(name))]
        unsure = any(set(missing) <= cpu_flags.surely_has(more.name) for more in later)
        unsure = unsure or all(cpu.generic for cpu in facts.cpus)
    if unsure:
        return Answer(UNCHECKED, shown)
    return Answer(MISMATCH, f"{shown or family} without {' '.join(missing)}")


def _not_listed_yet(flag: str, facts: NodeFacts) -> bool:
    """Tell whether the node's kernel is too old to list this flag in /proc/cpuinfo."""
    from slurm_cmeta.vocabulary import cpu_flags

    since = cpu_flags.listed_since(flag, next(iter(facts.families)))
    kernels = [number for text in facts.said("kernel") if (number := _numbers(text)) is not None]
    return since is not None and (not kernels or min(kernels)[:2] < since)


def _gpu(_: str, value: str, facts: NodeFacts) -> Answer:
    said = facts.said("gpu")
    if not said:
        return Answer(MISMATCH, "no GPU") if facts.complete else Answer(UNCHECKED, None)
    return Answer(MATCH if value in said else MISMATCH, ", ".join(said))


def _gpu_arch(operator: str, value: str, facts: NodeFacts) -> Answer:
    """Compare code for a GPU with the GPUs of the node.

    sm_XY runs on the same major number from Y on, sm_XYa on that one only, compute_XY (PTX) on
    anything from XY on (CUDA C++ Programming Guide, "Compute Capabilities", "Binary" and "PTX
    Compatibility"); a gfx target on itself only (LLVM AMDGPUUsage).
    """
    vendor = "amd" if value.startswith("gfx") else "nvidia"
    said = [gpu for gpu in facts.said("gpu.arch") if gpu.startswith("gfx") == (vendor == "amd")]
    has = ", ".join(said or facts.said("gpu")) or None
    if any(_gpu_runs(operator, value, gpu) for gpu in said):
        return Answer(MATCH, has)
    if vendor in facts.said(UNSAID_ARCH):
        return Answer(UNCHECKED, has)
    if not said and vendor in facts.said("gpu"):
        return Answer(MISMATCH if facts.complete else UNCHECKED, has)
    if not facts.said("gpu"):
        return Answer(MISMATCH, "no GPU") if facts.complete else Answer(UNCHECKED, None)
    return Answer(MISMATCH, has)


def _gpu_runs(operator: str, code: str, gpu: str) -> bool:
    from slurm_cmeta.vocabulary import gpus

    if code.startswith("gfx"):
        return code == gpu
    kind, _, wanted = code.partition("_")
    suffix = wanted.lstrip("0123456789")
    number, has = int(wanted.removesuffix(suffix) or 0), _number(gpu)
    if kind == "compute" and not suffix:
        return _compare(operator, (has,), (number,))
    if suffix == "a" or gpus.is_tegra(number) or gpus.is_tegra(has):
        return has == number
    return has // 10 == number // 10 and has >= number


def _number(name: str) -> int:
    digits = "".join(char for char in name if char.isdigit())
    return int(digits or 0)


def _version(key: str, what: str, vendor: str = "") -> Callable[[str, str, NodeFacts], Answer]:
    """Return the check of a dotted version, of a GPU's driver where a `vendor` is named."""

    def check(operator: str, value: str, facts: NodeFacts) -> Answer:
        said = facts.said(key)
        if not said:
            vendors = facts.said("gpu")
            if vendor and vendors and vendor not in vendors:
                return Answer(MISMATCH, ", ".join(vendors))
            return Answer(MISMATCH, f"no {what}") if facts.complete else Answer(UNCHECKED, None)
        verdicts = {_against(operator, value, has, key) for has in said}
        has = ", ".join(said)
        return Answer(verdicts.pop() if len(verdicts) == 1 else UNCHECKED, has)

    return check


def _against(operator: str, wanted: str, has: str, key: str) -> str:
    """Compare versions; `6.1` against `6.1.5` cannot be told. Of CUDA two numbers are all."""
    ours, theirs = _numbers(has), _numbers(wanted)
    if ours is None or theirs is None:
        return UNCHECKED
    if key == "cuda":
        theirs = theirs[:2]
        if len(ours) >= 2:
            ours = ours[:2]
    size = max(len(ours), len(theirs))
    padded = theirs + (0,) * (size - len(theirs))
    short = len(ours) < size and ours == theirs[: len(ours)] and any(theirs[len(ours) :])
    if short:
        return UNCHECKED
    return MATCH if _compare(operator, ours + (0,) * (size - len(ours)), padded) else MISMATCH


def _numbers(text: str) -> tuple[int, ...] | None:
    parts = text.split(".")
    if not all(part.isdecimal() and len(part) <= 9 for part in parts):
        return None
    return tuple(map(int, parts))


def _compare(operator: str, has: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if operator == "<":
        return has < wanted
    if operator == "<=":
        return has <= wanted
    if operator == ">":
        return has > wanted
    if operator == "!=":
        return has != wanted
    return has == wanted if operator == "=" else has >= wanted


def _page(operator: str, value: str, facts: NodeFacts) -> Answer:
    said = [size for size in facts.said("page") if size.isdecimal()]
    if not said or not value.isdecimal():
        return _not_said(facts)
    verdicts = {_compare(operator, (int(size),), (int(value),)) for size in said}
    has = ", ".join(f"{int(size) // 1024} KiB pages" for size in said)
    if len(verdicts) > 1:
        return Answer(UNCHECKED, has)
    return Answer(MATCH if verdicts.pop() else MISMATCH, has)


def _memory(operator: str, value: str, facts: NodeFacts) -> Answer:
    said = [size for size in facts.said("memory") if size.isdecimal()]
    if not said or not value.isdecimal():
        return Answer(UNCHECKED, None)
    verdicts = {_compare(operator, (int(size),), (int(value),)) for size in said}
    has = f"{min(map(int, said))} MiB"
    if len(verdicts) > 1:  # some of the nodes have it
        return Answer(UNCHECKED, has)
    return Answer(MATCH if verdicts.pop() else MISMATCH, has)


def _runtime(_: str, value: str, facts: NodeFacts) -> Answer:
    """Compare what the runtime can do. Of a runtime that is not listed nothing is known."""
    said = facts.said("runtime")
    if value in said:
        return Answer(MATCH, ", ".join(said))
    listed = facts.said("apptainer") or facts.said("singularity")
    absent = facts.complete and listed
    has = ", ".join(said) or ("a runtime without it" if absent else None)
    return Answer(MISMATCH if absent else UNCHECKED, has)


def _mpi(_: str, value: str, facts: NodeFacts) -> Answer:
    """Compare ABI families. A module may offer another one: none is ever absent for certain."""
    said = facts.said("mpi")
    return Answer(MATCH if value in said else UNCHECKED, ", ".join(said) or None)


_CHECKS: dict[str, Callable[[str, str, NodeFacts], Answer]] = {
    "arch": _arch,
    "cpu": _cpu,
    "isa": _isa,
    "gpu": _gpu,
    "gpu.arch": _gpu_arch,
    "cuda": _version("cuda", "CUDA", "nvidia"),
    "driver": _version("driver", "NVIDIA driver", "nvidia"),
    "rocm": _version("rocm", "ROCm", "amd"),
    "mpi": _mpi,
    "glibc": _version("glibc", "glibc"),
    "kernel": _version("kernel", "kernel"),
    "page": _page,
    "memory": _memory,
    "runtime": _runtime,
}
