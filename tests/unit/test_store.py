"""Images that were pulled to a node: made once, whole, private, and not for ever."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sif_files

from slurm_cmeta.pull.fetch import into_sif
from slurm_cmeta.pull.landing import PREFIX, STALE, FetchError
from slurm_cmeta.pull.store import Store, StoreError
from slurm_cmeta.pull.variant import Variant
from slurm_cmeta.registry.access import Access
from slurm_cmeta.registry.reference import parse

ROOT = Path(__file__).parents[2]
IMAGE = sif_files.build(sif_files.partition(), arch=b"02")
DIGESTS = [f"sha256:{n:064x}" for n in range(6)]

MAKER = """
import os, sys, time
from slurm_cmeta.pull.store import Store
base, digest, seconds, log, source = sys.argv[1:]
def make(path):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")
    with open(f"{os.path.dirname(path)}/.half-{os.getpid()}", "wb") as half:
        half.write(b"half")
        half.flush()
        time.sleep(float(seconds))
        half.write(b"whole")
    os.unlink(half.name)
    with open(source, "rb") as image, open(path + ".new", "wb") as new:
        new.write(image.read())
    os.rename(path + ".new", path)
print(Store(base).get(digest, 1000, make, time.monotonic() + 30))
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "image.sif").write_bytes(IMAGE)
    return tmp_path / "base"


def maker(base: Path, digest: str, seconds: float = 0) -> subprocess.Popen[str]:
    """Start a process that wants one digest, and that takes its time to make it."""
    log, image = base.with_name("log"), base.with_name("image.sif")
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(base), digest, str(seconds), str(log), str(image)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def made(base: Path) -> list[int]:
    """Return who has made something."""
    log = base.with_name("log")
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def writes(data: bytes = IMAGE) -> Callable[[str], None]:
    def make(path: str) -> None:
        Path(path).write_bytes(data)

    return make


def fails(path: str) -> None:
    raise FetchError("nothing is to be made")


def get(store: Store, digest: str, make: Callable[[str], None] = fails, size: int = 0) -> Path:
    return Path(store.get(digest, size, make, time.monotonic() + 5))


def kept(store: Store) -> list[str]:
    return sorted(os.path.basename(entry.path) for entry in store.entries())


def test_of_twenty_who_ask_at_once_one_makes_it(base: Path) -> None:
    all_of_them = [maker(base, DIGESTS[0], 0.5) for _ in range(20)]
    said = {(one.communicate(timeout=60)[0], one.returncode) for one in all_of_them}
    path = f"{base}/slurm-cmeta-{os.geteuid()}/sha256-{0:064x}.sif"
    assert said == {(f"{path}\n", 0)}
    assert len(made(base)) == 1
    assert Path(path).read_bytes() == IMAGE


def test_who_is_killed_in_the_middle_holds_up_nobody(base: Path) -> None:
    first = maker(base, DIGESTS[0], 60)
    for _ in range(200):
        if made(base):
            break
        time.sleep(0.05)
    waiting = maker(base, DIGESTS[0])
    time.sleep(0.3)
    first.kill()
    first.communicate()
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, err) == (0, "")
    assert Path(out.strip()).read_bytes() == IMAGE
    assert made(base) == [first.pid, waiting.pid]


def test_who_waits_for_too_long_says_for_what(base: Path) -> None:
    store = Store(str(base))
    first = maker(base, DIGESTS[0], 60)
    for _ in range(200):
        if made(base):
            break
        time.sleep(0.05)
    with pytest.raises(StoreError) as problem:
        store.get(DIGESTS[0], 0, fails, time.monotonic() + 0.3)
    assert "another process of this user is pulling the image, and was not ready in time" in str(
        problem.value
    )
    assert get(store, DIGESTS[1], writes()), "others are not held up"
    first.kill()
    first.communicate()


def test_what_is_there_is_not_made_again(base: Path) -> None:
    store = Store(str(base))
    path = get(store, DIGESTS[0], writes())
    assert get(store, DIGESTS[0]) == path
    assert Store(str(base)).path(DIGESTS[0]) == str(path)


@pytest.mark.parametrize("damage", [b"", b"rubbish", IMAGE[:-100], IMAGE[:200]])
def test_a_damaged_image_is_made_anew(base: Path, damage: bytes) -> None:
    store = Store(str(base))
    path = get(store, DIGESTS[0], writes())
    path.write_bytes(damage)
    assert get(store, DIGESTS[0], writes()).read_bytes() == IMAGE
    path.write_bytes(damage)
    with pytest.raises(FetchError):
        get(store, DIGESTS[0])
    assert not path.exists(), "what is damaged is not run"


# --- room -----------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_makes_room(base: Path) -> None:
    store = Store(str(base), max_size=3 * len(IMAGE))
    for age, digest in enumerate(DIGESTS[:3]):
        path = get(store, digest, writes(), len(IMAGE))
        os.utime(path.with_suffix(".lock"), (0, time.time() - 1000 + age))
    get(store, DIGESTS[0])
    get(store, DIGESTS[3], writes(), len(IMAGE))
    assert kept(store) == [Path(store.path(DIGESTS[n])).name for n in (0, 2, 3)]


