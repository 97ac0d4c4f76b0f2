"""MPI, process manager and fabric: by real sonames where Debian's packages are there."""

from __future__ import annotations

import os
import random

import pytest
from standins import Files, Link, StandIn, check, values

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import mpi
from slurm_cmeta.facts import DECLARED, OBSERVED

PACKAGES = os.environ.get("CMETA_TEST_PACKAGES", "/opt/packages/amd64")
ELF = "/usr/bin/lmp"
LIB = "/usr/lib"


def library(soname: str, real: str = "", directory: str = LIB) -> dict[str, bytes | str]:
    """Return the files of a shared library, as an installation leaves them."""
    files: dict[str, bytes | str] = {f"{directory}/{real or soname}": b"\x7fELF"}
    if real:
        files[f"{directory}/{soname}"] = Link(real)
    return files


OPENMPI = library("libmpi.so.40", "libmpi.so.40.30.4")
MPICH = library("libmpich.so.12", "libmpich.so.12.2.2")


@pytest.mark.parametrize(
    ("files", "family", "implementation", "version"),
    [
        (OPENMPI, "openmpi", "openmpi", "4.1.4"),
        (library("libmpi.so.40", "libmpi.so.40.40.7"), "openmpi", "openmpi", "5.0"),
        (library("libmpi.so.40", "libmpi.so.40.40.99"), "openmpi", "openmpi", "5.0"),
        (library("libmpi.so.40", "libmpi.so.40.50.1"), "openmpi", "openmpi", None),
        (library("libmpi.so.40"), "openmpi", "openmpi", None),
        (library("libmpi.so.20", "libmpi.so.20.10.1"), "openmpi", "openmpi", "2.1.1"),
        (library("libmpi.so.1", "libmpi.so.1.6.0"), "openmpi", "openmpi", "1.8"),
        (MPICH, "mpich", "mpich", "4.0.2"),
        (library("libmpi.so.12", "libmpi.so.12.1.8"), "mpich", None, None),
        (
            library("libmpi.so.12", "libmpi.so.12.1.8", "/opt/mpich/lib"),
            "mpich",
            "mpich",
            "3.3.2",
        ),
        (
            library("libmpi.so.12", "libmpi.so.12.0.5") | library("libopen-rte.so.12"),
            "openmpi",
            "openmpi",
            "1.10.5",
        ),
        (
            library("libmpi.so.12", "libmpi.so.12.0.0") | library("libmpi_ilp64.so.4"),
            "mpich",
            "intel-mpi",
            None,
        ),
        (
            library("libmpi.so.12", "libmpi.so.12.0.0", "/opt/intel/oneapi/mpi/2021.8.0/lib")
            | {"/opt/intel/oneapi/mpi/latest": Link("2021.8.0")},
            "mpich",
            "intel-mpi",
            "2021.8.0",
        ),
        (library("libmpi_abi.so.1"), "mpi-abi", None, None),
        (library("libmpi_abi.so.0"), "mpi-abi", None, None),
        (library("libmpi_cray.so.12"), "mpich", "cray-mpich", None),
    ],
)
def test_libraries(
    files: Files, family: str, implementation: str | None, version: str | None
) -> None:
    subject = StandIn(files)
    facts = mpi.read(subject)
    assert values(facts, "mpi") == [family]
    assert values(facts, "mpi.implementation") == ([implementation] if implementation else [])
    assert values(facts, "mpi.version") == ([version] if version else [])
    assert all(fact.evidence == OBSERVED and fact.hint for fact in facts)
    assert subject.warnings == []


def test_every_directory_of_the_table_is_looked_into() -> None:
    for place in vocabulary.load("mpi")["directories"]:
        found = mpi.read(StandIn(library("libmpi.so.40", directory=place["path"])))
        assert values(found, "mpi") == ["openmpi"]
        assert place["path"] in found[0].source


def test_every_entry_of_the_table_has_a_source() -> None:
    table = vocabulary.load("mpi")
    rows = [*table["libraries"], *table["implementations"], *table["directories"]]
    rows += [*table["pmi"], *table["fabrics"], *table["releases"].values(), table["names"]]
    assert all(row["source"] for row in rows)


def test_what_the_program_needs_comes_first_and_is_said() -> None:
    files = {**OPENMPI, **MPICH, ELF: b""}
    for soname, families in (
        ("libmpich.so.12", ["mpich", "openmpi"]),
        ("libmpichfort.so.12", ["mpich", "openmpi"]),
        ("libmpi_mpifh.so.40", ["openmpi", "mpich"]),
    ):
        facts = mpi.read(StandIn(files, needs={ELF: ["libc.so.6", soname]}))
        assert values(facts, "mpi") == families
        assert facts[0].source.endswith(f", needed by {ELF}")
        assert "needed by" not in next(f.source for f in facts if f.value == families[1])


