"""How near nodes come that cannot run an image, and what would change it. Pure functions."""

from __future__ import annotations

from slurm_cmeta import compare, vocabulary, words
from slurm_cmeta.facts import DECLARED
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.requirement import HARD, SOFT_KEYS
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurm_cmeta.match import ClassVerdict, Reason
    from slurm_cmeta.nodefacts import NodeFacts
    from slurm_cmeta.requirement import Requirement

NODE = "node"
IMAGE = "image"
SITE = "site"

_FOLLOWS = {
    "cpu": "arch",
    "isa": "arch",
    "gpu.arch": "gpu",
    "cuda": "gpu",
    "driver": "gpu",
    "rocm": "gpu",
}
"""Key -> key that explains why it fails, too: an Arm node has no zen4, one without GPU no CUDA."""

_NO_WISH = frozenset(("arch", "page", "runtime"))
"""Keys that no site should make soft: the image does not start without them."""

_VENDORS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}

_MOUNTS = {
    "encrypted": ("encrypted images", "an image that is not encrypted"),
    "ext3": ("ext3 file systems", "an image with squashfs in place of ext3"),
    "oci-sif": ("OCI-SIF images", "the image as a plain SIF"),
}


class Change(NamedTuple):
    """One thing that would let a node run an image."""

    key: str
    """The requirement that it is about."""
    by: str
    """What would have to be another one: `node`, `image`, or what the `site` says."""
    text: str
    """In words for people, without a verb before it: `an image built for zen3`."""


def failed(verdict: ClassVerdict) -> list[Reason]:
    """Return the reasons for which a class cannot run the image."""
    return [r for r in verdict.reasons if r.strength == HARD and r.verdict == compare.MISMATCH]


def ranked(verdicts: Sequence[ClassVerdict]) -> list[ClassVerdict]:
    """Return the classes that cannot run the image, the nearest first.

    Nearer is what fails fewer requirements; among equals, more nodes.
    """
    unfit = [v for v in verdicts if v.verdict == compare.MISMATCH]
    return sorted(unfit, key=lambda v: (len(failed(v)), -v.nodes.node_count, v.nodes.nodes))


def changes(verdict: ClassVerdict, requirements: Sequence[Requirement]) -> tuple[Change, ...]:
    """Return what would let the nodes of a class run the image; nothing for one that can.

    `requirements` are those that it was judged by, in their order.
    """
    keys = {r.key for r in failed(verdict)}
    found: dict[Change, None] = {}
    for asked, reason in zip(requirements, verdict.reasons, strict=True):
        if reason.strength != HARD or reason.verdict != compare.MISMATCH:
            continue
        if _FOLLOWS.get(asked.key) in keys:
            continue
        found[Change(asked.key, NODE, _node(asked, reason, verdict))] = None
        image = _IMAGE[asked.key](asked, reason, verdict.facts) if asked.key in _IMAGE else ""
        if image:
            found[Change(asked.key, IMAGE, image)] = None
        site = _site(asked)
        if site:
            found[Change(asked.key, SITE, site)] = None
    return tuple(found)


def _node(asked: Requirement, reason: Reason, verdict: ClassVerdict) -> str:
    """Return `a node with CUDA 12.4 or later; n[1-2] have cuda 12.2`."""
    wanted = _wanted(asked)
    others = " or ".join(
        " and ".join(words.said(*condition) for condition in each) for each in asked.alternatives
    )
    instead = f" (or {others})" if others else ""
    nodes = clean(verdict.nodes.nodes, words.MAX_NODES_SHOWN)
    one = verdict.nodes.node_count == 1
    has = words.has(reason)
    if has and not (has.startswith("no ") and verdict.facts.complete):
        return f"{wanted}{instead}; {nodes} {'has' if one else 'have'} {has}"
    who = f"{nodes} {'carries' if one else 'carry'}"
    tell = f"`cmeta-features` there shows what {'it has' if one else 'they have'}"
    return f"{wanted}{instead}; {who} cmeta=1 and {'lists' if one else 'list'} none: {tell}"


def _wanted(asked: Requirement) -> str:
    value = clean(asked.value)
    if asked.key in _NODE:
        text = _NODE[asked.key]
        flags = value.replace(" ", ", ")
        return f"a node {text.format(value=value, version=_version(asked), flags=flags)}"
    if asked.key == "gpu":
        vendor = _VENDORS.get(asked.value, value)
        return f"a node with {'an' if vendor[:1] in 'AIN' else 'a'} {vendor} GPU"
    if asked.key == "page" and asked.value.isdecimal():
        return f"a node with pages of {int(asked.value) // 1024} KiB or less"
    if asked.key == "runtime":
        return f"a node whose container runtime mounts {_MOUNTS.get(asked.value, (value,))[0]}"
    return f"a node with {words.said(asked.key, asked.op, asked.value)}"


