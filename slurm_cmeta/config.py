"""cmeta.yaml: the site's policy. Every key is declared once, in settings.py.

PyYAML is imported only when there is a file to read: without one, a submission does not pay for it.
"""

from __future__ import annotations

import os

from slurm_cmeta import sitepackages
from slurm_cmeta.constraint.grammar import is_name
from slurm_cmeta.errors import ConfigError
from slurm_cmeta.kept.sources import Sources, of_file
from slurm_cmeta.nodefacts import SiteNames
from slurm_cmeta.policy import Policy
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.settings import IN_PARTITIONS, KNOWN, SETTINGS
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FILE_NAME = "cmeta.yaml"
"""The configuration is looked for beside slurm.conf under this name, unless a path is given."""

MAX_BYTES = 1 << 20
"""Largest cmeta.yaml read. A real one has some kilobytes; a mistaken path may name anything."""

FEATURES, PARTITIONS = "features", "partitions"


class Config(NamedTuple):
    """The settings in force."""

    values: Mapping[str, str | None]
    """Setting.name -> value; a list is joined by commas."""
    path: str | None
    """The file that was read; None when there is none."""
    lines: Mapping[str, int] = {}
    """Setting.name -> line of the file that set it. `features.NAME` and `partitions.NAME.KEY` are
    here, too."""
    features: Mapping[str, tuple[str, ...]] = {}
    """A site's own feature -> what it means."""
    partitions: Mapping[str, Mapping[str, str]] = {}
    """Partition -> Setting.name -> value, where it is another one there."""

    sources: Sources = Sources()
    """The file, or where none was."""

    @property
    def on_error(self) -> str:
        """Return `accept` or `reject`."""
        return str(self.values["on_error"])

    @property
    def registry_ask(self) -> bool:
        """Tell whether a submission asks registries."""
        return self.values["registry.ask"] == "yes"

    @property
    def registry_max_age(self) -> int:
        """Return for how many seconds a registry's word on a tag is believed."""
        return int(str(self.values["registry.max_age"]))

    @property
    def registry_plain_http(self) -> tuple[str, ...]:
        """Return the registries that are spoken to without TLS."""
        return tuple(filter(None, str(self.values["registry.plain_http"]).split(",")))

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
    def names(self) -> SiteNames:
        """Return what the site's own features mean."""
        return SiteNames(self.values["feature_prefix"] or "", self.features)

    def strengths(self, partition: str = "") -> dict[str, str]:
        """Return the site's strength for each requirement key that it sets.

        `partition` is the partition of the job, several separated by commas, empty for none.
        """
        prefix = "strength."
        return {
            name[len(prefix) :]: value
            for name, value in self._of(partition).items()
            if name.startswith(prefix) and value is not None
        }

    def policy(self, partition: str = "") -> Policy:
        """Return the policy for a job in `partition`; see strengths()."""
        values = self._of(partition)
        return Policy(
            str(values["on_mismatch"]),
            str(values["on_unknown"]),
            values["prefer.closest"] == "yes",
            tuple(filter(None, (values["prefer.spare"] or "").split(","))),
            str(values["memory_request"]),
            str(values["gpu_request"]),
            self.names,
        )

    def _of(self, partition: str) -> Mapping[str, str | None]:
        """Return the values that hold in a partition; in several, those in which all agree."""
        own = [self.partitions.get(name, {}) for name in partition.split(",") if name]
        if not any(own):
            return self.values
        changed: dict[str, str | None] = {}
        for name in {name for values in own for name in values}:
            found = {values.get(name, self.values[name]) for values in own}
            if len(found) == 1:
                changed[name] = found.pop()
        return {**self.values, **changed}


def defaults() -> Config:
    """Return the settings in force when there is no cmeta.yaml."""
    return Config({setting.name: setting.default for setting in SETTINGS}, None)


def load_kept(directory: str, path: str | None, slurm_conf: str) -> Config:
    """Return what load() returns, from where the user keeps what was read before."""
    from slurm_cmeta.kept import values

    key = path or _beside(slurm_conf)
    found = values.load(directory, "config", key)
    if found is not None:
        return Config._make((*found[0], found[1]))
    settings = load(path, slurm_conf)
    if settings.path is not None:
        values.keep(directory, "config", key, tuple(settings[:-1]), settings.sources)
    return settings


def _beside(slurm_conf: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(slurm_conf)), FILE_NAME)


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
        path = _beside(slurm_conf)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            drawn_from = Sources((of_file(path, os.fstat(descriptor)),))
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{clean(path)}: no such file") from None
        return defaults()._replace(sources=Sources(absent=(path,)))
    except OSError as error:
        raise ConfigError(f"{clean(path)}: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{clean(path)}: larger than {MAX_BYTES} bytes")
    return _parse(text, path)._replace(sources=drawn_from)