def test_what_is_in_use_is_left(base: Path) -> None:
    store = Store(str(base), max_size=2 * len(IMAGE))
    paths = [get(store, digest, writes(), len(IMAGE)) for digest in DIGESTS[:2]]
    with paths[0].open("rb") as running:
        fcntl.flock(running, fcntl.LOCK_SH)
        get(store, DIGESTS[2], writes(), len(IMAGE))
        assert paths[0].exists()
        assert not paths[1].exists()
    get(store, DIGESTS[3], writes(), len(IMAGE))
    assert not paths[0].exists(), "as soon as nobody runs it"


def test_what_killed_pulls_left_behind_is_removed(base: Path) -> None:
    store = Store(str(base))
    old, new, linked = (Path(store.directory) / f"{PREFIX}{n}" for n in "abc")
    outside = base / "outside"
    for directory in (old, new, outside):
        (directory / "inside").mkdir(parents=True)
    part = Path(store.directory) / f"{PREFIX}x.sif.0123.part"
    part.touch()
    linked.symlink_to(outside)
    for path in (old, part):
        os.utime(path, (0, time.time() - STALE - 10))
    os.utime(linked, (0, time.time() - STALE - 10), follow_symlinks=False)
    get(store, DIGESTS[0], writes())
    assert [p.exists() for p in (old, new, part)] == [False, True, False]
    assert (outside / "inside").is_dir(), "links are not followed"


def test_what_is_still_written_is_not_taken_for_left_behind(base: Path) -> None:
    store = Store(str(base))
    working = Path(store.directory) / f"{PREFIX}a"
    working.mkdir()
    os.utime(working, (0, time.time() - STALE - 10))
    descriptor = os.open(working, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    get(store, DIGESTS[0], writes())
    assert working.exists()
    os.close(descriptor)
    get(store, DIGESTS[1], writes())
    assert not working.exists()


def test_a_full_disk_is_said(base: Path) -> None:
    huge = Variant(DIGESTS[0], "linux/amd64", 1 << 60, (), (), {})
    store = Store(str(base))
    reference = parse("docker://127.0.0.1:1/x")
    with pytest.raises(FetchError) as problem:
        get(store, DIGESTS[0], lambda path: into_sif(reference, huge, path, Access.within(5)))
    assert "the image has 1099511627776 MiB, and " in str(problem.value)
    assert str(problem.value).endswith(" MiB left")
    assert kept(store) == []


# --- whose it is ----------------------------------------------------------------------------------


def test_it_is_the_users_alone(base: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(str(base))
        get(store, DIGESTS[0], writes())
    finally:
        os.umask(before)
    assert Path(store.directory).stat().st_mode & 0o777 == 0o700


def place(base: Path) -> Path:
    return base / f"slurm-cmeta-{os.geteuid()}"


@pytest.mark.parametrize("mode", [0o755, 0o711, 0o770, 0o702])
def test_a_directory_that_is_open_to_others_is_refused(base: Path, mode: int) -> None:
    place(base).mkdir()
    place(base).chmod(mode)
    with pytest.raises(StoreError, match="is open to other users: not used"):
        Store(str(base))


def test_links_and_files_are_refused(base: Path) -> None:
    (base / "elsewhere").mkdir(mode=0o700)
    place(base).symlink_to(base / "elsewhere")
    with pytest.raises(StoreError, match="is not a directory of this user: not used"):
        Store(str(base))
    place(base).unlink()
    place(base).touch(0o600)
    with pytest.raises(StoreError, match="is not a directory of this user: not used"):
        Store(str(base))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(base: Path) -> None:
    place(base).mkdir(mode=0o700)
    os.chown(place(base), 12345, 12345)
    with pytest.raises(StoreError, match="is not a directory of this user: not used"):
        Store(str(base))


def test_locks_that_are_links_are_not_followed(base: Path) -> None:
    store = Store(str(base))
    target = base / "target"
    Path(store.path(DIGESTS[0])).with_suffix(".lock").symlink_to(target)
    with pytest.raises(StoreError):
        get(store, DIGESTS[0], writes())
    assert not target.exists()


def test_no_place_at_all_is_said(base: Path) -> None:
    with pytest.raises(StoreError) as problem:
        Store(f"{base}/none")
    assert (
        str(problem.value) == f"{base}/none/slurm-cmeta-{os.geteuid()}: No such file or directory"
    )


def test_no_descriptor_is_left_open(base: Path) -> None:
    store = Store(str(base))
    before = len(os.listdir("/proc/self/fd"))
    for digest in DIGESTS:
        get(store, digest, writes(), 100)
        with pytest.raises(FetchError):
            get(store, f"sha256:{9:064x}")
    assert len(os.listdir("/proc/self/fd")) == before