_NODE = {
    "isa": "whose CPU has {flags}",
    "gpu.arch": "whose GPU runs {value}",
    "cuda": "whose driver supports CUDA {version}",
    "driver": "with NVIDIA's driver {version}",
    "rocm": "with ROCm {version}",
    "mpi": "that offers the ABI of {value}",
    "glibc": "whose libraries ask for glibc {version}",
    "kernel": "with Linux {version}",
    "memory": "with {value} MiB of memory",
}
"""What the node would have to be, by requirement key."""


def _version(asked: Requirement) -> str:
    """Return `12.4 or later` of `>= 12.4`."""
    value = clean(asked.value)
    form = {">=": "{} or later", "<=": "{} or older", ">": "later than {}", "<": "older than {}"}
    return form.get(asked.op, "other than {}" if asked.op == "!=" else "{}").format(value)


def _built(_: Requirement, __: Reason, facts: NodeFacts) -> str:
    """Return `an image built for zen3 or x86_64_v3`: the machine, and the level that it has."""
    implied = {name for one in facts.cpus for name in (one.name, *one.ancestors)}
    known = [one for name in sorted(implied) if (one := vocabulary.cpu(name)) is not None]
    levels = sorted((one for one in known if one.generic), key=lambda one: len(one.ancestors))
    machines = [n for n in sorted(compare.most_specific(facts.cpus)) if n not in facts.families]
    names = [*machines, *(level.name for level in levels[-1:])] or sorted(facts.families)
    return f"an image built for {_either(names)}" if names else ""


def _architecture(_: Requirement, __: Reason, facts: NodeFacts) -> str:
    return f"an image built for {_either(sorted(facts.families))}" if facts.families else ""


def _gpu(_: Requirement, __: Reason, facts: NodeFacts) -> str:
    vendors = [_VENDORS.get(v, clean(v)) for v in facts.said("gpu")]
    return f"an image for GPUs of {_either(vendors)}" if vendors else "an image that needs no GPU"


def _gpu_code(_: Requirement, __: Reason, facts: NodeFacts) -> str:
    codes = [clean(code) for code in facts.said("gpu.arch")]
    return f"an image with code for {_either(codes)}" if codes else "an image that needs no GPU"


def _does_with(what: str) -> Callable[[Requirement, Reason, NodeFacts], str]:
    def text(asked: Requirement, _: Reason, facts: NodeFacts) -> str:
        said = [clean(value) for value in facts.said(asked.key)]
        return what.format(_either(said)) if said else ""

    return text


def _page(_: Requirement, reason: Reason, __: NodeFacts) -> str:
    return f"an image whose programs are linked for {clean(reason.has)}" if reason.has else ""


def _runtime(asked: Requirement, _: Reason, __: NodeFacts) -> str:
    return _MOUNTS.get(asked.value, ("", ""))[1]


_IMAGE: dict[str, Callable[[Requirement, Reason, NodeFacts], str]] = {
    "arch": _architecture,
    "cpu": _built,
    "isa": _built,
    "gpu": _gpu,
    "gpu.arch": _gpu_code,
    "cuda": _does_with("an image that runs with CUDA {}"),
    "driver": _does_with("an image that runs with driver {}"),
    "rocm": _does_with("an image that runs with ROCm {}"),
    "mpi": _does_with("an image with {}"),
    "glibc": _does_with("an image with glibc {} or later"),
    "kernel": _does_with("an image whose programs run on Linux {}"),
    "page": _page,
    "memory": _does_with("an image that runs with {} MiB"),
    "runtime": _runtime,
}


def _site(asked: Requirement) -> str:
    """Return what the site could say of a requirement that was declared, or is soft by default."""
    setting = f"strength.{asked.key}: soft in cmeta.yaml"
    if asked.key in SOFT_KEYS:
        return f"{setting}, which is the default, makes it a preference"
    if asked.evidence != DECLARED or asked.key in _NO_WISH:
        return ""
    return f"{clean(asked.source)} says {clean(asked.value)}; {setting} makes it a preference"


def _either(names: Sequence[str]) -> str:
    """Return `a, b or c`."""
    unique = list(dict.fromkeys(names))
    return " or ".join(filter(None, (", ".join(unique[:-1]), unique[-1])))
