"""The line that the plugin writes of a submission which it refuses, called through cffi."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_spank_core import core, ffi, text

from slurm_cmeta.report.line import Decision, parse

__all__ = ["core"]

ANSWER = b"""cmeta 1
verdict mismatch
action reject
reason no-node arch=ppc64le; cuda>=12.4
identity 66305:12:4096:1700000000000000000
end
"""
EVIL = 'a"b\\c\n[2026-01-01T00:00:00] cmeta decision {"v":1}\x1b[2J\x7fü\u2028'


def line(core: Any, words: Mapping[str, str], answer: bytes = ANSWER, *, step: bool = False) -> str:
    parsed = ffi.new("struct cmeta_answer *")
    assert core.cmeta_answer_parse(ffi.new("char[]", answer), len(answer), parsed)
    kept = {key: ffi.new("char[]", value.encode()) for key, value in words.items()}
    refusal = ffi.new("struct cmeta_refusal *", {**kept, "answer": parsed, "ms": 12, "step": step})
    raw = core.cmeta_record_refusal(refusal)
    found = text(raw)
    core.free(raw)
    core.cmeta_answer_free(parsed)
    assert found
    assert found.isascii()
    assert found.isprintable()
    return found


def test_a_refusal_is_one_line_of_the_log(core: Any) -> None:
    words = {"name": "train", "partition": "gpu", "constraint": "ib", "image": "/i.sif"}
    found = line(core, words)
    assert found.startswith("cmeta decision {")
    value = json.loads(found.removeprefix("cmeta decision "))
    assert abs(value.pop("time") - time.time()) < 60
    assert value == {
        "v": 1,
        "event": "submit",
        "user": os.getuid(),
        "name": "train",
        "partition": "gpu",
        "image": "/i.sif",
        "identity": "66305:12:4096:1700000000000000000",
        "verdict": "mismatch",
        "reason": "no-node",
        "detail": "arch=ppc64le; cuda>=12.4",
        "before": "ib",
        "ms": 12,
        "from": "matcher",
        "refused": True,
    }
    parsed = parse(found.encode())
    assert isinstance(parsed, Decision)
    assert (parsed.reason, parsed.refused, parsed.event) == ("no-node", True, "submit")


def test_what_is_not_known_is_left_out(core: Any) -> None:
    bare = b"cmeta 1\nverdict unknown\naction reject\nend\n"
    value = json.loads(line(core, {}, bare, step=True).removeprefix("cmeta decision "))
    assert sorted(value) == ["event", "from", "ms", "refused", "time", "user", "v", "verdict"]
    assert value["event"] == "step"
    code_only = b"cmeta 1\nverdict unknown\naction reject\nreason no-evidence\nend\n"
    value = json.loads(line(core, {}, code_only).removeprefix("cmeta decision "))
    assert (value["reason"], "detail" in value) == ("no-evidence", False)


@pytest.mark.parametrize("key", ["name", "partition", "constraint", "image"])
def test_nothing_in_a_value_leaves_its_place(core: Any, key: str) -> None:
    value = json.loads(line(core, {key: EVIL}).removeprefix("cmeta decision "))
    shown = value["before" if key == "constraint" else key]
    assert shown.startswith('a"b\\c?[2026-01-01T00:00:00] cmeta decision {"v":1}?[2J??')


def test_a_line_is_bounded_whatever_is_in_it(core: Any) -> None:
    large = '"' * 100_000
    words = dict.fromkeys(("name", "partition", "constraint", "image"), large)
    answer = b"cmeta 1\nverdict unknown\naction reject\nreason a %s\nend\n" % (b'"' * 2000)
    assert len(line(core, words, answer)) < 8192 - 100


@pytest.mark.parametrize(("cached", "said"), [(True, "12 cache"), (False, "12 matcher")])
def test_the_time_says_where_the_answer_came_from(core: Any, cached: bool, said: str) -> None:
    raw = core.cmeta_record_took(12, cached)
    assert text(raw) == said
    core.free(raw)


def test_it_is_sent_as_one_datagram(core: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        assert core.cmeta_record_send(str(path).encode(), b"cmeta decision {}")
        found = server.recv(8192)
    assert found == b"<14>cmeta[%d]: cmeta decision {}" % os.getpid()


def test_a_log_that_nobody_reads_holds_nobody_up(core: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"

    def send(where: Path) -> bool:
        return bool(core.cmeta_record_send(str(where).encode(), b"x" * 4096))

    assert not send(path)
    assert not send(tmp_path / ("x" * 200))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        start = time.monotonic()
        assert not all(send(path) for _ in range(2000)), "the queue is full at some time"
        assert time.monotonic() - start < 2
