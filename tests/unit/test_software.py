"""Lists of software. dpkg's is this machine's own; RPM's database is made by rpm itself.

The samples of apk, conda, pip, Spack, SPDX, CycloneDX and Syft are written after the documentation
of their formats.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_tree import MemoryTree
from standins import Files, Link, StandIn, check, peak

from slurm_cmeta.evidence import application, jsonscan, places, rpmdb, software, sqlitefile
from slurm_cmeta.evidence.software import Package
from slurm_cmeta.image.filetree import Budget

HASH = "a2b3c4d5e6f7a2b3c4d5e6f7a2b3c4d5"
MIB = 1024 * 1024


def listed(files: Files | str | None, *sboms: bytes) -> tuple[list[Package], list[str]]:
    subject = StandIn(files, deep=True, sboms=sboms)
    packages = software.software(subject)
    check([], subject.warnings)
    assert all(field.isprintable() and len(field) <= 201 for one in packages for field in one)
    return packages, list(subject.warnings)


def pairs(files: Files | str | None, *sboms: bytes) -> list[tuple[str, str, str]]:
    packages, warnings = listed(files, *sboms)
    assert warnings == []
    return [package[:3] for package in packages]


# --- text databases -----------------------------------------------------------------------------

STATUS = """\
Package: bash
Status: install ok installed
Version: 5.2.15-2+b7
Description: GNU Bourne Again SHell
 Version: of no use
 .
Conffiles:
 /etc/bash.bashrc 89269e1298235f1b12b4c16e4065ad0d

Package: gone
Status: deinstall ok config-files
Version: 1

Package: half
Status: install ok half-installed
Version: 2

Package: zlib1g
Version: 1:1.2.13
Status: hold ok installed"""

APK_DB = """\
C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:musl
V:1.2.4-r2
A:x86_64
F:lib
R:ld-musl-x86_64.so.1

P:busybox
V:1.36.1-r5

"""


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="no dpkg on this machine")
def test_dpkg_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    shutil.copy("/var/lib/dpkg/status", tmp_path / "var/lib/dpkg/status")
    wanted = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = {line.split(" ", 1)[1] for line in wanted.stdout.splitlines() if line[:4] == "inst"}
    found = pairs(str(tmp_path))
    assert {f"{name} {version}" for name, version, _ in found} == lines
    assert len(found) > 50


def test_dpkg() -> None:
    found = [("bash", "5.2.15-2+b7", "dpkg"), ("zlib1g", "1:1.2.13", "dpkg")]
    assert pairs({software.STATUS: STATUS}) == found
    assert pairs({software.STATUS: STATUS.replace("\n", "\n\n", 0) + "\n\n\n"}) == found


def test_dpkg_of_distroless() -> None:
    parts = software.STATUS_PARTS
    files: Files = {
        f"{parts}/base": "Package: base-files\nVersion: 12.4\n",
        f"{parts}/base.md5sums": "Package: not\nVersion: one\n",
        f"{parts}/tzdata": "Package: tzdata\nVersion: 2024a\n\n",
    }
    assert pairs(files) == [("base-files", "12.4", "dpkg"), ("tzdata", "2024a", "dpkg")]


@pytest.mark.parametrize("path", places.APK)
def test_apk(path: str) -> None:
    assert pairs({path: APK_DB}) == [("musl", "1.2.4-r2", "apk"), ("busybox", "1.36.1-r5", "apk")]


def test_lines_without_end_and_across_chunks() -> None:
    noise = "X:" + "y" * (3 * software.CHUNK) + "\n"
    assert pairs({places.APK[0]: noise + APK_DB + noise}) == pairs({places.APK[0]: APK_DB})
    for shift in range(40):
        text = " " * (software.CHUNK - shift) + "\n" + APK_DB
        assert len(pairs({places.APK[0]: text})) == 2


# --- names of files -----------------------------------------------------------------------------


def test_conda_and_pip() -> None:
    site = "/opt/conda/lib/python3.12/site-packages"
    files: Files = {
        "/opt/conda/conda-meta/numpy-base-1.26.4-py312he1a6c75_0.json": b"not read",
        "/opt/conda/conda-meta/history": b"",
        "/opt/conda/conda-meta/odd.json": b"",
        f"{site}/numpy-1.26.4.dist-info/METADATA": b"",
        f"{site}/numpy-1.26.4.dist-info/RECORD": b"",
        f"{site}/typing_extensions-4.9.0.dist-info/METADATA": b"",
        f"{site}/old-0.1-py3.12.egg-info/PKG-INFO": b"",
        f"{site}/older-0.2-py3.12.egg-info": b"",
        f"{site}/plain.egg-info/PKG-INFO": b"",
        "/proc/1/x-1.dist-info/METADATA": b"",
    }
    assert sorted(pairs(files)) == [
        ("numpy", "1.26.4", "pip"),
        ("numpy-base", "1.26.4", "conda"),
        ("old", "0.1", "pip"),
        ("older", "0.2", "pip"),
        ("plain", "", "pip"),
        ("typing_extensions", "4.9.0", "pip"),
    ]


def test_pip_of_this_test() -> None:
    """The environment that runs this test, against Python's own reading of it."""
    from importlib import metadata

    directory = os.path.dirname(os.path.dirname(pytest.__file__))
    found = {(n.lower().replace("-", "_"), v) for n, v, m in pairs(directory) if m == "pip"}
    for name in ("pytest", "pluggy"):
        assert (name, metadata.version(name)) in found


