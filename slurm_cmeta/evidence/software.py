"""The software in an image, from what its package managers left there. Only for a deep look."""

from __future__ import annotations

import sys

from slurm_cmeta.evidence import jsonscan, rpmdb, sbom
from slurm_cmeta.evidence.application import DPKG
from slurm_cmeta.evidence.places import APK
from slurm_cmeta.image.filetree import FILE
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.evidence.subject import Subject
    from slurm_cmeta.image.filetree import Entry, FileTree

MAX_PACKAGES = 50_000
"""Packages that are listed; a full TeX Live with Python and R has about 10,000. So many take about
30 MB of memory."""

MAX_TEXT = 16 * 1024 * 1024
"""Bytes that all names, versions and sources take in memory; 10,000 packages take 2 MB."""

MAX_FIELD = 200
"""Characters of one name or version."""

MAX_STATUS = 256 * 1024 * 1024
"""Bytes of one text database; dpkg's of a large image has 5 MB."""

MAX_LINE = 64 * 1024
"""Bytes of one line of it; the longest real ones (Conffiles, Depends) have 10 kB."""

MAX_INDEX = 64 * 1024 * 1024
"""Bytes of Spack's index; that of 500 packages has 3 MB."""

MAX_LOCKS = 8
"""Lock files of Spack that are read where nothing else tells what it installed."""

CHUNK = 256 * 1024

STATUS = f"{DPKG}/status"
STATUS_PARTS = f"{DPKG}/status.d"
"""A file for each package, in images of Distroless."""

SKIP = frozenset({"/proc", "/sys", "/dev"})

Found = tuple[str, str, str]
"""Name, version, source."""


class Package(NamedTuple):
    """One installed package, as its manager spells name and version."""

    name: str
    version: str
    manager: str
    """`dpkg`, `apk`, `rpm`, `conda`, `pip`, `spack` or `sbom`."""
    source: str
    """The file it was read from."""


def software(subject: Subject) -> list[Package]:
    """Return the packages in the image, in the order of their managers.

    Empty unless the look is deep: all directories of the image are gone through. A package that
    two files of one manager list comes once. What is left out gives a warning.
    """
    if not subject.deep:
        return []
    found: dict[tuple[str, str, str], Package] = {}
    text = 0
    for manager, (name, version, source) in _all(subject):
        key = (clean(name, MAX_FIELD), clean(version, MAX_FIELD), manager)
        if key in found:
            continue
        text += sum(map(sys.getsizeof, (*key, source)))
        if len(found) == MAX_PACKAGES or text > MAX_TEXT:
            subject.warnings.add(f"only {len(found)} packages of the image are listed: it has more")
            break
        found[key] = Package(*key, source)
    return list(found.values())


def _all(subject: Subject) -> Iterator[tuple[str, Found]]:
    tree = subject.tree
    if tree is not None:
        for one in _dpkg(tree):
            yield "dpkg", one
        for one in _apk(tree):
            yield "apk", one
        for name, version, path in rpmdb.packages(tree):
            yield "rpm", (name, version, path)
        yield from _by_names(tree)
    for one in sbom.packages(subject.image):
        yield "sbom", one


# --- text databases -----------------------------------------------------------------------------


def _dpkg(tree: FileTree) -> Iterator[Found]:
    """Yield what dpkg calls installed (dpkg-query(1), the file status; deb-control(5))."""
    status = tree.find(STATUS)
    if status is not None:
        for stanza in _stanzas(tree, status, ":", ("Package", "Version", "Status")):
            if stanza.get("Status", "").endswith(" installed"):
                yield stanza.get("Package", ""), stanza.get("Version", ""), STATUS
    for part in tree.entries(STATUS_PARTS):
        if part.kind == FILE and not part.path.endswith(".md5sums"):
            for stanza in _stanzas(tree, part, ":", ("Package", "Version")):
                if stanza.get("Package"):
                    yield stanza["Package"], stanza.get("Version", ""), clean(part.path)


def _apk(tree: FileTree) -> Iterator[Found]:
    """Yield what apk calls installed (apk-tools, doc/apk-v2(5): P is the name, V the version)."""
    for path in APK:
        entry = tree.find(path)
        if entry is None:
            continue
        for stanza in _stanzas(tree, entry, ":", ("P", "V")):
            if stanza.get("P"):
                yield stanza["P"], stanza.get("V", ""), path
        return  # the other is a link to it, or left over from before the move to /usr


