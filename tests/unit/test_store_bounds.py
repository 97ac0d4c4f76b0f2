"""The bounds of a node's store: what it takes, what it believes, and what the dead leave."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurm_cmeta.pull.landing import PREFIX, YOUNG, beside, remove_tree, sweep
from slurm_cmeta.pull.store import Store, StoreError

PROJECT = Path(__file__).parents[2]
MIB = 1 << 20


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def filled(path: str, size: int = 100, text: bytes = b"i") -> None:
    """Make an image as a pull does: beside its place, and then there."""
    Path(path + ".new").write_bytes(text * size)
    Path(path + ".new").replace(path)


def soon() -> float:
    return time.monotonic() + 5


def get(store: Store, number: int, size: int = 100) -> str:
    return store.get(digest(number), size, lambda path: filled(path, size), soon())


def known(store: Store, number: int) -> str:
    """Return an image that is there; fail where it would be pulled."""
    return store.get(digest(number), 1, lambda path: pytest.fail("pulled again"), soon())


def images(store: Store) -> list[int]:
    return sorted(int(Path(one.path).stem[7:], 16) for one in store.entries())


@contextmanager
def in_use(path: str) -> Iterator[None]:
    """Hold an image as cmeta-run does."""
    with open(path, "rb") as image:
        fcntl.flock(image, fcntl.LOCK_SH)
        yield


def python(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_base_where_others_can_exchange_it_is_not_used(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(StoreError, match=r"others can rename what is in .*chmod 1777"):
        Store(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    tmp_path.chmod(0o1777)
    Store(str(tmp_path))


def test_one_asks_at_a_time_for_a_while(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.asking(5):
        begun = time.monotonic()
        with store.asking(0.3):  # as another process would
            assert 0.25 < time.monotonic() - begun < 3
    begun = time.monotonic()
    with store.asking(5):
        assert time.monotonic() - begun < 0.1


def test_what_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path))

    def fail(path: str) -> None:
        raise StoreError("the registry is down")

    for _ in range(2):
        with pytest.raises(StoreError, match="the registry is down"):
            store.get(digest(1), 1, fail, soon())
    assert images(store) == []
    get(store, 1)
    get(store, 2)
    known(store, 1)


# --- never poisoned -------------------------------------------------------------------------------


def _cut(path: Path) -> None:
    os.truncate(path, 50)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _written_to(path: Path) -> None:
    path.write_bytes(b"x" * 100)


def _removed(path: Path) -> None:
    path.unlink()


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _without_stamp(path: Path) -> None:
    """As after a kill between the rename and the stamp."""
    os.truncate(path.with_suffix(".lock"), 0)


@pytest.mark.parametrize("damage", [_cut, _emptied, _written_to, _removed, _linked, _without_stamp])
def test_what_is_not_what_it_was_is_pulled_anew(damage: object, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path = Path(get(store, 1))
    damage(path)  # type: ignore[operator]
    store.get(digest(1), 100, lambda to: filled(to, 100, b"n"), soon())
    assert path.read_bytes() == b"n" * 100
    assert not path.is_symlink()
    known(store, 1)


# --- its size -------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = Store(str(tmp_path), 300)
    for number in (1, 2, 3):
        get(store, number)
        os.utime(store.path(digest(number)).replace(".sif", ".lock"), (number, number))
    known(store, 1)
    get(store, 4)
    assert images(store) == [1, 3, 4]
    get(store, 5, 200)
    assert images(store) == [4, 5] or images(store) == [1, 5]
    names = {p.stem for p in Path(store.directory).iterdir()} - {"lock"}
    assert len(names) == 2, "locks go with their images"


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    store = Store(str(tmp_path), 300 * MIB)
    for number in (1, 2):
        path = get(store, number)
        os.truncate(path, 120 * MIB)  # holes: they take no room in truth
        store.get(digest(number), 1, lambda to: os.truncate(_touched(to), 120 * MIB), soon())
    with in_use(store.path(digest(1))):
        os.utime(store.path(digest(1)).replace(".sif", ".lock"), (1, 1))
        get(store, 3, 100)
        store.make_room(100 * MIB, soon())
        assert images(store) == [1, 3]
        with in_use(store.path(digest(3))), pytest.raises(StoreError) as problem:
            store.make_room(200 * MIB, soon())
    assert str(problem.value) == (
        f"{store.directory} has no room for 200 MiB: images in use take 120 of 300 MiB (store_size)"
    )
    store.make_room(200 * MIB, soon())
    assert images(store) == [3]


def _touched(path: str) -> str:
    Path(path).touch()
    return path


def test_what_is_larger_than_the_store_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path), 3 * MIB)
    get(store, 1)
    with pytest.raises(StoreError, match=r"the image takes 4 MiB, .* no more than 3 MiB"):
        store.get(digest(2), 4 * MIB, lambda path: pytest.fail("pulled"), soon())
    assert images(store) == [1], "nothing is removed for it"
    with pytest.raises(StoreError, match="the image takes 4 MiB"):
        store.get(digest(2), 10, lambda path: filled(path, 4 * MIB), soon())
    assert 2 not in images(store)


def test_what_turns_out_larger_than_was_said_makes_its_room_afterwards(tmp_path: Path) -> None:
    store = Store(str(tmp_path), 300)
    get(store, 1, 200)
    store.get(digest(2), 50, lambda path: filled(path, 250), soon())
    assert images(store) == [2]


def test_an_image_that_runs_is_never_removed_while_others_pull(tmp_path: Path) -> None:
    """What is in the place of an image that was found stays readable, whoever makes room."""
    store = Store(str(tmp_path), 250)
    with open(get(store, 1), "rb") as image:
        fcntl.flock(image, fcntl.LOCK_SH)
        for number in range(2, 30):
            get(store, number)
        assert os.fstat(image.fileno()).st_nlink == 1
    assert images(store) == [1, 29]


# --- what the dead leave --------------------------------------------------------------------------

WORKER = """
import sys, time
from slurm_cmeta.pull.landing import beside
with beside(sys.argv[1]) as place:
    open(place.path + "/half", "w").close()
    print(place.path, flush=True)
    time.sleep(60)
