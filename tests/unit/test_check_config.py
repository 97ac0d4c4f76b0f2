"""cmeta check-config: each setting with its origin, mistakes, warnings."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from test_cli import SCHEMAS, one_line, run

from slurm_cmeta import check, config
from slurm_cmeta.cluster import source
from slurm_cmeta.settings import SETTINGS

SLURM_CONF = """\
ClusterName=test
NodeName=mid[1-8] Features=x86_64,x86_64_v3,zen3,bigmem,cm_x
NodeName=gpu1 Features=x86_64,zen4,gpu_v100
PartitionName=cpu Nodes=mid[1-8] Default=YES
PartitionName=gpu Nodes=gpu1
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.conf"
    path.write_text(SLURM_CONF)
    return path


def warned(conf: Path, text: str, slurm_conf: str = "") -> list[str]:
    """Return the warnings about cmeta.yaml but those about who can read it: tests' places are
    closed to others."""
    path = conf.with_name("cmeta.yaml")
    path.write_text(text)
    if slurm_conf:
        conf.write_text(slurm_conf)
    settings = config.load(str(path))
    cluster = source.from_slurm_conf(str(conf))
    return [
        f"{w.line}:{w.name}: {w.text}"
        for w in check.warnings(settings, str(conf), cluster)
        if w.name
    ]


def test_each_setting_has_its_origin(conf: Path) -> None:
    path = conf.with_name("cmeta.yaml")
    path.write_text(
        "on_mismatch: warn\nfeatures:\n  bigmem: [memory=512g]\n  zen3: []\n"
        "partitions:\n  gpu:\n    on_unknown: warn\n"
    )
    done = run("main", "check-config", "--slurm-conf", conf)
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["SETTING", "VALUE", "FROM"]
    assert ["on_mismatch", "warn", f"{path}:1"] in rows
    assert ["on_error", "accept", "default"] in rows
    assert ["strength.cpu", "by", "evidence", "default"] in rows
    assert ["features.bigmem", "memory=512g", f"{path}:3"] in rows
    assert ["features.zen3", "nothing", f"{path}:4"] in rows
    assert ["partitions.gpu.on_unknown", "warn", f"{path}:7"] in rows
    names = [row[0] for row in rows if row]
    assert names[1 : 1 + len(SETTINGS)] == [setting.name for setting in SETTINGS]


def test_as_json(conf: Path) -> None:
    conf.with_name("cmeta.yaml").write_text("partitions:\n  gpuu: {on_mismatch: warn}\n")
    done = run("main", "check-config", "--slurm-conf", conf, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    jsonschema.validate(found, json.loads((SCHEMAS / "cmeta.config-1.json").read_text()))
    assert {"name": "partitions.gpuu.on_mismatch", "value": "warn", "line": 2} in found["settings"]
    assert found["warnings"][-1]["name"] == "partitions.gpuu"
    assert found["warnings"][-1]["line"] == 2


def test_without_a_file_everything_is_default(conf: Path) -> None:
    done = run("main", "check-config", "--slurm-conf", conf)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("is not there: every setting has its default")
    assert {line.split()[-1] for line in done.stdout.splitlines()[1:-2]} == {"default"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("on_mismach: warn\n", ":1: unknown key"), ("a: [\n", ":2: expected"), ("- a\n", "mapping")],
)
def test_a_mistake_names_file_and_line(conf: Path, text: str, words: str) -> None:
    path = conf.with_name("cmeta.yaml")
    path.write_text(text)
    done = run("main", "check-config", "--slurm-conf", conf)
    assert done.returncode == 4
    assert f"error: {path}" in one_line(done)
    assert words in done.stderr


def test_a_file_that_was_named_must_be_there(conf: Path) -> None:
    done = run("main", "check-config", conf.with_name("other.yaml"), "--slurm-conf", conf)
    assert done.returncode == 4
    assert "no such file" in one_line(done)


