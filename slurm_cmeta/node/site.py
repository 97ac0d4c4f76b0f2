"""What the admin adds, forbids and renames: the files of a drop-in directory.

Each file `*.conf`, in the order of the names, is read line by line; `#` begins a comment:

    feature bigmem            one more feature
    fact    cuda=12.4         as if a probe had found it; replaces what the probes found of that key
    deny    isa=*             no feature that matches this shell pattern
    rename  nvidia gpu_nvidia the feature gets another name
    prefix  hw.               before the name of each feature that is not added by `feature`
"""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatchcase

from slurm_cmeta import vocabulary
from slurm_cmeta.constraint.grammar import is_name
from slurm_cmeta.errors import ConfigError
from slurm_cmeta.node import NONE, Found, NodeFact
from slurm_cmeta.node.features import DECISIVE, Feature
from slurm_cmeta.node.keys import KEYS
from slurm_cmeta.nodefacts import COMPLETE_FEATURE
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean
from slurm_cmeta.vocabulary import cpu_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DIRECTORY = "/etc/slurm/cmeta-features.d"

MAX_FILES = 100
MAX_BYTES = 1 << 20


class Site(NamedTuple):
    """The admin's wishes; empty where there are none."""

    added: tuple[str, ...] = ()
    facts: tuple[NodeFact, ...] = ()
    denied: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    prefix: str = ""

    def published(self, name: str) -> str:
        """Return the name that a feature of ours gets here."""
        return self.prefix + dict(self.renamed).get(name, name)

    def original(self, published: str) -> str | None:
        """Return the name that became `published` here; None if it is none of ours."""
        if not published.startswith(self.prefix):
            return None
        name = published[len(self.prefix) :]
        if name in dict(self.renamed):
            return None
        return {new: old for old, new in self.renamed}.get(name, name)


def read(directory: str, *, required: bool = False) -> Site:
    """Return what the files of `directory` say.

    A directory that is not there says nothing, unless it is `required`. Raises ConfigError, which
    names file and line.
    """
    try:
        names = sorted(n for n in os.listdir(directory) if n.endswith(".conf") and n[0] != ".")
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{clean(directory)}: no such directory") from None
        return Site()
    except OSError as error:
        raise ConfigError(f"{clean(directory)}: {error.strerror}") from None
    if len(names) > MAX_FILES:
        raise ConfigError(f"{clean(directory)}: more than {MAX_FILES} files")
    site = Site()
    for name in names:
        site = _read_file(os.path.join(directory, name), site)
    return site


def _read_file(path: str, site: Site) -> Site:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{clean(path)}: no regular file")
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{clean(path)}: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{clean(path)}: larger than {MAX_BYTES} bytes")
    for number, line in enumerate(text.decode("utf-8", "replace").split("\n"), 1):
        words = line.split("#")[0].split(None, 1)
        if not words:
            continue
        where = f"{clean(path)}:{number}"
        rule = _LINES.get(words[0])
        if rule is None:
            raise ConfigError(
                f"{where}: unknown word {clean(words[0])!r}; known words: {', '.join(_LINES)}"
            )
        site = rule(site, words[1].strip() if len(words) > 1 else "", where)
    return site


def _feature(site: Site, text: str, where: str) -> Site:
    return site._replace(added=(*site.added, _name(text, where)))


def _fact(site: Site, text: str, where: str) -> Site:
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator or key not in KEYS:
        raise ConfigError(
            f"{where}: expected KEY=VALUE with a key of `cmeta-features --format json`, "
            f"got {clean(text)!r}"
        )
    if not KEYS[key].takes(value):
        raise ConfigError(f"{where}: {clean(value)!r} is no value of {key} ({KEYS[key].doc})")
    return site._replace(facts=(*site.facts, NodeFact(key, value, where)))