"""


def left(place: Path) -> list[str]:
    return [p.name for p in place.iterdir() if p.name.startswith(PREFIX)]


def test_what_a_killed_pull_left_is_removed_and_nothing_of_the_living(tmp_path: Path) -> None:
    dead, living = (python(WORKER, tmp_path) for _ in range(2))
    assert dead.stdout is not None
    assert living.stdout is not None
    dead.stdout.readline()
    alive = Path(living.stdout.readline().strip())
    dead.kill()
    dead.communicate()
    sweep(str(tmp_path))
    assert len(left(tmp_path)) == 2, "nobody is hurried"
    for name in left(tmp_path):
        os.utime(tmp_path / name, (1, time.time() - YOUNG - 1))
    sweep(str(tmp_path))
    assert left(tmp_path) == [alive.name]
    assert (alive / "half").exists()
    living.kill()
    living.communicate()


def test_the_store_sweeps_when_it_makes_room(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    dead = python(WORKER, store.directory)
    assert dead.stdout is not None
    dead.stdout.readline()
    dead.kill()
    dead.communicate()
    os.utime(f"{store.directory}/{left(Path(store.directory))[0]}", (1, 1))
    get(store, 1)
    assert left(Path(store.directory)) == []


def test_old_parts_go_and_new_ones_stay(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / f"{PREFIX}{name}.sif.0123456789ab.part").write_text("half")
    other = tmp_path / ".someone-elses.part"
    other.write_text("")
    for path in tmp_path.iterdir():
        if "new" not in path.name:
            os.utime(path, (1, 1))
    sweep(str(tmp_path))
    assert left(tmp_path) == [f"{PREFIX}new.sif.0123456789ab.part"]
    assert other.exists()


def _work_as_an_ordinary_user(base: str) -> None:
    if not os.geteuid():
        os.setgroups([])
        os.setresgid(12345, 12345, 12345)
        os.setresuid(12345, 12345, 12345)
    with beside(base) as place:
        os.makedirs(f"{place.path}/rootfs/a/b")
        Path(f"{place.path}/rootfs/a/b/file").touch()
        os.symlink("/etc", f"{place.path}/rootfs/link")
        os.chmod(f"{place.path}/rootfs/a/b", 0)
        os.chmod(f"{place.path}/rootfs/a", 0o500)


def test_a_workplace_is_gone_whatever_modes_an_image_has() -> None:
    """As an ordinary user, whom modes bind."""
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o777)  # noqa: S103
        worker = multiprocessing.get_context("fork").Process(
            target=_work_as_an_ordinary_user, args=(base,)
        )
        worker.start()
        worker.join(30)
        assert worker.exitcode == 0
        assert left(Path(base)) == []


def test_nothing_outside_is_touched(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "file").write_text("")
    with beside(str(tmp_path)) as place:
        os.symlink(outside, f"{place.path}/link")
    assert (outside / "file").exists()
    assert outside.stat().st_mode & 0o777 == 0o750
    remove_tree(str(tmp_path / "not there"))
