"""What is kept between submissions: entries that the plugin answers from, and values."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cffi
import pytest

from slurm_cmeta.kept import decision, place, values
from slurm_cmeta.kept.sources import SourceFile, Sources, of_file

ROOT = Path(__file__).resolve().parents[2]

DECLARATIONS = """
struct cmeta_cache_request { char *text; size_t length; };
char *cmeta_cache_path(const struct cmeta_cache_request *request);
bool cmeta_cache_request_make(const char *const argv[], struct cmeta_cache_request *request);
bool cmeta_cache_answer(const char *path,
    const struct cmeta_cache_request *request, int fd, int *lock);
void free(void *pointer);
"""
ffi = cffi.FFI()
ffi.cdef(DECLARATIONS)

WORDS = ("/usr/bin/cmeta-decide", "--image", "/a b/\u00fcmg.sif", "--constraint", "a&b")
ANSWER = b"cmeta 1\nverdict match\naction accept\nconstraint a&b&zen4\nend\n"
OLD = time.time() - 3600


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("core")
    flags = [f"CFLAGS={os.environ.get('CMETA_TEST_CFLAGS', '-O2 -g')}"]
    subprocess.run(
        ["make", "-C", str(ROOT / "spank"), f"OUT={out}", *flags, "core"],
        capture_output=True,
        check=True,
    )
    return ffi.dlopen(str(out / "libcmeta_core.so"))


def old_file(path: Path, text: str = "x") -> SourceFile:
    path.write_text(text)
    os.utime(path, (OLD, OLD))
    return of_file(str(path), path.stat())


class Kept:
    """A cache directory with one request's entry in it."""

    def __init__(self, core: Any, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._core = core
        self.directory = directory / "cache/slurm-cmeta"
        monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        self._words = [ffi.new("char[]", os.fsencode(w)) for w in WORDS]
        self._argv = ffi.new("const char *const[]", [*self._words, ffi.NULL])
        self._request = ffi.new("struct cmeta_cache_request *")
        assert core.cmeta_cache_request_make(self._argv, self._request)
        found = core.cmeta_cache_path(self._request)
        self.path = Path(os.fsdecode(ffi.string(found)))
        core.free(found)

    def keep(self, *files: SourceFile, absent: tuple[str, ...] = (), until: int = 0) -> None:
        data = decision.render(WORDS, ANSWER, Sources(files, absent, until))
        assert place.write(str(self.path), data)

    def answer(self) -> bytes | None:
        """Return what the plugin answers from the cache; lets go of the lock."""
        reading, writing = os.pipe()
        lock = ffi.new("int *")
        path = ffi.new("char[]", os.fsencode(self.path))
        answered = self._core.cmeta_cache_answer(path, self._request, writing, lock)
        os.close(writing)
        if lock[0] >= 0:
            os.close(lock[0])
        with open(reading, "rb") as pipe:
            text = pipe.read()
        assert answered == bool(text)
        return text or None


@pytest.fixture
def kept(core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    return Kept(core, tmp_path, monkeypatch)


def test_what_was_kept_is_answered(kept: Kept, tmp_path: Path) -> None:
    image, conf = old_file(tmp_path / "i mg.sif"), old_file(tmp_path / "slurm.conf")
    kept.keep(image, conf, absent=(str(tmp_path / "cmeta.yaml"),))
    assert kept.answer() == ANSWER
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert kept.directory.stat().st_mode & 0o777 == 0o700


def test_nothing_is_kept_before(kept: Kept) -> None:
    assert kept.answer() is None
    assert kept.directory.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in kept.directory.iterdir()] == ["lock"]
    assert kept.answer() is None


def _rewrite(path: Path) -> None:
    path.write_text("y")


def _same_size_and_time(path: Path) -> None:
    path.write_text("y")
    os.utime(path, (OLD, OLD))  # as `cp -p` and rsync do: the inode's own time tells


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("x")
    os.utime(other, (OLD, OLD))
    other.rename(path)


def _gone(path: Path) -> None:
    path.unlink()


def _no_rights(path: Path) -> None:
    path.chmod(0)


@pytest.mark.parametrize("change", [_rewrite, _same_size_and_time, _replaced, _gone, _no_rights])
@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_file_ends_it(kept: Kept, tmp_path: Path, change: Any, which: int) -> None:
    paths = [tmp_path / "img.sif", tmp_path / "slurm.conf"]
    kept.keep(*(old_file(path) for path in paths))
    assert kept.answer() == ANSWER
    change(paths[which])
    assert kept.answer() is None


def test_a_file_that_was_not_there_ends_it(kept: Kept, tmp_path: Path) -> None:
    absent = tmp_path / "cmeta.yaml"
    kept.keep(absent=(str(absent),))
    assert kept.answer() == ANSWER
    absent.write_text("")
    assert kept.answer() is None


def test_time_ends_it(kept: Kept) -> None:
    kept.keep(until=int(time.time()) + 60)
    assert kept.answer() == ANSWER
    kept.keep(until=int(time.time()))
    assert kept.answer() is None


@pytest.mark.parametrize("words", [WORDS[:-1], (*WORDS, "--prefer", "c"), ("x", *WORDS[1:])])
def test_another_request_in_the_same_slot_is_not_answered(
    kept: Kept, words: tuple[str, ...]
) -> None:
    place.write(str(kept.path), decision.render(words, ANSWER, Sources()))
    assert kept.answer() is None


def test_an_entry_damaged_at_any_byte_is_not_believed(kept: Kept, tmp_path: Path) -> None:
    kept.keep(old_file(tmp_path / "img.sif"), absent=(str(tmp_path / "none"),))
    whole = kept.path.read_bytes()
    for position in range(len(whole)):
        for damage in (0x01, 0x80, whole[position] ^ 0x0A, whole[position]):
            changed = whole[position] ^ damage
            if changed == whole[position]:
                continue
            data = whole[:position] + bytes((changed,)) + whole[position + 1 :]
            kept.path.write_bytes(data)
            assert kept.answer() is None, (position, damage)
            assert place.read(str(kept.path)) is None, (position, damage)
    for length in range(len(whole)):
        kept.path.write_bytes(whole[:length])
        assert kept.answer() is None, length
    kept.path.write_bytes(whole + b"\n")
    assert kept.answer() is None
    kept.path.write_bytes(b"")
    assert kept.answer() is None
    kept.path.write_bytes(whole)
    assert kept.answer() == ANSWER


@pytest.mark.parametrize(
    "lie",
    [
        b"cmeta-decision 1\nrequest 99999999999999999999\n",
        b"cmeta-decision 1\nrequest -5\n",
        b"cmeta-decision 2\n",
        b"",
        b"\n" * 70000,
    ],
)
def test_an_entry_with_a_sum_that_is_nonsense_is_not_believed(kept: Kept, lie: bytes) -> None:
    assert place.write(str(kept.path), lie)
    assert kept.answer() is None


def _others_can_write(kept: Kept) -> None:
    kept.path.chmod(0o620)


def _others_can_write_the_directory(kept: Kept) -> None:
    kept.directory.chmod(0o770)


def _link(kept: Kept) -> None:
    kept.path.rename(kept.path.with_name("elsewhere"))
    kept.path.symlink_to("elsewhere")


def _directory_is_a_link(kept: Kept) -> None:
    kept.directory.rename(kept.directory.with_name("elsewhere"))
    kept.directory.symlink_to("elsewhere")


def _is_a_fifo(kept: Kept) -> None:
    kept.path.unlink()
    os.mkfifo(kept.path)


def _is_a_directory(kept: Kept) -> None:
    kept.path.unlink()
    kept.path.mkdir()


def _another_owner(kept: Kept) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(kept.path, 12345, -1)


def _another_owner_of_the_directory(kept: Kept) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(kept.directory, 12345, -1)


@pytest.mark.parametrize(
    "untrusted",
    [
        *(_others_can_write, _others_can_write_the_directory, _link, _directory_is_a_link),
        *(_is_a_fifo, _is_a_directory, _another_owner, _another_owner_of_the_directory),
    ],
)
def test_what_others_may_have_written_is_not_believed(kept: Kept, untrusted: Any) -> None:
    kept.keep()
    assert kept.answer() == ANSWER
    untrusted(kept)
    assert kept.answer() is None
    assert place.read(str(kept.path)) is None


def test_nothing_is_written_where_others_can_write(kept: Kept, tmp_path: Path) -> None:
    kept.directory.mkdir(parents=True)
    kept.directory.chmod(0o777)
    assert not place.write(str(kept.path), b"x")
    assert list(kept.directory.iterdir()) == []
    kept.directory.rmdir()
    target = tmp_path / "target"
    target.mkdir()
    kept.directory.symlink_to(target)
    assert not place.write(str(kept.path), b"x")
    assert list(target.iterdir()) == []


def test_a_process_waits_for_another_that_finds_the_answer(kept: Kept) -> None:
    kept.keep(until=1)
    slot = int(kept.path.name, 16)
    holder = os.open(kept.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.lockf(holder, fcntl.LOCK_EX, 1, slot)
    try:
        writer = threading.Timer(0.05, kept.keep)
        writer.start()
        assert kept.answer() == ANSWER
        writer.join()
        kept.keep(until=1)
        fcntl.lockf(holder, fcntl.LOCK_EX, 1, slot)  # that of this process ended with a close()
        start = time.monotonic()
        assert kept.answer() is None  # the other does not come to an end
        assert 0.2 < time.monotonic() - start < 2
    finally:
        os.close(holder)


def test_no_home_no_cache(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request = ffi.new("struct cmeta_cache_request *")
    word = ffi.new("char[]", b"x")
    argv = ffi.new("const char *const[]", [word, ffi.NULL])
    assert core.cmeta_cache_request_make(argv, request)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/x")
    found = core.cmeta_cache_path(request)
    assert ffi.string(found).startswith(b"/home/x/.cache/slurm-cmeta/")
    monkeypatch.delenv("HOME")
    assert core.cmeta_cache_path(request) == ffi.NULL


# --- what the matcher keeps -----------------------------------------------------------------------


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path) -> None:
    fresh = tmp_path / "img.sif"
    fresh.write_text("x")
    now = time.time_ns()
    assert not Sources((of_file(str(fresh), fresh.stat()),)).settled(now)
    assert Sources((of_file(str(fresh), fresh.stat()),)).settled(now + 5_000_000_000)


@pytest.mark.parametrize("path", ["relative", "/a\nfile 1", "/a\0"])
def test_a_path_that_an_entry_cannot_hold_is_not_kept(path: str) -> None:
    assert not Sources((SourceFile(path, 1, 1, 1, 1, 1),)).settled(time.time_ns())
    assert not Sources(absent=(path,)).settled(time.time_ns())


def test_sources_add_up() -> None:
    a, b = SourceFile("/a", 1, 1, 1, 1, 1), SourceFile("/b", 1, 1, 1, 1, 1)
    both = Sources((a,), ("/x",), 9) + Sources((a, b), ("/y",), 0)
    assert both == Sources((a, b), ("/x", "/y"), 9)


def test_values_hold_while_their_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm_cmeta.kept.sources.SETTLED_NS", 0)
    conf = tmp_path / "slurm.conf"
    drawn_from = Sources((old_file(conf),))
    where = str(tmp_path / "cache")
    value = ("a", None, {"b": (1, 2)})
    assert values.load(where, "nodes", "x") is None
    values.keep(where, "nodes", "x", value, drawn_from)
    found = values.load(where, "nodes", "x")
    assert found is not None
    assert found[0] == value
    assert values.load(where, "config", "x") is None
    (kept,) = Path(where).glob("nodes-*")
    whole = kept.read_bytes()
    for position in range(0, len(whole), 7):
        kept.write_bytes(whole[:position] + b"\xff" + whole[position + 1 :])
        assert values.load(where, "nodes", "x") is None or whole[position] == 0xFF
    kept.write_bytes(whole)
    assert values.load(where, "nodes", "x") is not None
    conf.write_text("y")
    assert values.load(where, "nodes", "x") is None


def test_no_home_is_made(tmp_path: Path) -> None:
    """As root, /nonexistent of Debian's nobody would be there for good."""
    home = tmp_path / "nonexistent"
    assert not place.write(str(home / ".cache/slurm-cmeta/001"), b"x")
    assert not home.exists()
    home.mkdir()
    assert place.write(str(home / ".cache/slurm-cmeta/001"), b"x")
    assert (home / ".cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act in another user's home")
@pytest.mark.parametrize("below", [".cache/slurm-cmeta", "slurm-cmeta"])
def test_nothing_is_made_in_another_users_home(tmp_path: Path, below: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    assert not place.write(str(home / below / "001"), b"x")
    assert list(home.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "slurm-cmeta"
    code = "import resource, signal, sys; from slurm_cmeta.kept import place\n"
    code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    code += f"sys.exit(place.write({str(directory / 'x')!r}, bytes(500)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0
    assert list(directory.iterdir()) == []
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
