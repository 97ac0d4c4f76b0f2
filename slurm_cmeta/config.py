"""cmeta.yaml: the site's policy. Every key is declared once, in SETTINGS.

PyYAML is imported only when there is a file to read: without one, a submission does not pay for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from slurm_cmeta.errors import ConfigError
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_NAME = "cmeta.yaml"
"""The configuration is looked for beside slurm.conf under this name, unless a path is given."""

MAX_BYTES = 1 << 20
"""Largest cmeta.yaml read. A real one has some kilobytes; a mistaken path may name anything."""


PATH = "path"
NUMBER = "number"
MAX_NUMBER = 2**31 - 1


class Setting(NamedTuple):
    """One key of cmeta.yaml."""

    name: str
    """Dotted path in the file: `strength.cpu` is the key `cpu` in the mapping `strength`."""
    default: str | None
    choices: tuple[str, ...]
    """The values allowed; empty where `form` says what a value looks like."""
    doc: str
    form: str = ""
    """`path`, an absolute path, or `number`, a whole one that is not negative."""

    @property
    def expected(self) -> str:
        """Return what a value must be, in words for people."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return "an absolute path" if self.form == PATH else f"a whole number up to {MAX_NUMBER}"

    def takes(self, value: str) -> bool:
        """Tell whether `value` is allowed."""
        if self.choices:
            return value in self.choices
        if self.form == PATH:
            return value.startswith("/") and "\0" not in value
        return value.isascii() and value.isdigit() and int(value[:12]) <= MAX_NUMBER


SETTINGS = (
    Setting(
        "on_mismatch",
        "reject",
        ("reject", "warn"),
        "What becomes of a job that no node can run: refused at submit, or submitted unchanged "
        "with a warning.",
    ),
    Setting(
        "on_error",
        "accept",
        ("accept", "reject"),
        "What becomes of a job whose image or cluster cannot be read: submitted unchanged with a "
        "warning, or refused at submit.",
    ),
    Setting(
        "strength.arch",
        None,
        ("hard", "soft", "ignore"),
        "The architecture that the image is built for. By default hard.",
    ),
    Setting(
        "strength.cpu",
        None,
        ("hard", "soft", "ignore"),
        "The CPU target that the image declares. By default hard where the label states a target "
        "or a minimum, soft where it says `optimized for`.",
    ),
    Setting(
        "nodes.source",
        "slurm.conf",
        ("slurm.conf", "live", "snapshot"),
        "Where a submission reads the node classes: slurm.conf, the controller (by sinfo), or a "
        "snapshot file.",
    ),
    Setting("nodes.snapshot", None, (), "The snapshot file for nodes.source: snapshot.", PATH),
    Setting(
        "nodes.max_age",
        "86400",
        (),
        "Seconds after which a snapshot is stale; 0 lets any age pass.",
        NUMBER,
    ),
)


class Config(NamedTuple):
    """The settings in force."""

    values: Mapping[str, str | None]
    """Setting.name -> value."""
    path: str | None
    """The file that was read; None when there is none."""

    @property
    def on_mismatch(self) -> str:
        """Return `reject` or `warn`."""
        return str(self.values["on_mismatch"])

    @property
    def on_error(self) -> str:
        """Return `accept` or `reject`."""
        return str(self.values["on_error"])

    @property
    def nodes_source(self) -> str:
        """Return `slurm.conf`, `live` or `snapshot`."""
        return str(self.values["nodes.source"])

    @property
    def nodes_snapshot(self) -> str | None:
        """Return the path of the snapshot; one is set where nodes_source is `snapshot`."""
        return self.values["nodes.snapshot"]

    @property
    def nodes_max_age(self) -> int:
        """Return the seconds after which a snapshot is stale; 0: never."""
        return int(self.values["nodes.max_age"] or 0)

    @property
    def strengths(self) -> dict[str, str]:
        """Return the site's strength for each requirement key that it sets."""
        prefix = "strength."
        return {
            name[len(prefix) :]: value
            for name, value in self.values.items()
            if name.startswith(prefix) and value is not None
        }


def defaults() -> Config:
    """Return the settings in force when there is no cmeta.yaml."""
    return Config({setting.name: setting.default for setting in SETTINGS}, None)


def load(path: str | None, slurm_conf: str | None = None) -> Config:
    """Return the configuration of `path`, or of cmeta.yaml beside `slurm_conf`.

    A file that was asked for by name must be there; the one beside slurm.conf need not. Raises
    ConfigError, which names file and line, for a file that cannot be read, is no YAML mapping, or
    has an unknown key or a value that is not allowed.
    """
    required = path is not None
    if path is None:
        if slurm_conf is None:
            return defaults()
        path = os.path.join(os.path.dirname(os.path.abspath(slurm_conf)), FILE_NAME)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{clean(path)}: no such file") from None
        return defaults()
    except OSError as error:
        raise ConfigError(f"{clean(path)}: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{clean(path)}: larger than {MAX_BYTES} bytes")
    return Config({**defaults().values, **_parse(text, path)}, path)


def _parse(text: bytes, path: str) -> dict[str, str]:
    try:
        import yaml
    except ModuleNotFoundError:
        reason = "reading it needs PyYAML (Debian: python3-yaml, RHEL: python3-pyyaml)"
        raise ConfigError(f"{clean(path)}: {reason}") from None
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{clean(path)}:{line}: {clean(str(error.problem))}") from None
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{clean(path)}: not YAML: {clean(str(error))}") from None
    found: dict[str, str] = {}
    if document is not None:
        _read_mapping(document, "", path, found)
    if found.get("nodes.source") == "snapshot" and "nodes.snapshot" not in found:
        raise ConfigError(f"{clean(path)}: nodes.source is snapshot, but nodes.snapshot is not set")
    return found


def _read_mapping(node: Any, prefix: str, path: str, found: dict[str, str]) -> None:
    import yaml

    known = {setting.name: setting for setting in SETTINGS}
    groups = {setting.name.split(".")[0] for setting in SETTINGS if "." in setting.name}
    if _is_empty(node):
        return
    if not isinstance(node, yaml.MappingNode):
        what = f"{prefix[:-1]} is no mapping" if prefix else "not a mapping of keys to values"
        raise _mistake(path, node, what)
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _mistake(path, key, "a key must be a plain word")
        name = prefix + key.value
        if name in groups and not prefix:
            _read_mapping(value, name + ".", path, found)
            continue
        if name not in known:
            names = ", ".join(sorted(known))
            raise _mistake(path, key, f"unknown key {clean(name)!r}; known keys: {names}")
        if name in found:
            raise _mistake(path, key, f"{name} is set twice")
        if not isinstance(value, yaml.ScalarNode) or not known[name].takes(value.value):
            raise _mistake(path, value, f"{name} must be {known[name].expected}")
        found[name] = value.value


def _is_empty(node: Any) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _mistake(path: str, node: Any, what: str) -> ConfigError:
    return ConfigError(f"{clean(path)}:{node.start_mark.line + 1}: {what}")