def _stanzas(
    tree: FileTree, entry: Entry, colon: str, keys: tuple[str, ...]
) -> Iterator[dict[str, str]]:
    """Yield the fields `keys` of each paragraph of a file of `KEY:VALUE` lines."""
    stanza: dict[str, str] = {}
    for line in _lines(tree, entry):
        if not line.strip():
            if stanza:
                yield stanza
                stanza = {}
            continue
        key, found, value = line.partition(colon)
        if found and key in keys:
            stanza.setdefault(key, value.strip()[: MAX_FIELD + 1])
    if stanza:
        yield stanza


def _lines(tree: FileTree, entry: Entry) -> Iterator[str]:
    """Yield the lines of a file, each cut to MAX_LINE."""
    if entry.size > MAX_STATUS:
        tree.warnings.add(
            f"{clean(entry.path)} has {entry.size} bytes: only the first {MAX_STATUS} are read"
        )
    rest = b""
    for offset in range(0, min(entry.size, MAX_STATUS), CHUNK):
        piece = tree.read(entry, offset, CHUNK)
        if not piece:
            break
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()[:MAX_LINE]
        for line in lines:
            yield line[:MAX_LINE].decode("utf-8", "replace")
    yield rest.decode("utf-8", "replace")


# --- names of files -----------------------------------------------------------------------------


def _by_names(tree: FileTree) -> Iterator[tuple[str, Found]]:
    """Yield what can be told from names of files anywhere in the image.

    Python (PyPA, "Recording installed projects"): NAME-VERSION.dist-info/METADATA, and before it
    NAME-VERSION[-pyX.Y].egg-info as a file or with PKG-INFO in it. Conda: conda-meta/
    NAME-VERSION-BUILD.json. Spack: PREFIX/.spack/spec.json with PREFIX NAME-VERSION-HASH, and the
    index of an install tree, which lists what is in it.
    """
    locks: list[Entry] = []
    seen = False
    for entry in tree.walk("/", SKIP):
        directory, _, name = entry.path.rpartition("/")
        parent = directory.rpartition("/")[2]
        if name == "METADATA" and parent.endswith(".dist-info"):
            yield "pip", _python(parent.removesuffix(".dist-info"), directory)
        elif name == "PKG-INFO" and parent.endswith(".egg-info"):
            yield "pip", _python(parent.removesuffix(".egg-info"), directory)
        elif name.endswith(".egg-info"):
            yield "pip", _python(name.removesuffix(".egg-info"), entry.path)
        elif parent == "conda-meta" and name.endswith(".json"):
            pieces = name.removesuffix(".json").rsplit("-", 2)
            if len(pieces) == 3:
                yield "conda", (pieces[0], pieces[1], clean(entry.path))
        elif name == "spec.json" and parent == ".spack":
            prefix = directory.rpartition("/")[0]
            pieces = prefix.rpartition("/")[2].rsplit("-", 2)
            if len(pieces) == 3 and len(pieces[2]) == 32:
                seen = True
                yield "spack", (pieces[0], pieces[1], clean(prefix))
        elif name == "index.json" and parent == ".spack-db":
            for one in _spack(tree, entry, {("database", "installs")}):
                seen = True
                yield "spack", one
        elif name == "spack.lock" and len(locks) < MAX_LOCKS:
            locks.append(entry)
    if not seen:  # a lock file also lists what was needed for building only
        for entry in locks:
            for one in _spack(tree, entry, {("concrete_specs",)}):
                yield "spack", one


def _python(stem: str, path: str) -> Found:
    name, dash, version = stem.partition("-")
    if dash and "-py" in version:
        version = version.partition("-py")[0]
    return name, version, clean(path)


def _spack(tree: FileTree, entry: Entry, wanted: set[tuple[str, ...]]) -> Iterator[Found]:
    """Yield the installed packages of Spack's index, or the specs of a lock file.

    Source: lib/spack/spack/database.py (InstallRecord.to_dict) and environment/environment.py.
    """
    size = min(entry.size, MAX_INDEX)
    for _, value in jsonscan.values(lambda at, n: tree.read(entry, at, n), size, wanted):
        if not isinstance(value, dict) or value.get("installed") is False:
            continue
        spec = value.get("spec", value)
        if isinstance(spec, dict) and not spec.get("external"):
            name, version = spec.get("name"), spec.get("version")
            if isinstance(name, str) and name:
                shown = version if isinstance(version, str) else ""
                yield name, shown, clean(entry.path)
