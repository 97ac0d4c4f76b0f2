"""cmeta.yaml beyond its grammar: what is allowed there, and hardly meant.

config.load() finds the mistakes, one at a time, as YAML is read. Here are the warnings.
"""

from __future__ import annotations

import os
import stat

from slurm_cmeta import compare, nodefacts, vocabulary
from slurm_cmeta.cluster import source
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.requirement import KEYS
from slurm_cmeta.settings import SETTINGS
from slurm_cmeta.text import clean
from slurm_cmeta.vocabulary import gpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.config import Config

MAX_NAMES = 12
"""Names of partitions that a warning lists."""

_VERSIONS = ("cuda", "driver", "rocm", "glibc", "kernel")
_READ_BESIDE = frozenset(("apptainer", "singularity"))
"""Keys that no requirement has, and that its comparison reads."""


class Shown(NamedTuple):
    """One setting as it is in force."""

    name: str
    """`nodes.source`, `features.NAME`, `partitions.NAME.KEY`."""
    value: str | None
    """None where nothing is set and there is no default."""
    line: int | None
    """Of cmeta.yaml; None for a default."""


class Warned(NamedTuple):
    """Something in the configuration that is hardly meant."""

    name: str
    """The setting, as in Shown; empty for the file as a whole."""
    line: int | None
    text: str


def shown(config: Config) -> list[Shown]:
    """Return every setting in the order of the documentation, then the site's names."""
    found = [Shown(s.name, config.values[s.name], config.lines.get(s.name)) for s in SETTINGS]
    for name, meanings in config.features.items():
        key = f"features.{name}"
        found.append(Shown(key, ",".join(meanings), config.lines.get(key)))
    for name, values in config.partitions.items():
        for setting, value in values.items():
            key = f"partitions.{name}.{setting}"
            found.append(Shown(key, value, config.lines.get(key)))
    return found


def warnings(config: Config, slurm_conf: str | None, nodes: Cluster | None) -> list[Warned]:
    """Return the warnings in the order of the file's lines, those without a line first.

    `slurm_conf` is that which submissions read; None for Slurm's own. `nodes` is the cluster that
    the names are compared with; None where it could not be read.
    """
    found = [
        *_of_file(config.path),
        *_of_strengths(config),
        *_of_settings(config),
        *_of_snapshot(config, slurm_conf),
        *_of_meanings(config),
    ]
    if nodes is not None:
        found += [*_of_nodes(config, nodes), *_of_partitions(config, nodes)]
    placed = [Warned(name, config.lines.get(name), text) for name, text in found]
    return sorted(placed, key=lambda warned: warned.line or 0)


_Found = tuple[str, str]
"""Setting, warning."""


def _of_file(path: str | None) -> Iterator[_Found]:
    """Say who else can write the file, and who cannot read it: each user's submission does."""
    if path is None:
        return
    try:
        mode = os.stat(path).st_mode
        above = [d for d in _directories(path) if not os.stat(d).st_mode & stat.S_IXOTH]
    except OSError:
        return
    if not mode & stat.S_IROTH:
        yield (
            "",
            f"not readable by all users (mode {_mode(mode)}): their submissions fail to read it",
        )
    elif above:
        yield "", f"not readable by all users: they cannot enter {clean(above[0])}"
    others = [
        who for bit, who in ((stat.S_IWGRP, "its group"), (stat.S_IWOTH, "others")) if mode & bit
    ]
    if others:
        yield "", f"writable by {' and '.join(others)} (mode {_mode(mode)}): they set the policy"


def _mode(mode: int) -> str:
    return f"{stat.S_IMODE(mode):04o}"


def _directories(path: str) -> Iterator[str]:
    directory = os.path.dirname(os.path.realpath(path))
    while True:
        yield directory
        above = os.path.dirname(directory)
        if above == directory:
            return
        directory = above


def _of_strengths(config: Config) -> Iterator[_Found]:
    places = [("", config.values)] + [
        (f"partitions.{name}.", values) for name, values in config.partitions.items()
    ]
    for prefix, values in places:
        strength = values.get("strength.arch")
        if strength in ("soft", "ignore"):
            yield (
                f"{prefix}strength.arch",
                f"{strength}: jobs may start on nodes of another architecture, and fail there",
            )