def _parse(text: bytes, path: str) -> Config:
    sitepackages.find()
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
    reader = _Reader(path)
    if document is not None:
        reader.read(document)
    found = reader.values
    if found.get("nodes.source") == "snapshot" and "nodes.snapshot" not in found:
        raise ConfigError(f"{clean(path)}: nodes.source is snapshot, but nodes.snapshot is not set")
    return Config(
        {**defaults().values, **found}, path, reader.lines, reader.features, reader.partitions
    )


class _Reader:
    """What a document of YAML nodes says, key by key."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.values: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        self.features: dict[str, tuple[str, ...]] = {}
        self.partitions: dict[str, dict[str, str]] = {}

    def read(self, node: Any) -> None:
        """Read the whole document."""
        for key, value in self._items(node, "not a mapping of keys to values"):
            if key.value == FEATURES:
                self._read_features(value)
            elif key.value == PARTITIONS:
                self._read_partitions(value)
            else:
                self._read_setting(key, value, self.values, "", KNOWN)

    def _items(self, node: Any, complaint: str) -> list[tuple[Any, Any]]:
        import yaml

        if node.tag == "tag:yaml.org,2002:null":
            return []
        if not isinstance(node, yaml.MappingNode):
            raise self._mistake(node, complaint)
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._mistake(key, "a key must be a plain word")
        items: list[tuple[Any, Any]] = node.value
        return items

    def _read_setting(
        self, key: Any, value: Any, values: dict[str, str], prefix: str, known: Mapping[str, Any]
    ) -> None:
        """Read `key: value`, or a group of settings; `prefix` stands before the keys of `lines`."""
        group = f"{key.value}."
        if key.value not in known and any(name.startswith(group) for name in known):
            for inner, one in self._items(value, f"{clean(key.value)} is no mapping"):
                self._keep(inner, group + inner.value, one, values, prefix, known)
        else:
            self._keep(key, key.value, value, values, prefix, known)

    def _keep(
        self,
        key: Any,
        name: str,
        value: Any,
        values: dict[str, str],
        prefix: str,
        known: Mapping[str, Any],
    ) -> None:
        setting = known.get(name)
        if setting is None:
            names = ", ".join(sorted(known))
            raise self._mistake(key, f"unknown key {clean(name)!r}; known keys: {names}")
        self._once(key, prefix + name)
        words = self._words(value) if setting.several else self._word(value)
        if words is None or not setting.takes(words):
            raise self._mistake(value, f"{name} must be {setting.expected}")
        values[name] = words

    def _read_features(self, node: Any) -> None:
        for key, value in self._items(node, "features is no mapping of names to what they mean"):
            self._once(key, f"{FEATURES}.{key.value}")
            words = self._words(value)
            if not is_name(key.value):
                raise self._mistake(key, f"{clean(key.value)!r} cannot be a feature of Slurm")
            meanings = tuple(filter(None, (words or "").split(",")))
            wrong = next((name for name in meanings if not is_name(name)), None)
            if words is None or wrong is not None:
                raise self._mistake(
                    value,
                    f"the meaning of {clean(key.value)} must be a feature or a list of features, "
                    "such as [nvidia, sm=80]",
                )
            self.features[key.value] = meanings

    def _read_partitions(self, node: Any) -> None:
        for key, inner in self._items(node, "partitions is no mapping of names to settings"):
            self._once(key, f"{PARTITIONS}.{key.value}")
            own: dict[str, str] = {}
            for name, value in self._items(inner, f"{clean(key.value)} is no mapping"):
                prefix = f"{PARTITIONS}.{key.value}."
                self._read_setting(name, value, own, prefix, IN_PARTITIONS)
            self.partitions[key.value] = own

    def _once(self, key: Any, name: str) -> None:
        if name in self.lines:
            raise self._mistake(key, f"{clean(name)} is set twice")
        self.lines[name] = key.start_mark.line + 1

    def _word(self, node: Any) -> str | None:
        import yaml

        return str(node.value) if isinstance(node, yaml.ScalarNode) else None

    def _words(self, node: Any) -> str | None:
        """Return a list of words, or one word, joined by commas; None for anything else."""
        import yaml

        if isinstance(node, yaml.ScalarNode):
            return str(node.value) if node.tag != "tag:yaml.org,2002:null" else None
        if not isinstance(node, yaml.SequenceNode):
            return None
        words = [self._word(item) for item in node.value]
        if any(word is None or "," in word for word in words):
            return None
        return ",".join(word for word in words if word)

    def _mistake(self, node: Any, what: str) -> ConfigError:
        return ConfigError(f"{clean(self._path)}:{node.start_mark.line + 1}: {what}")
