"""Which GPU an image needs, for which it has code, and what it asks of the driver.

The facts that become requirements, and what their values mean:

    gpu       nvidia, amd or intel
    gpu.arch  code for one of several GPUs: `=` sm_80, sm_90a, gfx90a, `>=` compute_90. Which GPUs
              run it: evidence/fatbin.py and hip.py. Where NVIDIA_REQUIRE_* states a bound,
              compute_80 is a compute capability, compared as a number.
    cuda      the newest CUDA version that the node's driver supports (`CUDA Version` of
              nvidia-smi), as NVIDIA's runtime compares it. That a driver also runs programs of a
              newer minor version, and that of a data-centre GPU those of a newer major version if
              the image has the cuda-compat libraries, is for matching to know. Where it was read
              from a library, `12.0` is the first driver that knows CUDA 12 at all.
    driver    version of the NVIDIA kernel driver
    rocm      version of ROCm in the image, whose libraries work with a driver two releases older
    brand     what kind of NVIDIA GPU (`tesla`), as NVIDIA_REQUIRE_* states it

A need is hard where somebody states it (NVIDIA_REQUIRE_*, CUDA_VERSION without it, a label), or
where the program cannot start without the library that comes with the host's driver. All else is a
hint: an image with a CUDA runtime, with PyTorch or with code for a GPU often runs on a CPU as well.
What is asked of the GPU and its driver is as hard as the need for it, and no harder than what it is
read from.
"""

from __future__ import annotations

from slurm_cmeta.evidence import gpu_code, gpu_labels, gpu_libraries, gpu_need, hip, nvidia
from slurm_cmeta.evidence.gpu_need import Clue
from slurm_cmeta.evidence.gpu_target import conditions, vendor_of
from slurm_cmeta.evidence.subject import OWN_ROLES, Binary
from slurm_cmeta.facts import DECLARED, OBSERVED, Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_cmeta.evidence.subject import Subject

CPU_ONLY = "NVIDIA_CPU_ONLY"
"""Set to 1 in images that run without a GPU, too: the start scripts of NVIDIA's NGC images then do
not complain of a missing driver."""


def read(subject: Subject) -> list[Fact]:
    """Return the facts about GPUs, those that become requirements first."""
    environment = subject.environment
    labels = gpu_labels.read(subject.labels, subject.warnings)
    needs_of: dict[tuple[str, bool], gpu_libraries.Needed] = {}

    def watched() -> Iterator[Binary]:
        # One walk for both: files are not kept, an image may have tens of thousands.
        for binary in _binaries(subject):
            for need in gpu_libraries.needed(binary):
                needs_of.setdefault((need.soname, need.program is not None), need)
            yield binary

    code = gpu_code.read(subject, watched())
    libraries = gpu_libraries.read(subject, needs_of.values())
    demands = nvidia.demands(environment, subject.warnings)
    refused = bool(labels.refused) or nvidia.asked(environment) is False
    clues = [
        *_environment_clues(environment, demands, refused),
        *labels.clues,
        *libraries.clues,
        *code.clues,
    ]
    needs = gpu_need.facts(clues, refused, subject.warnings)
    if labels.refused and any(not need.hint for need in needs):
        subject.warnings.add(
            f"{labels.refused} says that no GPU is used, but {needs[0].source}: the label is "
            "ignored"
        )
    found = [*needs, *_arch(needs, code, labels)]
    vendors = _vendors(needs)
    asked: list[Fact] = []
    if "nvidia" in vendors:
        hint = any(need.hint for need in needs)
        if demands:
            hint = hint or nvidia.disabled(environment)
            asked = [fact for demand in demands for fact in nvidia.facts(demand, hint)]
        elif labels.versions:
            asked = [fact._replace(hint=hint) for fact in labels.versions]
        elif "cuda" in libraries.versions:
            asked = [libraries.versions["cuda"]]
    found += [_of_vendor(fact, "nvidia", vendors) for fact in asked]
    if "amd" in vendors and "rocm" in libraries.versions:
        found.append(_of_vendor(libraries.versions["rocm"], "amd", vendors))
    return [*found, *libraries.facts.values(), *labels.facts, *_descriptions(environment, found)]


