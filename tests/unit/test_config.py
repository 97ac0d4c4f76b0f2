"""cmeta.yaml: every key, every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_cmeta import config
from slurm_cmeta.errors import ConfigError
from slurm_cmeta.kept.sources import Sources
from slurm_cmeta.policy import Policy
from slurm_cmeta.settings import SETTINGS

ROOT = Path(__file__).parents[2]


def read(tmp_path: Path, text: str | bytes) -> config.Config:
    path = tmp_path / "cmeta.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(str(path))


def test_without_a_file_the_defaults_are_in_force(tmp_path: Path) -> None:
    settings = config.load(None, str(tmp_path / "slurm.conf"))
    absent = Sources(absent=(str(tmp_path / "cmeta.yaml"),))
    assert settings == config.defaults()._replace(sources=absent)
    assert (settings.policy().on_mismatch, settings.on_error) == ("reject", "accept")
    assert settings.strengths() == {}


def test_the_file_beside_slurm_conf_is_read(tmp_path: Path) -> None:
    (tmp_path / "cmeta.yaml").write_text("on_mismatch: warn\nstrength:\n  cpu: soft\n")
    settings = config.load(None, str(tmp_path / "slurm.conf"))
    assert settings.policy().on_mismatch == "warn"
    assert settings.strengths() == {"cpu": "soft"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "strength:\n"])
def test_an_empty_file_changes_nothing(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).values == config.defaults().values


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("on_mismatch: warn\non_mismach: warn\n", 2, "unknown key 'on_mismach'"),
        ("strength:\n  cpu: soft\n  gpu2: hard\n", 3, "unknown key 'strength.gpu2'"),
        ("on_error: maybe\n", 1, "on_error must be one of accept, reject"),
        ("on_error: [accept]\n", 1, "on_error must be one of"),
        ("on_error: accept\non_error: reject\n", 2, "set twice"),
        ("strength: hard\n", 1, "strength is no mapping"),
        ("- a\n", 1, "not a mapping"),
        ("a: [\n", 2, "expected"),
        ("? [a]\n: b\n", 1, "a key must be a plain word"),
        ("nodes:\n  source: file\n", 2, "nodes.source must be one of slurm.conf, live, snapshot"),
        ("nodes:\n  snapshot: nodes.json\n", 2, "nodes.snapshot must be an absolute path"),
        ("nodes:\n  snapshot: [/a]\n", 2, "nodes.snapshot must be an absolute path"),
        ("nodes:\n  max_age: 1 day\n", 2, "nodes.max_age must be a whole number"),
        ("nodes:\n  max_age: -1\n", 2, "nodes.max_age must be a whole number"),
        ("nodes:\n  max_age: 99999999999999999\n", 2, "nodes.max_age must be a whole number"),
        ("nodes:\n  max_age: '٣'\n", 2, "nodes.max_age must be a whole number"),
        ("on_error: !!python/object/apply:os.system [id]\n", 1, "must be one of"),
        ("features: [a]\n", 1, "features is no mapping"),
        ("features:\n  a: {b: c}\n", 2, "the meaning of a must be a feature or a list"),
        ("features:\n  a: [b, [c]]\n", 2, "the meaning of a must be a feature or a list"),
        ("features:\n  a: 'b|c'\n", 2, "the meaning of a must be a feature or a list"),
        ("features:\n  a:\n", 2, "the meaning of a must be a feature or a list"),
        ("features:\n  'a b': c\n", 2, "'a b' cannot be a feature of Slurm"),
        ("features:\n  a: b\n  a: c\n", 3, "features.a is set twice"),
        ("feature_prefix: 'a b'\n", 1, "must be the beginning of a feature's name"),
        ("prefer:\n  spare: [gpu, cats]\n", 2, "must be a list of gpu, memory, scarce"),
        ("prefer:\n  closest: maybe\n", 2, "prefer.closest must be one of yes, no"),
        ("partitions: debug\n", 1, "partitions is no mapping"),
        ("partitions:\n  debug: warn\n", 2, "debug is no mapping"),
        ("partitions:\n  debug:\n    on_error: accept\n", 3, "unknown key 'on_error'"),
        ("partitions:\n  a: {on_mismatch: no}\n", 2, "on_mismatch must be one of"),
        ("partitions:\n  a: {}\n  a: {}\n", 3, "partitions.a is set twice"),
        ("\x00", 1, ""),
    ],
)
def test_a_mistake_names_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert f"cmeta.yaml:{line}: " in message or text == "\x00"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not YAML"):
        read(tmp_path, b"\xff\xfe\xfa")


def test_deep_nesting_and_size_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read(tmp_path, "[" * 100_000)
    with pytest.raises(ConfigError, match="larger than"):
        read(tmp_path, b" " * (config.MAX_BYTES + 1))


def test_a_file_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(str(tmp_path / "no.yaml"))
    with pytest.raises(ConfigError, match="directory"):
        config.load(str(tmp_path))


def test_where_the_nodes_are_read(tmp_path: Path) -> None:
    settings = config.defaults()
    assert (settings.nodes_source, settings.nodes_snapshot) == ("slurm.conf", None)
    assert settings.nodes_max_age == 86400
    settings = read(
        tmp_path, "nodes:\n  source: snapshot\n  snapshot: /a b/nodes.json\n  max_age: 0\n"
    )
    assert (settings.nodes_source, settings.nodes_snapshot) == ("snapshot", "/a b/nodes.json")
    assert settings.nodes_max_age == 0
    assert settings.strengths() == {}


def test_a_snapshot_as_source_needs_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nodes\.snapshot is not set"):
        read(tmp_path, "nodes:\n  source: snapshot\n")


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cmeta.yaml")
    assert config.load(str(tmp_path / "cmeta.yaml")).values == config.defaults().values


def test_the_shipped_example_names_every_key_and_changes_nothing() -> None:
    text = (ROOT / "etc/cmeta.yaml").read_text()
    assert config.load(str(ROOT / "etc/cmeta.yaml")).values == config.defaults().values
    for setting in SETTINGS:
        assert f"{setting.name.split('.')[-1]}:" in text, setting.name
        page = (ROOT / "docs/cmeta.yaml.md").read_text()
        assert f"`{setting.name}`" in page
        assert all(f"`{choice}`" in page for choice in setting.choices)


def test_a_submission_without_a_file_does_not_import_yaml() -> None:
    code = "import sys; from slurm_cmeta import config; config.load(None, '/no/slurm.conf'); "
    code += "print('yaml' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_sites_own_features_are_explained(tmp_path: Path) -> None:
    text = (
        "feature_prefix: hw.\n"
        "features:\n  gpu_big: [nvidia, sm=90]\n  bigmem: memory=1T\n  rome: []\n"
    )
    names = read(tmp_path, text).names
    assert names.prefix == "hw."
    assert names.means == {"gpu_big": ("nvidia", "sm=90"), "bigmem": ("memory=1T",), "rome": ()}


def test_the_policy_without_a_file_is_the_default_of_the_code() -> None:
    assert config.defaults().policy() == Policy()


def test_a_partition_may_have_its_own_policy(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        "on_mismatch: reject\nstrength: {cpu: hard}\n"
        "partitions:\n"
        "  debug: {on_mismatch: warn, strength: {cpu: soft, gpu: ignore}, prefer: {spare: []}}\n"
        "  test: {on_mismatch: warn}\n",
    )
    assert settings.policy().on_mismatch == "reject"
    assert settings.policy("debug").on_mismatch == "warn"
    assert settings.policy("debug").spare == ()
    assert settings.strengths("debug") == {"cpu": "soft", "gpu": "ignore"}
    assert settings.strengths("test") == {"cpu": "hard"}
    assert settings.policy("other").on_mismatch == "reject"
    # In one of several partitions a job may land in any: what all of them say counts.
    assert settings.policy("debug,test").on_mismatch == "warn"
    assert settings.policy("debug,other").on_mismatch == "reject"
    assert settings.strengths("debug,test") == {"cpu": "hard"}


def test_every_value_knows_the_line_that_set_it(tmp_path: Path) -> None:
    settings = read(
        tmp_path, "on_mismatch: warn\nfeatures:\n  a: b\npartitions:\n  p:\n    gpu_request: add\n"
    )
    assert settings.lines == {
        "on_mismatch": 1,
        "features.a": 3,
        "partitions.p": 5,
        "partitions.p.gpu_request": 6,
    }
