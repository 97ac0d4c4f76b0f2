"""Replayed hosts: directories with the files that probes read, below tmp_path."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from slurm_cmeta.node import Found
from slurm_cmeta.node.host import RECORDED, Host, HostError


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write the files (path from the root -> content) and return the root."""
    for path, content in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def recorded(command: str, answer: str) -> dict[str, str | bytes]:
    """Return the file that has the recorded answer of a command."""
    return {f"{RECORDED}/{command.replace('/', '_')}": answer}


def look(root: Path, *probes: ModuleType) -> Found:
    """Return what these probes find, unknown where they say that they cannot tell."""
    found = Found()
    host = Host(str(root))
    for module in probes:
        try:
            module.probe(host, found)
        except HostError as error:
            for key in module.KEYS:
                if not any(f.key == key for f in found.facts) and not found.is_unknown(key):
                    found.cannot_tell(key, error)
    return found


def unknown(found: Found, key: str) -> str:
    """Return why `key` is unknown; fails where a value was found."""
    assert found.value(key) is None, found.facts
    return next(u.reason for u in found.unknown if u.key == key)