def test_a_library_by_rpath_comes_before_the_loaders() -> None:
    spack = "/opt/software/linux-zen4/mvapich-3.0-" + "a" * 32
    files = {
        **library("libmpi.so.12", "libmpi.so.12.1.1"),
        **library("libmpi.so.12", "libmpi.so.12.2.0", f"{spack}/lib"),
        ELF: b"",
    }
    for search in (f"{spack}/lib", f"$ORIGIN/../..{spack}/lib", f"${{ORIGIN}}/../..{spack}/lib"):
        facts = mpi.read(StandIn(files, needs={ELF: ["libmpi.so.12"]}, search=(search,)))
        assert values(facts, "mpi") == ["mpich"]
        assert values(facts, "mpi.implementation") == ["mvapich"]
        assert values(facts, "mpi.version") == ["3.0"]
        assert spack in facts[0].source


def test_a_library_that_the_image_lacks() -> None:
    """The host's MPI is to be bound in: `the bind model` of Apptainer's user guide."""
    facts = mpi.read(StandIn({ELF: b""}, needs={ELF: ["libmpi.so.40"]}))
    assert values(facts, "mpi") == ["openmpi"]
    assert facts[0].source == f"libmpi.so.40, needed by {ELF}, not in the image"
    assert facts[0].evidence == OBSERVED


def test_process_managers_and_fabrics() -> None:
    files: dict[str, bytes | str] = {}
    table = vocabulary.load("mpi")
    for row in (*table["pmi"], *table["fabrics"]):
        files |= library(row["soname"])
    facts = mpi.read(StandIn(files))
    assert values(facts, "pmi") == ["pmi", "pmi2", "pmix"]
    assert values(facts, "fabric") == ["ucx", "libfabric", "verbs", "psm2", "cxi"]
    assert facts[0].source == "libpmi.so.0 (/usr/lib/libpmi.so.0)"
    assert values(facts, "mpi") == []


P = "org.supercontainers."


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({P + "mpi": "openmpi"}, {"mpi": "openmpi"}),
        ({P + "mpi": "MPICH"}, {"mpi": "mpich"}),
        ({P + "mpi": "unknown"}, {}),
        (
            {P + "mpi.implementation": "intel-mpi", P + "mpi.version": "2021.8"},
            {"mpi": "mpich", "mpi.implementation": "intel-mpi", "mpi.version": "2021.8"},
        ),
        ({"mpi.implementation": "OpenMPI"}, {"mpi": "openmpi", "mpi.implementation": "openmpi"}),
        ({"compspec.mpi_variant": "mpich"}, {"mpi": "mpich", "mpi.implementation": "mpich"}),
        ({P + "openmpi.version": "4.1.2"}, {"mpi": "openmpi", "mpi.version": "4.1.2"}),
        ({"mpi.version": "4.1.2"}, {"mpi.version": "4.1.2"}),
        ({P + "mpi.porability.mode": "abi"}, {"mpi.portability.mode": "abi"}),
        ({P + "mpi.portability.mode": "abi"}, {"mpi.portability.mode": "abi"}),
        ({"mpi.portability.optimization": "x"}, {"mpi.portability.optimization": "x"}),
        ({P + "communication.framework": "UCX"}, {"fabric": "ucx"}),
        ({"network.communication.framework": "ofi"}, {"fabric": "libfabric"}),
        ({"network.communication.framework": "carrier pigeon"}, {}),
    ],
)
@pytest.mark.parametrize("files", [None, {"/bin/sh": b""}])
def test_labels_of_an_image_whose_content_tells_nothing(
    labels: dict[str, str], expected: dict[str, str], files: Files | None
) -> None:
    subject = StandIn(files, labels)
    facts = mpi.read(subject)
    assert {fact.key: fact.value for fact in facts} == expected
    assert all(fact.evidence == DECLARED for fact in facts)
    assert all(fact.hint for fact in facts if fact.key == "mpi")
    assert subject.warnings == []


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        ({P + "mpi": "mpich"}, "has MPI of the family openmpi: the label is ignored"),
        ({"mpi.implementation": "intel-mpi"}, "has MPI of the family openmpi"),
        ({"mpi.version": "4.0.7"}, "the image has version 4.1.4: the label is ignored"),
        ({"mpi.version": "latest"}, "is no version: ignored"),
        ({"mpi.version": "4" * 100}, "is no version: ignored"),
        ({P + "mpi": "LAM\x1b[2J"}, "says LAM\\x1b[2J, which is no MPI known here: ignored"),
        ({P + "mpi": "openmpi"}, None),
        ({"mpi.implementation": "OpenMPI", "mpi.version": "4.1"}, None),
        ({P + "openmpi.version": "4.1.4"}, None),
    ],
)
def test_content_wins_over_labels(labels: dict[str, str], warning: str | None) -> None:
    subject = StandIn(OPENMPI, labels)
    assert mpi.read(subject) == mpi.read(StandIn(OPENMPI))
    assert len(subject.warnings) == (warning is not None)
    if warning:
        assert warning in subject.warnings[0]
        check([], subject.warnings)


