"""The snapshot of node classes: written whole or not at all, and never taken for what it is not."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta.cluster import Cluster, NodeClass, Partition, snapshot
from slurm_cmeta.errors import ClusterError

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs/schema/cmeta.nodes-1.json").read_text(encoding="utf-8")
)
NOW = 1_764_000_000
FULL = NodeClass(
    "n[1-4]",
    4,
    ("x86_64", "zen4", "caf\udce9"),
    ("p", "q"),
    (("idle", 3),),
    (1, 2),
    ("gpu:a100:4",),
)
PLAIN = NodeClass("m1", 1, (), ())
CLUSTER = Cluster(
    (FULL, PLAIN), False, "sinfo", (Partition("p", default=True), Partition("q", exact=False)), "c",
    NOW,
)  # fmt: skip


def written(tmp_path: Path, cluster: Cluster = CLUSTER) -> str:
    path = str(tmp_path / "nodes.json")
    snapshot.write(path, cluster)
    return path


def refused(path: str | Path, **options: object) -> str:
    with pytest.raises(ClusterError) as error:
        snapshot.read(str(path), **options)  # type: ignore[arg-type]
    message = str(error.value)
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = snapshot.read(path, now=NOW + 60)
    assert found._replace(sources=None) == CLUSTER._replace(source=path)
    assert found.sources is not None
    assert found.sources.until == NOW + snapshot.MAX_AGE + 1
    assert [file.path for file in found.sources.files] == [path]
    assert snapshot.read(path, now=NOW + snapshot.MAX_AGE + 1).sources is None
    assert snapshot.read(path, now=NOW).default_partition == "p"


def test_it_follows_its_schema(tmp_path: Path) -> None:
    for cluster in (CLUSTER, Cluster((PLAIN,), True, "x")):
        document = json.loads(snapshot.render(cluster))
        jsonschema.validate(document, SCHEMA)
    assert snapshot.render(CLUSTER).isascii()


def test_a_minimal_file_kept_by_hand_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    document = {
        "schema": "cmeta.nodes/1",
        "classes": [{"nodes": "n1", "count": 1, "features": ["zen4"]}],
    }
    jsonschema.validate(document, SCHEMA)
    path.write_text(json.dumps(document))
    found = snapshot.read(str(path), cluster_name="any", now=NOW)
    only = Cluster((NodeClass("n1", 1, ("zen4",)),), False, str(path))
    assert found._replace(sources=None) == only


# --- writing ------------------------------------------------------------------------------------


def test_all_may_read_it_and_nothing_is_left_behind(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        path = written(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert os.listdir(tmp_path) == ["nodes.json"]


@pytest.mark.parametrize("classes", [(), (NodeClass("", 0, ("a",)),)])
def test_nothing_empty_takes_the_place_of_a_good_one(
    tmp_path: Path, classes: tuple[NodeClass, ...]
) -> None:
    path = written(tmp_path)
    with pytest.raises(ClusterError, match="lists no nodes; the snapshot is left as it is"):
        snapshot.write(path, CLUSTER._replace(classes=classes))
    assert snapshot.read(path, now=NOW).classes == CLUSTER.classes


def test_a_write_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    full = OSError(28, "No space left on device")

    def fsync(_: int) -> None:
        raise full

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ClusterError, match="No space left on device"):
        snapshot.write(path, CLUSTER._replace(classes=(PLAIN,)))
    assert snapshot.read(path, now=NOW).classes == CLUSTER.classes
    assert os.listdir(tmp_path) == ["nodes.json"]


def test_a_link_that_somebody_laid_in_the_way_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / f".nodes.json.{os.getpid()}.new").symlink_to(target)
    with pytest.raises(ClusterError, match="File exists"):
        written(tmp_path)
    assert not target.exists()


def test_it_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        done.append("fsync")
        fsync(descriptor)

    def noted_replace(old: str, new: str) -> None:
        done.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    written(tmp_path)
    assert done == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize("kind", ["directory", "fifo", "nowhere", "nul"])
def test_places_where_no_snapshot_can_be(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "nodes.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    name = {"nowhere": f"{tmp_path}/no/nodes.json", "nul": f"{tmp_path}/\0"}.get(kind, str(path))
    with pytest.raises(ClusterError):
        snapshot.write(name, CLUSTER)
    assert [n for n in os.listdir(tmp_path) if n.endswith(".new")] == []
    refused(name)


# --- age ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "max_age", "words"),
    [
        (0, 60, ""),
        (60, 60, ""),
        (-300, 60, ""),  # a clock that is ahead
        (61, 60, "stale, written 61 seconds ago (2025-11-24T16:00:00Z)"),
        (7200, 60, "stale, written 2 hours ago (2025-11-24T16:00:00Z)"),
        (86400 * 9, 86400, "stale, written 9 days ago (2025-11-24T16:00:00Z)"),
        (86400 * 9, 0, ""),
        (-301, 0, "written in the future (2025-11-24T16:00:00Z)"),
    ],
)
def test_its_age_is_noticed(tmp_path: Path, age: int, max_age: int, words: str) -> None:
    path = written(tmp_path)
    found = snapshot.read(path, max_age, now=NOW + age)
    assert found.stale == (f"{path}: {words}" if words else "")
    assert found.unlisted_nodes == bool(words)


@pytest.mark.parametrize(
    "text", ["", "now", "2025-13-01T00:00:00Z", "2025-11-24", "٢025-11-24T16:00:00Z"]
)
def test_a_time_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(snapshot.render(CLUSTER).replace("2025-11-24T16:00:00Z", text))
    assert "time is not of the form" in refused(path)


def test_another_clusters_snapshot_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert refused(path, cluster_name="d") == "a snapshot of cluster c, and this is d"
    assert snapshot.read(path, cluster_name="C", now=NOW).name == "c"


# --- broken -------------------------------------------------------------------------------------


def test_any_part_of_it_is_broken(tmp_path: Path) -> None:
    whole = snapshot.render(CLUSTER).rstrip()
    path = tmp_path / "nodes.json"
    for end in range(len(whole)):
        path.write_text(whole[:end])
        assert refused(path) == "not JSON, or not all of it"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "cmeta.nodes/2"),
        ("schema", None),
        ("classes", None),
        ("classes", {}),
        ("classes", [None]),
        ("classes", [{"nodes": "n1", "count": 1}]),
        ("classes", [{"nodes": "n1", "count": -1, "features": []}]),
        ("classes", [{"nodes": "n1", "count": True, "features": []}]),
        ("classes", [{"nodes": "n1", "count": 1, "features": "zen4"}]),
        ("classes", [{"nodes": "n1", "count": 1, "features": [1]}]),
        ("classes", [{"nodes": "n1", "count": 1, "features": [], "partitions": [1]}]),
        ("classes", [{"nodes": "n1", "count": 1, "features": [], "states": {"idle": "2"}}]),
        ("classes", [{"nodes": "n1", "count": 1, "features": [], "memory": [1]}]),
        ("classes", [{"nodes": "n1", "count": 1, "features": [], "gres": "gpu"}]),
        ("partitions", [{}]),
        ("partitions", "p"),
        ("time", 3),
        ("cluster", ["c"]),
    ],
)
def test_a_wrong_value_is_a_broken_snapshot(tmp_path: Path, key: str, value: object) -> None:
    document = json.loads(snapshot.render(CLUSTER)) | {key: value}
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps(document))
    refused(path)
    if key != "cluster":  # `time` and the others: the schema says so as well
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, SCHEMA)


def test_one_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    with path.open("w") as file:
        file.truncate(snapshot.MAX_BYTES + 1)
    assert refused(path).startswith("larger than")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*SCHEMA["properties"], "nodes", "count", "features"]), inner
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON | st.binary(max_size=50))
def test_any_content_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    if isinstance(content, dict):
        content = {**content, "schema": "cmeta.nodes/1"}
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    try:
        snapshot.read(str(path), now=NOW)
    except ClusterError as error:
        assert str(error).isprintable()  # noqa: PT017  # refused, in one line
