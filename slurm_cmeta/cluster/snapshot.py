"""Snapshot files: node classes written on a host that knows them, and read at each submission.

The form is docs/schema/cmeta.nodes-1.json. A snapshot that broke off, that another cluster wrote,
or that nobody renews is noticed; nothing empty ever takes the place of a good one.
"""

from __future__ import annotations

import os
import re
import stat
import time

from slurm_cmeta.cluster import Cluster, NodeClass, Partition
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.kept.sources import Sources, of_file
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeGuard

    from slurm_cmeta.kept.sources import SourceFile

SCHEMA = "cmeta.nodes/1"

MAX_BYTES = 16 << 20
"""Largest snapshot read, in bytes; 10,000 nodes in 200 classes take some 100 kB."""

MAX_AGE = 86400
"""Seconds after which a snapshot is stale, unless the site says otherwise."""

CLOCK_SKEW = 300
"""Seconds that the writer's clock may be ahead of the reader's."""

_HINTS = ("changeable", "routed", "default_memory")

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def render(cluster: Cluster) -> str:
    """Return the snapshot as JSON, a class a line, so that a diff shows what changed."""
    head: dict[str, Any] = {"schema": SCHEMA}
    if cluster.time is not None:
        head["time"] = iso_time(cluster.time)
    head |= {"cluster": cluster.name, "source": cluster.source}
    head["unlisted_nodes"] = cluster.unlisted_nodes
    head |= {name: getattr(cluster, name) for name in _HINTS}
    lines = [f"  {_json(key)}: {_json(value)}" for key, value in head.items()]
    if cluster.partitions is not None:
        rows = ",\n".join(f"    {_json(p._asdict())}" for p in cluster.partitions)
        lines.append(f'  "partitions": [\n{rows}\n  ]' if rows else '  "partitions": []')
    rows = ",\n".join(f"    {_json(_class_as_json(c))}" for c in cluster.classes)
    lines.append(f'  "classes": [\n{rows}\n  ]' if rows else '  "classes": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(path: str, cluster: Cluster) -> None:
    """Put a snapshot of `cluster` in the place of `path`, whole or not at all, readable by all.

    Raises ClusterError, and leaves what is there as it is, when the cluster lists no nodes, when
    `path` is no regular file, and when the file cannot be written.
    """
    if not any(c.node_count for c in cluster.classes):
        reason = f"{cluster.source} lists no nodes; the snapshot is left as it is"
        raise ClusterError(f"{clean(path)}: {reason}")
    from slurm_cmeta import wholefile

    wholefile.write(path, render(cluster))


def read(
    path: str, max_age: int = MAX_AGE, cluster_name: str | None = None, now: float | None = None
) -> Cluster:
    """Return the node classes of a snapshot file.

    `max_age` is in seconds; 0 lets any age pass, and a file that states no time (one that an
    administrator keeps by hand) has none. What is older, or written in the future, is `stale`:
    nodes may exist that it does not show. `cluster_name` is that of slurm.conf, where known. Raises
    ClusterError for a file that cannot be read, is no (whole) snapshot, or is another cluster's.
    """
    value, file_read = _load(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ClusterError(f"{clean(path)}: not a snapshot ({SCHEMA})")
    name = value.get("cluster")
    if name is not None and not isinstance(name, str):
        raise ClusterError(f"{clean(path)}: cluster is no name")
    if name and cluster_name and name.lower() != cluster_name.lower():
        reason = f"a snapshot of cluster {clean(name)}, and this is {clean(cluster_name)}"
        raise ClusterError(f"{clean(path)}: {reason}")
    written = _written(path, value.get("time"))
    stale = "" if written is None else _age(written, time.time() if now is None else now, max_age)
    return Cluster(
        tuple(_classes(path, value.get("classes"))),
        value.get("unlisted_nodes") is True or bool(stale),
        clean(path),
        _partitions(path, value.get("partitions")),
        name.lower() if name else None,
        written,
        f"{clean(path)}: {stale}" if stale else "",
        sources=None if stale else Sources((file_read,), until=_end(written, max_age)),
        **{name: value.get(name) is True for name in _HINTS},
    )


def iso_time(seconds: int) -> str:
    """Return seconds since 1970 as `2026-11-25T02:35:14Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _json(value: object) -> str:
    import json

    return json.dumps(value)


def _class_as_json(one: NodeClass) -> dict[str, Any]:
    found: dict[str, Any] = {"nodes": one.nodes, "count": one.node_count}
    if one.partitions is not None:
        found["partitions"] = list(one.partitions)
    found["states"] = dict(one.states)
    found["memory"] = list(one.memory) if one.memory else None
    found["gres"] = list(one.gres)
    found["cpus"] = one.cpus
    found["features"] = list(one.features)
    return found


def _load(path: str) -> tuple[Any, SourceFile]:
    import json

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ClusterError(f"{clean(path)}: not a regular file")
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ClusterError(f"{clean(path)}: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise ClusterError(f"{clean(path)}: not a path") from None
    if len(text) > MAX_BYTES:
        raise ClusterError(f"{clean(path)}: larger than {MAX_BYTES} bytes")
    try:
        return json.loads(text), of_file(path, status)
    except (ValueError, RecursionError):
        raise ClusterError(f"{clean(path)}: not JSON, or not all of it") from None


def _written(path: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and _TIME.fullmatch(value):
        from datetime import datetime

        try:
            return int(datetime.fromisoformat(f"{value[:-1]}+00:00").timestamp())
        except (ValueError, OverflowError):
            pass
    raise ClusterError(f"{clean(path)}: time is not of the form 2026-11-25T02:35:14Z")


def _age(written: int, now: float, max_age: int) -> str:
    """Return what is wrong with the time of a snapshot; empty when nothing is."""
    age = int(now) - written
    if age < -CLOCK_SKEW:
        return f"written in the future ({iso_time(written)})"
    if max_age and age > max_age:
        return f"stale, written {_in_words(age)} ago ({iso_time(written)})"
    return ""


def _end(written: int | None, max_age: int) -> int:
    """Return the first second in which a snapshot is stale; 0 for one that never is."""
    return written + max_age + 1 if written is not None and max_age else 0


def _in_words(seconds: int) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


def _classes(path: str, listed: object) -> Iterator[NodeClass]:
    for value in listed if isinstance(listed, list) else [None]:
        if not _is_class(value):
            raise ClusterError(f"{clean(path)}: a node class needs nodes, count and features")
        optional = {key: value.get(key) for key in _OPTIONAL}
        if not all(_OPTIONAL[key](found) for key, found in optional.items() if found is not None):
            raise ClusterError(f"{clean(path)}: node class {clean(value['nodes'], 60)} is broken")
        partitions, states = optional["partitions"], optional["states"] or {}
        yield NodeClass(
            value["nodes"],
            value["count"],
            tuple(value["features"]),
            None if partitions is None else tuple(partitions),
            tuple(states.items()),
            tuple(optional["memory"]) if optional["memory"] else None,
            tuple(optional["gres"] or ()),
            optional["cpus"],
        )


def _partitions(path: str, listed: object) -> tuple[Partition, ...] | None:
    if listed is None:
        return None
    found = []
    for value in listed if isinstance(listed, list) else [None]:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ClusterError(f"{clean(path)}: a partition needs a name")
        exact = value.get("exact", True) is True
        found.append(Partition(value["name"], value.get("default") is True, exact))
    return tuple(found)


def _is_class(value: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(value, dict)
        and isinstance(value.get("nodes"), str)
        and _is_count(value.get("count"))
        and _are_texts(value.get("features"))
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_states(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


_OPTIONAL = {
    "partitions": _are_texts,
    "states": _are_states,
    "memory": _is_range,
    "gres": _are_texts,
    "cpus": _is_count,
}
