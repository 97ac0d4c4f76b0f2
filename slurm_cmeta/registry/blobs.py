"""The documents of a repository as image/oci.py looks for them, several fetched at a time."""

from __future__ import annotations

import threading

from slurm_cmeta.image.metadata import MAX_JSON
from slurm_cmeta.image.oci import MAX_TOTAL, Slice
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry.errors import BROKEN, MISSING, RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_cmeta.registry.client import Registry

MAX_AT_ONCE = 8


class Held:
    """A blob in memory, read as image.reader.Reader is."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`."""
        return self.data[offset : offset + size]

    def release(self) -> None:
        """Do nothing: there is nothing open."""


class Blobs:
    """The manifests and small blobs of one repository, each asked for once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.problems: dict[str, RegistryError] = {}
        """Why a blob could not be had."""
        self._known: dict[str, bytes | None] = {}
        self._total = 0

    def find(self, digest: str) -> Slice | None:
        """Return where the blob of that digest is, None where it cannot be had (`problems`)."""
        if digest not in self._known:
            self._fetch(digest, manifest=True)
            problem = self.problems.get(digest)
            if problem is not None and problem.kind == MISSING:
                self._fetch(digest, manifest=False)
        found = self._known[digest]
        if found is None:
            return None
        return Slice(Held(found), 0, len(found))  # type: ignore[arg-type]

    def keep(self, digest: str, data: bytes) -> None:
        """Know a blob that was fetched already."""
        self._known[digest] = data

    def prefetch(self, digests: Iterable[str], *, manifests: bool) -> None:
        """Ask for several at once. What goes wrong is told by find()."""
        wanted = [digest for digest in dict.fromkeys(digests) if digest not in self._known]

        def work() -> None:
            while wanted:
                try:
                    digest = wanted.pop()
                except IndexError:  # another thread was quicker
                    return
                self._fetch(digest, manifest=manifests)

        others = [
            threading.Thread(target=work, daemon=True)
            for _ in range(min(MAX_AT_ONCE, len(wanted)) - 1)
        ]
        for thread in others:
            thread.start()
        work()
        for thread in others:
            thread.join()

    def _fetch(self, digest: str, *, manifest: bool) -> None:
        try:
            if self._total > MAX_TOTAL:
                raise RegistryError(f"more than {MAX_TOTAL} bytes of JSON for one image", BROKEN)
            if manifest:
                data = self._registry.manifest(digest).data
            else:
                data = self._registry.blob(digest, MAX_JSON)
        except RegistryError as problem:
            self._known[digest] = None
            self.problems[digest] = problem
        else:
            self.problems.pop(digest, None)
            self._total += len(data)
            self._known[digest] = data
