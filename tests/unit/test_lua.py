"""lua/cmeta.lua in every Lua from 5.1 to 5.4; tests/slurm has it in a real slurmctld."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from slurm_cmeta.constraint.addition import add
from slurm_cmeta.constraint.grammar import parse
from slurm_cmeta.constraint.select import Expression

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
        ("a|b", "a|b&zen4"),  # from left to right: of both
        ("(a&b)|c", "(a&b)|c&zen4&(x|y)"),
        ("(a|b)&c", "(a|b)&c&zen4"),
        ("[a|b]&c", "[a|b]&c&zen4"),
        ("[(a&b)|c]", "[(a&b)|c]&zen4"),
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
        ("a*4", "a*4&b"),  # beside a count nothing is enforced
        ("[a*2&b*4]", "[a*2&b*4]&c"),
        ("a&[b|c]*2", "a&[b|c]*2&d"),
        ("(a", "(a&b"),
        ("(a", "((a)&b"),
        ("a)|(b", "(a)|(b)&c"),
        ("(a|b)&c", "((a|b)&c)&d"),
        ("[a|b]|c", "[a|b]|c&d"),
        ("[a|b]&[c|d]", "[a|b]&[c|d]&e"),
        ("[a]", "[a]&b"),
        ("[a&b]", "[a&b]&c"),
        ("(a|b)c", "(a|b)c&d"),
        ("([a|b])", "([a|b])&c"),
        ("a||b", "a||b&c"),
        ("a&", "a&&b"),
        ("a b", "a b&c"),
        ("[" + "|".join(f"f{n}" for n in range(65)) + "]", None),
    ],
)
def test_a_forged_constraint_never_widens(lua: str, own: str | None, forged: str | None) -> None:
    words = [f"features={own}"] if own is not None else []
    forged = f"{own}&x" if forged is None else forged
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


def test_memory_is_asked_for_where_the_user_asks_for_none(lua: str) -> None:
    words = (IMAGE, MATCHED, "env:CMETA_MEMORY=4096")
    answer = ensure(lua, *words)
    assert (answer["min_mem_per_node"], answer["user"]) == ("4096", "cmeta: min_mem_per_node 4096")
    assert ensure(lua, *words, "min_mem_per_node=0")["min_mem_per_node"] == "0"
    assert "min_mem_per_node" not in ensure(lua, *words, "min_mem_per_cpu=1")
    assert "min_mem_per_node" not in ensure(lua, *words, "mem_per_tres=gres:gpu:10")


@pytest.mark.parametrize(
    "forged", ["", "0", "-1", "4G", "1e3", "0x10", " 4", "4.5", "9" * 300, "2000000000", "nan"]
)
def test_a_forged_memory_is_ignored(lua: str, forged: str) -> None:
    answer = ensure(lua, IMAGE, MATCHED, f"env:CMETA_MEMORY={forged}")
    assert "min_mem_per_node" not in answer
    assert "ignored a handed-over memory" in answer["log"]


def test_a_gpu_is_asked_for_where_the_user_asks_for_none(lua: str) -> None:
    words = (IMAGE, MATCHED, "env:CMETA_GRES=gpu:1")
    assert ensure(lua, *words)["gres"] == "gpu:1"
    own = ensure(lua, *words, "gres=gres:tape:2", "tres_per_node=gres:tape:2")
    assert own["gres"] == "gres:tape:2,gpu:1"
    for field in ("tres_per_job", "tres_per_node", "tres_per_socket", "tres_per_task"):
        for asked in ("gres:gpu:1", "gres/gpu=2", "gres/tape:1,gres/gpu:a100:1", "gres/shard:1"):
            assert "gres" not in ensure(lua, *words, f"{field}={asked}")


@pytest.mark.parametrize(
    "forged",
    ["", "tape:1", "gpu:1,tape:2", "gpus:1", "gpu 1", "gpu:" + "1" * 70, "gpu:$(id)", "shard"],
)
def test_a_forged_gres_is_ignored(lua: str, forged: str) -> None:
    answer = ensure(lua, IMAGE, MATCHED, f"env:CMETA_GRES={forged}")
    assert "gres" not in answer
    assert "ignored a handed-over gres" in answer["log"]


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


@pytest.mark.parametrize(
    ("container", "image"),
    [
        ("docker://h.x/app:1", "docker://h.x/app:1"),
        ("oras://h.x/app:1", "oras://h.x/app:1"),
        ("shub://h.x/app", "nil"),
        ("xdocker://h.x/app", "nil"),
        ("relative.sif", "nil"),
    ],
)
def test_the_node_is_told_of_what_it_can_run(lua: str, container: str, image: str) -> None:
    assert ensure(lua, f"container={container}")["image"] == image


# --- what the image demands, when the user changes the job later ---------------------------------


def recorded(lua: str, *words: str) -> str | None:
    return ensure(lua, IMAGE, MATCHED, *words).get("admin_comment")


def test_what_the_image_demands_is_written_down(lua: str) -> None:
    words = ("env:CMETA_REQUIRED=v3&(x|y)", "env:CMETA_CONSTRAINT=v3&(x|y)")
    assert recorded(lua, *words) == "cmeta requires v3&(x|y)"
    assert recorded(lua, *words, "admin_comment={}") == "{}"
    assert recorded(lua, *words, "option:on_modify=accept") is None
    assert recorded(lua, "env:CMETA_REQUIRED=v3", "features=a&v3") == "cmeta requires v3"
    assert recorded(lua, "env:CMETA_REQUIRED=v3", "features=(a&b)|c&v3") == "cmeta requires v3"
    preferred = ("env:CMETA_PREFER=v3&zen4", "env:CMETA_PREFERS=image")
    answer = recorded(lua, "env:CMETA_REQUIRED=v3", "env:CMETA_CONSTRAINT=v3", *preferred)
    assert answer == "cmeta requires v3; cmeta prefers"
    assert recorded(lua, "env:CMETA_EXCLUDE=n[1-2]") == "cmeta excludes n[1-2]"


@pytest.mark.parametrize(
    "words",
    [
        ("env:CMETA_REQUIRED=a; root", "features=a; root"),
        ("env:CMETA_REQUIRED=a|b", "features=a|b"),
        ("env:CMETA_REQUIRED=" + "a" * 1025,),
        ("env:CMETA_REQUIRED=", "features=a"),
        ("env:CMETA_EXCLUDE=n 1", "exc_nodes=n1"),
        ("env:CMETA_PREFERS=image",),
    ],
)
def test_nothing_else_is_written_down(lua: str, words: tuple[str, ...]) -> None:
    assert recorded(lua, *words) is None


def update(lua: str, comment: str, *words: str) -> dict[str, str]:
    before = [f"record:{IMAGE}", f"record:admin_comment={comment}"]
    return ensure(lua, *before, *words)


@pytest.mark.parametrize(
    ("asked", "becomes"),
    [
        ("", "v3&(x|y)"),
        ("a", "a&v3&(x|y)"),
        ("a|b", "(a|b)&v3&(x|y)"),
        ("(a&b)|c", "(a&b)|c&v3&(x|y)"),
        ("[a|b]", "[a|b]&v3&(x|y)"),
        ("a,v3&b", "a,v3&b&(x|y)"),
        ("a&(x|y)&v3", "a&(x|y)&v3"),
        ("(a&v3&b)", "(a&v3&b)&v3&(x|y)"),
        ("(a|b)&v3&(x|y)", "(a|b)&v3&(x|y)"),
    ],
)
def test_a_new_constraint_gets_what_the_image_demands(lua: str, asked: str, becomes: str) -> None:
    comment = "site; cmeta requires v3&(x|y)"
    answer = update(lua, comment, f"features={asked}")
    assert (answer["rc"], answer["features"], answer["prefer"]) == ("0", becomes, "nil")
    assert ("user" in answer) == (asked != becomes)
    assert update(lua, comment, f"prefer={asked or 'z'}")["prefer"] == (
        becomes if asked else "z&v3&(x|y)"
    )
    assert update(lua, comment, "prefer=")["prefer"] == ""


def test_what_cannot_be_kept_is_said(lua: str) -> None:
    for asked in ("a*4", "[a*2&b*4]", "a|(", "a" * 1020):
        answer = update(lua, "cmeta requires v3&x", f"features={asked}")
        assert answer["features"] == asked
        assert answer["user"] == (
            "cmeta: warning: the new constraint cannot carry what the image needs, v3&x, "
            "and is taken as it is"
        )


def test_the_images_preference_gives_way(lua: str) -> None:
    comment = "cmeta requires v3; cmeta prefers"
    answer = update(lua, comment, "features=a")
    assert (answer["features"], answer["prefer"]) == ("a&v3", "a&v3")
    alone = update(lua, "cmeta prefers", "features=a")
    assert (alone["features"], alone["prefer"]) == ("a", "a")
    own = update(lua, "cmeta requires v3", "features=a")
    assert (own["features"], own["prefer"]) == ("a&v3", "nil")
    assert update(lua, comment, "features=a", "prefer=b")["prefer"] == "b&v3"


def test_excluded_nodes_stay_excluded(lua: str) -> None:
    assert update(lua, "cmeta excludes n[1-2]", "exc_nodes=m1")["exc_nodes"] == "m1,n[1-2]"
    assert update(lua, "cmeta excludes n[1-2]", "exc_nodes=")["exc_nodes"] == "n[1-2]"
    assert update(lua, "cmeta excludes n[1-2]", "features=a")["exc_nodes"] == "nil"


def test_an_administrator_has_the_last_word(lua: str) -> None:
    words = ("admin_comment=mine", "features=a")
    assert update(lua, "cmeta requires v3", *words)["features"] == "a"
    assert update(lua, "cmeta requires v3", "admin_comment=", "features=a")["features"] == "a"


def test_other_jobs_are_changed_as_ever(lua: str) -> None:
    assert update(lua, "", "features=a")["features"] == "a"
    assert update(lua, "cmeta requires a|b", "features=a")["features"] == "a"
    assert ensure(lua, "record:admin_comment=cmeta requires v3", "features=a")["features"] == "a"
    trapped = update(lua, "cmeta requires v3", "features=a", "trap:features")
    assert (trapped["rc"], trapped["features"]) == ("0", "a")
    assert "error" in trapped["log"]


# --- the language, with the matcher's own for an oracle -------------------------------------------

NAMES = ("a", "b", "c", "x")
NODES = [
    set(some) for size in range(len(NAMES) + 1) for some in itertools.combinations(NAMES, size)
]


def ask(lua: str, questions: list[tuple[str, str, str]]) -> list[str]:
    done = subprocess.run(
        [lua, str(HERE / "lua_expressions.lua"), str(LUA)],
        input="".join("\t".join(question) + "\n" for question in questions),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def some_expression(chance: random.Random) -> str:
    """Return an expression, most often a good one."""

    def names(most: int, operators: str) -> str:
        some = [chance.choice(NAMES) for _ in range(chance.randint(1, most))]
        return "".join(n + chance.choice(operators) for n in some)[:-1]

    def item() -> str:
        return f"({names(3, '&|,')})" if chance.random() < 0.4 else chance.choice(NAMES)

    form, parts = chance.random(), [item() for _ in range(chance.randint(1, 3))]
    if form < 0.5:
        text = "".join(part + chance.choice("&|,") for part in parts)[:-1]
    elif form < 0.8:
        brackets = "[" + "|".join(item() for _ in range(chance.randint(1, 3))) + "]"
        text = chance.choice("&&&|").join([*parts[:1], brackets])
    else:
        text = "".join(chance.choice([*NAMES, *"&|,()[]*2 "]) for _ in range(chance.randint(0, 9)))
    if chance.random() < 0.2:
        at = chance.randint(0, len(text))
        text = text[:at] + chance.choice("&|()[]*2 ") + text[at + chance.randint(0, 1) :]
    return text


def some_addition(chance: random.Random) -> Expression:
    names = tuple(dict.fromkeys(chance.choice(NAMES) for _ in range(chance.randint(0, 2))))
    group = tuple(dict.fromkeys(chance.choice(NAMES) for _ in range(2)))
    return Expression(names, group if not names or chance.random() < 0.4 else ())


def allowed(text: str) -> list[bool]:
    parsed = parse(text)
    assert parsed is not None, text
    assert not parsed.counted, text
    return [parsed.allows(node) for node in NODES]


def test_what_is_taken_narrows_by_the_matchers_reading(lua: str) -> None:
    chance = random.Random(5)  # noqa: S311 - reproducible
    questions = []
    for _ in range(4000):
        before, more = some_expression(chance), some_addition(chance).render()
        behind = chance.choice([more, more, some_expression(chance)])
        forms = (f"{before}&{behind}", f"({before})&{behind}", behind, f"{before}|{behind}")
        questions.append(("narrows", before, chance.choice(forms)))
    taken = 0
    for (_, before, after), answer in zip(questions, ask(lua, questions), strict=True):
        if answer == "true":
            taken += 1
            wide, narrow = allowed(before), allowed(after)
            assert all(w for w, n in zip(wide, narrow, strict=True) if n), (before, after)
    assert taken > 500


def test_what_the_matcher_writes_is_taken(lua: str) -> None:
    chance = random.Random(6)  # noqa: S311 - reproducible
    questions = []
    for _ in range(4000):
        before = some_expression(chance)
        parsed = parse(before)
        written = add(parsed, some_addition(chance)) if parsed is not None else None
        if written is not None and written != before:
            questions.append(("narrows", before, written))
    assert len(questions) > 1000
    wrong = [
        q for q, answer in zip(questions, ask(lua, questions), strict=True) if answer != "true"
    ]
    assert wrong == []


def test_what_is_kept_is_an_and_of_both(lua: str) -> None:
    chance = random.Random(7)  # noqa: S311 - reproducible
    pairs = [(some_expression(chance), some_addition(chance).render()) for _ in range(4000)]
    answers = ask(lua, [("require", *pair) for pair in pairs])
    demands = ask(lua, [("demands", *pair) for pair in pairs])
    for (before, required), answer, demanded in zip(pairs, answers, demands, strict=True):
        parsed = parse(before)
        if parsed is None or parsed.counted:
            assert (answer, demanded) == ("nil", "false"), (before, required)
            continue
        both = [a and b for a, b in zip(allowed(before), allowed(required), strict=True)]
        assert allowed(answer) == both, (before, required, answer)
        if demanded == "true":
            assert both == allowed(before), (before, required)


def test_the_version_is_the_packages() -> None:
    from slurm_cmeta import __version__

    assert f'version = "{__version__}"' in (LUA / "cmeta.lua").read_text()


HOSTILE = "n1\nerror: forged\x1b[2J\u202e\x9b" + "x" * 5000
RECORDED = ("record:container=/i", "record:admin_comment=cmeta excludes n2")


@pytest.mark.parametrize(
    "words",
    [
        [f"exc_nodes={HOSTILE}", "env:CMETA_EXCLUDE=n2"],
        [f"gres=tape:{HOSTILE}", "env:CMETA_GRES=gpu:1"],
        [f"user_id={HOSTILE}", "env:CMETA_EXCLUDE=n2"],
        [*RECORDED, f"exc_nodes={HOSTILE}"],
        [*RECORDED, f"record:job_id={HOSTILE}", "exc_nodes=n1"],
    ],
)
def test_what_is_said_and_logged_is_one_clean_line(lua: str, words: list[str]) -> None:
    answer = ensure(lua, IMAGE, MATCHED, *words)
    for said in (answer["log"], answer.get("user", "")):
        assert said.isascii()
        assert said.isprintable()
        assert len(said) < 2100
    assert "n1?error: forged?[2J?" in answer["log"]


def test_what_is_recorded_is_a_host_list(lua: str) -> None:
    for exclude in (HOSTILE, "n1; cmeta requires x", "n1\x1b[2J"):
        answer = ensure(lua, IMAGE, MATCHED, f"exc_nodes={exclude}", f"env:CMETA_EXCLUDE={exclude}")
        assert "admin_comment" not in answer


LARGE = 100_000


@pytest.mark.parametrize(
    "piece", ["(", "[", "a|", "a&", "a,", "gres/gpu:", "n1,", ";", " ", "9", "%"]
)
def test_large_fields_cost_little(lua: str, piece: str) -> None:
    """slurmctld holds its locks meanwhile: nothing may grow with the square of a field."""
    large = piece * (LARGE // len(piece))
    names = ("CONSTRAINT", "PREFER", "EXCLUDE", "MEMORY", "GRES", "REQUIRED", "PREFERS", "VERDICT")
    fields = ("features", "prefer", "exc_nodes", "gres", "tres_per_node", "tres_per_job")
    handed = [f"env:CMETA_{name}={large}" for name in names]
    own = [f"{field}={large}" for field in fields]
    start = time.monotonic()
    ensure(lua, IMAGE, *handed)
    ensure(lua, IMAGE, *handed, *own)
    comment = f"record:admin_comment=cmeta requires {large[:1000]}; cmeta excludes {large}"
    ensure(lua, "record:container=/i", comment, *own)
    ensure(lua, "record:container=/i", "record:admin_comment=cmeta requires zen4", *own)
    assert time.monotonic() - start < 10


def test_an_error_at_any_line_leaves_the_job_as_it_was_written(lua: str) -> None:
    """slurmctld 26.05 refuses a job for an error that nobody catches."""
    done = subprocess.run(
        [lua, str(HERE / "lua_faults.lua"), str(LUA)], capture_output=True, text=True, check=True
    )
    *told, last = done.stdout.splitlines()
    assert [line for line in told if not line.startswith("whole ")] == []
    assert int(last.removeprefix("lines ")) > 400
    assert told[0].startswith("whole 1 0 (a|b)&zen4 (a|b)&zen4&x n[1-2] gpu:1")
