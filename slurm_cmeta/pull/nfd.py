"""Image compatibility specifications of Node Feature Discovery: rules about nodes, as facts.

    version: v1alpha1
    compatibilities:                    sets of rules; several are for several kinds of nodes
    - rules:                            all of a set must hold
      - matchFeatures:                  all of a rule must hold
        - feature: cpu.cpuid
          matchExpressions:
            AVX512F: {op: Exists}
        matchAny: [{matchFeatures: [...]}, ...]

Source: kubernetes-sigs/node-feature-discovery docs/usage/image-compatibility.md and
api/nfd/v1alpha1/types.go (operators), api/image-compatibility/v1alpha1/spec.go. Rules that no
requirement of ours stands for are named and not looked at. Pure functions.
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.facts import Fact
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean
from slurm_cmeta.vocabulary import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from slurm_cmeta.facts import Condition

MAX_SPEC = 64 * 1024
"""Bytes of a specification; real ones have some 2 KiB."""
MAX_DEPTH = 24
MAX_EVENTS = 8192
"""Nodes of YAML, and how deep they lie in each other."""
MAX_RULES = 256
MAX_NAMED = 8
"""Rules that are named of those that are not looked at."""


class SpecError(ValueError):
    """The specification cannot be read; the message says why."""


class Asked(NamedTuple):
    """What a specification asks for."""

    facts: tuple[Fact, ...]
    left: tuple[str, ...]
    """What it asks for besides, in its own words: `kernel.loadedmodule vfio-pci`."""


def parse(data: bytes) -> dict[str, Any]:
    """Return the document in YAML, of which JSON is a part. Raises SpecError.

    Anchors are refused: a few lines of them can stand for gigabytes.
    """
    import yaml

    if len(data) > MAX_SPEC:
        raise SpecError(f"has more than {MAX_SPEC} bytes")
    depth = 0
    try:
        text = data.decode("utf-8")
        for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise SpecError("has anchors, which are not taken")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or count > MAX_EVENTS:
                raise SpecError("is nested too deep, or has too many parts")
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        if isinstance(problem, SpecError):
            raise
        raise SpecError(f"is no YAML: {clean(str(problem), 120)}") from None
    if not isinstance(found, dict) or not isinstance(found.get("compatibilities"), list):
        raise SpecError("has no list of compatibilities")
    return found


def asks(document: Mapping[str, Any], family: str, source: str) -> Asked:
    """Return what a specification asks of nodes of an architecture (archspec's name).

    Of several sets, what all of them ask for: which one is meant for a node, is not known here.
    """
    sets = [list(_conditions(one, family)) for one in document["compatibilities"][:MAX_RULES]]
    known = [dict.fromkeys(c for c in found if not isinstance(c, str)) for found in sets]
    common = [c for c in known[0] if all(c in other for other in known)] if known else []
    left = [c for found in sets for c in found if isinstance(c, str)]
    left += [f"{key} {value}" for found in known for key, _, value in found]
    shared = {f"{key} {value}" for key, _, value in common}
    flags = " ".join(value for key, _, value in common if key == "isa")
    facts = [Fact(key, value, source, op=op) for key, op, value in common if key != "isa"]
    if flags:
        facts.append(Fact("isa", flags, source))
    return Asked(tuple(facts), tuple(dict.fromkeys(one for one in left if one not in shared)))


def _conditions(one: object, family: str) -> Iterator[Condition | str]:
    """Yield the conditions of a set, and words for those that are none here."""
    rules = _list(_member(one, "rules"))
    for rule in rules:
        yield from _of_terms(_member(rule, "matchFeatures"), family)
        choices = _list(_member(rule, "matchAny"))
        if len(choices) == 1:
            yield from _of_terms(_member(choices[0], "matchFeatures"), family)
        elif choices:
            yield "matchAny"


def _of_terms(terms: object, family: str) -> Iterator[Condition | str]:
    for term in _list(terms):
        feature = _member(term, "feature")
        expressions = _member(term, "matchExpressions")
        if not isinstance(feature, str) or not isinstance(expressions, dict):
            yield clean(feature, 60) if isinstance(feature, str) else "a rule without a feature"
        elif feature == "cpu.cpuid":
            yield from (_flag(name, how, family) for name, how in _items(expressions))
        elif feature == "kernel.version":
            yield from _kernel(expressions)
        elif feature == "pci.device":
            yield _device(expressions)
        else:
            yield from (f"{clean(feature, 60)} {name}" for name, _ in _items(expressions))


def _flag(name: str, how: object, family: str) -> Condition | str:
    words = f"cpu.cpuid {name}"
    if _member(how, "op") not in ("Exists", "IsTrue"):
        return words
    level = vocabulary.cpu_target(name) if name.upper().startswith("X86_64_V") else None
    if level is not None:
        return ("cpu", "", level)
    flag = load("nfd")["cpuid"].get(name.upper(), name.lower())
    return ("isa", "", flag) if flag in load("isa")["flags"].get(family, ()) else words


def _kernel(expressions: Mapping[Any, Any]) -> Iterator[Condition | str]:
    """Yield what is asked of the kernel's version, which NFD compares number by number."""
    items = dict(_items(expressions))
    least = _least(items.get("major"))
    exact = _only(items.get("major"))
    minor = _least(items.get("minor"))
    if least is not None:
        yield ("kernel", ">=", str(least))
        items.pop("major")
    elif exact is not None:
        yield ("kernel", ">=", f"{exact}.{minor}" if minor is not None else str(exact))
        yield ("kernel", "<", str(exact + 1))
        items.pop("major")
        if minor is not None:
            items.pop("minor")
    yield from (f"kernel.version {name}" for name in items)


def _least(how: object) -> int | None:
    operator, number = _member(how, "op"), _only(how, any_operator=True)
    if number is None or operator not in ("Ge", "Gt"):
        return None
    return number + 1 if operator == "Gt" else number


def _only(how: object, *, any_operator: bool = False) -> int | None:
    """Return the one number that an expression has; by default that of `In` alone."""
    values = _list(_member(how, "value"))
    if len(values) != 1 or not (any_operator or _member(how, "op") == "In"):
        return None
    text = str(values[0])
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else None


def _device(expressions: Mapping[Any, Any]) -> Condition | str:
    """Return the GPU that a device stands for. Any of them would do, so one name must be left."""
    known = load("nfd")
    items = dict(_items(expressions))
    words = "pci.device " + ", ".join(sorted(items))
    vendors, classes = (_strings(items.get(name)) for name in ("vendor", "class"))
    names = {known["gpu_vendors"].get(vendor) for vendor in vendors or ()}
    graphics = classes is not None and set(classes) <= set(known["gpu_classes"])
    if len(names) != 1 or not (graphics or (classes is None and "intel" not in names)):
        return clean(words, 80)
    name = names.pop()
    return (
        ("gpu", "", name) if name and not items.keys() - {"vendor", "class"} else clean(words, 80)
    )


def _strings(how: object) -> list[str] | None:
    if how is None or _member(how, "op") != "In":
        return None
    return [str(value).lower() for value in _list(_member(how, "value"))] or None


def _items(expressions: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    return [(clean(str(name), 60), how) for name, how in list(expressions.items())[:MAX_RULES]]


def _member(found: object, name: str) -> Any:
    return found.get(name) if isinstance(found, dict) else None


def _list(found: object) -> list[Any]:
    return found[:MAX_RULES] if isinstance(found, list) else []
