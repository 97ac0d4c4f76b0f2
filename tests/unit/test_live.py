"""What the controller says: sinfo's lines, sinfo's failures, and pyslurm where it fits.

tests/slurm/test_nodes.py has the real sinfo. pyslurm is a stand-in here: it cannot be built against
any release of Slurm that Debian has.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from slurm_cmeta.cluster import bypyslurm, live
from slurm_cmeta.errors import ClusterError


def told(output: str) -> list[tuple[object, ...]]:
    return [tuple(c) for c in live.parse(output).classes]


def test_a_node_in_two_partitions_is_counted_once() -> None:
    output = """\
n[1-3]|p|p*|idle|1000|(null)|a,b
n[2-4]|q|q|idle|1000|(null)|b,a
"""
    found = live.parse(output)
    assert [(c.nodes, c.node_count, c.partitions) for c in found.classes] == [
        ("n1", 1, ("p",)),
        ("n[2-3]", 2, ("p", "q")),
        ("n4", 1, ("q",)),
    ]
    assert found.default_partition == "p"
    assert not found.unlisted_nodes
    assert abs(time.time() - (found.time or 0)) < 10


def test_states_memory_and_gres_are_put_together() -> None:
    output = """\
n1|p|p|idle~|1000 16|gpu:a100:4(S:0)|a
n2|p|p|down*|2000 8|(null)|a
n[3-4]|p|p|IDLE|1500+ 32+|gpu:1|a
"""
    assert told(output) == [
        (
            *("n[1-4]", 4, ("a",), ("p",), (("idle", 3), ("down", 1))),
            *((1000, 2000), ("gpu:a100:4(S:0)", "", "gpu:1"), 8),
        )
    ]


@pytest.mark.parametrize("flag", ["", *"*~#!%$@^-+", "*~"])
def test_the_signs_of_a_state_are_no_part_of_its_name(flag: str) -> None:
    assert live.bare_state(f"drained{flag}") == "drained"


@pytest.mark.parametrize(
    ("features", "names"),
    [("(null)", ()), ("", ()), ("a", ("a",)), ("a,,b,a", ("a", "b")), ("a|b,c", ("a|b", "c"))],
)
def test_features_as_sinfo_prints_them(features: str, names: tuple[str, ...]) -> None:
    (found,) = live.parse(f"n1|p|p|idle|1|(null)|{features}\n").classes
    assert found.features == names


def test_an_empty_partition_is_a_partition() -> None:
    found = live.parse("|none|none|n/a|0|(null)|(null)\nn1|p|p*|idle|1|(null)|a\n")
    assert [p.name for p in found.partitions or ()] == ["none", "p"]
    assert [c.nodes for c in found.classes] == ["n1"]


@pytest.mark.parametrize("line", ["x", "n1|p|p|idle|1|(null)", "n[|p|p|idle|1|(null)|a", "\x1b[2J"])
def test_lines_of_another_form_are_refused(line: str) -> None:
    with pytest.raises(ClusterError) as error:
        live.parse(f"{line}\n")
    assert str(error.value).isprintable()


def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    path = tmp_path / "sinfo"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return path


ONE = "n1|p|p*|idle|1|(null)|a"


def test_a_hung_sinfo_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"sinfo gave no answer in 0\.5 seconds"):
        live.from_controller(0.5)
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_answer_that_is_there_is_read_after_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the image may take all of the time that both have."""
    sinfo(tmp_path, monkeypatch, f"echo '{ONE}'; touch {tmp_path}/done")
    question = live.Question()
    while not (tmp_path / "done").exists():
        time.sleep(0.01)
    assert question.answer(0).classes[0].nodes == "n1"
    question.cancel()


def test_a_question_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo(tmp_path, monkeypatch, "exec sleep 60")
    question = live.Question()
    question.cancel()
    assert question._process.poll() is not None


def test_the_users_environment_does_not_change_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinfo(tmp_path, monkeypatch, f"env > {tmp_path}/env; echo '{ONE}'")
    for name in ("SINFO_PARTITION", "SINFO_FORMAT", "SLURM_CLUSTERS", "SLURM_KEPT"):
        monkeypatch.setenv(name, "x")
    live.from_controller(slurm_conf="/some/slurm.conf")
    seen = (tmp_path / "env").read_text().splitlines()
    assert "SLURM_CONF=/some/slurm.conf" in seen
    assert [line for line in seen if line.endswith("=x")] == ["SLURM_KEPT=x"]


