"""An image in memory, or in a directory, for tests of evidence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from memory_tree import MemoryTree

from slurm_cmeta.evidence.elf import Elf
from slurm_cmeta.evidence.subject import PROGRAM, Binary, Subject, resolved
from slurm_cmeta.facts import Fact
from slurm_cmeta.image.content import StoredObject, Warnings
from slurm_cmeta.image.directory import DirectoryTree, Folder
from slurm_cmeta.image.filetree import Entry, deep_budget, quick_budget

LIBRARIES = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/lib",
)


class Link(str):
    """A symbolic link, with its target."""

    __slots__ = ()


Files = Mapping[str, bytes | str]


class StandIn(Subject):
    """A subject whose ELF files and libraries the test says."""

    def __init__(
        self,
        files: Files | str | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        deep: bool = False,
        family: str | None = "x86_64",
        needs: Mapping[str, Iterable[str]] | None = None,
        search: tuple[str, ...] = (),
        sboms: Iterable[bytes] = (),
        digest: str = "",
    ) -> None:
        """`files` is the content or a directory; `needs` maps programs to their DT_NEEDED."""
        self.warnings = Warnings()
        self.labels = labels or {}
        self.environment = {}
        self.deep = deep
        self.family = family
        budget = deep_budget() if deep else quick_budget()
        self.tree = None
        if isinstance(files, str):
            self.tree = DirectoryTree(Folder(files), files, self.warnings, budget)
        elif files is not None:
            links = {p: f"->{c}" if isinstance(c, Link) else c for p, c in files.items()}
            self.tree = MemoryTree(links, budget)
            self.warnings = self.tree.warnings
        self._needs = {path: tuple(needed) for path, needed in (needs or {}).items()}
        self._search = search
        self.image = cast(Any, _image(self, list(sboms), digest))

    def programs(self) -> list[Binary]:
        found = []
        for path, needed in self._needs.items():
            elf = cast(Elf, SimpleNamespace(needed=needed, rpath=self._search, runpath=()))
            entry = self.tree.find(path) if self.tree is not None else None
            assert entry is not None
            found.append(Binary(entry, elf, PROGRAM))
        return found

    def libraries(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for directory in LIBRARIES if self.tree is not None else ():
            for name, kind in self.tree.list(directory) if self.tree is not None else ():
                if ".so" in name and kind in ("file", "symlink"):
                    found.setdefault(name, f"{directory}/{name}")
        return found

    def library(self, soname: str, of: Binary | None = None) -> Entry | None:
        directories = resolved(of.elf.rpath, of) if of else []
        for directory in directories if self.tree is not None else ():
            entry = self.tree.find(f"{directory}/{soname}") if self.tree is not None else None
            if entry is not None and entry.kind == "file":
                return entry
        path = self.libraries().get(soname)
        return self.tree.find(path) if path and self.tree is not None else None


def _image(subject: StandIn, sboms: list[bytes], digest: str) -> SimpleNamespace:
    data = b"".join(sboms)
    objects, at = [], 0
    for number, sbom in enumerate(sboms, 4):
        objects.append(StoredObject(number, "sbom", "", None, "", at, len(sbom), True))
        at += len(sbom)
    content = SimpleNamespace(objects=tuple(objects), title="SIF", digest=digest)
    reader = SimpleNamespace(read=lambda offset, size: data[offset : offset + size])
    return SimpleNamespace(content=content, reader=reader, warnings=subject.warnings)


def values(facts: list[Fact], key: str) -> list[str]:
    """Return the values of the facts `key`, in their order."""
    return [fact.value for fact in facts if fact.key == key]


def check(facts: list[Fact], warnings: list[str]) -> None:
    """Hold that nothing in facts and warnings can harm a terminal or a log."""
    for text in [*warnings, *(part for fact in facts for part in fact[:3])]:
        assert text.isprintable()
        assert len(text) < 1000


def peak(code: str) -> int:
    """Return the most memory, in kB, that a Python process takes which runs `code`.

    30 seconds are the bound for what takes one or two on an idle machine.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [here, os.path.dirname(os.path.dirname(here))]
    text = f"import sys\nsys.path[:0] = {paths!r}\nfrom standins import StandIn\n{code}"
    # VmHWM, because ru_maxrss starts from what the parent had.
    text += "print(next(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=30, check=True
    )
    return int(done.stdout)
