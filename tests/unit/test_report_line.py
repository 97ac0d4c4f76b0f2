"""One line of a log, in every form that slurmctld, syslog and the journal give it."""

from __future__ import annotations

import json

import pytest
from report_lines import BASE, FAULT, MATCH, MISMATCH, said

from slurm_cmeta.report.line import BROKEN, ERROR, IGNORED, Decision, cursor, parse

PREFIXES = [
    "",
    "lua: ",
    "[2026-11-28T06:14:44.077] lua: ",  # iso8601_ms, the default
    "[2026-11-28T06:14:44] lua: ",  # iso8601
    "[2026-11-28T06:14:44.077+00:00] lua: ",  # rfc5424_ms
    "[2026-11-28T06:14:44Z] lua: ",  # rfc3339
    "[123456789] lua: ",  # clock
    "[Nov 28 06:14:44] lua: ",  # short
    "[Nov 28 06:14:44.077123 4711 0x7f3a10dff700 srvcn] lua: ",  # thread_id
    "[Nov 28 06:27:36.861104   321 worker[43]   0x7fc146af16c0] lua: ",  # the same since 24.11
    "[2026-11-28T06:14:44.077] job_submit/lua: ",
    "Nov 28 06:14:44 ctl1 slurmctld[4711]: lua: ",
    "Nov  8 06:14:44 ctl1 slurmctld: lua: ",
    "2026-11-28T06:14:44.077123+00:00 ctl1 slurmctld[4711]: lua: ",
    "2026-11-28T06:14:44+0000 login1 cmeta[4711]: ",  # journalctl -o short-iso
    "Nov 28 06:14:44.077123 login1 cmeta[4711]: ",  # journalctl -o short-precise
    "2026-11-28T06:14:44.077123+00:00 login1 cmeta[4711]: ",  # short-iso-precise since 252
    "Sat 2026-11-28 06:14:44 UTC login1 cmeta[4711]: ",  # journalctl -o short-full
    "<14>cmeta[4711]: ",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
def test_every_form_of_a_line_is_read(prefix: str, end: str) -> None:
    found = parse(f"{prefix}{said(MATCH)}{end}".encode())
    assert found == Decision(
        "submit",
        1_795_846_484,
        1000,
        "match",
        False,
        name="train",
        image="/images/a.sif",
        reason="narrowed",
        detail="cpu>=zen4; cuda>=12.4",
        before="ib",
        after="ib&zen4",
        ms=80,
        cached=False,
    )


@pytest.mark.parametrize(
    "before",
    [
        "[2026-11-28T06:14:44.077] _slurm_rpc_submit_batch_job: name=",
        "[2026-11-28T06:14:44.077] error: x lua: ",
        "[2026-11-28T06:14:44.077] name=[1]] lua: ",
        "[2026-11-28T06:14:44.077] [a] lua: ",
        "Nov 28 06:14:44 ctl1 sshd[1]: Invalid user slurmctld: lua: ",
        "Nov 28 06:14:44 ctl1 sshd[1]: Invalid user x slurmctld[1]: ",
        "x",
        " ",
    ],
)
def test_what_others_log_of_a_users_words_is_none_of_ours(before: str) -> None:
    assert parse(f"{before}{said(MATCH)}\n".encode()) is None


@pytest.mark.parametrize(
    "text",
    [
        "cmeta decision {",
        "cmeta decision {}",
        "cmeta decision {]}",
        'cmeta decision {"v":1}',
        "cmeta decision {" + '"a":{' * 5000 + "}" * 5000,
        "cmeta decision {" + '"a":[' * 20000 + "}",
        'cmeta decision {"v":1,"time":' + "9" * 6000 + "}",
        *(
            said({**MATCH, **wrong})
            for wrong in (
                {"v": 2},
                {"event": "other"},
                {"time": -1},
                {"time": 1e308},
                {"time": float("nan")},
                {"time": "now"},
                {"time": True},
                {"time": 10**30},
                {"refused": 1},
                {"refused": None},
            )
        ),
    ],
)
def test_a_broken_line_is_counted_and_no_more(text: str) -> None:
    wanted = None if text == "cmeta decision {" else BROKEN
    assert parse(text.encode()) == wanted


@pytest.mark.parametrize("key", ["name", "image", "detail", "before", "verdict", "user", "ms"])
@pytest.mark.parametrize(
    "value", ["a\x1b[2J\u202e\ud800\x00", "x" * 100_000, 5, None, [], {"a": 1}, True, -1]
)
def test_a_value_of_another_kind_is_left_out_and_a_long_one_cut(key: str, value: object) -> None:
    found = parse(said({**MATCH, key: value}).encode())
    assert isinstance(found, Decision)
    for one in found:
        assert one is None or isinstance(one, int) or (one.isprintable() and len(one) < 1200)
    assert found.user is None or found.user >= 0
    assert found.verdict in ("match", "invalid")


@pytest.mark.parametrize("raw", [b"", b"\xff\xfecmeta", b"cmeta", b"cmeta decision \xff{}\n"])
def test_bytes_that_are_no_text_are_somebody_elses(raw: bytes) -> None:
    assert parse(raw) is None


def test_other_lines_of_the_controllers_half_are_told() -> None:
    log = b"[2026-11-28T06:14:44.077] lua: "
    assert parse(log + b"cmeta: error, the job is left as it is: cmeta.lua:5: x\n") == ERROR
    assert parse(log + b"cmeta: ignored a handed-over memory that is no number\n") == IGNORED
    assert parse(log + b"cmeta: user 1000: features zen4\n") is None
    assert parse(b"[x] Job name=cmeta: error, the job is left as it is\n") is None


def entry(message: object, identifier: str = "slurmctld") -> bytes:
    found = {"__CURSOR": "s=1;i=2", "SYSLOG_IDENTIFIER": identifier, "MESSAGE": message}
    return json.dumps(found).encode() + b"\n"


def test_the_journals_json_is_read() -> None:
    text = f"lua: {said(MISMATCH)}"
    for identifier in ("slurmctld", "cmeta"):
        found = parse(entry(text, identifier))
        assert isinstance(found, Decision)
        assert (found.verdict, found.partition, found.cached) == ("mismatch", "gpu", True)
    assert cursor(entry(text)) == "s=1;i=2"
    assert cursor(b"{}") == cursor(b"no JSON") == ""


@pytest.mark.parametrize(
    "raw",
    [
        entry(said(FAULT), "sshd"),
        entry(None),
        entry({"a": said(FAULT)}),
        entry(list(said(FAULT).encode())),
        entry(["cmeta", -1, 300]),
        b'{"MESSAGE": "cmeta decision {}", "SYSLOG_IDENTIFIER": ["slurmctld"]}',
        b'{"MESSAGE": "cmeta',
        b"{" * 60_000 + b"cmeta",
        b'{"a":' + b"[" * 60_000 + b'"cmeta"',
    ],
)
def test_other_entries_of_the_journal_are_none_of_ours(raw: bytes) -> None:
    assert parse(raw) is None


def test_an_update_has_no_verdict() -> None:
    found = parse(said({**BASE, "event": "update", "job": 7, "before": "a", "after": "b"}).encode())
    assert isinstance(found, Decision)
    assert (found.event, found.job, found.verdict) == ("update", 7, "")