def test_sinfo_stands_beside_the_command_that_submits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sinfo(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(os, "readlink", lambda _: str(tmp_path / "sbatch"))
    assert live._program() == str(path)
    path.unlink()
    assert live._program() == "sinfo"
    with pytest.raises(ClusterError, match="sinfo is not in PATH"):
        live.from_controller()


# --- pyslurm ------------------------------------------------------------------------------------

NODE = SimpleNamespace(
    state="IDLE+CLOUD", real_memory=1000, configured_gres={"gpu:a100": 4}, available_features=["a"]
)
STAND_IN = SimpleNamespace(
    Nodes=SimpleNamespace(load=lambda: {"n1": NODE, "n2": NODE, "n3": NODE}),
    Partitions=SimpleNamespace(
        load=lambda: {
            "p": SimpleNamespace(nodes="n[1-2]", is_default=True),
            "q": SimpleNamespace(nodes="n[2-3]", is_default=False),
            "empty": SimpleNamespace(nodes=None, is_default=False),
        }
    ),
)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Install a pyslurm 24.11.0 beside the release that sinfo is said to have; list the imports."""
    imported: list[str] = []
    real = importlib.import_module

    def import_module(name: str) -> object:
        if name != "pyslurm":
            return real(name)
        imported.append(name)
        return STAND_IN

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setattr(metadata, "version", lambda _: "24.11.0")
    return imported


def test_pyslurm_is_asked_where_its_release_is_the_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str]
) -> None:
    sinfo(
        tmp_path, monkeypatch, f'[ "$1" = --version ] && exec echo slurm-wlm 24.11.5\necho {ONE!r}'
    )
    found = live.from_controller(pyslurm=True)
    assert installed == ["pyslurm"]
    assert found.source == "pyslurm"
    assert [tuple(c) for c in found.classes] == [
        ("n1", 1, ("a",), ("p",), (("idle", 1),), (1000, 1000), ("gpu:a100:4",), None),
        ("n2", 1, ("a",), ("p", "q"), (("idle", 1),), (1000, 1000), ("gpu:a100:4",), None),
        ("n3", 1, ("a",), ("q",), (("idle", 1),), (1000, 1000), ("gpu:a100:4",), None),
    ]
    assert found.default_partition == "p"


@pytest.mark.parametrize("release", ["slurm 25.11.2", "slurm-wlm 22.05.8", "x", "24"])
def test_pyslurm_of_another_release_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str], release: str
) -> None:
    sinfo(tmp_path, monkeypatch, f'[ "$1" = --version ] && exec echo {release!r}\necho {ONE!r}')
    assert live.from_controller(pyslurm=True).source == "sinfo"
    assert installed == []


def test_a_pyslurm_that_fails_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str]
) -> None:
    sinfo(tmp_path, monkeypatch, f'[ "$1" = --version ] && exec echo slurm 24.11.0\necho {ONE!r}')
    monkeypatch.setattr(STAND_IN.Partitions, "load", dict)
    assert live.from_controller(pyslurm=True).source == "sinfo"
    monkeypatch.setattr(STAND_IN.Partitions, "load", lambda: 1 / 0)
    assert live.from_controller(pyslurm=True).source == "sinfo"
    assert installed == ["pyslurm", "pyslurm"]


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("slurm-wlm 24.11.5", (24, 11)),
        ("slurm 22.05.8", (22, 5)),
        ("22.5.3", (22, 5)),
        ("25.11.2", (25, 11)),
        ("none", None),
    ],
)
def test_releases_are_compared_by_their_first_two_numbers(
    text: str, release: tuple[int, int] | None
) -> None:
    assert bypyslurm._release(text) == release


def test_without_pyslurm_sinfo_is_not_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "pyslurm" in sys.modules:
        pytest.skip("there is a pyslurm here")
    sinfo(tmp_path, monkeypatch, f"echo x >> {tmp_path}/calls; echo '{ONE}'")
    assert live.from_controller(pyslurm=True).source == "sinfo"
    assert (tmp_path / "calls").read_text() == "x\n"
