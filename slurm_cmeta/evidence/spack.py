"""The CPU that Spack built an image's software for.

Spack tells its compilers the target of every package, so that the code needs that CPU. The target
is in the environment's lock file (spack.lock), in the names of the directories that packages are
installed in, and in each package's own .spack/spec.json.
"""

from __future__ import annotations

from slurm_cmeta import vocabulary
from slurm_cmeta.facts import Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from slurm_cmeta.evidence.subject import Subject
    from slurm_cmeta.image.filetree import FileTree

LOCK = "/opt/spack-environment/spack.lock"
"""Where `spack containerize` puts it (Spack documentation, Container Images)."""

TREES = (
    "/opt/software",
    "/opt/spack",
    "/opt/spack/opt/spack",
    "/spack/opt/spack",
    "/root/spack/opt/spack",
    "/usr/local/spack/opt/spack",
)
"""Roots of install trees: that of `spack containerize`, those of images of E4S and of Spack itself,
and Spack's default below the directories that it is usually cloned into."""

VIEWS = ("/opt/view", "/opt/views/view")
"""Views of `spack containerize`: directories of links into the install tree."""

MAX_LOCK = 1024 * 1024
"""Bytes of spack.lock that are parsed at once: 1 MiB of JSON made to hurt grows to 25 MB. A larger
one is gone through piece by piece."""

MAX_LARGE_LOCK = 2 * 1024 * 1024
"""Bytes of a large spack.lock that are gone through on the quick look, in about 0.2 s, and in 1.5 s
if made to hurt. That of a whole site's 1,238 packages has 1.4 MB."""

MAX_SPEC = 512 * 1024
"""Bytes of one spec.json; it holds the package's dependencies, and has 5 to 200 kB."""

MAX_LISTED = 64
"""Names of an install tree's root that are looked at: one for each target, or each compiler."""

MAX_LINKS = 16
"""Links of a view that are followed. Packages of one environment share their target."""

MAX_SPECS = 8
"""spec.json files that are read where directory names tell no target."""

MAX_TARGETS = 16
"""Different targets that are reported; a real image has one, rarely two."""

_PLATFORMS = ("linux-", "cray-")
"""How a directory for a target begins: PLATFORM-OS-TARGET, or PLATFORM-TARGET since Spack 1.0."""


def targets(subject: Subject) -> list[Fact]:
    """Return one fact `cpu` for each CPU that software was built for by Spack.

    What is no more than an architecture gives none. A target of another architecture than the
    image's is ignored with a warning: it is that of a machine that the environment was solved for.
    """
    tree = subject.tree
    if tree is None:
        return []
    found: dict[str, str] = {}
    for name, source in _stated(tree):
        if name not in found:
            found[name] = source
            if len(found) == MAX_TARGETS:
                break
    facts: list[Fact] = []
    for name, source in found.items():
        target = vocabulary.cpu_target(name)
        cpu = vocabulary.cpu(target) if target else None
        if cpu is None:
            subject.warnings.add(
                f"{clean(source)} says Spack target {clean(name, 60)}, which is no CPU known "
                "here: ignored"
            )
        elif subject.family is not None and cpu.family != subject.family:
            subject.warnings.add(
                f"{clean(source)} says Spack target {cpu.name}, a CPU of architecture "
                f"{cpu.family}, but the image is for {subject.family}: ignored"
            )
        elif cpu.name != cpu.family and not any(f.value == cpu.name for f in facts):
            facts.append(Fact("cpu", cpu.name, f"Spack target in {clean(source)}"))
    return facts


def _stated(tree: FileTree) -> Iterator[tuple[str, str]]:
    """Yield every target that is stated, as it is written there, and where that is."""
    for target in _in_lock(tree):
        yield target, LOCK
    named = False
    for root in TREES:
        if tree.find(root) is None:
            continue
        for name, kind in tree.list(root)[:MAX_LISTED]:
            target = _of_directory(name) if kind == "directory" else ""
            if target:
                named = True
                yield target, f"{root}/{name}"
    prefixes = list(_prefixes(tree))
    for prefix in prefixes:
        for part in prefix.split("/"):
            target = _of_directory(part)
            if target:
                named = True
                yield target, prefix
    if not named:
        yield from _in_specs(tree, prefixes)