def test_a_label_of_another_implementation_of_the_same_family() -> None:
    subject = StandIn(MPICH, {"mpi.implementation": "mvapich2"})
    assert values(mpi.read(subject), "mpi.implementation") == ["mpich"]
    assert "but the image has mpich: the label is ignored" in subject.warnings[0]
    unknown = StandIn(library("libmpi.so.12"), {"mpi.implementation": "mvapich2"})
    assert values(mpi.read(unknown), "mpi.implementation") == ["mvapich"]
    assert unknown.warnings == []


def test_of_two_families_a_label_may_name_either() -> None:
    for name in ("mpich", "openmpi"):
        subject = StandIn({**OPENMPI, **MPICH}, {P + "mpi": name})
        assert sorted(values(mpi.read(subject), "mpi")) == ["mpich", "openmpi"]
        assert subject.warnings == []


def test_an_image_that_cannot_be_read_or_has_no_mpi() -> None:
    assert mpi.read(StandIn()) == []
    assert mpi.read(StandIn({"/bin/sh": b""})) == []


def test_hostile_names_and_labels_give_clean_facts() -> None:
    chance = random.Random(2701)  # noqa: S311 - repeatable on purpose
    table = vocabulary.load("mpi")
    sonames = [row["soname"] for row in (*table["libraries"], *table["fabrics"])]
    keys = [rule["key"] for rule in vocabulary.load("labels")["labels"]]
    noise = ["\x1b[31m", "\n", "\udce4", "a" * 5000, "9.9", "openmpi", "", "..", "$ORIGIN", "💣"]
    for _ in range(400):
        files: dict[str, bytes | str] = {ELF: b""}
        for _ in range(chance.randrange(6)):
            soname = chance.choice(sonames)
            tail = chance.choice(["", ".1", ".30.4", ".\x1b[0m", "." + "9" * 300])
            where = chance.choice([LIB, "/opt/intel/mpi/\x1b1.2/lib", "/opt/mpich/lib"])
            files |= library(soname, soname + tail if tail else "", where)
        labels = {chance.choice(keys): "".join(chance.choices(noise, k=3)) for _ in range(5)}
        needed = [chance.choice(sonames) for _ in range(3)] * chance.choice([1, 1000])
        search = tuple(chance.choice(["/opt/intel/mpi/\x1b1.2/lib", "\0", "$ORIGIN"]) for _ in "ab")
        subject = StandIn(files, labels, needs={ELF: needed}, search=search)
        facts = mpi.read(subject)
        check(facts, subject.warnings)
        assert len(facts) < 50


@pytest.mark.skipif(
    not os.path.exists(f"{PACKAGES}/usr/lib/x86_64-linux-gnu/libmpi.so.40"),
    reason=f"no unpacked Debian packages in {PACKAGES} (libopenmpi3, libmpich12)",
)
def test_debians_packages() -> None:
    """What Debian calls its files; other files of /opt/packages do not matter."""
    subject = StandIn(PACKAGES)
    facts = mpi.read(subject)
    assert "openmpi" in values(facts, "mpi")
    library = os.path.basename(
        os.path.realpath(f"{PACKAGES}/usr/lib/x86_64-linux-gnu/libmpi.so.40")
    )
    # Debian 12 has Open MPI 4.1.4 and MPICH 4.0.2; Debian 13 has 5.0.7, whose file is that of
    # later ones, too, and an MPICH that no longer says its version in the file's name.
    debian_12 = library == "libmpi.so.40.30.4"
    assert ("4.1.4" if debian_12 else "5.0") in values(facts, "mpi.version")
    if os.path.exists(f"{PACKAGES}/usr/lib/x86_64-linux-gnu/libmpich.so.12"):
        assert sorted(values(facts, "mpi")) == ["mpich", "openmpi"]
        assert ("4.0.2" in values(facts, "mpi.version")) == debian_12
    for path, key, value in (
        ("libpmix.so.2", "pmi", "pmix"),
        ("libucp.so.0", "fabric", "ucx"),
        ("libfabric.so.1", "fabric", "libfabric"),
    ):
        if os.path.exists(f"{PACKAGES}/usr/lib/x86_64-linux-gnu/{path}"):
            assert value in values(facts, key)
    assert subject.warnings == []