def test_slurm_conf_must_be_there_where_it_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "slurm.conf"
    done = run("main", "check-config", "--slurm-conf", missing)
    assert done.returncode == 4
    one_line(done)
    tmp_path.joinpath("cmeta.yaml").write_text("partitions: {a: {on_mismatch: warn}}\n")
    done = run("main", "check-config", env={"SLURM_CONF": str(missing)})
    assert done.returncode == 0
    assert "the names of features and partitions are not compared" in done.stderr


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("strength: {arch: soft}\n", "1:strength.arch: soft: jobs may start on nodes of another"),
        ("partitions:\n  gpu:\n    strength: {arch: ignore}\n",
         "3:partitions.gpu.strength.arch: ignore: jobs may start"),
        ("prefer:\n  closest: 'no'\n  spare: gpu\n", "3:prefer.spare: no effect: prefer.closest"),
        ("nodes:\n  snapshot: /n.json\n", "2:nodes.snapshot: no effect: nodes.source is"),
        ("nodes:\n  max_age: 5\n", "2:nodes.max_age: no effect"),
        ("gpu_request: add\nstrength: {gpu: ignore}\n",
         "1:gpu_request: no effect: strength.gpu is ignore"),
        ("memory_request: ignore\nstrength: {memory: ignore}\n",
         "1:memory_request: no effect: strength.memory is ignore"),
        ("prefer: {closest: 'no'}\npartitions:\n  gpu:\n    prefer: {spare: memory}\n",
         "4:partitions.gpu.prefer.spare: no effect: prefer.closest is no"),
        ("on_mismatch: warn\npartitions:\n  gpu: {on_mismatch: warn}\n",
         "3:partitions.gpu.on_mismatch: no effect: on_mismatch is warn everywhere"),
        ("feature_prefix: hw_\n", "1:feature_prefix: no node in "),
        ("features: {bigmen: [memory=1t]}\n", "1:features.bigmen: no node in "),
        ("partitions:\n  gpuu: {on_mismatch: warn}\n", "2:partitions.gpuu: no partition gpuu in "),
        ("features:\n  bigmem: [memory=lots]\n", "2:features.bigmem: memory=lots says nothing"),
        ("features:\n  bigmem: infiniband\n", "2:features.bigmem: infiniband is compared with no"),
        ("features:\n  bigmem: [cuda=new]\n", "2:features.bigmem: cuda=new is no version"),
        ("features:\n  bigmem: [m1]\n", "2:features.bigmem: m1 counts only beside a feature"),
        ("nodes:\n  source: snapshot\n  snapshot: /nowhere/n.json\n",
         "3:nodes.snapshot: /nowhere/n.json: No such file or directory; jobs are submitted as"),
        ("on_error: reject\nnodes:\n  source: snapshot\n  snapshot: /nowhere/n.json\n",
         "4:nodes.snapshot: /nowhere/n.json: No such file or directory; jobs are refused"),
    ],
)  # fmt: skip
def test_what_is_hardly_meant(conf: Path, text: str, warning: str) -> None:
    (found,) = warned(conf, text)
    assert found.startswith(warning)


@pytest.mark.parametrize(
    "text",
    [
        "strength: {arch: hard, cpu: soft}\n",
        "features:\n  gpu_v100: [nvidia, sm=70]\n  bigmem: memory=1t\n  zen3: []\n",
        "features: {gpu_v100: [aarch64, m1]}\n",
        "features: {gpu_v100: [v100], zen3: [apptainer=1.3, runtime=ext3, mpi=mpich, cmeta=1]}\n",
        "features: {bigmem: [kernel=6.1.0, glibc=2.36, page=64k, isa=avx2, cuda=12.4]}\n",
        "feature_prefix: cm_\n",
        "partitions:\n  gpu: {on_mismatch: warn, strength: {cpu: soft}}\n",
    ],
)
def test_what_is_meant(conf: Path, text: str) -> None:
    assert warned(conf, text) == []


def test_features_may_be_on_nodes_that_are_not_listed(conf: Path) -> None:
    text = "features: {fast: [zen4]}\nfeature_prefix: hw_\n"
    assert len(warned(conf, text)) == 2
    assert warned(conf, text, SLURM_CONF + "MaxNodeCount=100\n") == []
    assert warned(conf, text, SLURM_CONF + "NodeFeaturesPlugins=node_features/helpers\n") == []


def test_a_stale_snapshot(conf: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "nodes.json"
    value = {"schema": "cmeta.nodes/1", "time": "2020-01-01T00:00:00Z", "classes": [
        {"nodes": "n1", "count": 1, "features": []}]}  # fmt: skip
    snapshot.write_text(json.dumps(value))
    text = f"nodes:\n  source: snapshot\n  snapshot: {snapshot}\n"
    (found,) = warned(conf, text)
    assert found.startswith(f"3:nodes.snapshot: {snapshot}: stale, written ")
    assert found.endswith("; no job is refused")
    snapshot.chmod(0o600)
    assert any("nodes.json: not readable by all users (mode 0600)" in w for w in warned(conf, text))


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o600, ["not readable by all users (mode 0600)"]),
        (0o664, ["writable by its group (mode 0664)"]),
        (0o666, ["writable by its group and others (mode 0666)"]),
        (0o644, []),
    ],
)
def test_who_can_read_and_write_it(conf: Path, mode: int, words: list[str]) -> None:
    path = conf.with_name("cmeta.yaml")
    path.write_text("on_error: accept\n")
    path.chmod(mode)
    found = check.warnings(config.load(str(path)), None, None)
    texts = [w.text for w in found if "cannot enter" not in w.text]
    assert len(texts) == len(words)
    assert all(text.startswith(word) for text, word in zip(texts, words, strict=True))


def test_a_directory_that_users_cannot_enter(conf: Path) -> None:
    path = conf.with_name("cmeta.yaml")
    path.write_text("")
    path.chmod(0o644)
    conf.parent.chmod(0o700)
    (found,) = check.warnings(config.load(str(path)), None, None)
    assert found.text == f"not readable by all users: they cannot enter {conf.parent}"
