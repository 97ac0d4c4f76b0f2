"""MPI: which ABI families the host's own libraries offer.

`mpi`           openmpi, mpich (all of the MPICH ABI: Intel MPI, Cray MPICH, MVAPICH, ...), mpi-abi
`mpi.version`   each library: `Open MPI 4.1.4 (/usr/lib/x86_64-linux-gnu/libmpi.so.40)`

Looked at are the loader's cache and the usual directories (vocabulary/mpi.json, host_directories),
never a network file system: a server that does not answer would hold this program for ever, and a
walk over a site's software tree would take minutes. So MPI from modules on shared file systems is
not seen, and no family is ever said to be absent.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import elf, ldcache, places
from slurm_cmeta.evidence import mpi as evidence
from slurm_cmeta.node import mounts
from slurm_cmeta.node.host import HostError, Missing, Unreadable
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("mpi", "mpi.version")

MAX_PLACES = 64
"""Directories that one pattern may stand for: Cray's has a release times a compiler, about 30."""

MAX_LIBRARIES = 64
"""MPI libraries that are looked at."""

MAX_REASONS = 5
"""Reasons that are given for what is unknown."""

_SYSTEM = "/usr"
"""May be on a network file system where nodes have no disk; the node would not run if it hung."""


class Library(NamedTuple):
    """An MPI library of the host."""

    family: str
    title: str
    """What it is, for people: `Open MPI 4.1.4`."""
    path: str
    """As the loader would find it."""


class Look:
    """One look at a host, with the places that must not be touched."""

    def __init__(self, host: Host, architecture: str | None) -> None:
        """`architecture` is archspec's family of the host, None where nobody knows."""
        self.host = host
        self.architecture = architecture
        self.barred = _barred(host)
        self.passed: list[str] = []
        """Places that were not looked at."""
        self.damaged: list[str] = []
        """What cannot be read or is not what it should be, and might have told more."""

    def real(self, path: str) -> str | None:
        """Return the real path of what is there, None where nothing is or nobody can tell."""
        try:
            return self.host.real(path, self.barred)
        except Missing:
            return None
        except HostError as error:
            _add(self.passed, error)
            return None

    def names(self, path: str) -> list[str]:
        """Return the names in a directory."""
        where = self.real(path)
        try:
            return self.host.names(where) if where is not None else []
        except Missing:
            return []
        except HostError as error:
            _add(self.damaged, error)
            return []

    def cached(self) -> dict[str, str]:
        """Return the loader's cache: soname -> path."""
        try:
            data = self.host.read_bytes(ldcache.PATH, ldcache.MAX_CACHE)
        except Missing:
            return {}  # musl has none
        except HostError as error:
            _add(self.damaged, error)
            return {}
        found = ldcache.read(data)
        if not found:
            _add(self.damaged, f"{ldcache.PATH} tells of no library")
        return found

    def is_library(self, path: str) -> bool:
        """Return whether the (real) file is an ELF file of this machine's architecture."""
        try:
            data = self.host.read_bytes(path, elf.HEAD)
        except HostError as error:
            _add(self.damaged, error)
            return False
        file = elf.open_elf(lambda offset, size: data[offset : offset + size], len(data))
        if file is None:
            _add(self.damaged, f"{clean(path)} is no ELF file")
            return False
        return self.architecture in (None, file.family)


def _add(reasons: list[str], reason: object) -> None:
    if str(reason) not in reasons:
        reasons.append(str(reason))


def probe(host: Host, found: Found) -> None:
    """Add the MPI families. Raises Missing or Unreadable where the mounts cannot be read."""
    look = Look(host, found.value("arch"))
    libraries = list(_libraries(look))
    for library in libraries:
        found.fact("mpi", library.family, clean(library.path))
        text = f"{library.title} ({clean(library.path)})"
        found.fact("mpi.version", text, clean(library.path))
    reasons = look.damaged
    if not libraries:
        usual = len(vocabulary.load("mpi")["host_directories"])
        none = f"none in {ldcache.PATH} and {usual} usual places; a module may offer one"
        reasons = [none, *look.damaged, *look.passed]
    for key in KEYS if reasons else ():
        found.cannot_tell(key, "; ".join(reasons[:MAX_REASONS]))


def _libraries(look: Look) -> Iterator[Library]:
    """Yield the MPI libraries, each real file once, what the loader knows first."""
    seen: set[str] = set()
    for soname, path in _candidates(look):
        real = look.real(path)
        if real is None or real in seen or len(seen) == MAX_LIBRARIES:
            continue
        seen.add(real)
        if look.is_library(real):
            yield _library(look, soname, path, real)


def _candidates(look: Look) -> Iterator[tuple[str, str]]:
    """Yield sonames of MPI libraries, and paths where they may be."""
    rows = vocabulary.load("mpi")["libraries"]
    cached = look.cached()
    for row in rows:
        if row["soname"] in cached:
            yield row["soname"], cached[row["soname"]]
    directories = [
        *places.DEFAULT_LIBRARY_DIRECTORIES,
        *(f"/usr/lib/{triplet}" for triplet in places.TRIPLETS.values()),
    ]
    for row in vocabulary.load("mpi")["host_directories"]:
        directories += _expand(look, row["path"])
    for directory in directories:
        if look.real(directory) is not None:
            for row in rows:
                yield row["soname"], f"{directory}/{row['soname']}"


def _expand(look: Look, pattern: str) -> list[str]:
    """Return the directories that a pattern stands for, sorted."""
    found = [""]
    for part in pattern.strip("/").split("/"):
        if "*" not in part:
            found = [f"{path}/{part}" for path in found]
            continue
        found = [
            f"{path}/{name}"
            for path in found
            for name in look.names(path)
            if fnmatchcase(name, part)
        ][:MAX_PLACES]
    return found


def _library(look: Look, soname: str, path: str, real: str) -> Library:
    rows = vocabulary.load("mpi")["libraries"]
    row = next(row for row in rows if row["soname"] == soname)
    family, implementation = str(row["family"]), str(row["implementation"])
    if not implementation:
        rule = evidence.rule_of(soname, real, lambda beside: look.real(beside) is not None)
        if rule is not None:
            family, implementation = str(rule["family"]), str(rule["name"])
    known = vocabulary.load("mpi")["names"]["implementations"].get(implementation)
    title = str(known["title"]) if known else "MPICH ABI" if family == "mpich" else "MPI ABI"
    version = evidence.version(real, implementation)
    return Library(family, f"{title} {version}".strip(), path)


def _barred(host: Host) -> frozenset[str]:
    """Return the mount points of file systems that may hang. Raises Missing, Unreadable."""
    try:
        all_mounts = mounts.read(host)
    except (Missing, Unreadable):
        if host.live:
            raise
        return frozenset()  # a replayed machine has only what was recorded
    return frozenset(m.point for m in all_mounts if m.remote and m.point != _SYSTEM)
