"""The host's C library, read from its files; nothing of a replayed host is run.

`glibc` is the newest version of which libc.so.6 has symbols, as it is for images, so that the two
compare; `libc` is what the library calls itself. They differ where a release brought no new symbols
(glibc 2.31 has those of 2.30).
"""

from __future__ import annotations

import re

from slurm_cmeta.errors import CmetaError
from slurm_cmeta.evidence import ldcache
from slurm_cmeta.evidence.elf import Elf, open_elf
from slurm_cmeta.evidence.libc import highest, version
from slurm_cmeta.evidence.places import APK, DEFAULT_LIBRARY_DIRECTORIES, TRIPLETS
from slurm_cmeta.evidence.subject import reading
from slurm_cmeta.image.content import Warnings
from slurm_cmeta.image.directory import DirectoryTree, Folder
from slurm_cmeta.image.filetree import FILE, Entry, quick_budget
from slurm_cmeta.node import NONE
from slurm_cmeta.node.architecture import PROGRAMS
from slurm_cmeta.node.host import HostError
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = ("glibc", "libc")

_SONAME = "libc.so.6"

_BANNER = re.compile(rb"GNU C Library [^\n\0]{0,200} release version (\d{1,3}\.\d{1,5})\b")
"""How glibc names itself (csu/version.c)."""

_MUSL = re.compile(rb"\0(\d{1,2}\.\d{1,3}\.\d{1,3})(?:-git-[\w-]{1,40})?\0")
"""musl's own version, a text of its own in its data (src/internal/version.c)."""

MAX_TEXTS = 4 << 20
"""Bytes of a library's constant data that are searched; glibc has 160 kB."""

MAX_RECORDS = 8 << 20
"""Bytes of apk's records that are read."""


class _Library(NamedTuple):
    entry: Entry
    elf: Elf


def probe(host: Host, found: Found) -> None:
    """Find `glibc` (`2.36`, or `none` where the C library is another) and `libc` (`glibc 2.36`)."""
    try:
        tree = DirectoryTree(Folder(host.root), "the host", Warnings(), quick_budget())
    except CmetaError as error:
        reason = str(error)
    else:
        family = found.value("arch")
        interpreter = _interpreter(tree, family)
        if "ld-musl" in interpreter:
            _musl(tree, interpreter, found)
            return
        library = _glibc(tree, family, interpreter)
        if library is not None:
            _say_glibc(tree, library, found)
            return
        named = f"no {_SONAME} of {family or 'a known architecture'} with symbol versions is found"
        reason = "; ".join([named, *tree.warnings[:2]])
    _by_getconf(host, found, reason)


def _say_glibc(tree: DirectoryTree, library: _Library, found: Found) -> None:
    path = clean(library.entry.path, 100)
    symbols = highest(library.elf.versions_defined)
    banner = _BANNER.search(_texts(tree, library))
    found.fact("glibc", symbols, f"symbol versions of {path}")
    name = banner[1].decode() if banner and version(banner[1].decode()) else symbols
    found.fact("libc", f"glibc {name}", path)


def _musl(tree: DirectoryTree, interpreter: str, found: Found) -> None:
    """Tell musl's version: from apk's records, else from the library, which is the loader, too."""
    source = f"interpreter {clean(interpreter, 100)}"
    found.fact("glibc", NONE, source)
    for path in APK:
        for stanza in tree.text(path, MAX_RECORDS).split("\n\n"):
            fields = dict(line.split(":", 1) for line in stanza.splitlines() if ":" in line)
            number = fields.get("V", "").split("-r", 1)[0]
            if fields.get("P") == "musl" and version(number):
                found.fact("libc", f"musl {number}", path)
                return
    library = _library(tree, interpreter, None)
    named = _MUSL.search(_texts(tree, library)) if library is not None else None
    if named:
        found.fact("libc", f"musl {named[1].decode()}", source)
        return
    found.fact("libc", "musl", source)
    found.cannot_tell("libc", f"{source}: the version of musl is not found")


def _interpreter(tree: DirectoryTree, family: str | None) -> str:
    """Return the loader that the first dynamic program of the host asks for, empty if none does."""
    for path in PROGRAMS:
        program = _library(tree, path, family)
        if program is not None and program.elf.interpreter.startswith("/"):
            return program.elf.interpreter
    return ""


def _glibc(tree: DirectoryTree, family: str | None, interpreter: str) -> _Library | None:
    """Return the libc.so.6 of the node's own architecture: by the loader's list, beside the loader
    (where Nix and Guix have it), or in the usual directories, since the list's first may be another
    architecture's.
    """
    loader = tree.find(interpreter) if interpreter else None
    cached = ldcache.read(tree.read(tree.find(ldcache.PATH), 0, ldcache.MAX_CACHE))
    triplet = TRIPLETS.get(family or "")
    directories = [
        *([loader.path.rpartition("/")[0]] if loader else []),
        *([f"/lib/{triplet}", f"/usr/lib/{triplet}"] if triplet else []),
        *DEFAULT_LIBRARY_DIRECTORIES,
    ]
    paths = [cached.get(_SONAME, ""), *(f"{directory}/{_SONAME}" for directory in directories)]
    for path in filter(None, paths):
        library = _library(tree, path, family)
        if library is not None and highest(library.elf.versions_defined):
            return library
    return None


def _library(tree: DirectoryTree, path: str, family: str | None) -> _Library | None:
    """Return the ELF file at `path`, None if there is none, or none of this architecture."""
    entry = tree.find(path)
    if entry is None or entry.kind != FILE:
        return None
    elf = open_elf(reading(tree, entry), entry.size)
    if elf is None or (family is not None and elf.family != family):
        return None
    return _Library(entry, elf)


def _texts(tree: DirectoryTree, library: _Library) -> bytes:
    section = library.elf.sections().get(".rodata")
    return (
        tree.read(library.entry, section.offset, min(section.size, MAX_TEXTS)) if section else b""
    )


def _by_getconf(host: Host, found: Found, reason: str) -> None:
    """Ask getconf, which knows glibc only: of this machine, or what was recorded of another."""
    try:
        text = host.run("getconf", "GNU_LIBC_VERSION")
    except HostError as error:
        text, reason = "", f"{reason}; {error}"
    match = re.fullmatch(r"glibc (\d{1,3}\.\d{1,5})(?:\.\d{1,5})*\s*", text, re.ASCII)
    if match:
        found.fact("glibc", match[1], "getconf GNU_LIBC_VERSION")
        found.fact("libc", f"glibc {match[1]}", "getconf GNU_LIBC_VERSION")
        return
    if text:
        reason = f"{reason}; getconf GNU_LIBC_VERSION says {clean(text.strip(), 60)}"
    for key in KEYS:
        found.cannot_tell(key, reason)
