"""The plugin's C core against hostile input, short memory and an unfriendly process.

check.py runs this under gcc's sanitizers, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import test_spank_core as base
from hypothesis import given, settings
from hypothesis import strategies as st

ffi = base.ffi
ffi.cdef("void cmeta_say(const char *format, ...);")
core = base.core

ROOT = Path(__file__).parents[2]
ANSWER = b"cmeta 1\nverdict match\naction accept\nconstraint a&b\nprefer a&b&c\nexclude n[1-2]\n"
ANSWER += (
    b"memory 4096\ngres gpu:1\nrequired b\nmessage one\nmessage two, \xc3\xbc\nlater key\nend\n"
)
KEYS = (b"verdict", b"action", b"constraint", b"exclude", b"memory", b"gres", b"message", b"end")


def mutations(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return `whole` with some pieces replaced, doubled, or taken out."""
    place = st.integers(0, len(whole))
    piece = st.one_of(
        st.binary(max_size=8),
        st.sampled_from([k + b" " for k in KEYS]),
        st.sampled_from([b"\n", b"\0", b"\nend\n", b" ", b"\xff\xfe", b"%n%s", b"9" * 30]),
    )

    def mutate(edits: list[tuple[int, int, bytes]]) -> bytes:
        text = whole
        for start, length, new in edits:
            text = text[:start] + new + text[start + length :]
        return text

    edit = st.tuples(place, st.integers(0, 40), piece)
    return st.lists(edit, min_size=1, max_size=4).map(mutate)


# --- any bytes at all ---------------------------------------------------------------------------


@settings(max_examples=400, deadline=None, database=None)
@given(answer=mutations(ANSWER))
def test_a_damaged_answer_is_refused_or_within_its_bounds(core: Any, answer: bytes) -> None:
    parsed = ffi.new("struct cmeta_answer *")
    exact = ffi.new("char[]", len(answer) or 1)  # without a NUL behind it
    ffi.memmove(exact, answer, len(answer))
    if not core.cmeta_answer_parse(exact, len(answer), parsed):
        assert parsed.verdict == ffi.NULL
        return
    kept = {
        name: ffi.string(value) if (value := getattr(parsed, name)) != ffi.NULL else b""
        for name in ("verdict", "constraint", "prefer", "required", "exclude", "memory", "gres")
    }
    core.cmeta_answer_free(parsed)
    assert kept["verdict"] in (b"match", b"mismatch", b"unknown")
    assert all(len(kept[name]) <= 1024 for name in ("constraint", "prefer", "required"))
    assert all(c >= 0x20 and c != 0x7F for value in kept.values() for c in value)
    assert kept["memory"] == b"" or (kept["memory"].isdigit() and kept["memory"][:1] != b"0")


WORDS = [b"default=on", b"matcher=/m", b"config=/c", b"deadline=0.5", b"run=/r", b"runtime=/a"]


@settings(max_examples=200, deadline=None, database=None)
@given(words=st.lists(st.one_of(st.binary(max_size=60), *map(mutations, WORDS)), max_size=40))
def test_any_arguments_of_the_plugin_are_read(core: Any, words: list[bytes]) -> None:
    kept = [ffi.new("char[]", w.replace(b"\0", b"")) for w in words]
    read = ffi.new("struct cmeta_settings *")
    core.cmeta_settings_read(read, len(kept), ffi.new("char *[]", [*kept, ffi.NULL]))
    assert 0 < read.deadline_ms <= 60_000
    assert ffi.string(read.matcher).startswith(b"/")
    assert ffi.string(read.run).startswith(b"/")
    core.cmeta_settings_free(read)