def _of_settings(config: Config) -> Iterator[_Found]:
    """Name the settings that another one puts out of force."""
    if config.nodes_source != "snapshot":
        for name in ("nodes.snapshot", "nodes.max_age"):
            if name in config.lines:
                yield name, f"no effect: nodes.source is {config.nodes_source}"
    if config.values["prefer.closest"] == "no" and "prefer.spare" in config.lines:
        yield "prefer.spare", "no effect: prefer.closest is no"
    for prefix, values in [("", config.values)] + [
        (f"partitions.{name}.", {**config.values, **own}) for name, own in config.partitions.items()
    ]:
        for name, key in (("memory_request", "memory"), ("gpu_request", "gpu")):
            if values[f"strength.{key}"] == "ignore" and prefix + name in config.lines:
                yield prefix + name, f"no effect: strength.{key} is ignore"
        spare = f"{prefix}prefer.spare"
        if prefix and values["prefer.closest"] == "no" and spare in config.lines:
            yield spare, "no effect: prefer.closest is no"
    for partition, values in config.partitions.items():
        for name, value in values.items():
            if value == config.values[name]:
                yield (
                    f"partitions.{partition}.{name}",
                    f"no effect: {name} is {clean(value)} everywhere",
                )


def _of_snapshot(config: Config, slurm_conf: str | None) -> Iterator[_Found]:
    path = config.nodes_snapshot
    if config.nodes_source != "snapshot" or path is None:
        return
    try:
        cluster = source.from_snapshot(path, config.nodes_max_age, slurm_conf)
        mode = os.stat(path).st_mode
    except (ClusterError, OSError) as error:
        reason = f"{clean(path)}: {error.strerror}" if isinstance(error, OSError) else str(error)
        then = "refused" if config.on_error == "reject" else "submitted as they are"
        yield "nodes.snapshot", f"{reason}; jobs are {then}"
        return
    if cluster.stale:
        yield "nodes.snapshot", f"{cluster.stale}; no job is refused"
    if not mode & stat.S_IROTH:
        yield "nodes.snapshot", f"{clean(path)}: not readable by all users (mode {_mode(mode)})"


def _of_meanings(config: Config) -> Iterator[_Found]:
    for name, meanings in config.features.items():
        for meaning in meanings:
            wrong = _meaning(meaning, meanings)
            if wrong:
                yield f"features.{name}", f"{clean(meaning)} {wrong}"


def _meaning(feature: str, together: Sequence[str]) -> str:
    """Return what is wrong with one of the features that a site's own name stands for."""
    alone = nodefacts.read([feature])
    if alone.families or alone.complete:
        return ""
    keys = set(alone.values)
    if not keys:
        if vocabulary.is_ambiguous_feature(feature) or gpus.is_ambiguous_feature(feature):
            rest = [other for other in together if other != feature]
            if nodefacts.read(together) != nodefacts.read(rest):
                return ""
            return "counts only beside a feature that names its architecture or vendor"
        return "says nothing that a requirement is compared with"
    if not keys & (KEYS.keys() | _READ_BESIDE):
        return "is compared with no requirement"
    for key in keys & set(_VERSIONS):
        for value in alone.said(key):
            asked = (key, KEYS[key], value)
            if compare.condition(asked, alone).verdict != compare.MATCH:
                return "is no version: it is never compared"
    return ""


def _of_nodes(config: Config, cluster: Cluster) -> Iterator[_Found]:
    """Name features of cmeta.yaml that no node has; a node may be unlisted, or get one later."""
    if cluster.unlisted_nodes or cluster.changeable:
        return
    known = {feature for one in cluster.classes for feature in one.features}
    for name in config.features:
        if name not in known:
            yield f"features.{name}", f"no node in {cluster.source} has the feature {clean(name)}"
    prefix = config.names.prefix
    if prefix and not any(name.startswith(prefix) for name in known):
        yield (
            "feature_prefix",
            f"no node in {cluster.source} has a feature that begins with {clean(prefix)}",
        )


def _of_partitions(config: Config, cluster: Cluster) -> Iterator[_Found]:
    if cluster.partitions is None:
        return
    known = [partition.name for partition in cluster.partitions]
    for name in config.partitions:
        if name not in known:
            yield (
                f"partitions.{name}",
                f"no partition {clean(name)} in {cluster.source}; there {_are(known)}",
            )


def _are(names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return "is none"
    shown = ", ".join(clean(name) for name in listed[:MAX_NAMES])
    more = ", ..." if len(listed) > MAX_NAMES else ""
    return f"{'is' if len(listed) == 1 else 'are'} {shown}{more}"
