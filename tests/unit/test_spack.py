"""Targets that Spack built for. The samples are written after Spack's documentation and source."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from standins import Files, Link, StandIn, check, peak

from slurm_cmeta.evidence import spack
from slurm_cmeta.facts import DECLARED, Fact

HASH = "a2b3c4d5e6f7a2b3c4d5e6f7a2b3c4d5"


def node(target: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": "zlib",
        "version": "1.3",
        "arch": {"platform": "linux", "platform_os": "ubuntu24.04", "target": target},
        **more,
    }


def lock(*nodes: Any) -> str:
    specs = {f"{number:032d}": one for number, one in enumerate(nodes)}
    roots = [{"hash": key, "spec": "zlib"} for key in specs]
    return json.dumps({"_meta": {"lockfile-version": 6}, "roots": roots, "concrete_specs": specs})


def long_target(name: str) -> dict[str, Any]:
    """A target as Spack writes it: with the features that archspec knows of it."""
    return {"name": name, "vendor": "AuthenticAMD", "features": ["avx2", "avx512f"], "parents": []}


def spec(target: Any) -> str:
    built_with = node("x86_64_v2")
    return json.dumps({"spec": {"_meta": {"version": 4}, "nodes": [node(target), built_with]}})


def targets(files: Files, family: str | None = "x86_64") -> tuple[list[str], list[str]]:
    subject = StandIn(files, family=family)
    facts = spack.targets(subject)
    check(facts, subject.warnings)
    assert all(f.key == "cpu" and f.evidence == DECLARED and not f.hint for f in facts)
    return [fact.value for fact in facts], list(subject.warnings)


UBUNTU = "/opt/software/linux-ubuntu24.04-zen4/gcc-13.2.0/lmp-1-" + HASH


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),
        ({"/opt/spack-environment/spack.yaml": "spack:\n"}, []),
        ({spack.LOCK: lock(node("zen4"))}, ["zen4"]),
        ({spack.LOCK: lock(node(long_target("zen4")))}, ["zen4"]),
        ({spack.LOCK: lock({"zlib": {"version": "1", "arch": {"target": "zen2"}}})}, ["zen2"]),
        ({spack.LOCK: lock(node("zen4"), node("x86_64_v3"), node("zen4"))}, ["zen4", "x86_64_v3"]),
        ({spack.LOCK: lock(node("x86_64"))}, []),
        ({spack.LOCK: lock(node("icelake", external={"path": "/usr"}))}, []),
        ({spack.LOCK: lock(node(None), node([5]), node({}), 7, [], {}, node("zen3"))}, ["zen3"]),
        ({spack.LOCK: "{"}, []),
        ({spack.LOCK: b"\xff" * 100}, []),
        ({spack.LOCK: "[" * 100_000}, []),
        ({spack.LOCK: '{"concrete_specs": []}'}, []),
        ({spack.LOCK: "9" * 500_000}, []),
        ({UBUNTU + "/bin/lmp": b""}, ["zen4"]),
        ({"/opt/software/linux-x86_64_v3/zlib-1-" + HASH + "/lib/z": b""}, ["x86_64_v3"]),
        ({"/spack/opt/spack/linux-ubuntu20.04-skylake_avx512/gcc/x": b""}, ["skylake_avx512"]),
        ({"/opt/spack/opt/spack/linux-zen3/x": b""}, ["zen3"]),
        ({"/opt/software/linux-zen4": b""}, []),
        ({f"/opt/software/zlib-{HASH}/.spack/spec.json": spec("haswell")}, ["haswell"]),
        ({f"/opt/software/zlib-{HASH}/.spack/spec.json": "[" * 99_999}, []),
        (
            {
                "/opt/software/zlib/.spack/spec.json": json.dumps(
                    {"spec": [{"zlib": {"arch": {"target": "broadwell"}}}]}
                )
            },
            ["broadwell"],
        ),
        (
            {"/opt/views/view/bin/lmp": Link(UBUNTU + "/bin/lmp"), UBUNTU + "/bin/lmp": b""},
            ["zen4"],
        ),
        (
            {
                "/opt/view": Link("/opt/._view/xyz"),
                "/opt/._view/xyz/bin/lmp": Link("/deep/root/linux-zen5/lmp/bin/lmp"),
                "/deep/root/linux-zen5/lmp/bin/lmp": b"",
            },
            ["zen5"],
        ),
        (
            {
                "/opt/view/bin/lmp": Link("/deep/lmp/bin/lmp"),
                "/deep/lmp/bin/lmp": b"",
                "/deep/lmp/.spack/spec.json": spec("cascadelake"),
            },
            ["cascadelake"],
        ),
        ({"/opt/view/bin/sh": Link("/opt/view/bin/sh")}, []),
    ],
)
def test_targets(files: Files, expected: list[str]) -> None:
    assert targets(files) == (expected, [])


def test_spec_files_are_read_only_where_directories_do_not_tell() -> None:
    files: Files = {
        "/opt/software/linux-zen4/zlib/lib/libz.so": b"",
        f"/opt/software/zlib-{HASH}/.spack/spec.json": spec("haswell"),
    }
    assert targets(files) == (["zen4"], [])


def test_the_source_says_the_file() -> None:
    subject = StandIn({spack.LOCK: lock(node("zen4")), UBUNTU + "/bin/lmp": b""})
    assert spack.targets(subject) == [
        Fact("cpu", "zen4", f"Spack target in {spack.LOCK}", DECLARED, False)
    ]


def test_names_are_archspecs() -> None:
    assert targets({spack.LOCK: lock(node("skylake-avx512"))}) == (["skylake_avx512"], [])


def test_another_family_and_unknown_names_are_ignored() -> None:
    files = {spack.LOCK: lock(node("neoverse_v1"), node("zen4"), node("k\x1b[31m"))}
    found, warnings = targets(files)
    assert found == ["zen4"]
    assert len(warnings) == 2
    assert "neoverse_v1, a CPU of architecture aarch64, but the image is for x86_64" in warnings[0]
    assert "k\\x1b[31m, which is no CPU known here: ignored" in warnings[1]
    assert targets({spack.LOCK: lock(node("neoverse_v1"))}, None) == (["neoverse_v1"], [])
    assert targets({spack.LOCK: lock(node("neoverse_v1"))}, "aarch64") == (["neoverse_v1"], [])


def test_without_a_tree() -> None:
    assert spack.targets(StandIn()) == []


def test_a_large_lock_file_and_one_that_is_too_large() -> None:
    nodes = [node(long_target("zen4"), pad="x" * 4000) for _ in range(300)]
    text = lock(*nodes, node("x86_64_v3"))
    assert spack.MAX_LOCK < len(text) < spack.MAX_LARGE_LOCK
    assert targets({spack.LOCK: text}) == (["zen4", "x86_64_v3"], [])
    found, warnings = targets({spack.LOCK: b" " * (spack.MAX_LARGE_LOCK + 1)})
    assert found == []
    assert "too much to look for Spack targets" in warnings[0]


def test_only_so_much_is_looked_at() -> None:
    """A view with many links and a tree with many directories cost a bounded number of look-ups."""
    files: dict[str, bytes | str] = {}
    for number in range(3000):
        files[f"/opt/view/bin/p{number}"] = Link(f"/deep/{number}/bin/p")
        files[f"/deep/{number}/bin/p"] = b""
        files[f"/opt/software/x{number}/.spack/spec.json"] = spec("zen4")
    subject = StandIn(files)
    assert subject.tree is not None
    before = subject.tree.budget.operations
    assert [fact.value for fact in spack.targets(subject)] == ["zen4"]
    assert before - subject.tree.budget.operations < 400
    assert subject.warnings == []


def hostile_locks() -> list[str]:
    begin = '{"concrete_specs": {"a": '
    return [
        '{"concrete_specs": {' + ",".join(f'"{n}": [[],[]]' for n in range(110_000)),
        '{"concrete_specs": {' + ",".join(f'"{n}": [[],[]]' for n in range(50_000)) + "}}",
        begin + '{"b":' * 380_000,
        begin + "[]," * 680_000,
        begin + '"' + "\\" * 2_000_000,
        begin + '{"arch": {"target": "' + "x" * 2_000_000 + '"}}}}',
        '"' * 2_000_000,
        "[" * 2_000_000,
        "[" * 1_000_000,
    ]


@pytest.mark.parametrize("number", range(9))
def test_hostile_lock_files_cost_little(tmp_path: Path, number: int) -> None:
    """What a process takes in all, in memory and time, to find no target."""
    file = tmp_path / spack.LOCK[1:]
    file.parent.mkdir(parents=True)
    file.write_text(hostile_locks()[number])
    kilobytes = peak(
        "from slurm_cmeta.evidence import spack\n"
        f"assert spack.targets(StandIn({str(tmp_path)!r})) == []\n"
    )
    assert kilobytes < 44 * 1024


def test_mutated_files() -> None:
    chance = random.Random(2704)  # noqa: S311 - repeatable on purpose
    originals = {
        spack.LOCK: lock(node("zen4"), node(long_target("x86_64_v3"))).encode(),
        "/opt/software/zlib/.spack/spec.json": spec("haswell").encode(),
    }
    for _ in range(600):
        files: dict[str, bytes | str] = {}
        for path, original in originals.items():
            data = bytearray(original)
            for _ in range(chance.randrange(1, 8)):
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            files[path] = bytes(data)
        targets(files)
