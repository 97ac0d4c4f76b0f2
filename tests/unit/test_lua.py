"""lua/cmeta.lua in every Lua from 5.1 to 5.4; tests/slurm has it in a real slurmctld."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LUA = HERE.parents[1] / "lua"
INTERPRETERS = [name for name in ("lua5.1", "lua5.2", "lua5.3", "lua5.4") if shutil.which(name)]
if not INTERPRETERS:
    pytest.skip("no Lua interpreter is installed", allow_module_level=True)

MATCHED = "env:CMETA_VERDICT=match"
IMAGE = "container=/images/img.sif"


@pytest.fixture(params=INTERPRETERS)
def lua(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ensure(lua: str, *words: str, on_missing: str = "accept") -> dict[str, str]:
    done = subprocess.run(
        [lua, str(HERE / "lua_harness.lua"), str(LUA), on_missing, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        answer[key] = answer[key] + "\n" + value if key in answer else value
    return answer


def test_a_job_without_container_is_left_alone(lua: str) -> None:
    answer = ensure(lua, MATCHED, "env:CMETA_CONSTRAINT=zen4", "features=a", on_missing="reject")
    assert answer == {
        "rc": "0",
        "features": "a",
        "prefer": "nil",
        "exc_nodes": "nil",
        "image": "nil",
    }


def test_what_the_client_did_is_not_done_again(lua: str) -> None:
    answer = ensure(
        lua,
        IMAGE,
        MATCHED,
        "env:CMETA_CONSTRAINT=a&zen4",
        "env:CMETA_PREFER=a&zen4&ib",
        "env:CMETA_EXCLUDE=n[1-2]",
        "features=a&zen4",
        "prefer=a&zen4&ib",
        "exc_nodes=x,n[1-2]",
    )
    assert (answer["features"], answer["prefer"]) == ("a&zen4", "a&zen4&ib")
    assert answer["exc_nodes"] == "x,n[1-2]"
    assert "user" not in answer
    assert "log" not in answer


@pytest.mark.parametrize(
    ("own", "handed"),
    [
        (None, "zen4"),
        (None, "x86_64&(zen3|zen4)"),
        ("a", "a&zen4"),
        ("a|b", "(a|b)&zen4"),
        ("a,b", "a,b&(x|y)"),
    ],
)
def test_what_the_client_could_not_do_is_done(lua: str, own: str | None, handed: str) -> None:
    words = [f"features={own}"] if own else []
    answer = ensure(lua, IMAGE, MATCHED, f"env:CMETA_CONSTRAINT={handed}", *words)
    assert answer["features"] == handed
    assert handed in answer["user"]


@pytest.mark.parametrize(
    ("own", "forged"),
    [
        ("a", "b"),
        ("a", "a|b"),
        ("a", "a&b|c"),
        ("a", "a&(b|c)|d"),
        ("a", "(a)&b&[c]"),
        ("a", "a&b*2"),
        ("a", "a&"),
        ("a", "a&&b"),
        ("a", "a&b c"),
        ("a", "a&b\tc"),
        ("a", "a&(b|(c))"),
        ("a", "a&()"),
        ("a", "a&" + "b" * 1100),
        (None, "a|b"),
        (None, "[a|b]"),
        (None, ""),
        ("", "a|b"),
        ("a.b", "a-b&c"),  # `.` in a name is no pattern
    ],
)
def test_a_forged_constraint_never_widens(lua: str, own: str | None, forged: str) -> None:
    words = [f"features={own}"] if own is not None else []
    answer = ensure(lua, IMAGE, MATCHED, f"env:CMETA_CONSTRAINT={forged}", *words)
    assert answer["features"] == (own if own is not None else "nil")
    assert answer["rc"] == "0"


def test_a_preference_holds_the_constraint(lua: str) -> None:
    words = (IMAGE, MATCHED, "features=a", "env:CMETA_CONSTRAINT=a&x86_64")
    assert ensure(lua, *words, "env:CMETA_PREFER=a&x86_64&zen4")["prefer"] == "a&x86_64&zen4"
    assert ensure(lua, *words, "env:CMETA_PREFER=zen4")["prefer"] == "nil"
    own = ensure(lua, *words, "prefer=ib", "env:CMETA_PREFER=ib&x86_64")
    assert own["prefer"] == "ib&x86_64"
    assert ensure(lua, *words, "prefer=ib", "env:CMETA_PREFER=x86_64")["prefer"] == "ib"


@pytest.mark.parametrize("forged", ["n1;id", "n1 n2", "$(id)", "n1|n2", "x" * 70_000, "-\n"])
def test_a_forged_exclude_list_is_ignored(lua: str, forged: str) -> None:
    answer = ensure(lua, IMAGE, MATCHED, f"env:CMETA_EXCLUDE={forged}", "exc_nodes=n9")
    assert answer["exc_nodes"] == "n9"


def test_nodes_are_excluded_besides_the_users_own(lua: str) -> None:
    words = (IMAGE, MATCHED, "env:CMETA_EXCLUDE=n[1-2],m4")
    assert ensure(lua, *words)["exc_nodes"] == "n[1-2],m4"
    assert ensure(lua, *words, "exc_nodes=n9")["exc_nodes"] == "n9,n[1-2],m4"


def test_a_job_without_decision_follows_the_sites_policy(lua: str) -> None:
    accepted = ensure(lua, IMAGE)
    assert (accepted["rc"], accepted["image"]) == ("0", "/images/img.sif")
    assert "user" not in accepted
    assert "warning" in ensure(lua, IMAGE, on_missing="warn")["user"]
    rejected = ensure(lua, IMAGE, on_missing="reject")
    assert rejected["rc"] == "-1"
    assert "error" in rejected["user"]


def test_a_job_that_was_switched_off_is_left_alone(lua: str) -> None:
    answer = ensure(lua, IMAGE, "env:CMETA_VERDICT=off", on_missing="reject")
    assert (answer["rc"], answer["image"], answer["features"]) == ("0", "nil", "nil")


def test_an_error_half_way_leaves_the_job_as_it_was(lua: str) -> None:
    words = (IMAGE, MATCHED, "env:CMETA_CONSTRAINT=a&b", "env:CMETA_EXCLUDE=n1", "features=a")
    answer = ensure(lua, *words, "trap:exc_nodes")
    assert (answer["rc"], answer["features"], answer["exc_nodes"]) == ("0", "a", "nil")
    assert "error" in answer["log"]
    assert "user" not in answer


def test_the_version_is_the_packages() -> None:
    from slurm_cmeta import __version__

    assert f'version = "{__version__}"' in (LUA / "cmeta.lua").read_text()