@settings(max_examples=200, deadline=None, database=None)
@given(content=mutations(base.sif(b"04")[:128]), tail=st.sampled_from([0, 585, 1170, 4096]))
def test_the_guard_reads_any_file(
    core: Any, tmp_path_factory: pytest.TempPathFactory, content: bytes, tail: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.sif"
    path.write_bytes(content + base.sif(b"04")[128 : 128 + 3968 + tail])
    code = ffi.new("char[3]")
    assert core.cmeta_image_look(str(path).encode(), code) in (base.OTHER, base.SIF)
    assert code[2] == b"\0"
    core.cmeta_machine_runs(b"x86_64", code)


@settings(max_examples=200, deadline=None, database=None)
@given(gres=mutations(b"gres/gpu:a100:2,gres:tape,shard=1"))
def test_any_list_of_resources_is_read(core: Any, gres: bytes) -> None:
    core.cmeta_gres_has_gpu(gres.replace(b"\0", b""))


def test_a_wrong_setting_is_found_behind_a_long_line(core: Any, tmp_path: Path) -> None:
    (tmp_path / "plugstack.conf").write_text("#" + "x" * 10_000 + "\noptional a.so deadlin=2\n")
    place = core.cmeta_settings_locate(str(tmp_path / "slurm.conf").encode(), b"deadlin=2")
    assert base.text(place) == f"{tmp_path}/plugstack.conf:2"


# --- what is printed ----------------------------------------------------------------------------


@settings(max_examples=400, deadline=None, database=None)
@given(raw=st.one_of(st.binary(max_size=80), st.text(max_size=40).map(str.encode)))
def test_what_is_printed_is_clean_utf8(core: Any, raw: bytes) -> None:
    raw = raw.replace(b"\0", b"")
    out = ffi.new("char[200]")
    core.cmeta_clean(raw, out, 200)
    shown = ffi.string(out).decode()  # strict
    assert len(shown.encode()) <= len(raw)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"}]
    for size in range(1, 12):  # what has no room is left out whole
        core.cmeta_clean(raw, out, size)
        part = ffi.string(out)
        assert len(part) < size
        assert shown.encode().startswith(part)
        part.decode()


@pytest.mark.parametrize(
    "code",
    [
        *(0x1B, 0x7F, 0x85, 0x9B, 0xAD, 0x61C, 0x200B, 0x200D, 0x200E, 0x200F, 0x2028, 0x2029),
        *(0x202A, 0x202E, 0x2060, 0x2066, 0x2069, 0xFEFF, 0xFFF9, 0xE0041),
    ],
)
def test_characters_that_deceive_are_shown(core: Any, code: int) -> None:
    out = ffi.new("char[64]")
    core.cmeta_clean(f"a{chr(code)}ü".encode(), out, 64)
    assert base.text(out) == "a?ü"


def test_text_of_all_languages_stays(core: Any) -> None:
    words = "żółć 图像 образ صورة 🐧 \u00a0 é"
    out = ffi.new("char[200]")
    core.cmeta_clean(words.encode(), out, 200)
    assert base.text(out) == words


@contextmanager
def stderr_to(fd: int) -> Iterator[None]:
    """Make descriptor 2 another one for a while."""
    kept = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_a_long_line_ends_in_a_mark(core: Any, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file, stderr_to(file.fileno()):
        core.cmeta_say(b"%s", ffi.new("char[]", "ü".encode() * 500_000))
        core.cmeta_say(b"%s", ffi.new("char[]", b"a\nb"))
    long, short, end = path.read_text().split("\n")
    assert long == "cmeta: " + "ü" * 8192 + "..."
    assert (short, end) == ("cmeta: a?b", "")


def test_nobody_reading_does_not_end_the_client(core: Any) -> None:
    """Of `sbatch 2>&1 | head -1`, say: the job is not submitted yet."""
    reader, writer = os.pipe()
    os.close(reader)
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with stderr_to(writer):
            core.cmeta_say(b"%s", ffi.new("char[]", b"lost"))
        assert signal.SIGPIPE not in signal.sigpending()
        assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGPIPE, before)
        os.close(writer)


# --- the matcher's process ----------------------------------------------------------------------

CLIENT = """
import sys; sys.path.insert(0, sys.argv[1])
import os, signal, test_spank_core as t
from pathlib import Path
core = t.ffi.dlopen(sys.argv[2])
def steal():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            pass
{before}
good, found, fault, _ = t.run_matcher(core, Path(sys.argv[3]), deadline_ms=int(sys.argv[4]))
os.write(1, repr((good, found['constraint'], fault)).encode())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    build(out)
    return out / "libcmeta_core.so"


def build(out: Path, *flags: str) -> None:
    make = ["make", "-sC", str(ROOT / "spank"), f"OUT={out}", *flags, "core"]
    subprocess.run(make, check=True, capture_output=True, text=True)


def client(
    library: Path, program: Path, deadline_ms: int = 5000, before: str = "", **env: str
) -> subprocess.Popen[str]:
    """Start a process that asks a matcher, as sbatch does."""
    code = CLIENT.format(before=before)
    words = [str(Path(__file__).parent), str(library), str(program), str(deadline_ms)]
    plain = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "ASAN_OPTIONS")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**plain, "PYTHONPATH": str(ROOT), **env},
        close_fds=False,
    )


def wait_for(path: Path) -> str:
    until = time.monotonic() + 10
    while not (path.exists() and path.read_text().endswith("\n")) and time.monotonic() < until:
        time.sleep(0.01)
    return path.read_text()


def test_the_matcher_ends_with_its_client(library: Path, tmp_path: Path) -> None:
    """^C at the terminal reaches sbatch alone."""
    pids = tmp_path / "pid"
    program = base.script(tmp_path, f"echo $$ > {pids}; exec sleep 60")
    with client(library, program, 50_000) as asking:
        matcher = int(wait_for(pids))
        asking.kill()
    until = time.monotonic() + 5
    while base.is_alive(matcher) and time.monotonic() < until:
        time.sleep(0.01)
    assert not base.is_alive(matcher)


def test_an_answer_that_came_while_the_client_was_stopped_counts(
    library: Path, tmp_path: Path
) -> None:
    """^Z and fg: the deadline is over, and the answer is there."""
    started, answered = tmp_path / "started", tmp_path / "answered"
    body = f"echo > {started}; sleep 0.3; {base.ANSWER}; echo > {answered}; sleep 60"
    with client(library, base.script(tmp_path, body), 1000) as asking:
        wait_for(started)
        asking.send_signal(signal.SIGSTOP)
        wait_for(answered)
        time.sleep(1)
        asking.send_signal(signal.SIGCONT)
        assert asking.communicate(timeout=10)[0] == "(True, 'a', None)"


@pytest.mark.parametrize(
    "before",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "import threading; threading.Thread(target=steal, daemon=True).start()",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
    ],
)
def test_the_clients_own_handling_of_signals_does_no_harm(
    library: Path, tmp_path: Path, before: str
) -> None:
    with client(library, base.script(tmp_path, base.ANSWER), before=before) as asking:
        assert asking.communicate(timeout=20)[0] == "(True, 'a', None)"


NO_CLOSE_RANGE = """
#include <errno.h>
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...) { (void)number; errno = ENOSYS; return -1; }
"""


@pytest.mark.parametrize("old_kernel", [False, True])
def test_the_matcher_inherits_no_descriptor(
    library: Path, tmp_path: Path, old_kernel: bool
) -> None:
    if old_kernel:
        (tmp_path / "wrap.c").write_text(NO_CLOSE_RANGE)
        extra = f"LDFLAGS=-Wl,--wrap=syscall {tmp_path}/wrap.c"
        build(tmp_path / "out", extra, "CFLAGS=-O2 -fPIC")
        library = tmp_path / "out/libcmeta_core.so"
    secret = tmp_path / "secret"
    body = f"for f in /proc/$$/fd/*; do readlink $f; done > {tmp_path}/open; {base.ANSWER}"
    program = base.script(tmp_path, body)
    before = f"[os.set_inheritable(os.dup2(os.open({str(secret)!r}, os.O_CREAT), n), True)"
    before += " for n in (5, 40, 200)]"
    with client(library, program, before=before) as asking:
        assert asking.communicate(timeout=20)[0] == "(True, 'a', None)"
    shown = (tmp_path / "open").read_text()
    assert "/dev/null" in shown
    assert "secret" not in shown


def test_the_matchers_limits(library: Path, tmp_path: Path) -> None:
    program = base.script(tmp_path, f"ulimit -a > {tmp_path}/limits; {base.ANSWER}")
    with client(library, program, 3000) as asking:
        assert asking.communicate(timeout=20)[0] == "(True, 'a', None)"
    limits = (tmp_path / "limits").read_text()
    for words, value in (("core", "0"), ("cpu|time", "4"), ("virtual|vmemory", "1048576")):
        (line,) = (x for x in limits.splitlines() if any(w in x for w in words.split("|")))
        assert line.split()[-1] == value
    assert any("files" in x and x.split()[-1] == "64" for x in limits.splitlines())


# --- memory that cannot be had ------------------------------------------------------------------

FAILING = """
import sys; sys.path.insert(0, sys.argv[1])
import cffi, os, test_spank_core as t
from pathlib import Path
core, ffi = t.ffi.dlopen(sys.argv[2]), t.ffi
inter = cffi.FFI(); inter.cdef("long cmeta_fail_at(long number);")
fail_at = inter.dlopen(sys.argv[3]).cmeta_fail_at
tmp = Path(sys.argv[4])
whole = t.GOOD + "constraint a\\nexclude n1\\nmemory 4\\nmessage one\\nmessage two\\nend\\n"
(tmp / "img.sif").write_bytes(t.sif(b"10"))
(tmp / "plugstack.conf").write_text("include *.d\\n"); (tmp / "b.d").write_text("x deadlin=2\\n")