def _binaries(subject: Subject) -> Iterator[Binary]:
    """Yield the programs that the image is there for; in a deep look all of its application.

    Then also the GPU libraries, which may be the distribution's: they are all that a program has
    that brings no code of its own.
    """
    known: set[str] = set()
    for binary in subject.programs():
        if binary.role in OWN_ROLES:
            known.add(binary.entry.path)
            yield binary
    if subject.deep:
        from slurm_cmeta.evidence import application

        for binary in application.files(subject):
            if binary.entry.path not in known:
                known.add(binary.entry.path)
                yield binary
        for _, _, entry in gpu_libraries.present(subject):
            elf = None if entry.path in known else subject.elf(entry)
            if elf is not None:
                known.add(entry.path)
                yield Binary(entry, elf, gpu_code.LIBRARY)


def _environment_clues(
    environment: Mapping[str, str], demands: Sequence[nvidia.Demand], refused: bool
) -> list[Clue]:
    """Return what the variables tell; one whose condition is not understood is only a hint."""
    hard = not refused and environment.get(CPU_ONLY, "").strip() != "1"
    clues = [Clue("nvidia", demand.source, hard, DECLARED) for demand in demands]
    clues += [
        Clue("nvidia", clean(name, 60), False, DECLARED)
        for name in nvidia.variables(environment)[: nvidia.MAX_VARIABLES]
    ]
    if nvidia.asked(environment):
        clues.append(Clue("nvidia", nvidia.DEVICES, False, DECLARED))
    return clues


def _vendors(needs: Sequence[Fact]) -> list[str]:
    """Return the vendors of which a GPU would do."""
    found = dict.fromkeys(need.value for need in needs)
    for need in needs:
        found |= {value: None for term in need.alternatives for _, _, value in term}
    return list(found)


def _of_vendor(fact: Fact, vendor: str, vendors: Sequence[str]) -> Fact:
    """Return what is asked of one vendor's driver so that another vendor's GPU will do as well."""
    others = tuple((("gpu", "=", other),) for other in vendors if other != vendor)
    return fact._replace(alternatives=fact.alternatives + others)


def _arch(needs: Sequence[Fact], code: gpu_code.Code, labels: gpu_labels.Stated) -> list[Fact]:
    """Return the fact `gpu.arch`: one of the code objects must fit. Content outdoes labels."""
    names, source, evidence = code.targets, code.source, OBSERVED
    certain = code.own and code.complete
    if not names:
        names, source, evidence = frozenset(labels.targets), labels.targets_source, DECLARED
        certain = True
    vendors = _vendors(needs)
    of: dict[str, set[str]] = {vendor: set() for vendor in vendors}
    for name in names:
        if vendor_of(name) in of:
            of[vendor_of(name)].add(name)
    # A vendor without any code object here is not ruled out by those of another one.
    free = [vendor for vendor, own in of.items() if not own or hip.PORTABLE in own]
    wanted = conditions(name for v, own in of.items() if v not in free for name in own)
    if not wanted:
        return []
    (key, operator, value), *others = wanted
    alternatives = [(other,) for other in others] + [(("gpu", "=", vendor),) for vendor in free]
    hint = not certain or any(need.hint for need in needs)
    return [Fact(key, value, source, evidence, hint, operator, tuple(alternatives))]


def _descriptions(environment: Mapping[str, str], found: Sequence[Fact]) -> list[Fact]:
    """Return what the variables say beside requirements."""
    facts = []
    jetpack = environment.get(nvidia.JETPACK, "").strip()
    if jetpack:
        facts.append(Fact("jetpack", clean(jetpack, 60), nvidia.JETPACK))
    if nvidia.disabled(environment) and any(fact.key == "cuda" for fact in found):
        facts.append(Fact("cuda.check", "disabled", nvidia.DISABLE))
    return facts
