"""Operating system, package managers, build and the labels that describe an image."""

from __future__ import annotations

import random

import pytest
from standins import StandIn, check, values

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import provenance
from slurm_cmeta.facts import DECLARED, OBSERVED, Fact

DEBIAN = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
# a comment
ID=debian
"""
ROCKY = "NAME='Rocky Linux'\nID=\"rocky\"\nVERSION_ID='9.3'\n"
S = "org.supercontainers.os."


def test_this_machine() -> None:
    """A real os-release and a real dpkg, or whatever this machine has."""
    subject = StandIn("/")
    facts = provenance.read(subject)
    (system,) = [fact for fact in facts if fact.key == "os"]
    with open("/etc/os-release", encoding="utf-8") as file:
        text = file.read()
    assert system.value.split()[0] == provenance.os_release(text)["ID"]
    assert system.evidence == OBSERVED
    assert values(facts, "os.name")
    assert subject.warnings == []


@pytest.mark.parametrize(
    ("text", "system", "name"),
    [
        (DEBIAN, "debian 12", "Debian GNU/Linux 12 (bookworm)"),
        (ROCKY, "rocky 9.3", None),
        ("ID=arch\n", "arch", None),
        ("ID=a\x1b[2Jb\nPRETTY_NAME=\x1b\n", "a\\x1b[2Jb", "\\x1b"),
        ("ID=" + "x" * 100_000, "x" * 199 + "…", None),
        ("VERSION_ID=12\n", None, None),
        ("ID\n=\n==\nI D=x", None, None),
        ("", None, None),
    ],
)
@pytest.mark.parametrize("path", provenance.OS_RELEASE)
def test_os_release(text: str, system: str | None, name: str | None, path: str) -> None:
    facts = provenance.read(StandIn({path: text}))
    assert values(facts, "os") == ([system] if system else [])
    assert values(facts, "os.name") == ([name] if name else [])
    assert all(fact.source == path for fact in facts)


def test_the_first_file_counts() -> None:
    first, second = provenance.OS_RELEASE
    assert values(provenance.read(StandIn({first: DEBIAN, second: ROCKY})), "os") == ["debian 12"]
    assert values(provenance.read(StandIn({first: b"", second: ROCKY})), "os") == ["rocky 9.3"]


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        ({S + "vendor": "rocky", S + "version": "9.3"}, False),
        ({S + "vendor": "Rocky Linux", S + "version": "9"}, False),
        ({S + "vendor": "rocky"}, False),
        ({"os.vendor": "rocky", "os.version": "9.3.1"}, False),
        ({S + "vendor": "rocky", S + "version": "8.9"}, True),
        ({"os.vendor": "ubuntu", "os.version": "22.04"}, True),
        ({"os.vendor": "\x1b[31m"}, True),
        ({"os.version": "22.04"}, False),
    ],
)
def test_the_file_wins_over_labels(labels: dict[str, str], warned: bool) -> None:
    subject = StandIn({"/etc/os-release": ROCKY}, labels)
    assert values(provenance.read(subject), "os") == ["rocky 9.3"]
    assert len(subject.warnings) == warned
    check([], subject.warnings)


def test_labels_count_where_there_is_no_file() -> None:
    labels = {S + "vendor": "ubuntu", S + "version": "22.04"}
    for subject in (StandIn(labels=labels), StandIn({"/bin/sh": b""}, labels)):
        (fact,) = provenance.read(subject)
        assert fact == Fact("os", "ubuntu 22.04", f"label {S}vendor", DECLARED)


def test_every_manager_is_found_by_what_it_keeps() -> None:
    for manager, path in provenance.MANAGERS:
        facts = provenance.read(StandIn({path: b""}))
        assert Fact("packages", manager, path, OBSERVED) in facts
    every = provenance.read(StandIn({path: b"" for _, path in provenance.MANAGERS}))
    assert values(every, "packages") == ["dpkg", "rpm", "apk", "pacman", "conda", "pip", "spack"]


def test_what_built_it() -> None:
    usage = "org.label-schema.usage."
    labels = {
        usage + "singularity.version": "3.8.7",
        usage + "apptainer.version": "1.4.5",
        "io.buildah.version": "1.33.7",
    }
    facts = provenance.read(StandIn({"/opt/spack-environment/spack.yaml": b""}, labels))
    built = values(facts, "built-with")
    assert built == ["apptainer 1.4.5", "singularity 3.8.7", "buildah 1.33.7", "spack"]


def test_describing_labels_each_once() -> None:
    rules = [r for r in vocabulary.load("labels")["labels"] if r["states"] in provenance.DESCRIBING]
    subject = StandIn(labels={rule["key"]: f"value of {rule['key']}" for rule in rules})
    facts = provenance.read(subject)
    assert [fact.key for fact in facts] == list(provenance.DESCRIBING)
    for fact in facts:
        first = next(rule["key"] for rule in rules if rule["states"] == fact.key)
        assert fact == Fact(fact.key, f"value of {first}", f"label {first}")
    (schema,) = provenance.read(StandIn(labels={"org.label-schema.vcs-ref": "abc"}))
    assert (schema.key, schema.value) == ("revision", "abc")


def test_digest() -> None:
    facts = provenance.read(StandIn(digest="sha256:\x1b"))
    assert facts == [Fact("digest", "sha256:\\x1b", "SIF manifest")]


def test_mutated_os_release() -> None:
    chance = random.Random(2703)  # noqa: S311 - repeatable on purpose
    keys = [rule["key"] for rule in vocabulary.load("labels")["labels"]]
    for _ in range(500):
        data = bytearray(DEBIAN.encode())
        for _ in range(chance.randrange(20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        labels = {chance.choice(keys): data[:30].decode("latin-1") for _ in range(4)}
        subject = StandIn({"/etc/os-release": bytes(data)}, labels)
        check(provenance.read(subject), subject.warnings)
