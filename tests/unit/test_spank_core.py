"""The plugin's C parts that need no Slurm, called through cffi."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cffi
import pytest

from slurm_cmeta import vocabulary
from slurm_cmeta.image.sif import ARCHITECTURES

ROOT = Path(__file__).parents[2]

DECLARATIONS = """
struct cmeta_answer {
    char *verdict; bool reject; char *constraint; char *prefer; char *exclude;
    char *memory; char *gres; char *required; char *pinned;
    char **messages; size_t message_count;
};
bool cmeta_answer_parse(const char *text, size_t length, struct cmeta_answer *answer);
bool cmeta_answer_is_complete(const char *text, size_t length);
void cmeta_answer_free(struct cmeta_answer *answer);

enum cmeta_mode { CMETA_UNSET, CMETA_OFF, CMETA_ON, CMETA_EXPLAIN };
struct cmeta_settings {
    enum cmeta_mode default_mode; const char *matcher; const char *config; const char *slurm_conf;
    int deadline_ms; const char *run; const char *runtime; const char *const *runtime_options;
    const char *pull; const char *store; const char *store_size; const char *pull_timeout;
    char *error; const char *wrong;
};
void cmeta_settings_read(struct cmeta_settings *settings, int argc, char *const argv[]);
void cmeta_settings_free(struct cmeta_settings *settings);
char *cmeta_settings_locate(const char *slurm_conf, const char *argument);

int cmeta_image_look(const char *path, char code[3]);
const char *cmeta_architecture_of(const char *code);
bool cmeta_machine_runs(const char *machine, const char *code);

struct cmeta_wishes {
    char *constraint; char *prefer; char *partition; char *nodelist; char *exclude; char *clusters;
    char *nodes; char *ntasks; char *cpus; char *mem; bool odd; bool memory; bool gpus;
};
void cmeta_wishes_read(struct cmeta_wishes *wishes, char *(*get)(const char *name));
void cmeta_wishes_free(struct cmeta_wishes *wishes);
bool cmeta_gres_has_gpu(const char *list);

struct cmeta_request {
    const char *matcher; const char *image; const struct cmeta_wishes *wishes; bool step;
    const char *slurm_conf; const char *config; bool explain; int deadline_ms;
};
bool cmeta_matcher_run(const struct cmeta_request *request, struct cmeta_answer *answer,
                       char **fault);
