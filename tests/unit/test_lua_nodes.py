"""lua/cmeta_nodes.lua in every Lua from 5.1 to 5.4: it reads what Python writes, and nothing else.

Python's json module is the oracle for what is JSON.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path

import pytest
from test_lua import HERE, IMAGE, LUA, MATCHED, lua

from slurm_cmeta.cluster import Cluster, NodeClass, snapshot

__all__ = ["lua"]

NOW = 1_764_000_000
CLUSTER = Cluster(
    (
        NodeClass("n[1-4]", 4, ("x86_64", "zen4", 'q"\\/\x7fé\U0001f600\n', "caf\udce9"), ("p",)),
        NodeClass("m1", 1, (), (), (("idle", 1),), (1, 2), ("gpu:1",)),
    ),
    False,
    "sinfo",
    (),
    "c",
    NOW,
)

SCRIPT = """
package.path = arg[1] .. "/?.lua;" .. package.path
local nodes = require("cmeta_nodes")
for i = 2, #arg do
   local file = io.open(arg[i], "rb")
   local text = file:read("*a")
   file:close()
   local found, trouble = nodes.understand(text, %d, %d)
   if found then
      local names = {}
      for name in pairs(found.features) do
         names[#names + 1] = (string.gsub(name, ".", function(c)
            return string.format("%%02x", string.byte(c))
         end))
      end
      table.sort(names)
      print("ok " .. tostring(found.stale) .. " " .. tostring(found.unlisted) .. " "
         .. table.concat(names, ","))
   else
      print("no " .. tostring(trouble))
   end
