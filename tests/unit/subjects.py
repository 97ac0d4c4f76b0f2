"""Images under examination, made of files in memory, for the tests of GPU evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from elf_files import elf
from memory_tree import MemoryContent, MemoryImage

from slurm_cmeta.evidence import gpu
from slurm_cmeta.evidence.subject import Subject
from slurm_cmeta.facts import Fact
from slurm_cmeta.image import Image

HARD, SOFT = False, True
Said = list[tuple[str, str, str, bool]]
"""Key, operator, value and whether it is a hint."""


def examined(
    environment: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    files: Mapping[str, bytes | str] | None = None,
    program: bytes = b"",
    libraries: Iterable[str] = (),
    deep: bool = False,
) -> Subject:
    """Return an image that starts /app, which is `program`, and has `libraries` of these names."""
    tree: dict[str, bytes | str] = {f"/usr/lib/{name}": elf() for name in libraries}
    if program:
        tree["/app"] = program
    content = MemoryContent(
        {**tree, **(files or {})},
        labels=labels,
        environment=environment,
        words=("/app",) if program else (),
    )
    return Subject(cast(Image, MemoryImage(content, deep=deep)))


def with_code(
    section: str,
    data: bytes,
    *needed: str,
    environment: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    libraries: Iterable[str] = (),
) -> Subject:
    """Return an image whose program has `data` as a section."""
    return examined(
        environment,
        labels,
        program=elf(needed=needed, sections={section: data}),
        libraries=libraries,
    )


def gpu_facts(subject: Subject, key: str) -> list[Fact]:
    """Return the facts of one key."""
    return [fact for fact in gpu.read(subject) if fact.key == key]


def gpu_requirements(subject: Subject) -> Said:
    """Return what can become a requirement."""
    keys = ("gpu", "gpu.arch", "cuda", "driver", "rocm")
    return [(f.key, f.op, f.value, f.hint) for f in gpu.read(subject) if f.key in keys]