def _of_directory(name: str) -> str:
    """Return the target in `linux-ubuntu24.04-zen4` or `linux-zen4`, empty if it names none.

    No target has a hyphen in its name (archspec, microarchitectures.json).
    """
    return name.rpartition("-")[2] if name.startswith(_PLATFORMS) and len(name) < 100 else ""


def _prefixes(tree: FileTree) -> Iterator[str]:
    """Yield directories that packages are installed in, as the links of views tell them."""
    seen: set[str] = set()
    for view in VIEWS:
        for below in ("bin", "lib"):
            directory = f"{view}/{below}"
            if tree.find(directory) is None:
                continue
            links = [n for n, kind in tree.list(directory) if kind == "symlink"]
            for name in links[:MAX_LINKS]:
                entry = tree.find(f"{directory}/{name}")
                if entry is None or f"/{below}/" not in entry.path:
                    continue
                prefix = entry.path.rpartition(f"/{below}/")[0]
                if prefix and prefix not in seen and not prefix.startswith(view):
                    seen.add(prefix)
                    yield prefix


def _in_specs(tree: FileTree, prefixes: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the target in spec.json of some packages, where install directories do not tell it."""
    candidates = list(prefixes)
    for root in TREES[:1]:
        if tree.find(root) is not None:
            names = tree.list(root)[:MAX_LISTED]
            candidates += [f"{root}/{name}" for name, kind in names if kind == "directory"]
    from slurm_cmeta.evidence import jsonscan

    read = 0
    for prefix in candidates:
        path = f"{prefix}/.spack/spec.json"
        entry = tree.find(path)
        if entry is None or entry.size > MAX_SPEC:
            continue
        spec = jsonscan.parsed(tree.read(entry))
        nodes = spec.get("spec") if isinstance(spec, dict) else None
        if isinstance(nodes, dict):  # before Spack 0.17 a list of {NAME: NODE}
            nodes = nodes.get("nodes")
        if isinstance(nodes, list) and nodes:
            # The first node is the package, the others are what it was built with.
            for target in _of_node(nodes[0]):
                yield target, path
        read += 1
        if read == MAX_SPECS:
            return


def _in_lock(tree: FileTree) -> Iterator[str]:
    entry = tree.find(LOCK)
    if entry is None or entry.size > MAX_LARGE_LOCK:
        if entry is not None:
            tree.warnings.add(f"{LOCK} has {entry.size} bytes, too much to look for Spack targets")
        return
    from slurm_cmeta.evidence import jsonscan  # few images have a lock file, and this costs

    if entry.size > MAX_LOCK:
        for _, node in jsonscan.values(
            lambda offset, size: tree.read(entry, offset, size), entry.size, {("concrete_specs",)}
        ):
            yield from _of_node(node)
        return
    lock = jsonscan.parsed(tree.read(entry))
    specs = lock.get("concrete_specs") if isinstance(lock, dict) else None
    if isinstance(specs, dict):
        for node in specs.values():
            yield from _of_node(node)


def _of_node(node: Any) -> Iterator[str]:
    """Yield the target of one concrete spec (lib/spack/spack/spec.py, Spec.to_node_dict).

    It is {"arch": {"target": NAME or {"name": NAME}}}; lock files before version 4 have it one
    level deeper, under the package's name. What the distribution built has no target of its own.
    """
    if not isinstance(node, dict):
        return
    if "arch" not in node and len(node) == 1:
        (node,) = node.values()
        if not isinstance(node, dict):
            return
    if node.get("external"):
        return
    arch = node.get("arch")
    target = arch.get("target") if isinstance(arch, dict) else None
    if isinstance(target, dict):
        target = target.get("name")
    if isinstance(target, str) and target:
        yield target[:100]
