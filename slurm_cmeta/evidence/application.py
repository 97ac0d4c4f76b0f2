"""The application's own ELF files: all that is in an image and not the distribution's.

Only a deep look comes here: it walks the whole image. What the distribution's package manager lists
is the distribution's; where no list can be read, what lies in the distribution's directories is.
"""

from __future__ import annotations

from slurm_cmeta.evidence import elf
from slurm_cmeta.evidence.places import APK, DISTRIBUTION_DIRECTORIES
from slurm_cmeta.evidence.subject import APPLICATION, Binary, reading
from slurm_cmeta.image.filetree import FILE
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.evidence.subject import Subject
    from slurm_cmeta.image.filetree import Entry, FileTree

MAX_LISTS = 256 * 1024 * 1024
"""Bytes of package lists that are read; a large Debian image has 30 MB."""

MAX_OWNED = 2_000_000
"""Paths of the distribution that are kept, about 200 MB at worst; real images have 100,000."""

NOT_ENTERED = frozenset(("/proc", "/sys", "/dev", "/run", "/tmp", "/boot", "/usr/share/doc"))  # noqa: S108
"""Directories in which an image has no programs of its own."""

MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Directories that are links into /usr in a merged image, while older lists name them."""

DPKG = "/var/lib/dpkg"
"""Where dpkg keeps its records: `status`, `status.d` (Distroless) and `info/PACKAGE.list`."""


def files(subject: Subject) -> Iterator[Binary]:
    """Yield the ELF programs and libraries of the image that are not the distribution's."""
    tree = subject.tree
    if tree is None:
        return
    paths = owned(subject)
    for entry in tree.walk("/", NOT_ENTERED):
        if not _may_be_code(entry) or _of_distribution(entry.path, paths):
            continue
        binary = elf.open_elf(reading(tree, entry), entry.size)
        if binary is not None and binary.type in (elf.EXECUTABLE, elf.SHARED):
            yield Binary(entry, binary, APPLICATION)


def _may_be_code(entry: Entry) -> bool:
    return entry.size >= 64 and (bool(entry.mode & 0o111) or ".so" in entry.path.rsplit("/", 1)[-1])


def _of_distribution(path: str, owned: frozenset[str] | None) -> bool:
    if owned is not None:
        return path in owned
    return path.startswith(DISTRIBUTION_DIRECTORIES)


def owned(subject: Subject) -> frozenset[str] | None:
    """Return the files that packages brought, as they lie in the tree; None where no list is.

    The lists are read once for a subject, which keeps the answer.
    """
    if isinstance(subject.owned, bool):
        subject.owned = None if subject.tree is None else _owned(subject.tree)
    return subject.owned


def _owned(tree: FileTree) -> frozenset[str] | None:
    found: set[str] = set()
    merged = tuple(d for d in MERGED if (e := tree.find(d)) is not None and e.path == f"/usr{d}")
    left = MAX_LISTS
    for entry in tree.entries(f"{DPKG}/info"):
        if left <= 0 or len(found) >= MAX_OWNED:
            break
        if entry.kind == FILE and entry.path.endswith(".list"):
            data = tree.read(entry, 0, left)
            left -= len(data)
            _take(data.decode("utf-8", "surrogateescape").splitlines(), merged, found)
    for database in APK:
        data = tree.read(tree.find(database), 0, max(left, 0))
        left -= len(data)
        _take(_apk_files(data.decode("utf-8", "surrogateescape")), merged, found)
    return frozenset(found) if found else None


def _apk_files(text: str) -> Iterator[str]:
    """Yield the files in apk's database: lines `F:DIRECTORY`, each followed by `R:NAME` lines."""
    directory = ""
    for line in text.splitlines():
        if line.startswith("F:"):
            directory = line[2:]
        elif line.startswith("R:"):
            yield f"/{directory}/{line[2:]}"


def _take(paths: Iterator[str] | list[str], merged: tuple[str, ...], found: set[str]) -> None:
    moved = tuple(f"{directory}/" for directory in merged)
    for path in paths:
        if len(found) >= MAX_OWNED:
            return
        found.add(f"/usr{path}" if path.startswith(moved) else path)