def answer():
    found = t.parse(core, whole.encode())
    assert found is None or (found["memory"], found["messages"]) == ("4", ["one", "two"])

def read(*words):
    kept = [ffi.new("char[]", w) for w in words]
    found = ffi.new("struct cmeta_settings *")
    core.cmeta_settings_read(found, len(kept), ffi.new("char *[]", [*kept, ffi.NULL]))
    answer = t.text(found.error), found.default_mode, t.text(found.matcher)
    core.cmeta_settings_free(found)
    return answer

def settings():
    error, mode, matcher = read(b"default=off", b"matcher=/m")
    assert error or (mode, matcher) == (core.CMETA_OFF, "/m")

def wrong():
    assert read(b"deadlin=2")[0]

def locate():
    found = core.cmeta_settings_locate(str(tmp / "slurm.conf").encode(), b"deadlin=2")
    assert found == ffi.NULL or t.text(found).endswith("b.d:1")

def guard():
    code = ffi.new("char[3]")
    assert core.cmeta_image_look(str(tmp / "img.sif").encode(), code) == t.SIF
    core.cmeta_machine_runs(b"x86_64", code)

def matcher():
    good, found, fault, _ = t.run_matcher(core, Path(sys.argv[5]))
    assert (good, found["constraint"]) == ((True, "a") if good else (False, None)), fault

