"""Where an image comes from: its operating system, package managers, build, vendor and source.

Nothing here is required of a node. Labels of this kind are inherited: an image built from another
one has the labels of both, and `version` is often that of the base.
"""

from __future__ import annotations

from slurm_cmeta.evidence.rules import stated
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.evidence.subject import Subject

SHOWN = 60
"""Characters of a label's value that a warning shows."""

MAX_OS_RELEASE = 16 * 1024
"""Bytes of os-release that are read; real ones have below 1 kB."""

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
"""In the order of os-release(5)."""

MANAGERS = (
    ("dpkg", "/var/lib/dpkg/status"),
    ("dpkg", "/var/lib/dpkg/status.d"),
    ("rpm", "/usr/lib/sysimage/rpm"),
    ("rpm", "/var/lib/rpm"),
    ("apk", "/lib/apk/db/installed"),
    ("apk", "/usr/lib/apk/db/installed"),
    ("pacman", "/var/lib/pacman/local"),
    ("conda", "/opt/conda/conda-meta"),
    ("conda", "/conda-meta"),
    ("pip", "/usr/bin/pip3"),
    ("pip", "/usr/local/bin/pip3"),
    ("pip", "/opt/conda/bin/pip3"),
    ("spack", "/opt/spack-environment"),
    ("spack", "/opt/software/.spack-db"),
    ("spack", "/opt/spack/.spack-db"),
    ("spack", "/opt/spack/opt/spack"),
    ("spack", "/spack/opt/spack"),
)
"""Package managers by what they keep in an image: dpkg(1), rpm(8), apk(8), pacman(8), conda's
environments, pip's command, and what `spack containerize` and E4S images have."""

DESCRIBING = ("title", "version", "vendor", "source", "revision", "licenses", "built-on")
"""Facts that labels alone state; of several labels the first in labels.json counts."""


def read(subject: Subject) -> list[Fact]:
    """Return the facts os, os.name, packages, built-with, digest and those of DESCRIBING."""
    facts = [*_system(subject), *_managers(subject), *_built_with(subject)]
    content = subject.image.content
    if content.digest:
        facts.append(Fact("digest", clean(content.digest), f"{content.title} manifest"))
    for key in DESCRIBING:
        for rule, value in stated(subject.labels, key):
            facts.append(Fact(key, clean(value), f"label {rule['key']}"))
            break
    return facts


def _system(subject: Subject) -> list[Fact]:
    labelled = _labelled_system(subject)
    for path in OS_RELEASE:
        tree = subject.tree
        release = os_release(tree.text(path, MAX_OS_RELEASE)) if tree is not None else {}
        if not release.get("ID"):
            continue
        name = f"{release['ID']} {release.get('VERSION_ID', '')}".strip()
        facts = [Fact("os", clean(name), path, OBSERVED)]
        if release.get("PRETTY_NAME"):
            facts.append(Fact("os.name", clean(release["PRETTY_NAME"]), path, OBSERVED))
        for fact in labelled:
            if not _agree(name, fact.value):
                subject.warnings.add(
                    f"{fact.source} says {clean(fact.value, SHOWN)}, but {path} says "
                    f"{clean(name, SHOWN)}: the label is ignored"
                )
        return facts
    return labelled[:1]


def os_release(text: str) -> dict[str, str]:
    """Return the assignments of an os-release file, without their quotes.

    Source: os-release(5). Escapes inside of quotes do not occur in the fields that are used.
    """
    found: dict[str, str] = {}
    for line in text.split("\n"):
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier() and key not in found:
            found[key] = value.strip().strip("\"'").strip()
    return found


def _labelled_system(subject: Subject) -> list[Fact]:
    versions = {rule["beside"]: value for rule, value in stated(subject.labels, "os-version")}
    facts = []
    for rule, value in stated(subject.labels, "os"):
        name = f"{value} {versions.get(rule['key'], '')}".strip()
        facts.append(Fact("os", clean(name), f"label {rule['key']}"))
    return facts


def _agree(real: str, labelled: str) -> bool:
    """Tell whether a label's `rocky 9` or `Rocky Linux` may mean the real `rocky 9.3`."""
    name, _, version = real.lower().partition(" ")
    words = labelled.lower().split()
    stated_version = words[-1] if words[-1][0].isdigit() else ""
    return name.startswith(words[0]) and (
        not stated_version
        or not version
        or f"{version}.".startswith(f"{stated_version}.")
        or f"{stated_version}.".startswith(f"{version}.")
    )


def _managers(subject: Subject) -> list[Fact]:
    facts: list[Fact] = []
    if subject.tree is None:
        return facts
    for manager, path in MANAGERS:
        if any(fact.value == manager for fact in facts):
            continue
        if subject.tree.find(path) is not None:
            facts.append(Fact("packages", manager, path, OBSERVED))
    return facts


def _built_with(subject: Subject) -> list[Fact]:
    """Return the tools that built the image, each with its version where that is stated."""
    facts = [
        Fact("built-with", clean(f"{rule['tool']} {value}"), f"label {rule['key']}")
        for rule, value in stated(subject.labels, "built-with")
    ]
    path = "/opt/spack-environment/spack.yaml"  # where `spack containerize` puts it
    if subject.tree is not None and subject.tree.find(path) is not None:
        facts.append(Fact("built-with", "spack", path, OBSERVED))
    return facts
