"""GPU libraries and toolkits in an image: whose they are, and of which version."""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.gpu_need import Clue
from slurm_cmeta.evidence.nvidia import is_version
from slurm_cmeta.evidence.subject import PROGRAM
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.leanjson import loads
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from slurm_cmeta.evidence.subject import Binary, Subject
    from slurm_cmeta.image.filetree import Entry, FileTree

MAX_NEEDED = 1000
"""Libraries that one ELF file asks for; real ones ask for up to 300."""

MAX_TOOLKITS = 8
"""Directories `cuda*` or `rocm*` beside each other that are looked into."""

MAX_FILE = 16384
"""Bytes read of a file that states a version; CUDA's version.json has 3,000."""


class Seen(NamedTuple):
    """What the files of an image tell."""

    clues: list[Clue]
    versions: dict[str, Fact]
    """Key `cuda` or `rocm` -> a hint at the oldest version that will do."""
    facts: dict[str, Fact]
    """Descriptions by their key."""


class Needed(NamedTuple):
    """A GPU library that an ELF file asks for."""

    soname: str
    path: str
    """Of the file that asks."""
    program: Binary | None
    """That file, if it is the image's own program."""


def needed(binary: Binary) -> list[Needed]:
    """Return what one ELF file asks for."""
    table = vocabulary.load("gpu")["libraries"]
    program = binary if binary.role == PROGRAM else None
    return [
        Needed(soname, binary.entry.path, program)
        for soname in binary.elf.needed[:MAX_NEEDED]
        if soname.partition(".so")[0] in table
    ]


def read(subject: Subject, needs: Iterable[Needed]) -> Seen:
    """Return what needs, libraries and files tell; nothing where no file can be read."""
    seen = Seen([], {}, {})
    for need in needs:
        source = f"{clean(need.path)} needs {clean(need.soname, 60)}"
        # A program does not start without the driver's library, unless the image has one, too.
        hard = (
            need.program is not None
            and _entry(need.soname)["role"] == "driver"
            and subject.library(need.soname, need.program) is None
        )
        _note(seen, need.soname, source, hard)
    for soname, path, _ in present(subject):
        _note(seen, soname, clean(path), False)
        exact = path.partition(".so.")[2]
        key = f"{_entry(soname).get('version', '')}.runtime"
        if key != ".runtime" and is_version(exact) and "." in exact:
            seen.facts.setdefault(key, Fact(key, exact, clean(path), OBSERVED))
    if subject.tree is not None:
        _toolkits(subject.tree, seen)
        _python(subject.tree, seen)
    return seen


def present(subject: Subject) -> Iterator[tuple[str, str, Entry]]:
    """Yield name, path and file of the GPU libraries where a loader looks.

    The loader's cache may name what is not in the image: it was made in another one.
    """
    table = vocabulary.load("gpu")["libraries"]
    for soname, path in subject.libraries().items():
        if soname.partition(".so")[0] in table and subject.tree is not None:
            entry = subject.tree.find(path)
            if entry is not None:
                yield soname, path, entry


def _entry(soname: str) -> dict[str, str]:
    """Return what the vocabulary says of a library, nothing if it is none of a GPU's."""
    table: dict[str, dict[str, str]] = vocabulary.load("gpu")["libraries"]
    return table.get(soname.partition(".so")[0], {})


def _note(seen: Seen, soname: str, source: str, hard: bool) -> None:
    """Note what the name of a library tells."""
    entry = _entry(soname)
    if entry["vendor"]:
        seen.clues.append(Clue(entry["vendor"], source, hard))
    if "describes" in entry:
        key = entry["describes"]
        seen.facts.setdefault(key, Fact(key, clean(soname, 60), source, OBSERVED))
    number = soname.partition(".so.")[2]
    if "version" in entry and is_version(number):
        _version(seen, entry["version"], number, source)


def _version(seen: Seen, key: str, number: str, source: str) -> None:
    """Note the oldest driver for a runtime of version `number`.

    Source: CUDA Compatibility, Minor Version Compatibility: from CUDA 11 on every driver of the
    major version will do, before it took the same minor version. The third number counts nowhere.
    """
    parts = number.split(".")
    if key == "cuda":
        parts = [parts[0], "0"] if int(parts[0]) >= 11 else [*parts, "0"]
    number = ".".join(parts[:2])
    seen.versions.setdefault(key, Fact(key, number, source, OBSERVED, True, ">="))


def _toolkits(tree: FileTree, seen: Seen) -> None:
    listed: dict[str, list[str]] = {}
    for rule in vocabulary.load("gpu")["toolkits"]:
        directory, prefix = rule["directory"], rule["prefix"]
        if directory not in listed:
            listed[directory] = [name for name, _ in tree.list(directory)]
        names = sorted(n for n in listed[directory] if n.startswith(prefix))[:MAX_TOOLKITS]
        for name in names:
            path = f"{directory}/{name}/{rule['file']}"
            version = _stated_version(tree.text(path, MAX_FILE), rule["form"])
            if version:
                _toolkit(seen, rule["key"], version, clean(path))
                break


def _toolkit(seen: Seen, key: str, version: str, source: str) -> None:
    vendor, requirement = ("amd", "rocm") if key == "rocm.runtime" else ("nvidia", "cuda")
    old = seen.facts.get(key)
    # A file of the toolkit's own is better than the name of one of its libraries.
    if old is None or ".so" in old.source:
        seen.facts[key] = Fact(key, version, source, OBSERVED)
        if requirement == "rocm":
            seen.versions.pop(requirement, None)
    seen.clues.append(Clue(vendor, source))
    _version(seen, requirement, version, source)


def _stated_version(text: str, form: str) -> str:
    """Return the version in a file of a toolkit, empty if there is none."""
    if form == "cuda-json":
        try:
            stated: Any = loads(text)["cuda"]["version"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""
        return stated if isinstance(stated, str) and is_version(stated) else ""
    for word in text.split(maxsplit=8)[:8]:
        version = word.partition("-")[0]
        if is_version(version):
            return version
    return ""


def _python(tree: FileTree, seen: Seen) -> None:
    """Look for PyTorch, which brings its GPU libraries outside of the loader's reach."""
    rule = vocabulary.load("gpu")["python"]
    for root in rule["roots"]:
        for name in [n for n, _ in tree.list(root) if n.startswith("python3")][:MAX_TOOLKITS]:
            for package in rule["packages"]:
                path = f"{root}/{name}/{package}/{rule['file']}"
                for line in tree.text(path, MAX_FILE).splitlines():
                    variable, _, value = line.partition("=")
                    key = variable.partition(":")[0].strip()
                    version = value.strip().strip("'\"").partition("-")[0]
                    if key in ("cuda", "hip") and is_version(version):
                        runtime = "cuda.runtime" if key == "cuda" else "rocm.runtime"
                        _toolkit(seen, runtime, version, clean(path))