def record():
    answer = ffi.new("struct cmeta_answer *")
    answer.verdict = kept = ffi.new("char[]", b"mismatch")
    refusal = ffi.new("struct cmeta_refusal *", {"answer": answer})
    line = core.cmeta_record_refusal(refusal)
    assert line == ffi.NULL or t.text(line).endswith('"refused":true}')
    core.free(line)
    core.free(core.cmeta_record_took(1, True))
    assert not core.cmeta_record_send(str(tmp / "none").encode(), b"x")

for call in (answer, settings, wrong, locate, guard, matcher, record):
    call()
    number = 0
    while True:
        number += 1
        fail_at(number)
        call()
        if fail_at(0) < number:
            break
    print(call.__name__, number - 1)
"""


@pytest.mark.skipif("CMETA_TEST_CFLAGS" in os.environ, reason="the sanitizer has its own malloc")
def test_every_allocation_may_fail(library: Path, tmp_path: Path) -> None:
    interposer = tmp_path / "interposer.so"
    source = ROOT / "tests/tools/interposer.c"
    compiler = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run([*compiler, str(interposer), str(source), "-ldl"], check=True)
    program = base.script(tmp_path, base.ANSWER)
    done = subprocess.run(
        [
            *(sys.executable, "-c", FAILING, str(Path(__file__).parent)),
            *(str(library), str(interposer), str(tmp_path), str(program)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(interposer)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    failed = {name: int(count) for name, count in map(str.split, done.stdout.splitlines())}
    assert {name for name, count in failed.items() if count > 0} >= {
        "answer",
        "wrong",
        "matcher",
        "record",
    }
    assert set(failed) == {"answer", "settings", "wrong", "locate", "guard", "matcher", "record"}