def _deny(site: Site, text: str, where: str) -> Site:
    if not text or " " in text:
        raise ConfigError(f"{where}: expected one pattern such as `isa=*`, got {clean(text)!r}")
    return site._replace(denied=(*site.denied, text))


def _rename(site: Site, text: str, where: str) -> Site:
    words = text.split()
    if len(words) != 2:
        raise ConfigError(f"{where}: expected the old name and the new one, got {clean(text)!r}")
    old, new = (_name(word, where) for word in words)
    return site._replace(renamed=(*site.renamed, (old, new)))


def _prefix(site: Site, text: str, where: str) -> Site:
    return site._replace(prefix=_name(text, where) if text else "")


def _name(text: str, where: str) -> str:
    if not is_name(text):
        raise ConfigError(f"{where}: {clean(text)!r} cannot be (part of) a feature of Slurm")
    return text


_LINES: dict[str, Callable[[Site, str, str], Site]] = {
    "feature": _feature,
    "fact": _fact,
    "deny": _deny,
    "rename": _rename,
    "prefix": _prefix,
}


def with_facts(found: Found, site: Site) -> Found:
    """Return what was found, with the admin's facts in place of the probes' of the same keys."""
    given = {fact.key for fact in site.facts}
    keys = given | {key for fact in site.facts for key in _FOLLOW.get(fact.key, ())}
    result = Found()
    result.facts = [f for f in found.facts if f.key not in keys] + list(site.facts)
    result.unknown = [u for u in found.unknown if u.key not in keys]
    result.warnings = list(found.warnings)
    for fact in site.facts:
        _follow(fact, given, result)
    return result


_FOLLOW = {
    "arch": ("cpu", "cpu.level", "cpu.ancestors", "isa"),
    "cpu": ("cpu.level", "cpu.ancestors", "isa"),
    "nvidia.count": ("nvidia.arch", "driver", "cuda"),
    "amd.count": ("amd.arch", "rocm"),
    "intel.count": (),
}
"""What the probes found of these does not hold any more where an admin states the key."""


def _follow(fact: NodeFact, given: set[str], result: Found) -> None:
    """Add what follows from a stated fact, and say what nothing tells then."""
    derived: dict[str, str] = {}
    cpu = vocabulary.cpu(fact.value) if fact.key == "cpu" else None
    if cpu is not None:
        derived["cpu.ancestors"] = " ".join(sorted(cpu.ancestors)) or NONE
        levels = [n for n in (cpu.name, *cpu.ancestors) if (c := vocabulary.cpu(n)) and c.generic]
        derived["cpu.level"] = max(levels, key=lambda n: len(cpu_flags.lineage(n)))
        derived["isa"] = " ".join(sorted(cpu_flags.surely_has(cpu.name))) or NONE
    elif fact.value == NONE:
        derived = dict.fromkeys(_FOLLOW.get(fact.key, ()), NONE)
    for key in _FOLLOW.get(fact.key, ()):
        if key in given:
            continue
        if key in derived:
            result.fact(key, derived[key], fact.source)
        else:
            result.cannot_tell(key, f"{fact.source} states {fact.key} only")


def with_names(features: Iterable[Feature], site: Site) -> list[Feature]:
    """Return the features as they are published here: some less, others renamed, some more.

    Where a feature that could decide about an image is not published under its own name, or not at
    all, `cmeta=1` is not true any more and is left out; an admin who has told the matcher of it
    (`features` in cmeta.yaml) adds it by `feature cmeta=1`.
    """
    listed = list(features)
    kept = [f for f in listed if not any(fnmatchcase(f.name, p) for p in site.denied)]
    changed = [f for f in listed if f not in kept or dict(site.renamed).get(f.name)]
    if any(f.key in DECISIVE for f in changed):
        kept = [f for f in kept if f.name != COMPLETE_FEATURE]
    published = [Feature(site.published(f.name), f.key) for f in kept]
    published += [Feature(name, "") for name in site.added]
    return list({f.name: f for f in published}.values())
