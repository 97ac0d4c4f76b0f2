"""What a command inside a test root sees: mounts, working directory, environment.

Everything of the machine that a test needs comes in at run time, at the path it has outside: the
project folder, pip's configuration and package directories, certificates, name resolution. Nothing
is baked in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import namespaces
from namespaces import User
from trouble import ToolError

PROJECT = Path(__file__).resolve().parents[2]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT_VARIABLES = re.compile(
    r"TERM|CI|CASES|PYTEST_ADDOPTS|CMETA_TEST_\w+|PIP_\w+|\w*_CERTS?(_\w+)?|\w*_CA_\w+|\w*_CAINFO"
    r"|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY"
)
"""Names of the variables that pass into the root, whole; PATH, HOME, USER, LOGNAME and LANG are
set anew.
"""

CERTIFICATES = (
    Path("/etc/ssl/certs"),
    Path("/usr/local/share/ca-certificates"),
    Path("/usr/share/ca-certificates"),
)
PIP_CONFIGURATION = (Path("/etc/pip.conf"), Path("/etc/xdg/pip"))


def clean_environment(environ: Mapping[str, str], user: User) -> dict[str, str]:
    """The small environment that a command inside starts with."""
    kept = {name: value for name, value in environ.items() if KEPT_VARIABLES.fullmatch(name)}
    own = {
        "PATH": PATH,
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        "LANG": "C.UTF-8",
    }
    return kept | own


def local_package_places(texts: Iterable[str]) -> list[Path]:
    """Directories and files of this machine that pip's settings name, by path or file:// address.

    Of an index `.../simple` its parent is taken: the links in the index lead to folders beside it.
    """
    places: set[Path] = set()
    for text in texts:
        for match in re.finditer(r"(?:^|[\s='\"])(?:file://)?(/[^\s'\"]+)", text, re.MULTILINE):
            path = Path(match[1].rstrip("/"))
            places.add(path.parent if path.name == "simple" else path)
    return sorted(p for p in places if p.exists() and len(p.parts) > 2)


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path == folder or folder in path.parents for folder in folders)


def read_only_binds(environ: Mapping[str, str], user: User) -> list[tuple[Path, Path]]:
    """(outside, inside) of everything that pip and TLS need to work inside as they do outside."""
    home = Path(environ.get("HOME") or "/root")
    pairs = [(p, p) for p in (*CERTIFICATES, *PIP_CONFIGURATION) if p.exists()]
    for name in (".config/pip", ".pip"):
        if (home / name).is_dir():
            pairs.append((home / name, Path(user.home) / name))
    files = [f for source, _ in pairs for f in _pip_files(source)]
    texts = [f.read_text(errors="replace") for f in files]
    texts += [
        value
        for name, value in environ.items()
        if KEPT_VARIABLES.fullmatch(name)
        and (name.startswith("PIP_") or "_CA" in name or "CERT" in name)
    ]
    covered = [source for source, _ in pairs]
    for place in local_package_places(texts):
        if not _is_below(place, covered):
            pairs.append((place, place))
            covered.append(place)
    return pairs


def _pip_files(place: Path) -> list[Path]:
    if place.name == "pip.conf":
        return [place]
    return sorted(place.glob("*")) if place.name in ("pip", ".pip") else []


def entrance(
    root: Path, user: User, binds: Sequence[Path], environ: Mapping[str, str]
) -> Callable[[], None]:
    """What the first process of the namespace does before the command: mount everything, then
    pivot.
    """
    cwd = Path.cwd()
    writable = [PROJECT, *binds]
    for place in writable:
        if not place.is_absolute() or place == Path("/") or not place.exists():
            raise ToolError(
                f"cannot bring {place} into the root: name an existing folder by its absolute path"
            )
    read_only = read_only_binds(environ, user)
    start = cwd if _is_below(cwd, writable) else PROJECT

    def inside(path: Path) -> Path:
        return root / path.relative_to("/")

    def enter() -> None:
        os.umask(0o022)
        namespaces.own_mounts()
        namespaces.mount(root, root, flags=namespaces.MS_BIND)
        namespaces.mount("proc", root / "proc", "proc")
        _bind_sys(root / "sys")
        _bring_dev(root / "dev")
        guarded = namespaces.MS_NOSUID | namespaces.MS_NODEV
        for place, mode in (("dev/shm", "1777"), ("tmp", "1777"), ("run", "755")):
            namespaces.mount("tmpfs", root / place, "tmpfs", guarded, f"mode={mode}")
        for name in ("resolv.conf", "hosts"):
            # Through symbolic links: resolv.conf often leads into /run, which is another one
            # inside.
            source = Path("/etc", name).resolve()
            if source.is_file():
                namespaces.bind(source, root / "etc" / name, read_only=True)
        for outside, target in read_only:
            namespaces.bind(outside, inside(target), read_only=True)
        for folder in writable:
            namespaces.bind(folder, inside(folder), recursive=folder != PROJECT)
        namespaces.pivot(root)
        os.chdir(start)

    return enter


def _bring_dev(target: Path) -> None:
    # A plain chroot has a handful of device files and no terminals; Apptainer wants both, and what
    # it makes in a bound /dev would stay there. So take the kernel's own where it may be had.
    if Path("/dev/pts").is_mount():
        namespaces.bind(Path("/dev"), target)
    else:
        try:
            namespaces.mount("devtmpfs", target, "devtmpfs")
        except ToolError:
            namespaces.bind(Path("/dev"), target)
        (target / "pts").mkdir(exist_ok=True)
        namespaces.mount("devpts", target / "pts", "devpts", data="newinstance,ptmxmode=0666")
    (target / "shm").mkdir(exist_ok=True)


def _bind_sys(target: Path) -> None:
    # In a plain chroot nobody has mounted /sys; an empty one hides the machine's processors from
    # Slurm.
    if any(Path("/sys").iterdir()):
        namespaces.bind(Path("/sys"), target)
    else:
        namespaces.mount("sysfs", target, "sysfs")