def installed(name: str, **more: Any) -> dict[str, Any]:
    return {"spec": {"name": name, "version": "1.3"}, "installed": True, **more}


def test_spack() -> None:
    tree = "/opt/software/linux-zen4"
    index = {
        "database": {
            "version": "8",
            "installs": {
                "a": installed("zlib"),
                "b": installed("gone", installed=False),
                "c": {"spec": {"name": "gcc", "version": "13", "external": {"path": "/usr"}}},
            },
        }
    }
    specs = {"x": {"name": "cmake", "version": "3.27"}}
    lock = json.dumps({"roots": [], "concrete_specs": specs})
    files: dict[str, bytes | str] = {
        f"{tree}/lammps-20240207-{HASH}/.spack/spec.json": b"",
        f"{tree}/lammps/.spack/spec.json": b"",
        "/opt/spack-environment/spack.lock": lock,
    }
    assert pairs(files) == [("lammps", "20240207", "spack")]
    files["/opt/software/.spack-db/index.json"] = json.dumps(index)
    assert sorted(pairs(files)) == [("lammps", "20240207", "spack"), ("zlib", "1.3", "spack")]
    assert pairs({"/e/spack.lock": lock}) == [("cmake", "3.27", "spack")]


# --- RPM ----------------------------------------------------------------------------------------

SPEC = """\
Name: probe{n}
Version: 1.{n}
Release: 2
{epoch}
Summary: A package made for a test
License: Apache-2.0
BuildArch: noarch
%description
{text}
%files
"""