end
"""


def understood(
    lua: str, tmp_path: Path, texts: list[bytes], now: int = NOW, max_age: int = 60
) -> list[str]:
    script = tmp_path / "read.lua"
    script.write_text(SCRIPT % (max_age, now))
    paths = []
    for number, text in enumerate(texts):
        paths.append(str(tmp_path / f"{number}.json"))
        Path(paths[-1]).write_bytes(text)
    done = subprocess.run(
        [lua, str(script), str(LUA), *paths], capture_output=True, text=True, check=True
    )
    answers = done.stdout.splitlines()
    assert len(answers) == len(texts)
    return answers


def test_it_reads_what_python_writes(lua: str, tmp_path: Path) -> None:
    text = snapshot.render(CLUSTER).encode()
    names = sorted(
        name.encode("utf-8", "surrogateescape").hex()
        for c in CLUSTER.classes
        for name in c.features
    )
    assert understood(lua, tmp_path, [text]) == [f"ok nil false {','.join(names)}"]


def test_it_reads_text_that_is_not_escaped(lua: str, tmp_path: Path) -> None:
    name = "é\U0001f600"
    document = {
        "schema": "cmeta.nodes/1",
        "unlisted_nodes": True,
        "classes": [{"nodes": "n", "count": 1, "features": [name]}],
    }
    text = json.dumps(document, ensure_ascii=False, indent="\t").encode()
    assert understood(lua, tmp_path, [text]) == [f"ok nil true {name.encode().hex()}"]


@pytest.mark.parametrize(
    ("age", "max_age", "words"),
    [
        (60, 60, "nil"),
        (61, 60, "stale, written 61 seconds ago"),
        (10**9, 0, "nil"),
        (-300, 60, "nil"),
        (-301, 60, "written in the future"),
    ],
)
def test_its_age_is_noticed(lua: str, tmp_path: Path, age: int, max_age: int, words: str) -> None:
    (answer,) = understood(lua, tmp_path, [snapshot.render(CLUSTER).encode()], NOW + age, max_age)
    assert answer.startswith(f"ok {words} false ")


def test_times_are_counted_as_python_does(lua: str, tmp_path: Path) -> None:
    chance = random.Random(4)  # noqa: S311
    times = [
        0,
        951782400,
        951868800,
        1709164800,
        4107542400,
        *(chance.randrange(2**32) for _ in range(40)),
    ]
    texts = [snapshot.render(CLUSTER._replace(time=t)).encode() for t in times]
    now = 2**33
    for moment, answer in zip(times, understood(lua, tmp_path, texts, now, 1), strict=True):
        assert answer.startswith(f"ok stale, written {now - moment} seconds ago ")


def test_any_part_of_it_is_broken(lua: str, tmp_path: Path) -> None:
    whole = snapshot.render(CLUSTER).rstrip().encode()
    answers = understood(lua, tmp_path, [whole[:end] for end in range(0, len(whole), 3)])
    assert [a for a in answers if not a.startswith("no not JSON, or not all of it: byte ")] == []


WRONG = [
    b"", b" ", b"[", b"]", b"{", b"nul", b"nulll", b"truex", b"[1,]", b"[,1]", b"[1 2]", b"{1:2}",
    b'{"a"}', b'{"a":}', b'{"a":1,}', b'{"a" 1}', b"{,}", b"01", b"-01", b"1.", b".5", b"1e", b"+1",
    b"--1", b"1e5e5", b"-", b"0x10", b"NaNN", b"'a'", b'"a', b'"\\"', b'"\\x41"', b'"\\u12"',
    b'"\\u12g4"', b'"a\nb"', b'"a\x00b"', b"[1]]", b"[1] 2", b"// a", b"\xff", b"[" * 99,
    b"[" * 9 + b"1" + b"]" * 8, b'{"a":1 "b":2}', b"[1;2]", b"tru", b"[true false]",
]  # fmt: skip
RIGHT = [
    b"0", b"-0", b"10", b"1.5", b"-1.5e-7", b"1E+5", b'""', b'"\\u0041\\ud83d\\ude00"', b"[]",
    b"[ ]", b"{}", b"{ }", b" [ 1 , 2 ] ", b'{"a":{"b":[null,true,false]}}', b'"\\/\\b\\f"',
    b'"\x7f"', b"\r\n\t[1]", b'{"a":1,"a":2}', b'"\\udce9"',
]  # fmt: skip


def test_what_is_json_and_what_is_not(lua: str, tmp_path: Path) -> None:
    """What is JSON but no snapshot gets another answer than what is none."""
    for texts, words in ((WRONG, "no not JSON"), (RIGHT, "no not a snapshot")):
        answers = understood(lua, tmp_path, texts)
        wrong = [(t, a) for t, a in zip(texts, answers, strict=True) if not a.startswith(words)]
        assert wrong == []
    for text in RIGHT:
        json.loads(text)
    for text in WRONG:
        with pytest.raises(ValueError, match=r".+"):
            json.loads(text.decode("latin-1") if b"\xff" in text else text)


def test_damage_is_never_an_error_of_lua(lua: str, tmp_path: Path) -> None:
    """A byte changed at random: whatever comes of it, Python and Lua agree whether it is JSON."""
    chance = random.Random(7)  # noqa: S311
    whole = snapshot.render(CLUSTER).encode()
    texts = []
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] = chance.choice(
            b'{}[]",:\\\n\x000123456789-.eEtfnu \x80z'
        )
        texts.append(bytes(damaged))
    for text, answer in zip(texts, understood(lua, tmp_path, texts), strict=True):
        if "half of a character" in answer:  # which Python lets pass
            continue
        try:
            json.loads(text.decode("utf-8", "replace"))
            sound = True
        except ValueError:
            sound = False
        assert answer.startswith("no not JSON") == (not sound), text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "cmeta.nodes/2"}, "not a snapshot"),
        ({"classes": None}, "no node classes"),
        ({"classes": []}, "no node classes"),
        ({"classes": [1]}, "no node classes"),
        ({"classes": [{"features": "a"}]}, "no node classes"),
        ({"classes": [{"features": None}]}, "no node classes"),
        ({"time": "now"}, "time is not of the form"),
        ({"time": 5}, "time is not of the form"),
        ({"time": "2025-13-01T00:00:00Z"}, "time is not of the form"),
    ],
)
def test_a_wrong_value_is_a_broken_snapshot(
    lua: str, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    document = json.loads(snapshot.render(CLUSTER)) | change
    (answer,) = understood(lua, tmp_path, [json.dumps(document).encode()])
    assert answer.startswith(f"no {words}")


# --- in job_submit ------------------------------------------------------------------------------


def ensure(lua: str, *words: str) -> dict[str, str]:
    done = subprocess.run(
        [lua, str(HERE / "lua_harness.lua"), str(LUA), "accept", IMAGE, MATCHED, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        answer[key] = answer[key] + "\n" + value if key in answer else value
    return answer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nodes.json"
    classes = (NodeClass("n1", 1, ("x86_64", "zen4", "zen3")), NodeClass("n2", 1, ("aarch64",)))
    snapshot.write(str(path), CLUSTER._replace(classes=classes, time=int(time.time())))
    return path


@pytest.mark.parametrize(
    ("field", "handed", "taken"),
    [
        ("features", "CONSTRAINT=a&zen4", True),
        ("features", "CONSTRAINT=a&zen4&(zen3|aarch64)", True),
        ("features", "CONSTRAINT=a&vanished", False),
        ("features", "CONSTRAINT=a&zen4&(zen3|vanished)", False),
        ("prefer", "PREFER=a&zen4", True),
        ("prefer", "PREFER=a&vanished", False),
    ],
)
def test_what_names_a_feature_that_no_node_has_is_ignored(
    lua: str, file: Path, field: str, handed: str, taken: bool
) -> None:
    """The job's own `a` is not looked at: slurmctld says what is wrong with that."""
    words = ("features=a", f"env:CMETA_{handed}", f"option:snapshot={file}")
    answer = ensure(lua, *words)
    before = {"features": "a", "prefer": "nil"}
    expected = handed.partition("=")[2]
    assert answer["rc"] == "0"
    assert answer[field] == (expected if taken else before[field])
    assert ("no node has the feature vanished" in answer.get("log", "")) == (not taken)
    assert ensure(lua, *words[:2])[field] == expected  # as it is without a snapshot


