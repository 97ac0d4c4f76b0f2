"""The fault matrix of file systems: the user's home, full disks, and one that stops answering.

docs/faults.md lists the rows.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster import Cluster
from conftest import never_drained
from faults import DEADLINE, SLACK, as_written, narrowed, queue_only, soon
from hung_fs import STAGES, hung, mount, unmount
from product import Product
from test_submit import Done, sbatch
from trouble import ToolError

pytestmark = never_drained

MS_RDONLY = 1


@pytest.fixture(scope="module")
def cluster(place: Path, product: Product) -> Iterator[Cluster]:
    with queue_only(place / "ff", product) as running:
        yield running


# --- the user's cache -----------------------------------------------------------------------------


def _foreign(home: Path) -> None:
    (home / "slurm-cmeta").mkdir()
    os.chown(home / "slurm-cmeta", 12345, 12345)


def _link(home: Path) -> None:
    (home / "elsewhere").mkdir(mode=0o777)
    (home / "slurm-cmeta").symlink_to(home / "elsewhere")


def _open_to_all(home: Path) -> None:
    (home / "slurm-cmeta").mkdir()
    (home / "slurm-cmeta").chmod(0o777)


def _a_file(home: Path) -> None:
    (home / "slurm-cmeta").write_text("")


def _read_only(home: Path) -> None:
    home.chmod(0o555)


def _rubbish_in_all_places(home: Path) -> None:
    directory = home / "slurm-cmeta"
    directory.mkdir(mode=0o755)
    for number in range(1024):
        (directory / f"{number:03x}").write_bytes(os.urandom(200))
    for number in range(64):
        (directory / f"nodes-{number:02x}").write_bytes(b"{}")
    for path in (directory, *directory.iterdir()):
        os.chown(path, home.stat().st_uid, -1)


CACHES = [_foreign, _link, _open_to_all, _a_file, _read_only, _rubbish_in_all_places]


@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_directory_that_is(
    cache: object, cluster: Cluster, arm: Path, place: Path, request: pytest.FixtureRequest
) -> None:
    home = place / f"home{request.node.name}".replace("[", "").replace("]", "")
    home.mkdir(mode=0o755)
    os.chown(home, pwd.getpwnam("alice").pw_uid, -1)
    cache(home)  # type: ignore[operator]
    for _ in range(2):
        with soon():
            done = sbatch(
                cluster, f"--container={arm}", user="alice", env={"XDG_CACHE_HOME": str(home)}
            )
        narrowed(cluster, done)
    if cache in (_foreign, _link, _open_to_all):
        assert list((home / "slurm-cmeta").iterdir()) == [], "nothing is put where others can write"


DISKS = {"full": ("size=4k", 0), "without inodes": ("nr_inodes=2", 0), "read-only": ("", MS_RDONLY)}


@pytest.mark.parametrize("state", DISKS)
def test_a_disk_that_is(state: str, cluster: Cluster, arm: Path, place: Path) -> None:
    disk = place / f"disk {state}"
    disk.mkdir()
    options, flags = DISKS[state]
    try:
        mount("tmpfs", disk, options, flags)
    except ToolError as error:
        pytest.skip(str(error))
    try:
        if state != "read-only":
            (disk / "fill").write_bytes(b"x" * 4096)
        for _ in range(2):
            with soon():
                done = sbatch(cluster, f"--container={arm}", env={"XDG_CACHE_HOME": str(disk)})
            narrowed(cluster, done)
        kept = disk / "slurm-cmeta"
        assert not kept.exists() or [p for p in kept.iterdir() if p.name != "lock"] == []
    finally:
        unmount(disk)


# --- file systems that do not answer --------------------------------------------------------------


class Watched(NamedTuple):
    """What was seen of a client while it ran."""

    done: Done
    states: list[str]
    children: set[int]


def state_of(pid: int) -> tuple[str, int]:
    """Return a process's state (proc(5)) and parent; ("", 0) where it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return words[0], int(words[1])


def children_of(pid: int) -> set[int]:
    everyone = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return {one for one in everyone if state_of(one)[1] == pid}


def watch(cluster: Cluster, words: list[str], env: dict[str, str]) -> Watched:
    """Run a client, and look at it 50 times a second; fails when it hangs itself."""
    until = time.monotonic() + DEADLINE + 2 * SLACK
    client = subprocess.Popen(
        words,
        env={**os.environ, **cluster.env, **env},
        cwd=cluster.layout.work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    states, children = [], set()
    while client.poll() is None:
        if time.monotonic() > until:
            client.kill()  # it ends when the file system does, at the latest
            pytest.fail(f"{words[0]} hangs")
        states.append(state_of(client.pid)[0])
        children |= children_of(client.pid)
        time.sleep(0.02)
    out, err = client.communicate()
    return Watched(Done(words, client.returncode, out, err), states, children)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", ["image", "home"])
def test_a_file_system_that_does_not_answer(
    what: str, stage: str, cluster: Cluster, arm: Path, place: Path, tmp_path: Path
) -> None:
    """It is never sbatch itself that waits for the file system; who does is left behind."""
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\n")
    try:
        with hung(place / f"hung {what} {stage}", stage) as there:
            image = there / "img.sif" if what == "image" else arm
            home = there if what == "home" else tmp_path
            with soon():
                seen = watch(
                    cluster,
                    ["sbatch", "--hold", "--parsable", f"--container={image}", str(script)],
                    {"XDG_CACHE_HOME": str(home)},
                )
            left = {pid: state_of(pid)[0] for pid in seen.children}
    except ToolError as error:
        pytest.skip(str(error))
    if (what, stage) == ("home", "read"):  # each name there is a file: no directory for a cache
        narrowed(cluster, seen.done)
    else:
        as_written(cluster, seen.done, "did not answer in time")
        assert len(seen.states) > DEADLINE * 10
        if stage != "mounted":
            assert "D" in left.values(), "nobody waits for good: nothing was tested"
    assert seen.states.count("D") < 5, seen.states
    until = time.monotonic() + SLACK
    while any(state_of(pid)[0] not in ("", "Z") for pid in left):
        assert time.monotonic() < until, "who waited runs on when the file system has answered"
        time.sleep(0.05)
