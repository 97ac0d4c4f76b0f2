"""What is built and installed, and the demonstration."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from product import Product

PROJECT = Path(__file__).resolve().parents[2]

SYMBOLS = {
    "plugin_name",
    "plugin_type",
    "plugin_version",
    "spank_plugin_version",
    "slurm_spank_init",
    "slurm_spank_init_post_opt",
    "slurm_spank_task_init",
}


def exported(plugin: Path) -> set[str]:
    done = subprocess.run(
        ["nm", "-D", "--defined-only", str(plugin)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1] for line in done.stdout.splitlines()}


def test_only_what_slurm_looks_for_is_exported(product: Product) -> None:
    assert exported(product.plugin) == SYMBOLS


def readelf(options: str, path: Path) -> str:
    return subprocess.run(
        ["readelf", options, str(path)], capture_output=True, text=True, check=True
    ).stdout


def imported(path: Path) -> set[str]:
    shown = subprocess.run(
        ["nm", "-D", "--undefined-only", str(path)], capture_output=True, text=True, check=True
    ).stdout
    return {line.split()[-1].partition("@")[0] for line in shown.splitlines()}


def test_plugin_and_helper_are_hardened(product: Product) -> None:
    for path in (product.plugin, product.prefix / "libexec/slurm-cmeta/cmeta-run"):
        shown = readelf("-lWd", path)
        assert "GNU_RELRO" in shown
        assert re.search(r"\(FLAGS_1\) .*NOW|\(BIND_NOW\)", shown)
        assert re.search(r"GNU_STACK .* RW ", shown)
        assert not re.search(r"^ +LOAD .* (RWE|WE) ", shown, re.MULTILINE)
        assert not re.search(r"TEXTREL|RPATH|RUNPATH", shown)
        assert {"__stack_chk_fail", "__vasprintf_chk"} <= imported(path)
        assert "Type:                              DYN" in readelf("-h", path)
        if platform.machine() == "x86_64":
            code = subprocess.run(["objdump", "-d", path], capture_output=True, text=True).stdout
            assert re.search(r"<(slurm_spank_task_init|main)[^>]*>:\n[^\n]*endbr64", code)


UNWANTED = {
    # a shell, or a search for a program
    *("system", "popen", "wordexp", "execlp", "execvp", "execvpe", "posix_spawnp"),
    # no bound
    *("strcpy", "strcat", "sprintf", "vsprintf", "gets", "stpcpy", "scanf", "sscanf", "alloca"),
    # files that another user may have put there; identity
    *("mktemp", "tmpnam", "tempnam", "setuid", "seteuid", "setresuid", "setgid", "setegid"),
}


def test_nothing_is_called_that_has_no_bound_or_starts_a_shell(product: Product) -> None:
    run = product.prefix / "libexec/slurm-cmeta/cmeta-run"
    assert imported(product.plugin) & UNWANTED == set()
    assert imported(run) & UNWANTED == set()


def test_nothing_is_installed_that_others_can_change_or_that_lends_rights(product: Product) -> None:
    paths = [p for p in product.prefix.rglob("*") if not p.is_symlink()]
    assert len(paths) > 50
    assert [p for p in paths if p.lstat().st_mode & 0o7022] == []


def test_it_builds_against_a_given_include_path(tmp_path: Path) -> None:
    headers = tmp_path / "include/slurm"
    headers.mkdir(parents=True)
    for name in ("spank.h", "slurm_errno.h", "slurm_version.h"):
        shutil.copy(f"/usr/include/slurm/{name}", headers)
    version = headers / "slurm_version.h"
    text = re.sub(r"(SLURM_VERSION_NUMBER\s+)0x[0-9a-fA-F]+", r"\g<1>0x170b02", version.read_text())
    version.write_text(text)
    make = ["make", "-C", str(PROJECT / "spank"), f"OUT={tmp_path}/out"]
    subprocess.run([*make, f"SLURM_INCLUDE={tmp_path}/include"], check=True, capture_output=True)
    plugin = tmp_path / "out/cmeta_spank.so"
    assert exported(plugin) == SYMBOLS
    assert (0x170B02).to_bytes(4, "little") in plugin.read_bytes()


def test_installing_again_is_safe_and_destdir_is_kept_to(tmp_path: Path) -> None:
    make = ["make", "-C", str(PROJECT), "install", f"DESTDIR={tmp_path}/d", f"OUT={tmp_path}/out"]
    for _ in range(2):
        subprocess.run(
            [*make, "PREFIX=/usr", "PLUGINDIR=/usr/lib/slurm"], check=True, capture_output=True
        )
    found = {p.name for p in (tmp_path / "d").rglob("*") if p.is_file()}
    assert {"cmeta", "cmeta-decide", "cmeta-run", "cmeta_spank.so", "cmeta.lua"} <= found
    assert {p.name for p in (PROJECT / "docs/man").iterdir()} <= found
    launcher = (tmp_path / "d/usr/bin/cmeta").read_text()
    assert '"/usr/lib/slurm-cmeta"' in launcher
    assert launcher.splitlines()[0].endswith(" -I")
    assert str(tmp_path) not in launcher
    assert {p.name for p in tmp_path.iterdir()} == {"d", "out"}


def test_the_package_holds_its_data(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for name in ("slurm_cmeta", "pyproject.toml", "README.md", "LICENSE"):
        source = PROJECT / name
        copy.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    target = tmp_path / "target"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, copy],
        capture_output=True,
        text=True,
    )
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("the registry of Python packages cannot be reached")
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        [str(target / "bin/cmeta"), "inspect", "/dev/null"],
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 3, shown.stderr
    tables = {p.name for p in (PROJECT / "slurm_cmeta/vocabulary").glob("*.json")}
    assert {p.name for p in (target / "slurm_cmeta/vocabulary").glob("*.json")} == tables


# --- make demo ----------------------------------------------------------------------------------


def demo() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "tests/tools/demo.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def slurm_processes() -> set[str]:
    """Return the processes of clusters that a demonstration has started, by command line."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            environment = path.with_name("environ").read_bytes()
        except OSError:
            continue
        if b"cmeta-demo-" in environment and b"demo.py" not in b" ".join(words):
            found.add(b" ".join(words).decode())
    return found


def test_the_demonstration_shows_each_case() -> None:
    with demo() as running:
        output = running.communicate(timeout=120)[0]
    assert running.returncode == 0, output
    table = output[output.index("IMAGE ") :]
    for words in ("refused at submit", "bigmem&x86_64", "x86_64_v3", "zen4", "aarch64", "arm1"):
        assert words in table
    if shutil.which("apptainer"):
        for name in ("plain", "v3", "zen4", "fast"):
            assert f"hello from inside {name}.sif" in table
    assert "Node states after it all: idle." in output
    assert slurm_processes() == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demonstration_that_is_stopped_leaves_nothing_running(number: int) -> None:
    with demo() as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "Submitted batch job 2" in line:
                break
        os.kill(running.pid, number)
        output = running.stdout.read()
    assert running.returncode != 0
    if number == signal.SIGINT:
        assert "stopped; nothing is left running" in output
    until = time.monotonic() + 10
    while slurm_processes() and time.monotonic() < until:
        time.sleep(0.05)
    assert slurm_processes() == set()