void cmeta_clean(const char *text, char *out, size_t size);
char *strdup(const char *text);
"""

ffi = cffi.FFI()
ffi.cdef(DECLARATIONS)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("core")
    # check.py runs these tests a second time, with sanitizers.
    flags = (
        [f"CFLAGS={os.environ['CMETA_TEST_CFLAGS']}"] if "CMETA_TEST_CFLAGS" in os.environ else []
    )
    built = subprocess.run(
        ["make", "-C", str(ROOT / "spank"), f"OUT={out}", *flags, "core"],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return ffi.dlopen(str(out / "libcmeta_core.so"))


def text(pointer: Any) -> str | None:
    return None if pointer == ffi.NULL else ffi.string(pointer).decode()


# --- the answer ---------------------------------------------------------------------------------

GOOD = "cmeta 1\nverdict match\naction accept\n"


def parse(core: Any, answer: bytes) -> dict[str, Any] | None:
    parsed = ffi.new("struct cmeta_answer *")
    exact = ffi.new("char[]", answer)  # one byte more than length: the end is not a NUL of ours
    if not core.cmeta_answer_parse(exact, len(answer), parsed):
        assert parsed.verdict == ffi.NULL
        assert parsed.message_count == 0
        return None
    found = {
        "verdict": text(parsed.verdict),
        "reject": bool(parsed.reject),
        "constraint": text(parsed.constraint),
        "prefer": text(parsed.prefer),
        "exclude": text(parsed.exclude),
        "memory": text(parsed.memory),
        "gres": text(parsed.gres),
        "required": text(parsed.required),
        "image": text(parsed.pinned),
        "messages": [text(parsed.messages[i]) for i in range(parsed.message_count)],
    }
    core.cmeta_answer_free(parsed)
    return found


def test_a_whole_answer(core: Any) -> None:
    lines = "constraint a&b\nprefer a&b&c\nexclude n[1-2]\nmessage one\nmessage two, ü\n"
    lines += "memory 4096\ngres gpu:1\nrequired b\nimage docker://h.x/app@sha256:12\nend\n"
    assert parse(core, (GOOD + lines).encode()) == {
        "verdict": "match",
        "reject": False,
        "constraint": "a&b",
        "prefer": "a&b&c",
        "exclude": "n[1-2]",
        "memory": "4096",
        "gres": "gpu:1",
        "required": "b",
        "image": "docker://h.x/app@sha256:12",
        "messages": ["one", "two, ü"],
    }


def test_keys_of_a_later_release_are_passed_over(core: Any) -> None:
    assert parse(core, (GOOD + "newkey some value\nend\n").encode()) is not None


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "cmeta 1\n",
        "end\n",
        GOOD,
        GOOD + "end",
        "cmeta 2\nverdict match\naction accept\nend\n",
        "CMETA 1\nverdict match\naction accept\nend\n",
        "cmeta 1\naction accept\nend\n",
        "cmeta 1\nverdict match\nend\n",
        "cmeta 1\nverdict perhaps\naction accept\nend\n",
        "cmeta 1\nverdict match\naction maybe\nend\n",
        GOOD + "action reject\nend\n",
        GOOD + "constraint\nend\n",
        GOOD + "constraint \nend\n",
        GOOD + "constraint a\nconstraint b\nend\n",
        GOOD + "constraint a\x1b[2J\nend\n",
        GOOD + "constraint " + "a" * 1025 + "\nend\n",
        GOOD + "memory 0\nend\n",
        GOOD + "memory 4G\nend\n",
        GOOD + "memory -1\nend\n",
        GOOD + "memory 1000000000\nend\n",
        GOOD + "memory 1\nmemory 2\nend\n",
        GOOD + "gres gpu:1,tape\nend\n",
        GOOD + "image /etc/passwd\nend\n",
        GOOD + "image docker://h.x/" + "a" * 4096 + "\nend\n",
        GOOD + "image docker://h.x/a\x1b[2J\nend\n",
        GOOD + "gres help me\nend\n",
        GOOD + "gres gpu:" + "1" * 61 + "\nend\n",
        GOOD + "required " + "a" * 1025 + "\nend\n",
        GOOD + "message " + "a" * 20_000 + "\nend\n",
        GOOD + "message a\n" * 2000 + "end\n",
        GOOD + "\nend\n",
        GOOD + "a\0b c\nend\n",
        "\x7fELF\n\n\n\n",
    ],
)
def test_anything_else_is_no_answer(core: Any, answer: str) -> None:
    assert parse(core, answer.encode()) is None


def test_every_truncation_is_no_answer(core: Any) -> None:
    whole = (GOOD + "constraint a&b\nmessage one\nend\n").encode()
    assert parse(core, whole) is not None
    assert [n for n in range(len(whole)) if parse(core, whole[:n]) is not None] == []


# --- plugstack.conf arguments -------------------------------------------------------------------


def settings(core: Any, *arguments: str) -> dict[str, Any]:
    kept = [ffi.new("char[]", a.encode()) for a in arguments]
    read = ffi.new("struct cmeta_settings *")
    core.cmeta_settings_read(read, len(kept), ffi.new("char *[]", [*kept, ffi.NULL]))
    options: list[str | None] = []
    while read.runtime_options[len(options)] != ffi.NULL:
        options.append(text(read.runtime_options[len(options)]))
    found = {
        "mode": read.default_mode,
        "matcher": text(read.matcher),
        "config": text(read.config),
        "slurm_conf": text(read.slurm_conf),
        "deadline_ms": read.deadline_ms,
        "run": text(read.run),
        "runtime": text(read.runtime),
        "runtime_options": options,
        "pull": text(read.pull),
        "store": text(read.store),
        "store_size": text(read.store_size),
        "pull_timeout": text(read.pull_timeout),
        "error": text(read.error),
    }
    core.cmeta_settings_free(read)
    return found


def test_settings_by_default(core: Any) -> None:
    assert settings(core) == {
        "mode": core.CMETA_ON,
        "matcher": "/usr/local/bin/cmeta-decide",
        "config": None,
        "slurm_conf": None,
        "deadline_ms": 2000,
        "run": "/usr/local/libexec/slurm-cmeta/cmeta-run",
        "runtime": None,
        "runtime_options": [],
        "pull": None,
        "store": None,
        "store_size": None,
        "pull_timeout": None,
        "error": None,
    }


def test_every_setting_is_read(core: Any) -> None:
    found = settings(
        core,
        "default=off",
        "matcher=/m",
        "config=/c",
        "slurm_conf=/s",
        "deadline=0.5",
        "run=/r",
        "runtime=/a",
        "runtime_option=--nv",
        "runtime_option=--bind=/scratch",
        "pull=/p",
        "store=/scratch",
        "store_size=20G",
        "pull_timeout=600",
    )
    assert found == {
        "mode": core.CMETA_OFF,
        "matcher": "/m",
        "config": "/c",
        "slurm_conf": "/s",
        "deadline_ms": 500,
        "run": "/r",
        "runtime": "/a",
        "runtime_options": ["--nv", "--bind=/scratch"],
        "pull": "/p",
        "store": "/scratch",
        "store_size": "20G",
        "pull_timeout": "600",
        "error": None,
    }


@pytest.mark.parametrize(
    "argument",
    [
        "deadlin=2",
        "deadline=0",
        "deadline=-1",
        "deadline=nan",
        "deadline=1e9",
        "deadline=2s",
        "deadline=",
        "default=maybe",
        "matcher=cmeta-decide",
        "runtime=",
        "runtime_option=",
        "pull=cmeta",
        "store=",
        "store_size=",
        "store_size=20GB",
        "store_size=-1",
        "store_size=1.5G",
        "pull_timeout=0",
        "pull_timeout=1000000",
        "pull_timeout=1h",
        "matcher",
        "",
    ],
)
def test_a_wrong_setting_is_named(core: Any, argument: str) -> None:
    found = settings(core, "default=off", argument, "runtime=/a", "deadlin=3")
    assert f'"{argument}"' in found["error"]
    # The rest of the line counts all the same: the node needs it.
    right = settings(core, "default=off", "runtime=/a")
    assert {**found, "error": None} == right


def test_a_wrong_setting_is_found_in_its_file(core: Any, tmp_path: Path) -> None:
    (tmp_path / "plugstack.conf").write_text("# deadlin=2\ninclude plugstack.conf.d/*.conf\n")
    (tmp_path / "plugstack.conf.d").mkdir()
    (tmp_path / "plugstack.conf.d/b.conf").write_text("\noptional cmeta_spank.so deadlin=2\n")
    place = core.cmeta_settings_locate(str(tmp_path / "slurm.conf").encode(), b"deadlin=2")
    assert text(place) == f"{tmp_path}/plugstack.conf.d/b.conf:2"
    assert core.cmeta_settings_locate(str(tmp_path / "slurm.conf").encode(), b"no") == ffi.NULL
    (tmp_path / "plugstack.conf").write_text("include plugstack.conf\n")  # a cycle ends
    assert core.cmeta_settings_locate(str(tmp_path / "slurm.conf").encode(), b"no") == ffi.NULL


# --- the last guard -----------------------------------------------------------------------------

UNREADABLE, OTHER, SIF = range(3)


def sif(code: bytes, used: int = 1, parttype: int = 2, total: int = 2, table: int = 4096) -> bytes:
    """Return the least SIF that says its architecture: header and two descriptors."""
    header = bytearray(4096)
    header[32:42] = b"SIF_MAGIC\0"
    struct.pack_into("<qq", header, 88, total, table)
    descriptor = bytearray(585)
    struct.pack_into("<iB", descriptor, 0, 0x4004, used)
    struct.pack_into("<ii", descriptor, 201, 1, parttype)
    descriptor[209:211] = code
    return bytes(header) + bytes(585) + bytes(descriptor)


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (sif(b"04"), SIF, "04"),
        (sif(b"04", used=0), SIF, ""),
        (sif(b"04", parttype=4), SIF, ""),
        (sif(b"04", total=-1), SIF, ""),
        (sif(b"04", total=1 << 60), SIF, ""),
        (sif(b"04", table=-(1 << 63)), SIF, ""),
        (sif(b"04", table=(1 << 63) - 1), SIF, ""),
        (sif(b"04")[:5000], SIF, ""),
        (sif(b"04")[:100], OTHER, ""),
        (b"", OTHER, ""),
        (b"hsqs" + bytes(200), OTHER, ""),
    ],
)
def test_the_guard_reads_the_architecture(
    core: Any, tmp_path: Path, content: bytes, kind: int, code: str
) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(content)
    found = ffi.new("char[3]")
    assert core.cmeta_image_look(str(path).encode(), found) == kind
    assert text(found) == code


def test_the_guard_never_blocks(core: Any, tmp_path: Path) -> None:
    found = ffi.new("char[3]")
    os.mkfifo(tmp_path / "fifo")
    assert core.cmeta_image_look(str(tmp_path / "fifo").encode(), found) == OTHER
    assert core.cmeta_image_look(str(tmp_path).encode(), found) == OTHER
    assert core.cmeta_image_look(str(tmp_path / "none").encode(), found) == UNREADABLE


def test_the_guard_and_the_matcher_have_the_same_codes(core: Any) -> None:
    families = {code: vocabulary.architecture(name) for code, name in ARCHITECTURES.items()}
    for code, family in families.items():
        machine = text(core.cmeta_architecture_of(code))
        assert machine is not None, code
        assert family is not None, code
        assert vocabulary.architecture(machine) == family
        for other in filter(None, families.values()):
            ours = vocabulary.also_runs(other, family)
            uname = {"x86": "i686", "arm": "armv7l"}.get(other, other)
            # The guard lets pass what the matcher knows to run, or does not know.
            if ours is not False:
                assert core.cmeta_machine_runs(uname.encode(), code)
    assert not core.cmeta_machine_runs(b"x86_64", b"10")  # mips64el: nobody has it emulated here
    assert core.cmeta_machine_runs(b"x86_64", b"99")


# --- what the user asks for ---------------------------------------------------------------------


def wishes(core: Any, options: dict[str, str]) -> dict[str, Any]:
    """Read the wishes of a client that has these options, and no others."""
    asked: set[str] = set()

    @ffi.callback("char *(const char *)")  # type: ignore[untyped-decorator]
    def get(name: Any) -> Any:
        asked.add(key := ffi.string(name).decode())
        # What C frees has to come from C: a value is copied by its strdup().
        return core.strdup(options[key].encode()) if key in options else ffi.NULL

    read = ffi.new("struct cmeta_wishes *")
    core.cmeta_wishes_read(read, get)
    assert set(options) <= asked | {"mem", "mem-per-gpu", "gpus-per-task", "tape"}
    found: dict[str, Any] = {
        name: text(getattr(read, name))
        for name in ("constraint", "prefer", "partition", "nodelist", "exclude", "clusters", *SIZES)
    }
    found["odd"] = bool(read.odd)
    found["memory"], found["gpus"] = bool(read.memory), bool(read.gpus)
    core.cmeta_wishes_free(read)
    assert read.constraint == ffi.NULL
    return found


SIZES = ("nodes", "ntasks", "cpus", "mem")


def test_the_users_options_are_read(core: Any) -> None:
    plain = {"constraint": "a|b", "prefer": "c", "partition": "p,q"}
    plain |= {"nodelist": "n[1-2]", "exclude": "n3", "clusters": "far"}
    no = {"memory": False, "gpus": False, "odd": False}
    assert wishes(core, plain) == {**plain, **dict.fromkeys(SIZES), **no}
    assert wishes(core, {}) == {**dict.fromkeys(plain), **dict.fromkeys(SIZES), **no}
    sized = {"nodes": "2-4", "ntasks": "8", "cpus-per-task": "2", "mem": "4G"}
    found = wishes(core, sized)
    assert [found[name] for name in SIZES] == ["2-4", "8", "2", "4G"]
    assert found["memory"]
    assert not found["odd"]
    assert wishes(core, {"ntasks-per-node": "4"})["odd"]
    assert wishes(core, {"contiguous": "set"})["odd"]
    unset = {"contiguous": "unset", "ntasks-per-node": "-2", "tmp": "0", "mincpus": "-1"}
    assert not wishes(core, unset)["odd"]
    assert wishes(core, {"cpus-per-task": "2", "mincpus": "8"})["cpus"] == "8"
    assert wishes(core, {"cpus-per-task": "2", "mincpus": "2"})["cpus"] == "2"


@pytest.mark.parametrize("name", ["mem", "mem-per-cpu", "mem-per-gpu"])
def test_any_option_may_ask_for_memory(core: Any, name: str) -> None:
    """Also for all of it: --mem=0 reads back as `0?`."""
    assert wishes(core, {name: "0?"})["memory"]
    assert not wishes(core, {name: "0?"})["gpus"]


@pytest.mark.parametrize("name", ["gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task"])
def test_any_option_may_ask_for_gpus(core: Any, name: str) -> None:
    assert wishes(core, {name: "a100:2"})["gpus"]


@pytest.mark.parametrize(
    ("gres", "has"),
    [
        ("gres:gpu:1", True),  # 22.05
        ("gres/gpu:1", True),
        ("gres/gpu=1", True),
        ("gpu", True),
        ("GPU:2", True),
        ("gres/tape:1,gres/gpu:a100:2", True),
        ("shard:4", True),
        ("gres/mps:50", True),
        ("none", True),
        ("gres/tape:gpu", False),
        ("gpus:1", False),
        ("cpu:2", False),
        ("", False),
        (",,", False),
        ("gres/", False),
        (":,=,gpu", True),
    ],
)
def test_a_list_of_resources_may_have_a_gpu(core: Any, gres: str, has: bool) -> None:
    assert core.cmeta_gres_has_gpu(gres.encode()) == has
    for name in ("gres", "tres-per-task"):
        assert wishes(core, {name: gres})["gpus"] == has


# --- the matcher as a child ---------------------------------------------------------------------


def run_matcher(
    core: Any, program: Path, deadline_ms: int = 2000, *, step: bool = False, **request: str
) -> tuple[bool, dict[str, Any], str | None, float]:
    asked_for = {"matcher": str(program), "image": "/img.sif", **request}
    kept = {k: ffi.new("char[]", v.encode()) for k, v in asked_for.items()}
    flags = {"memory": bool(kept.pop("memory", None)), "gpus": bool(kept.pop("gpus", None))}
    wished = {k: v for k, v in kept.items() if k not in ("matcher", "image")}
    user = ffi.new("struct cmeta_wishes *", {**wished, **flags})
    asked = ffi.new(
        "struct cmeta_request *",
        {
            "matcher": kept["matcher"],
            "image": kept["image"],
            "wishes": user,
            "step": step,
            "deadline_ms": deadline_ms,
        },
    )
    answer, fault = ffi.new("struct cmeta_answer *"), ffi.new("char **")
    start = time.monotonic()
    good = bool(core.cmeta_matcher_run(asked, answer, fault))
    spent = time.monotonic() - start
    messages = [text(answer.messages[i]) for i in range(answer.message_count)]
    found = {"constraint": text(answer.constraint), "messages": messages}
    core.cmeta_answer_free(answer)
    return good, found, text(fault[0]), spent


def script(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "matcher"
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


ANSWER = r"printf 'cmeta 1\nverdict match\naction accept\nconstraint a\nend\n'"


def test_an_answer_is_taken(core: Any, tmp_path: Path) -> None:
    good, found, fault, _ = run_matcher(core, script(tmp_path, ANSWER))
    assert (good, found["constraint"], fault) == (True, "a", None)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home nothing is kept, and no argument says where."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.mark.usefixtures("homeless")
def test_arguments_arrive_as_they_are(core: Any, tmp_path: Path) -> None:
    body = 'printf "cmeta 1\\nverdict match\\naction accept\\n"; '
    body += 'for a; do printf "message %s\\n" "$a"; done; echo end'
    image = "/a b/$(id) 'q' \"d\" ü.sif"
    _, found, _, _ = run_matcher(core, script(tmp_path, body), image=image, constraint="a|b&c")
    assert found["messages"] == ["--image", image, "--constraint", "a|b&c"]


@pytest.mark.usefixtures("homeless")
def test_every_wish_is_told(core: Any, tmp_path: Path) -> None:
    body = 'printf "cmeta 1\\nverdict match\\naction accept\\n"; echo "message $*"; echo end'
    wished: dict[str, Any] = {
        "prefer": "p",
        "partition": "q,r",
        "nodelist": "n[1-2]",
        "exclude": "n3",
        "clusters": "far",
        "nodes": "2-4",
        "ntasks": "8",
        "cpus": "2",
        "mem": "4G",
    }
    program = script(tmp_path, body)
    _, found, _, _ = run_matcher(core, program, **wished, memory="yes", gpus="yes", step=True)
    told = "--prefer p --partition q,r --nodelist n[1-2] --exclude n3 --clusters far"
    told += " --memory yes --gpus yes --nodes 2-4 --ntasks 8 --cpus 2 --mem 4G"
    assert found["messages"] == [f"--image /img.sif {told} --step yes"]
    _, found, _, _ = run_matcher(core, program, nodelist="n," * 60_000, exclude="m," * 60_000)
    assert found["messages"] == ["--image /img.sif"]
    good, _, fault, _ = run_matcher(core, program, constraint="a" * 200_000)
    assert (good, "cannot run" in str(fault)) == (False, True)


def test_the_environment_is_clean(
    core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LD_PRELOAD_X", "PYTHONPATH", "PYTHONHOME", "BASH_ENV", "SECRET"):
        monkeypatch.setenv(name, "/evil")
    body = 'printf "cmeta 1\\nverdict match\\naction accept\\n"; '
    body += "env | sed 's/^/message /'; echo end"
    _, found, _, _ = run_matcher(core, script(tmp_path, body))
    names = {m.partition("=")[0] for m in found["messages"]}
    kept = {"HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "SLURM_CONF", "PATH", "LANG", "LC_ALL"}
    assert names <= kept | {"PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PWD", "SHLVL", "_"}
    assert {"PATH", "PYTHONSAFEPATH"} <= names


@pytest.mark.parametrize("image", ["docker://h.x/app", "oras://h.x/app", "/img.sif", "shub://h"])
def test_only_who_asks_a_registry_has_what_it_takes(
    core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str
) -> None:
    needed = {"REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "https_proxy", "SSL_CERT_FILE"}
    for name in needed:
        monkeypatch.setenv(name, "/a")
    body = 'printf "cmeta 1\\nverdict match\\naction accept\\n"; '
    body += "env | sed 's/^/message /'; echo end"
    _, found, _, _ = run_matcher(core, script(tmp_path, body), image=image)
    names = {m.partition("=")[0] for m in found["messages"]}
    assert names & needed == (needed if image.endswith("/app") else set())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 3", "exit status 3"),
        ("kill -SEGV $$", "signal 11"),
        ("echo rubbish", "no valid answer"),
        (ANSWER.replace(r"end\n", ""), "no valid answer"),
        ("head -c 10000000 /dev/zero | tr '\\0' a", "answered too much"),
        ("exec >&-; sleep 60", "no valid answer"),
    ],
)
def test_a_faulty_matcher_is_a_fault_with_a_sentence(
    core: Any, tmp_path: Path, body: str, words: str
) -> None:
    good, _, fault, spent = run_matcher(core, script(tmp_path, body))
    assert not good
    assert fault is not None
    assert words in fault
    assert spent < 1.5


def test_a_matcher_that_is_not_there(core: Any, tmp_path: Path) -> None:
    assert "cannot run" in str(run_matcher(core, tmp_path / "none")[2])
    plain = tmp_path / "plain"
    plain.write_text("no program")
    assert "cannot run" in str(run_matcher(core, plain)[2])


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("answer", ["", ANSWER + "; "])
def test_nothing_outlives_the_deadline_or_the_answer(
    core: Any, tmp_path: Path, answer: str
) -> None:
    pids = tmp_path / "pids"
    body = f"sleep 60 & echo $! $$ > {pids}; {answer}wait"
    good, _, fault, spent = run_matcher(core, script(tmp_path, body), deadline_ms=300)
    assert good == bool(answer)
    assert spent < 1.0
    if not answer:
        assert "did not answer in time" in str(fault)
    until = time.monotonic() + 2
    left = [int(pid) for pid in pids.read_text().split()]
    while any(map(is_alive, left)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(is_alive, left))


def test_closed_standard_streams_do_no_harm(core: Any, tmp_path: Path) -> None:
    """The answer's pipe must not become the child's stdin or stderr by accident."""
    program = script(tmp_path, f"cat; echo noise >&2; {ANSWER}")
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import test_spank_core as t; "
        "core = t.ffi.dlopen(sys.argv[2]); from pathlib import Path; "
        "os.dup2(1, 9); os.close(0); os.close(1); os.close(2); "
        "good, found, fault, _ = t.run_matcher(core, Path(sys.argv[3])); "
        "os.write(9, repr((good, found['constraint'], fault)).encode())"
    )
    library = tmp_path / "out"
    subprocess.run(
        ["make", "-sC", str(ROOT / "spank"), f"OUT={library}", "core"], check=True, text=True
    )

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            str(Path(__file__).parent),
            f"{library}/libcmeta_core.so",
            program,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "(True, 'a', None)", done.stderr


def test_what_is_printed_has_no_control_characters(core: Any) -> None:
    out = ffi.new("char[64]")
    core.cmeta_clean("a\x1b[2J\nb\u009bc ü\x7f".encode(), out, 64)
    assert text(out) == "a?[2J?b?c ü?"
    core.cmeta_clean(b"abcdef", out, 4)
    assert text(out) == "abc"
