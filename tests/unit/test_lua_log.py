"""lua/cmeta_log.lua in every Lua from 5.1 to 5.4: one line for each decision, whatever is in it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from test_lua import IMAGE, INTERPRETERS, MATCHED, ensure

from slurm_cmeta.report.line import parse

EVIL = 'a"b\\c\n[2026-01-01T00:00:00] cmeta decision {"v":1}\x1b[2J\x7f\x9bü\u2028'
JOB = (IMAGE, "user_id=1000", "name=train", "partition=gpu")
HANDED = (
    "env:CMETA_CONSTRAINT=ib&zen4",
    "env:CMETA_BEFORE=ib",
    "env:CMETA_REASON=narrowed cpu>=zen4; cuda>=12.4",
    "env:CMETA_IDENTITY=66305:12:4096:1700000000000000000",
    "env:CMETA_TOOK=12 cache",
)


@pytest.fixture(params=INTERPRETERS)
def lua(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def logged(lua: str, *words: str, on_missing: str = "accept") -> dict[str, Any]:
    answer = ensure(lua, *words, on_missing=on_missing)
    line = answer["decision"]
    assert line.isascii()
    assert line.isprintable()
    found: dict[str, Any] = json.loads(line)
    assert parse(f"cmeta decision {line}".encode()) is not None
    assert abs(found.pop("time") - time.time()) < 60
    assert found.pop("v") == 1
    return found


def test_a_decision_that_the_client_carried_out(lua: str) -> None:
    assert logged(lua, *JOB, MATCHED, *HANDED, "features=ib&zen4") == {
        "event": "submit",
        "user": 1000,
        "name": "train",
        "partition": "gpu",
        "image": "/images/img.sif",
        "identity": "66305:12:4096:1700000000000000000",
        "verdict": "match",
        "reason": "narrowed",
        "detail": "cpu>=zen4; cuda>=12.4",
        "before": "ib",
        "after": "ib&zen4",
        "exclude": "",
        "ms": 12,
        "from": "cache",
        "refused": False,
    }


def test_a_decision_that_is_carried_out_here(lua: str) -> None:
    found = logged(lua, *JOB, MATCHED, *HANDED, "features=ib")
    assert (found["before"], found["after"]) == ("ib", "ib&zen4")
    found = logged(lua, *JOB, MATCHED, "env:CMETA_CONSTRAINT=zen4", "env:CMETA_BEFORE=forged")
    assert (found["before"], found["after"]) == ("", "zen4")
    found = logged(lua, *JOB, MATCHED, "env:CMETA_EXCLUDE=n[1-2]", "features=a*2")
    assert (found["before"], found["after"], found["exclude"]) == ("a*2", "a*2", "n[1-2]")


@pytest.mark.parametrize(
    ("handed", "verdict"),
    [
        (("env:CMETA_VERDICT=mismatch", "env:CMETA_REASON=no-node arch=ppc64le"), "mismatch"),
        (("env:CMETA_VERDICT=unknown", "env:CMETA_REASON=no-evidence"), "unknown"),
        (("env:CMETA_VERDICT=unknown", "env:CMETA_REASON=fault /i: does not exist"), "fault"),
        (("env:CMETA_VERDICT=fault", "env:CMETA_REASON=fault x did not answer in time"), "fault"),
        (("env:CMETA_VERDICT=off",), "off"),
        (("env:CMETA_VERDICT=forged",), "invalid"),
        ((), "missing"),
    ],
)
def test_every_verdict(lua: str, handed: tuple[str, ...], verdict: str) -> None:
    found = logged(lua, *JOB, *handed)
    assert (found["verdict"], found["refused"]) == (verdict, False)


def test_a_job_that_the_site_refuses(lua: str) -> None:
    found = logged(lua, *JOB, on_missing="reject")
    assert (found["verdict"], found["refused"]) == ("missing", True)


def test_an_update_that_gets_more_than_it_asks_for(lua: str) -> None:
    record = [f"record:{IMAGE}", "record:admin_comment=cmeta requires zen4"]
    record += ["record:job_id=17", "record:user_id=1000", "record:name=train"]
    assert logged(lua, *record, "features=ib") == {
        "event": "update",
        "user": 1000,
        "job": 17,
        "name": "train",
        "partition": "",
        "image": "/images/img.sif",
        "before": "ib",
        "after": "ib&zen4",
        "refused": False,
    }
    assert "decision" not in ensure(lua, *record, "features=ib&zen4")
    assert "decision" not in ensure(lua, *record, "features=ib", "option:log=none")


def test_a_job_without_container_is_not_logged(lua: str) -> None:
    assert "decision" not in ensure(lua, MATCHED, "env:CMETA_CONSTRAINT=zen4")


def test_the_log_can_be_switched_off(lua: str) -> None:
    assert "decision" not in ensure(lua, *JOB, MATCHED, *HANDED, "option:log=none")


@pytest.mark.parametrize(
    "word",
    [
        *(f"{field}={EVIL}" for field in ("container", "name", "partition", "features", "user_id")),
        *(
            f"env:CMETA_{name}={EVIL}"
            for name in ("VERDICT", "REASON", "IDENTITY", "TOOK", "BEFORE", "EXCLUDE")
        ),
        f"env:CMETA_REASON=fault {EVIL}",
        "env:CMETA_TOOK=99999999999999999999 cache",
        "env:CMETA_TOOK=nan cache",
        "user_id=nan",
    ],
)
def test_nothing_in_a_value_leaves_its_place(lua: str, word: str) -> None:
    found = logged(lua, *JOB, MATCHED, *HANDED, word)
    usual = logged(lua, *JOB, MATCHED, *HANDED)
    changed = {key for key in usual if found[key] != usual[key]}
    assert found.keys() == usual.keys()
    assert len(changed) <= 3  # `verdict`, `reason` and `detail` come from one word
    assert not changed & {"event", "refused"}


def test_a_line_is_bounded_whatever_is_in_it(lua: str) -> None:
    large = '"' * 100_000
    fields = ("container", "name", "partition", "features")
    handed = ("VERDICT", "REASON", "IDENTITY", "TOOK", "BEFORE", "EXCLUDE", "CONSTRAINT")
    words = [f"{f}={large}" for f in fields] + [f"env:CMETA_{n}={large}" for n in handed]
    answer = ensure(lua, *words)
    assert len(answer["decision"]) < 8192 - 100
