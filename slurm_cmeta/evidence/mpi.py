"""MPI, its process manager and its fabric: what a launched job needs of the site's libraries.

An image's MPI talks to the host's launcher and network, and is often replaced by the host's at run
time; what counts is the ABI family, told by the soname. vocabulary/mpi.json has the names, each
with its source. All of it is a soft requirement: a node of another family may still run the image.
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import mpi_labels
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from slurm_cmeta.evidence.subject import Subject
    from slurm_cmeta.image.filetree import Entry

MAX_FOUND = 8
"""MPI libraries that are reported. Images with two families exist, with three installations of
them hardly."""


SPACK_HASH = 32
"""Characters of the hash that ends the name of a Spack prefix."""

MAX_NEEDED = 512
"""DT_NEEDED entries of one program that are looked at; real programs have below 100."""


class Found(NamedTuple):
    """One MPI library that the image has or that a program in it asks for."""

    family: str
    soname: str
    path: str
    """The real file, empty where the image lacks it."""
    implementation: str
    version: str
    needed_by: str
    """The program that asks for it, empty if none of those looked at does."""

    def source(self) -> str:
        """Return where it was seen, in words."""
        words = f"{self.soname} ({clean(self.path)})" if self.path else self.soname
        if self.needed_by:
            words += f", needed by {clean(self.needed_by)}"
        return words if self.path else words + ", not in the image"


def read(subject: Subject) -> list[Fact]:
    """Return the facts mpi, mpi.implementation, mpi.version, mpi.portability.*, pmi and fabric.

    Labels count where the content does not tell; where it contradicts them, it wins with a warning.
    """
    found = _libraries(subject)
    facts: list[Fact] = []
    for library in found:
        source = library.source()
        mpi_labels.add(facts, Fact("mpi", library.family, source, OBSERVED, True))
        if library.implementation:
            mpi_labels.add(
                facts, Fact("mpi.implementation", library.implementation, source, OBSERVED, True)
            )
        if library.version:
            mpi_labels.add(facts, Fact("mpi.version", library.version, source, OBSERVED, True))
    table = vocabulary.load("mpi")
    for key, kind in (("pmi", "pmi"), ("fabric", "fabrics")):
        for row in table[kind]:
            facts += _present(subject, key, row)
    mpi_labels.complete(subject, facts)
    return facts


# --- content ------------------------------------------------------------------------------------


def _libraries(subject: Subject) -> list[Found]:
    """Return the MPI libraries, those that a program asks for first."""
    if subject.tree is None:
        return []
    found: list[Found] = []
    for library in (*_needed(subject), *_installed(subject), *_elsewhere(subject)):
        if len(found) == MAX_FOUND:
            break
        known = any(
            f.soname == library.soname and (not library.path or f.path in ("", library.path))
            for f in found
        )
        if not known:
            found.append(library)
    return found


def _needed(subject: Subject) -> Iterator[Found]:
    for binary in subject.programs():
        needed = binary.elf.needed[:MAX_NEEDED]
        for row in vocabulary.load("mpi")["libraries"]:
            asked = row["soname"] in needed or any(name in needed for name in row["bindings"])
            if asked:
                entry = subject.library(row["soname"], binary)
                yield _found(subject, row, entry, binary.entry.path)


def _installed(subject: Subject) -> Iterator[Found]:
    known = subject.libraries()
    for row in vocabulary.load("mpi")["libraries"]:
        if row["soname"] in known:
            entry = subject.library(row["soname"])
            if entry is not None:
                yield _found(subject, row, entry, "")


def _elsewhere(subject: Subject) -> Iterator[Found]:
    """Yield what lies where environment modules, Intel, Spack and others put it."""
    tree = subject.tree
    if tree is None:
        return
    table = vocabulary.load("mpi")
    for place in table["directories"]:
        directory = tree.find(place["path"])
        if directory is None or directory.kind != "directory":
            continue
        for row in table["libraries"]:
            entry = tree.find(f"{place['path']}/{row['soname']}")
            if entry is not None and entry.kind == "file":
                yield _found(subject, row, entry, "")


def _found(subject: Subject, row: dict[str, Any], entry: Entry | None, needed_by: str) -> Found:
    family, implementation, release = row["family"], row["implementation"], ""
    if entry is not None:
        tree = subject.tree
        rule = None
        if not implementation:
            rule = rule_of(row["soname"], entry.path, lambda path: bool(tree and tree.find(path)))
        if rule is not None:
            implementation, family = rule["name"], rule["family"]
        release = version(entry.path, implementation)
    return Found(
        family, row["soname"], entry.path if entry else "", implementation, release, needed_by
    )


def rule_of(soname: str, path: str, exists: Callable[[str], bool]) -> dict[str, Any] | None:
    """Return the first rule of implementations that the file's path or a file beside it satisfies.

    `path` is that of the real file; `exists` tells whether there is something at a path.
    """
    directory = path.rpartition("/")[0]
    if soname.startswith("libmpi_abi."):
        return None
    for rule in vocabulary.load("mpi")["implementations"]:
        if rule.get("only", soname) != soname:
            continue
        if any(part in path for part in rule["paths"]):
            return dict(rule)
        for name in rule["beside"]:
            if name != soname and exists(f"{directory}/{name}"):
                return dict(rule)
    return None


def version(path: str, implementation: str) -> str:
    """Return the release (`4.1.4`), or its series where a file name is that of several releases.

    The name of the real file tells it for Open MPI and MPICH, the directory for the others:
    `/opt/intel/oneapi/mpi/2021.8.0/lib`, `.../mvapich2-2.3.7-HASH/lib`.
    """
    releases = vocabulary.load("mpi")["releases"].get(implementation)
    if releases is not None:
        number = path.rpartition(".so.")[2]
        exact = releases["files"].get(number)
        if exact is not None:
            return str(exact[0]) if len(exact) == 1 else _series(exact[0])
        interface = number.rpartition(".")[0] + "."
        if interface.count(".") == 2:
            for known, names in releases["files"].items():
                if known.startswith(interface):
                    return _series(names[0])
        return ""
    return _version_in_directory(path) if implementation else ""


def _version_in_directory(path: str) -> str:
    parts = path.split("/")[:-1]
    before = ""
    for part in parts:
        pieces = part.split("-")
        if len(pieces) > 2 and len(pieces[-1]) == SPACK_HASH:
            pieces.pop()
        name = pieces[-2] if len(pieces) > 1 else before
        if name in ("mpi", "impi", "mpich") or name.startswith(("mvapich", "psmpi")):
            version = pieces[-1]
            if _is_version(version):
                return version
        before = part
    return ""


def _series(release: str) -> str:
    return ".".join(release.split(".")[:2])


def _is_version(text: str) -> bool:
    """Tell whether `text` looks like a release: `4.1.4`, `2021.8`, `8.1.29rc1`."""
    return 2 < len(text) <= 20 and "." in text and text[0].isdigit() and text.isascii()


def _present(subject: Subject, key: str, row: dict[str, Any]) -> list[Fact]:
    if subject.tree is None or row["soname"] not in subject.libraries():
        return []
    entry = subject.library(row["soname"])
    if entry is None:
        return []
    return [Fact(key, row["value"], f"{row['soname']} ({clean(entry.path)})", OBSERVED)]
