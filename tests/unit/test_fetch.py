"""Fetching that is interrupted, resumed, or refused: whole or not at all, and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sif_files
from test_registry_client import TOOLS, home

assert str(TOOLS) in sys.path

import hostile_registry as hostile  # noqa: E402
import variants  # noqa: E402
from fetching import (  # noqa: E402
    Breaking,
    artifact,
    digest,
    entries,
    found,
    program,
    recorder,
)
from variants import Made  # noqa: E402

from slurm_cmeta.cli.main import main  # noqa: E402
from slurm_cmeta.pull import tools  # noqa: E402
from slurm_cmeta.pull.fetch import into_layout, into_sif  # noqa: E402
from slurm_cmeta.pull.landing import FetchError  # noqa: E402
from slurm_cmeta.pull.variant import Variant  # noqa: E402
from slurm_cmeta.registry.access import Access  # noqa: E402
from slurm_cmeta.registry.errors import RegistryError  # noqa: E402
from slurm_cmeta.registry.reference import parse  # noqa: E402

__all__ = ["home"]

PROJECT = Path(__file__).parents[2]
SIF = sif_files.build(sif_files.partition(arch=b"04"), sif_files.metadata({"a": "b" * 200_000}))
MADE = [Made("amd64"), Made("amd64", "v2"), Made("arm64", "v8")]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return variants.layout(tmp_path_factory.mktemp("layout") / "app", MADE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


APPTAINER = any(Path(p, n).exists() for p in tools.OPTION_PLACES.split(":") for n in tools.RUNTIMES)
needs_apptainer = pytest.mark.skipif(not APPTAINER, reason="Apptainer not installed")


@needs_apptainer
def test_in_a_job_it_takes_the_jobs_share(
    layout: Path, place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = recorder(home.parent, "mksquashfs")
    monkeypatch.setenv("PATH", f"{home.parent}:{os.environ['PATH']}")
    reference, offered, access = found(f"oci:{layout}")
    into_sif(reference, offered[0], str(place / "a.sif"), access, in_job=True)
    words = said.read_text().split()
    assert words[words.index("-mem") + 1] == "256M"
    assert words[words.index("-processors") + 1] == str(len(os.sched_getaffinity(0)))
    said.unlink()
    monkeypatch.setenv("APPTAINER_MKSQUASHFS_ARGS", "-no-xattrs")
    into_sif(reference, offered[0], str(place / "b.sif"), access, in_job=True)
    assert "-no-xattrs" in said.read_text().split(), "the user knows better"
    assert "-mem" not in said.read_text().split()


@pytest.mark.parametrize("named", ["", "sha256:../../../../etc/passwd"])
def test_a_layer_of_a_layout_that_has_no_digest_is_not_taken(
    tmp_path: Path, place: Path, named: str
) -> None:
    text = json.dumps({"config": {"digest": named}, "layers": []}).encode()
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    (tmp_path / "blobs" / digest(text).replace(":", "/")).write_bytes(text)
    only = Variant(digest(text), "linux/amd64", 1, (), (), {})
    with pytest.raises(FetchError, match="is no digest"):
        into_layout(parse(f"oci:{tmp_path}"), only, str(place / "app"), Access.within(9))
    assert entries(place) == []


def test_a_transfer_that_breaks_off_is_taken_up_again(place: Path) -> None:
    act = Breaking(artifact(SIF), 80_000)
    with hostile.Hostile(act) as server:
        reference, (only,), access = found(f"oras://{server.address}/x:1")
        into_sif(reference, only, str(place / "a.sif"), access)
    assert (place / "a.sif").read_bytes() == SIF
    assert act.asked == ["", "bytes=80000-", "bytes=160000-"]


def test_the_next_try_goes_on_where_the_last_one_ended(place: Path) -> None:
    act = Breaking(artifact(SIF), 30_000)
    with hostile.Hostile(act) as server:
        reference, (only,), access = found(f"oras://{server.address}/x:1")
        with pytest.raises(RegistryError, match="broke off after 30000 of"):
            into_sif(reference, only, str(place / "a.sif"), access)
        (part,) = entries(place)
        assert part.endswith(".part")
        into_sif(reference, only, str(place / "a.sif"), access)
    assert (place / "a.sif").read_bytes() == SIF
    assert act.asked == ["", *(f"bytes={n * 30000}-" for n in range(1, len(act.asked)))]
    assert entries(place) == ["a.sif"]


def test_a_server_without_ranges_is_asked_for_all_of_it(place: Path) -> None:
    act = Breaking(artifact(SIF), 150_000, ranges=False)
    with hostile.Hostile(act) as server:
        reference, (only,), access = found(f"oras://{server.address}/x:1")
        with pytest.raises(RegistryError, match="broke off"):
            into_sif(reference, only, str(place / "a.sif"), access)
        act.after = 10**6
        into_sif(reference, only, str(place / "a.sif"), access)
    assert (place / "a.sif").read_bytes() == SIF


def test_what_was_there_stays_until_all_of_it_came(place: Path) -> None:
    (place / "a.sif").write_text("old")
    act = Breaking(artifact(SIF), 10)
    with hostile.Hostile(act) as server:
        reference, (only,), access = found(f"oras://{server.address}/x:1")
        with pytest.raises(RegistryError):
            into_sif(reference, only, str(place / "a.sif"), access)
        assert (place / "a.sif").read_text() == "old"


NASTY = "a: b;`id` $HOME 'x' \"y\" ü\n-z"


@pytest.mark.parametrize("kind", ["sif", "oci", "oci:"])
def test_paths_are_taken_as_they_are(
    layout: Path, place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "sif" and not APPTAINER:
        pytest.skip("Apptainer not installed")
    # Apptainer 1.4 itself cannot unpack to a path with some of these.
    here = place / (NASTY.translate({ord(c): None for c in ";`\n"}) if kind == "sif" else NASTY)
    here.mkdir()
    copied = here / "layout"
    copied.symlink_to(layout)
    monkeypatch.chdir(here)
    words = ["pull", "--for", "amd64", f"oci:{copied}"]
    words += ["--format", kind, "-o", "made"] if kind != "oci:" else ["-o", "oci:made:mine"]
    assert main(words) == 0
    assert entries(here) == ["layout", "made"]
    if kind == "oci:":
        (entry,) = json.loads((here / "made/index.json").read_text())["manifests"]
        assert entry["annotations"] == {"org.opencontainers.image.ref.name": "mine"}


# --- interruptions --------------------------------------------------------------------------------

SLOW = 'echo begun >half.sif; sleep 60 & echo $! >"$STARTED"; wait'


def _pulling(layout: Path, place: Path, home: Path, body: str = SLOW) -> subprocess.Popen[str]:
    """Start `cmeta pull` with an Apptainer that takes its time, and wait until it is at work."""
    program(home.parent / "bin/apptainer", body)
    started = home.parent / "started"
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "slurm_cmeta.cli.main", "pull", "--for", "amd64"),
            *("-o", str(place / "app.sif"), f"oci:{layout}"),
        ],
        env={
            **os.environ,
            "PATH": f"{home.parent}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "STARTED": str(started),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 20
    while not (started.exists() and started.read_text().endswith("\n")):
        assert time.monotonic() < until
        time.sleep(0.02)
    return child


def _ends(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_pull_leaves_nothing(
    layout: Path, place: Path, home: Path, number: int
) -> None:
    child = _pulling(layout, place, home)
    for _ in range(3):  # whoever is impatient
        child.send_signal(number)
    _, said = child.communicate(timeout=20)
    assert (child.returncode, said) == (130, "")
    assert entries(place) == []
    assert _ends(int((home.parent / "started").read_text())), "what the tool started ended with it"


def test_what_a_killed_pull_leaves_is_removed_by_the_next(
    layout: Path, place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = _pulling(layout, place, home, SLOW.replace("wait", "exec sleep 60"))
    child.kill()
    child.communicate()
    (place_left,) = entries(place)
    assert place_left.startswith(".cmeta-pull-")
    sleeper = int((home.parent / "started").read_text())
    os.kill(sleeper, signal.SIGKILL)  # it works there, as far as anybody can tell
    assert _ends(sleeper)
    os.utime(place / place_left, (1, 1))  # or it would be left alone for a minute
    reference, offered, access = found(f"oci:{layout}")
    program(home.parent / "bin/apptainer", "exit 7")
    monkeypatch.setenv("PATH", f"{home.parent}/bin:{os.environ['PATH']}")
    for _ in range(50):  # the tool itself, which is told to end, may still hold it
        with pytest.raises(FetchError):
            into_sif(reference, offered[0], str(place / "app.sif"), access)
        if entries(place) == []:
            return
        time.sleep(0.1)
    pytest.fail(f"{entries(place)}")


def test_a_tool_that_does_not_end_is_ended(
    layout: Path, place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(home.parent / "bin/apptainer", "trap '' TERM; while :; do sleep 1; done")
    monkeypatch.setenv("PATH", f"{home.parent}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(tools, "PATIENCE", 0.2)
    reference, offered, access = found(f"oci:{layout}", 2)
    with pytest.raises(FetchError, match="apptainer build was not ready in time"):
        into_sif(reference, offered[0], str(place / "app.sif"), access)
    assert entries(place) == []


# --- what is said ---------------------------------------------------------------------------------


def test_the_site_may_name_the_runtime(
    layout: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = program(tmp_path / "own-apptainer", "echo FATAL: it was me >&2; exit 255")
    monkeypatch.setenv("CMETA_RUN_RUNTIME", str(chosen))
    reference, offered, access = found(f"oci:{layout}")
    with pytest.raises(FetchError, match="own-apptainer build failed: it was me"):
        into_sif(reference, offered[0], str(place / "app.sif"), access)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            b"INFO:    Starting build...\n\x1b[31mFATAL:   While performing build: GET http://x/"
            b": UNAUTHORIZED: authentication required\x1b[0m\n",
            "While performing build: GET http://x/: UNAUTHORIZED: authentication required",
        ),
        (
            b'time="2026-01-01T00:00:00Z" level=fatal msg="reading manifest 1.0: not found"\n',
            "reading manifest 1.0: not found",
        ),
        (b"ERROR  : No setuid installation found\nusage: ...\n", "No setuid installation found"),
        (b"", "no reason given"),
        (b"\x1b]0;title\x07 an \xff Error\x00\n", "\\x1b]0;title\\x07 an \ufffd Error\\x00"),
    ],
)
def test_the_last_words_of_a_tool(said: bytes, words: str) -> None:
    assert tools._last_words(said) == words


def test_a_file_that_is_there_is_not_replaced_unasked(
    layout: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "app.sif").write_text("mine")
    words = ["pull", "--for", "amd64", "-o", str(place / "app.sif"), f"oci:{layout}"]
    assert main(words) == 2
    assert "app.sif is there already: --force replaces it, -o names another" in (
        capsys.readouterr().err
    )
    assert (place / "app.sif").read_text() == "mine"
    assert main([*words[:3], "--force", "-o", str(place), f"oci:{layout}"]) == 2
    assert "place is a directory: -o names the file" in capsys.readouterr().err
