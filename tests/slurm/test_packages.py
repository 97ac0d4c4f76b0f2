"""The packages, built, installed, used, upgraded, removed and purged where nothing else of the
project is.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clean_view import CleanView
from conftest import PROJECT, ImageMaker
from product import build_python

from slurm_cmeta import __version__
from slurm_cmeta.cli import surface

SITE = {
    "plugstack.conf": "optional /opt/site/own.so\n",
    "job_submit.lua": "-- the site's own\nreturn slurm.SUCCESS\n",
    "cmeta.yaml": "on_mismatch: warn\n",
    "cmeta-features.d/site.conf": "feature rack=7\n",
}
"""Below /etc/slurm: what a site has written, and no package may touch."""

NEXT = "0.99.0"


def need(*programs: str) -> None:
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; use `make test`")


def release() -> tuple[int, int]:
    """Return the release of the Slurm here, such as (24, 11)."""
    said = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True).stdout
    year, month = re.findall(r"\d+", said)[:2]
    return int(year), int(month)


def make(target: str, place: Path, *settings: str) -> Path:
    """Run one of make's targets that build packages; return the directory with them."""
    built = place / "built"
    argv = ["make", "-s", "-C", str(PROJECT), target, f"WORK={place}/work", f"DIST={built}"]
    done = subprocess.run([*argv, *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return built


@pytest.fixture(scope="module")
def debs(place: Path) -> Path:
    """Return a directory with the packages, and in its `next` those of a later version."""
    need("dpkg-buildpackage", "dh", "dh_python3")
    # Not --check-builddeps: that wants a C++ compiler too.
    built = make("deb", place / "deb", "DEBFLAGS=--no-check-builddeps")
    (built / "next").mkdir()
    for deb in built.glob("*.deb"):
        tree = place / "deb" / deb.stem
        subprocess.run(["dpkg-deb", "-R", str(deb), str(tree)], check=True)
        for path in (tree / "DEBIAN/control", tree / "usr/lib/slurm-cmeta/slurm_cmeta/__init__.py"):
            if path.exists():
                path.write_text(path.read_text().replace(__version__, NEXT))
        target = built / "next" / deb.name.replace(__version__, NEXT)
        subprocess.run(["dpkg-deb", "-b", str(tree), str(target)], check=True, capture_output=True)
    return built


@pytest.fixture(scope="module")
def view_place(place: Path) -> Path:
    path = place / "view"
    path.mkdir()
    return path


def site_files(view: CleanView) -> dict[str, str]:
    base = view.root / "etc/slurm"
    return {str(p.relative_to(base)): p.read_text() for p in base.rglob("*") if p.is_file()}


@pytest.fixture
def view(place: Path, view_place: Path, make_image: ImageMaker) -> Iterator[CleanView]:
    """Return a view with images and the files of a site."""
    make_image("plain")
    make_image("arm", "arm64")
    bring = {"tools": PROJECT / "tests/tools", "images": place / "images", "place": place}
    with CleanView(view_place, bring) as view:
        for name, text in SITE.items():
            path = view.root / "etc/slurm" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert not (view.root / str(PROJECT).lstrip("/") / "slurm_cmeta").exists()
        yield view


def install(view: CleanView, directory: Path, place: Path) -> None:
    where = f"/mnt/place/{directory.relative_to(place)}"
    view.run("sh", "-c", f"apt-get install -qq --no-install-recommends {where}/*.deb")


JOBS = """
sbatch --container=/mnt/images/arm.sif --wrap true -o /dev/null
sbatch --container=/mnt/images/none.sif -H --wrap true -o /dev/null
out=/run/c/work/out
id=$(sbatch --parsable --container=/mnt/images/plain.sif -o $out --wrap 'echo in $(cat /etc/image)')
scontrol -o show job $id
for i in $(seq 100); do
  scontrol show job $id | grep -q 'JobState=[CF]' && break
  sleep 0.1
done
cat $out
exit 0
"""


def jobs(view: CleanView, job_submit: str, plugin: str = "optional cmeta_spank.so") -> str:
    """Submit an image for arm, one that is not there, and one that runs, on a throw-away cluster
    with the plugin's line; return what was printed.
    """
    argv = ["python3", "-B", "/mnt/tools/cluster.py", "--directory", "/run/c"]
    argv += [
        "--node",
        "n1:x86_64,zen3",
        "--node",
        "p1:ppc64le",
        "--plugstack",
        plugin,
        "--job-submit",
        job_submit,
    ]
    done = view.try_run([*argv, "--", "sh", "-c", JOBS])
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_debian_packages_ask_for_the_slurm_that_they_are_built_for(debs: Path) -> None:
    fields = ["dpkg-deb", "-f", str(next(debs.glob("slurm-cmeta-plugin_*.deb"))), "Depends"]
    depends = subprocess.run(fields, capture_output=True, text=True, check=True).stdout
    year, month = release()
    owner = "slurm-wlm-basic-plugins"
    bounds = f"{owner} (>= {year}.{month:02}), {owner} (<< {year}.{month + 1:02}~)"
    assert bounds in depends
    assert f"slurm-cmeta (= {__version__})" in depends
    assert [p.name for p in debs.glob(f"*+slurm{year}.{month:02}_*.deb")]


def test_no_package_has_a_file_below_etc(debs: Path) -> None:
    for deb in debs.glob("*.deb"):
        done = subprocess.run(["dpkg-deb", "-c", str(deb)], capture_output=True, text=True)
        names = [line.split()[5] for line in done.stdout.splitlines()]
        assert len(names) > 5
        assert [name for name in names if name.startswith("./etc")] == []


def works(view: CleanView) -> None:
    """Hold what an administrator finds after any of the packages is installed."""
    assert site_files(view) == SITE
    assert view.run("cmeta", "--version") == f"cmeta {__version__}\n"
    assert "x86_64" in view.run("cmeta-features", "--format", "list")
    usr = view.root / "usr"
    assert list(usr.glob("lib/slurm-cmeta/slurm_cmeta/cli/__pycache__/decide.*.pyc"))
    pages = {p.name.removesuffix(".gz") for p in usr.glob("share/man/man[158]/*cmeta*")}
    assert pages == {p.name for p in (PROJECT / "docs/man").iterdir()}
    script = "source /usr/share/bash-completion/completions/cmeta && complete -p cmeta"
    assert "-F _cmeta" in view.run("bash", "-c", script)
    for program in surface.programs():
        assert list(usr.glob(f"share/zsh/*/_{program}"))
        assert (usr / f"share/fish/vendor_completions.d/{program}.fish").exists()
    units = list(view.root.glob("lib/systemd/system/cmeta-*"))
    assert {p.name for p in units} == {p.name for p in (PROJECT / "etc/systemd").iterdir()}
    assert not any("/usr/local" in p.read_text() for p in units)
    assert list((view.root / "etc/systemd").rglob("cmeta*")) == []
    examples = usr / "share/doc/slurm-cmeta/examples"
    assert '"/usr/share/slurm-cmeta/?.lua;' in (examples / "job_submit.lua").read_text()
    assert (examples / "plugstack.conf.d/cmeta.conf").exists()


def narrows(told: str) -> None:
    """Hold what jobs() tells where both halves are installed."""
    assert "cmeta: error: arm.sif needs aarch64" in told
    assert "/mnt/images/none.sif" in told
    assert "Features=x86_64 " in told, told
    if shutil.which("apptainer"):
        assert "in plain.sif" in told, told


def test_the_debian_packages_work_and_leave_the_sites_files_alone(
    debs: Path, view: CleanView, place: Path
) -> None:
    install(view, debs, place)
    works(view)
    narrows(jobs(view, "/usr/share/doc/slurm-cmeta/examples/job_submit.lua"))
    log = (view.root / "run/c/log/slurmctld.log").read_text()
    assert [line for line in log.splitlines() if "error" in line and "cmeta" in line] == []
    (view.root / "var/lib/slurm-cmeta").mkdir()
    (view.root / "var/lib/slurm-cmeta/features").write_text("n1 rack=7\n")

    install(view, debs / "next", place)
    assert view.run("cmeta", "--version") == f"cmeta {NEXT}\n"
    assert site_files(view) == SITE

    view.run("apt-get", "remove", "-qq", "slurm-cmeta", "slurm-cmeta-plugin")
    assert view.try_run(["sh", "-c", "command -v cmeta cmeta-decide cmeta-features"]).stdout == ""
    assert not (view.root / "usr/lib/slurm-cmeta").exists()
    assert (view.root / "var/lib/slurm-cmeta/features").exists()
    assert site_files(view) == SITE
    # The site's lines are still there, and harm nobody.
    (view.root / "run/job_submit.lua").write_text((PROJECT / "lua/job_submit.lua").read_text())
    told = jobs(view, "/run/job_submit.lua")
    assert told.count("Submitted batch job") == 2
    assert "cmeta: error" not in told

    view.run("apt-get", "purge", "-qq", "slurm-cmeta", "slurm-cmeta-plugin")
    assert not (view.root / "var/lib/slurm-cmeta").exists()
    assert site_files(view) == SITE


def test_the_rpm_packages_work_and_leave_the_sites_files_alone(
    view: CleanView, place: Path
) -> None:
    need("rpmbuild")
    flags = "--nodeps --define '_libdir /usr/lib64' --define 'debug_package %{nil}'"
    built = make("rpm", place / "rpm", f"RPMFLAGS={flags}")
    paths = [f"/mnt/place/{p.relative_to(place)}" for p in built.glob("*.rpm")]
    assert len(paths) == 2
    assert not any("/etc/" in view.run("rpm", "-qpl", path) for path in paths)
    rpm = ("rpm", "--dbpath", "/run/rpmdb", "--nodeps")
    view.run(*rpm, "-i", *paths)
    works(view)
    (view.root / "run/job_submit.lua").write_text((PROJECT / "lua/job_submit.lua").read_text())
    plugin = "optional /usr/lib64/slurm/cmeta_spank.so"
    narrows(jobs(view, "/usr/share/doc/slurm-cmeta/examples/job_submit.lua", plugin))
    year, month = release()
    asked = view.run("rpm", "-qpR", *paths).splitlines()
    assert {f"slurm >= {year}.{month:02}", f"slurm < {year}.{month + 1:02}"} <= set(asked)
    view.run(*rpm, "-e", "slurm-cmeta", "slurm-cmeta-plugin")
    assert not (view.root / "usr/lib/slurm-cmeta").exists()
    assert site_files(view) == SITE


def test_wheel_and_sdist_hold_all_and_the_wheel_works_in_an_environment(
    view: CleanView, place: Path, tmp_path: Path
) -> None:
    if not list(importlib.metadata.distributions(name="build")):
        pytest.skip("build not installed (PyPI); use `make test`")
    source, built = tmp_path / "source", place / "wheel"
    build_python(source, built)
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("spank", "lua", "etc", "docs", "debian", "packaging", "tests", "slurm_cmeta"):
        files = {p.relative_to(source) for p in (source / name).rglob("*") if p.is_file()}
        assert {str(p) for p in files if p.suffix not in (".o", ".so")} - inside == set(), name
    assert "Makefile" in inside
    data = {str(p.relative_to(PROJECT)) for p in PROJECT.glob("slurm_cmeta/**/*.json")}
    assert data - set(zipfile.ZipFile(wheel).namelist()) == set()

    view.run("python3", "-m", "venv", "/opt/own")
    pip = ("/opt/own/bin/pip", "install", "-q", "--no-index", "--no-deps")
    view.run(*pip, f"/mnt/place/wheel/{wheel.name}")
    assert view.run("/opt/own/bin/cmeta", "--version") == f"cmeta {__version__}\n"
    shown = view.run("/opt/own/bin/cmeta", "inspect", "/mnt/images/arm.sif")
    assert "aarch64" in shown
    assert "x86_64" in view.run("/opt/own/bin/cmeta-features")
    conf = view.root / "run/slurm.conf"
    conf.write_text("NodeName=n1 Features=x86_64\n")
    asked = ("--image", "/mnt/images/arm.sif", "--slurm-conf", "/run/slurm.conf")
    told = view.try_run(["/opt/own/bin/cmeta-decide", *asked])
    assert told.returncode == 1, told.stderr
    assert told.stdout.splitlines()[:2] == ["cmeta 1", "verdict mismatch"]
    script = view.run("/opt/own/bin/python", "-m", "slurm_cmeta.cli.completion", "bash", "cmeta")
    assert "complete -F _cmeta cmeta" in script