@pytest.fixture(scope="module")
def rpm_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a database that rpm itself has filled."""
    if not (shutil.which("rpm") and shutil.which("rpmbuild")):
        pytest.skip("rpm and rpmbuild are not installed (Debian: rpm)")
    work = tmp_path_factory.mktemp("rpm")
    root = work / "root"
    root.mkdir()
    rpm = ["rpm", "--root", str(root), "--dbpath", rpmdb.DIRECTORIES[1]]
    subprocess.run([*rpm, "--initdb"], check=True, capture_output=True)
    if not (root / "var/lib/rpm/rpmdb.sqlite").exists():
        pytest.skip("this rpm makes no SQLite database")
    for n in range(12):
        spec = work / f"{n}.spec"
        epoch = "Epoch: 1" if n % 3 == 0 else ""
        spec.write_text(SPEC.format(n=n, epoch=epoch, text="x" * (n * 2500)))
        subprocess.run(
            ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {work}/top", str(spec)],
            check=True, capture_output=True,
        )  # fmt: skip
    files = [str(path) for path in (work / "top/RPMS").rglob("*.rpm")]
    subprocess.run([*rpm, "-i", "--nodeps", *files], check=True, capture_output=True)
    return root


def test_rpm(rpm_root: Path) -> None:
    asked = subprocess.run(
        ["rpm", "--root", str(rpm_root), "--dbpath", rpmdb.DIRECTORIES[1], "-qa", "--qf",
         "%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = pairs(str(rpm_root))
    assert sorted(f"{n} {v}" for n, v, _ in found) == sorted(asked.stdout.splitlines())
    assert len(found) == 12
    assert {manager for _, _, manager in found} == {"rpm"}


def test_rpm_in_its_new_place(rpm_root: Path) -> None:
    data = (rpm_root / "var/lib/rpm/rpmdb.sqlite").read_bytes()
    place = rpmdb.DIRECTORIES[0]
    files: Files = {f"{place}/rpmdb.sqlite": data, "/var/lib/rpm": Link("/usr/lib/sysimage/rpm")}
    assert len(pairs(files)) == 12


def test_mutated_rpm_databases(rpm_root: Path) -> None:
    chance = random.Random(2705)  # noqa: S311 - repeatable on purpose
    original = (rpm_root / "var/lib/rpm/rpmdb.sqlite").read_bytes()
    for _ in range(150):
        data = bytearray(original)
        for _ in range(chance.randrange(1, 200)):
            at = chance.randrange(len(data)) if chance.random() < 0.7 else chance.randrange(8192)
            data[at] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        packages, warnings = listed({"/var/lib/rpm/rpmdb.sqlite": bytes(data)})
        assert len(packages) < 1000
        assert len(warnings) <= 2


def header(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    body = b"".join(struct.pack(">IIII", *entry) for entry in entries)
    return struct.pack(">II", len(entries), len(data)) + body + data


@pytest.mark.parametrize(
    ("blob", "found"),
    [
        (header((1000, 6, 0, 1), (1001, 6, 2, 1), data=b"a\x001.0\0"), ("a", "1.0")),
        (header((1000, 6, 0, 1), data=b"a"), ("a", "")),
        (header((1000, 6, 0, 1), data=b"n" * 1000), ("n" * 256, "")),
        (header((1000, 6, 2**32 - 1, 2**32 - 1), data=b"a\0"), None),
        (header((1000, 7, 0, 1), data=b"a\0"), None),
        (header((1003, 4, 0, 1), data=b"\0\0\0\1"), None),
        (struct.pack(">II", 2**32 - 1, 2**32 - 1) + b"x" * 1000, None),
        (b"", None),
        (b"\0" * 7, None),
        (b"\0" * 8, None),
    ],
)
def test_headers(blob: bytes, found: tuple[str, str] | None) -> None:
    assert rpmdb.package(blob) == found


@pytest.mark.parametrize("name", ["Packages", "Packages.db"])
def test_older_databases_are_said_not_to_be_read(name: str) -> None:
    packages, warnings = listed({f"/var/lib/rpm/{name}": b"\0" * 4096})
    assert packages == []
    assert f"/var/lib/rpm/{name} has a format from before RPM 4.16" in warnings[0]


def test_keys_are_no_packages(tmp_path: Path) -> None:
    names = (b"bash", b"gpg-pubkey", b"zlib")
    rows = [(n, header((1000, 6, 0, 1), data=name + b"\0")) for n, name in enumerate(names)]
    files: Files = {"/var/lib/rpm/rpmdb.sqlite": database(tmp_path, 4096, rows)}
    assert pairs(files) == [("bash", "", "rpm"), ("zlib", "", "rpm")]


def test_a_journal_is_said_not_to_be_seen() -> None:
    path = "/var/lib/rpm/rpmdb.sqlite"
    _, warnings = listed({path: b"", f"{path}-wal": b"x"})
    assert "has changes in a journal" in warnings[0]
    assert "it is no SQLite database" in warnings[1]


# --- SQLite -------------------------------------------------------------------------------------


def database(tmp_path: Path, page: int, rows: list[tuple[int, bytes]], *more: str) -> bytes:
    path = tmp_path / f"{page}-{len(rows)}.sqlite"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size={page}")
    connection.execute("CREATE TABLE other (a)")
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
    for statement in more:
        connection.execute(statement)
    connection.executemany("INSERT INTO Packages VALUES (?, ?)", rows)
    connection.commit()
    connection.close()
    return path.read_bytes()


def rows_of(data: bytes, table: str = "Packages") -> list[list[sqlitefile.Value]]:
    return list(sqlitefile.Database(lambda at, n: data[at : at + n], len(data)).rows(table, 9))


@pytest.mark.parametrize("page", [512, 1024, 4096, 65536])
def test_rows_are_those_of_sqlite(tmp_path: Path, page: int) -> None:
    """Every way a row can lie: in its page, at the edge of it, and over many pages."""
    chance = random.Random(page)  # noqa: S311 - repeatable on purpose
    sizes = [*range(40), *range(page - 60, page + 20), 5 * page, 70_000, 200_000]
    rows = [(n * n - 5, chance.randbytes(size)) for n, size in enumerate(sizes)]
    data = database(tmp_path, page, rows)
    found = rows_of(data)
    assert len(found) == len(rows)
    for (_, blob), columns in zip(rows, found, strict=True):
        assert len(columns) == 2
        assert columns[0] is None
        assert isinstance(columns[1], bytes)
        assert blob.startswith(columns[1])
        assert len(columns[1]) == len(blob) or len(columns[1]) > sqlitefile.MAX_PAYLOAD - 20


def test_many_rows(tmp_path: Path) -> None:
    rows = [(n, str(n).encode() * 20) for n in range(1, 20_000)]
    found = rows_of(database(tmp_path, 512, rows))
    assert [columns[1] for columns in found] == [blob for _, blob in rows]


def test_integers(tmp_path: Path) -> None:
    numbers = [0, 1, -1, 127, -128, 2**15, -(2**23), 2**31, -(2**47), 2**63 - 1, -(2**63)]
    data = database(
        tmp_path,
        4096,
        [],
        *(f"INSERT INTO other VALUES ({n})" for n in [*numbers, "NULL", "1.5"]),  # noqa: S608
    )
    assert [columns[0] for columns in rows_of(data, "other")] == [*numbers, None, None]


def test_what_sqlite_would_run_is_not_run(tmp_path: Path) -> None:
    """A view in the place of the table, and a column that is a billion zeros."""
    for statement in (
        "CREATE VIEW Packages AS SELECT 1, zeroblob(1000000000)",
        "CREATE TABLE Packages (hnum, blob AS (zeroblob(1000000000)))",
    ):
        path = tmp_path / "bomb.sqlite"
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path)
        connection.execute(statement)
        if "TABLE" in statement:
            connection.execute("INSERT INTO Packages (hnum) VALUES (1)")
        connection.commit()
        connection.close()
        packages, _ = listed({"/var/lib/rpm/rpmdb.sqlite": path.read_bytes()})
        assert packages == []


@pytest.mark.parametrize(
    "change", [(16, b"\0\0"), (16, b"\x03\xe8"), (20, b"\xff"), (0, b"sqlite"), (100, b"\x07")]
)
def test_damaged_headers(tmp_path: Path, change: tuple[int, bytes]) -> None:
    data = bytearray(database(tmp_path, 512, []))
    at, new = change
    data[at : at + len(new)] = new
    with pytest.raises(sqlitefile.DamagedError):
        rows_of(bytes(data))


def test_a_loop_of_pages_ends(tmp_path: Path) -> None:
    data = bytearray(database(tmp_path, 512, [(n, b"x" * 100) for n in range(200)]))
    for number in range(1, len(data) // 512):
        if data[number * 512] == 5:  # an interior page: let it be its own last child
            data[number * 512 + 8 : number * 512 + 12] = struct.pack(">I", number + 1)
    with pytest.raises(sqlitefile.DamagedError, match="no tree"):
        rows_of(bytes(data))


def test_rows_that_overlap_cost_little() -> None:
    """Every cell of a page is the same row, of as many columns as it has bytes."""
    columns: list[bytes | int] = [b"table", b"Packages", b"Packages", 2]
    types = b"".join(bytes([13 + 2 * len(c)]) if isinstance(c, bytes) else b"\1" for c in columns)
    values = b"".join(c if isinstance(c, bytes) else bytes([c]) for c in columns)
    row = bytes([len(types) + 1]) + types + values
    page, cells = 65536, 20_000
    first = bytearray(page)
    first[:16], first[16:18] = sqlitefile.MAGIC, b"\0\1"
    at = page - len(row) - 2
    first[at:] = bytes([len(row), 1]) + row
    first[100], first[103:105], first[108:110] = 13, b"\0\1", struct.pack(">H", at)
    second = bytearray(page)
    second[0], second[3:5] = 13, struct.pack(">H", cells)
    at = 8 + 2 * cells
    size = page - at - 16
    varint = bytes([0x80 | size >> 14, 0x80 | size >> 7 & 127, size & 127])
    second[at : at + 7] = varint + b"\1" + varint
    second[8:at] = struct.pack(">H", at) * cells
    started = time.monotonic()
    found = 0
    data = bytes(first + second)
    database = sqlitefile.Database(lambda at, n: data[at : at + n], len(data))
    for columns_ in database.rows("Packages", 2):
        assert columns_ == [None, None]
        found += 1
    assert found == cells
    assert time.monotonic() - started < 5  # 40 s if all columns are taken apart
    budget = Budget(1 << 30, 1000, 60.0, deep=True)
    tree = MemoryTree({"/var/lib/rpm/rpmdb.sqlite": data}, budget)
    assert list(rpmdb.packages(tree)) == []
    assert "was read in part only" in tree.warnings[0]
    assert not tree.whole


def test_bytes_of_rows_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = database(tmp_path, 65536, [(n, b"x" * 20_000) for n in range(9)])
    monkeypatch.setattr(sqlitefile, "MAX_READ", len(data) + 5 * 20_000)
    with pytest.raises(sqlitefile.DamagedError, match="too much of it"):
        rows_of(data)


def test_entries_of_a_header_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpmdb, "MAX_TAGS", 3)
    before = [(62, 7, 0, 16), (63, 7, 0, 16)]
    assert rpmdb.package(header(*before, (1000, 6, 0, 1), data=b"a\0")) == ("a", "")
    assert rpmdb.package(header(*before, (64, 7, 0, 16), (1000, 6, 0, 1), data=b"a\0")) is None


# --- SBOM ---------------------------------------------------------------------------------------

SPDX = {
    "spdxVersion": "SPDX-2.3",
    "files": [{"fileName": "packages", "packages": [{"name": "no"}]}],
    "packages": [
        {"name": "openssl", "SPDXID": "SPDXRef-1", "versionInfo": "3.0.2"},
        {"name": "noversion", "versionInfo": "NOASSERTION"},
        {"SPDXID": "nameless"},
        7,
    ],
    "relationships": [{"spdxElementId": "x"}],
}
CYCLONEDX = {
    "bomFormat": "CycloneDX",
    "metadata": {"component": {"name": "the image"}, "components": [{"name": "no"}]},
    "components": [
        {"type": "library", "name": "musl", "version": "1.2.4"},
        {"name": "core", "group": "@angular"},
    ],
}
SYFT = {"artifacts": [{"id": "1", "name": "bash", "version": "5.2", "type": "deb"}], "schema": {}}


@pytest.mark.parametrize(
    ("document", "kind", "found"),
    [
        (SPDX, "SPDX", [("openssl", "3.0.2"), ("noversion", "")]),
        (CYCLONEDX, "CycloneDX", [("musl", "1.2.4"), ("@angular/core", "")]),
        (SYFT, "Syft", [("bash", "5.2")]),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_sbom(
    document: dict[str, Any], kind: str, found: list[tuple[str, str]], indent: int | None
) -> None:
    packages, warnings = listed(None, json.dumps(document, indent=indent).encode())
    assert [package[:2] for package in packages] == found
    assert {package.manager for package in packages} == {"sbom"}
    assert {package.source for package in packages} == {f"{kind}, SIF descriptor 4"}
    assert warnings == []


def test_two_objects_and_one_that_is_not_understood() -> None:
    packages, warnings = listed(
        None, json.dumps(SYFT).encode(), b"SPDXVersion: SPDX-2.3", json.dumps(CYCLONEDX).encode()
    )
    assert [package.name for package in packages] == ["bash", "musl", "@angular/core"]
    assert len(warnings) == 1
    assert "the SBOM in SIF descriptor 5 lists no packages" in warnings[0]


# --- JSON piece by piece ------------------------------------------------------------------------


def scanned(document: Any, *wanted: tuple[str, ...], raw: bytes = b"") -> Iterator[Any]:
    data = raw or json.dumps(document).encode()
    return jsonscan.values(lambda at, n: data[at : at + n], len(data), set(wanted))


def test_scanning_finds_what_loading_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random documents, in chunks so small that each token is cut somewhere."""
    chance = random.Random(2706)  # noqa: S311 - repeatable on purpose
    texts = ["a", "b", "", '"', "\\", '\\"', "{", "]", "é", "a\n", ":"]

    def some(depth: int) -> Any:
        kind = chance.randrange(5 if depth < 4 else 2)
        if kind < 2:
            return chance.choice([*texts, True, None])
        if kind == 2:
            return [some(depth + 1) for _ in range(chance.randrange(4))]
        return {chance.choice(texts): some(depth + 1) for _ in range(chance.randrange(4))}

    for _ in range(1500):
        document = {"b": some(0), "a": some(0), "é": {"b": some(0), "a": some(0)}}
        expected: list[Any] = []
        for path in (("a",), ("é", "b")):
            inner = document
            for name in path:
                inner = inner[name]
            members = inner.values() if isinstance(inner, dict) else inner
            if isinstance(inner, dict | list):
                expected += [(path, m) for m in members if isinstance(m, dict | list)]
        monkeypatch.setattr(jsonscan, "CHUNK", chance.choice([1, 2, 3, 7, 50, 10_000]))
        assert list(scanned(document, ("a",), ("é", "b"))) == sorted(
            expected, key=lambda one: len(one[0])
        )