@pytest.mark.parametrize("kind", ["stale", "unlisted", "broken", "absent", "directory", "large"])
def test_a_snapshot_that_cannot_be_relied_on_forbids_nothing(
    lua: str, file: Path, kind: str
) -> None:
    if kind == "stale":
        file.write_text(file.read_text().replace('"time": "20', '"time": "10'))
    elif kind == "unlisted":
        file.write_text(
            file.read_text().replace('"unlisted_nodes": false', '"unlisted_nodes": true')
        )
    elif kind == "broken":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.unlink()
    if kind == "directory":
        file.mkdir()
    elif kind == "large":
        with file.open("w") as stream:
            stream.truncate((4 << 20) + 1)
    words = ("features=a", "env:CMETA_CONSTRAINT=a&vanished", f"option:snapshot={file}")
    answer = ensure(lua, *words)
    assert (answer["rc"], answer["features"]) == ("0", "a&vanished")
    warned = f"cmeta: warning: {file}: " in answer.get("log", "")
    assert warned == (kind != "unlisted")


def test_the_age_that_the_site_allows(lua: str, file: Path) -> None:
    file.write_text(file.read_text().replace('"time": "20', '"time": "10'))
    words = ("features=a", "env:CMETA_CONSTRAINT=a&vanished", f"option:snapshot={file}")
    assert ensure(lua, *words, "option:snapshot_max_age=0")["features"] == "a"


def test_the_file_is_not_read_at_each_submission(lua: str, file: Path, tmp_path: Path) -> None:
    script = tmp_path / "twice.lua"
    script.write_text(
        "package.path = arg[1] .. '/?.lua;' .. package.path\n"
        "local nodes = require('cmeta_nodes')\n"
        "local first, _, read = nodes.current(arg[2], 60)\n"
        "local again, _, read_again = nodes.current(arg[2], 60)\n"
        "local _, _, other = nodes.current(arg[2], 61)\n"
        "print(first == again, read, read_again, other)\n"
    )
    done = subprocess.run(
        [lua, str(script), str(LUA), str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["true", "true", "false", "true"]