def test_a_member_that_is_too_large_is_left_out() -> None:
    small, large = {"name": "small"}, {"name": "large", "pad": ["x" * 1000] * 2000}
    document = {"packages": [small, large, small, large, small]}
    assert [value["name"] for _, value in scanned(document, ("packages",))] == ["small"] * 3


def test_only_so_many_members_are_yielded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonscan, "MAX_VALUES", 3)
    assert len(list(scanned({"a": [[]] * 5}, ("a",)))) == 3


def test_numbers_stay_text() -> None:
    raw = b'{"a": [{"n": ' + b"9" * 100_000 + b', "f": 1e999, "i": -Infinity}]}'
    ((_, value),) = scanned(None, ("a",), raw=raw)
    assert len(value["n"]) == 40


def hostile_lists() -> list[tuple[str, bytes]]:
    many = "".join(
        f"Package: p{n}\nStatus: install ok installed\nVersion: {n}\n\n" for n in range(60_000)
    )
    fat = "".join(f"P:{chr(0x1F4A3) * 180}{n}\nV:{'v' * 300}\n\n" for n in range(30_000))
    escapes = b'{"name": "' + b"\\n" * 60_000 + b'"},'
    return [
        (software.STATUS, many.encode()),
        (software.STATUS, b"Package: " + b"x" * 30 * MIB),
        (places.APK[0], fat.encode()),
        ("/a/.spack-db/index.json", b'{"database": {"installs": [' + escapes * 3 + b"[" * 4 * MIB),
        ("/a/.spack-db/index.json", b'{"database": {"installs": [' + b"[]," * MIB),
        ("/a/.spack-db/index.json", b'{"database": {"installs": [{"' + b"\\" * 9 * MIB),
        ("/a/.spack-db/index.json", b'{"database": {"installs": [[' + b"[[],[]]," * (MIB // 2)),
        ("/a/spack.lock", b'{"concrete_specs": {"' + b'a":{"' * MIB),
    ]


@pytest.mark.parametrize("number", range(8))
def test_hostile_lists_cost_little(tmp_path: Path, number: int) -> None:
    """What a process takes in all, in memory and time, to list what was made to hurt."""
    path, data = hostile_lists()[number]
    file = tmp_path / path[1:]
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    kilobytes = peak(
        "from slurm_cmeta.evidence import software\n"
        f"software.software(StandIn({str(tmp_path)!r}, deep=True))\n"
    )
    assert kilobytes < 64 * 1024


def test_only_so_many_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "MAX_PACKAGES", 1)
    packages, warnings = listed({places.APK[0]: APK_DB})
    assert [package.name for package in packages] == ["musl"]
    assert warnings == ["only 1 packages of the image are listed: it has more"]


def test_only_when_deep_and_each_once() -> None:
    assert software.software(StandIn({places.APK[0]: APK_DB})) == []
    assert len(pairs({places.APK[0]: APK_DB + APK_DB})) == 2
    one = "Package: a\nStatus: install ok installed\nVersion: 1\n"
    (package,), _ = listed({software.STATUS: one, f"{software.STATUS_PARTS}/a": one})
    assert package.source == software.STATUS


def test_mutated_lists() -> None:
    chance = random.Random(2707)  # noqa: S311 - repeatable on purpose
    sbom = json.dumps(SPDX).encode()
    for _ in range(300):
        pieces = []
        for original in (STATUS.encode(), APK_DB.encode(), sbom):
            data = bytearray(original)
            for _ in range(chance.randrange(1, 10)):
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            pieces.append(bytes(data))
        listed({software.STATUS: pieces[0], places.APK[0]: pieces[1]}, pieces[2])


def test_lists_of_owned_files_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = MemoryTree.entries

    def entries(tree: MemoryTree, path: str) -> Any:
        asked.append(path)
        return real(tree, path)

    monkeypatch.setattr(MemoryTree, "entries", entries)
    monkeypatch.setattr(MemoryTree, "find", _no_search(MemoryTree.find))
    lists: Files = {f"/var/lib/dpkg/info/p{n}.list": f"/usr/bin/p{n}\n/bin/p{n}" for n in range(50)}
    subject = StandIn({**lists, "/bin": Link("usr/bin"), "/usr/bin/p1": "x"}, deep=True)
    found = application.owned(subject)
    assert found == frozenset(f"/usr/bin/p{n}" for n in range(50))
    assert application.owned(subject) is found
    assert list(application.files(subject)) == []
    assert asked == ["/var/lib/dpkg/info"]
    assert application.owned(StandIn({"/a": "b"}, deep=True)) is None
    assert application.owned(StandIn(None, deep=True)) is None


def _no_search(real: Any) -> Any:
    def find(tree: MemoryTree, path: str, *, follow: bool = True) -> Any:
        assert not path.endswith(".list"), "a search of its own for each list"
        return real(tree, path, follow=follow)

    return find
