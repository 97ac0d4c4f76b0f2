"""From a host's facts to the names of features, and what cmeta-features prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from slurm_cmeta import nodefacts, vocabulary
from slurm_cmeta.cli import features as command
from slurm_cmeta.node import Found, keys, probes
from slurm_cmeta.node.features import DECISIVE, features
from slurm_cmeta.node.host import Host

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT / "tests/tools"))

import node_trees  # noqa: E402

OPERATORS = set("&|*[](), \t'\"")

CPUS = [n for n, t in vocabulary.load("cpu")["targets"].items() if t["family"] == "x86_64"]
MACHINES = [n for n in CPUS if not (known := vocabulary.cpu(n)) or not known.generic]


def typical(root: Path, cpu: str, gpu: str = "") -> Found:
    """A node of a typical cluster: InfiniBand, Apptainer with all abilities, two MPIs."""
    found = probes.look(Host(str(node_trees.machine(root, cpu, gpu))))
    found.facts = [
        f for f in found.facts if f.key not in ("network", "runtime", "apptainer", "mpi")
    ]
    found.unknown = [u for u in found.unknown if u.key not in ("network", "runtime", "apptainer")]
    for key, value in (
        *(("network", "infiniband"), ("apptainer", "1.4.1")),
        *(("runtime", "encrypted"), ("runtime", "ext3")),
        *(("mpi", "openmpi"), ("mpi", "mpich")),
    ):
        found.fact(key, value, "a test")
    return found


def names(found: Found) -> list[str]:
    return [feature.name for feature in features(found)]


@pytest.mark.parametrize("cpu", MACHINES)
def test_a_node_has_few_features_and_all_ancestors(cpu: str, tmp_path: Path) -> None:
    listed = names(typical(tmp_path, cpu))
    known = vocabulary.cpu(cpu)
    assert known
    assert {cpu, *known.ancestors} <= set(listed)
    assert not any(OPERATORS & set(name) for name in listed)
    assert len(listed) == len(set(listed))
    assert "cmeta=1" in listed
    assert len(listed) <= 29  # sapphirerapids: 18 names alone
    assert len(names(typical(tmp_path, cpu, "A100-SXM4-40GB"))) <= 35


def test_how_many_features_the_usual_machines_have(tmp_path: Path) -> None:
    usual = ("haswell", "skylake_avx512", "cascadelake", "icelake", "zen2", "zen3", "zen4")
    counts = {cpu: len(names(typical(tmp_path / cpu, cpu))) for cpu in usual}
    assert sorted(counts.values())[-2] <= 25, counts
    assert max(counts.values()) <= 26, counts  # icelake has 15 ancestors


def test_the_same_host_gives_the_same_features_twice(tmp_path: Path) -> None:
    assert names(typical(tmp_path, "icelake", "A100-SXM4-40GB")) == names(
        typical(tmp_path, "icelake", "A100-SXM4-40GB")
    )
    assert probes.look(Host()).facts == probes.look(Host()).facts


def test_a_gpu_node(tmp_path: Path) -> None:
    listed = names(typical(tmp_path, "zen3", "A100-SXM4-40GB"))
    for name in ("nvidia", "sm=80", "a100", "driver=550.54.14", "cuda=12.4"):
        assert name in listed
    assert listed.index("x86_64") < listed.index("zen") < listed.index("zen3")


def test_a_masked_cpu_has_its_level_its_fits_and_its_flags(tmp_path: Path) -> None:
    """A hypervisor hides `clzero` of a zen4: archspec knows it no more."""
    root = node_trees.machine(tmp_path, "zen4")
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace(" clzero", ""))
    listed = names(probes.look(Host(str(root))))
    assert "zen4" not in listed
    assert {"x86_64_v4", "x86_64_v3", "isa=avx512_vnni", "isa=vaes"} <= set(listed)
    facts = nodefacts.read(listed)
    assert "isa=avx2" not in listed  # a level implies it
    assert {c.name for c in facts.cpus} >= {"x86_64_v4"}


def test_every_feature_is_read_back_as_what_it_says(tmp_path: Path) -> None:
    """The two halves of the vocabulary agree: what one writes, the other understands."""
    listed = names(typical(tmp_path, "zen4", "A100-SXM4-40GB"))
    facts = nodefacts.read(listed)
    assert facts.families == {"x86_64"}
    assert facts.complete
    assert {key: set(facts.said(key)) for key in facts.values} == {
        "gpu": {"nvidia"},
        "gpu.arch": {"sm_80"},
        "cuda": {"12.4"},
        "driver": {"550.54.14"},
        "kernel": {"5.14"},
        "glibc": {"2.34"},
        "network": {"infiniband"},
        "runtime": {"encrypted", "ext3"},
        "mpi": {"openmpi", "mpich"},
        "apptainer": {"1.4"},
        "page": {"4096"},
        "isa": {"adx", "sha_ni"},  # every zen4 has them, and archspec does not list them
    }


def test_what_is_unknown_gives_no_feature_and_no_completeness(tmp_path: Path) -> None:
    for key in sorted(DECISIVE):
        found = typical(tmp_path, "zen3")
        found.facts = [f for f in found.facts if f.key != key]
        found.cannot_tell(key, "a test")
        assert "cmeta=1" not in names(found), key


def test_mpi_may_be_unknown_in_a_complete_list(tmp_path: Path) -> None:
    found = typical(tmp_path, "zen3")
    found.cannot_tell("mpi", "modules may offer one")
    assert "cmeta=1" in names(found)


def test_without_a_runtime_the_list_is_complete_all_the_same(tmp_path: Path) -> None:
    found = probes.look(Host(str(node_trees.machine(tmp_path, "zen3"))))
    assert found.is_unknown("runtime")
    assert "cmeta=1" in names(found)
    found.fact("apptainer", "1.4.1", "a test")
    assert "cmeta=1" not in names(found)  # what it can do is not known


def test_a_hostile_fact_becomes_no_feature() -> None:
    found = Found()
    found.fact("arch", "x86_64,evil", "a test")
    found.fact("network", "a|b", "a test")
    found.fact("kernel", "6.1&x", "a test")
    assert names(found) == ["kernel=6.1", "cmeta=1"]


def test_every_key_of_a_probe_is_documented_and_no_other() -> None:
    listed = [key for module in probes.modules() for key in module.KEYS]
    assert sorted(listed) == sorted(keys.KEYS)
    assert len(listed) == len(set(listed))


def test_the_facts_of_this_host_have_their_forms() -> None:
    for fact in probes.look(Host()).facts:
        assert keys.KEYS[fact.key].takes(fact.value), fact


def test_a_probe_that_fails_leaves_its_keys_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("slurm_cmeta.node.kernel.probe", broken)
    found = probes.look(Host(str(node_trees.machine(tmp_path, "zen3"))))
    assert found.value("cpu") == "zen3"
    (why,) = [u.reason for u in found.unknown if u.key == "kernel"]
    assert "the probe failed: ZeroDivisionError: a mistake" in why


# --- the command --------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = command.main([*words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def zen3(tmp_path: Path) -> str:
    return str(node_trees.machine(tmp_path / "zen3", "zen3", "A100-SXM4-40GB"))


def test_the_slurm_format_is_one_line(zen3: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--root", zen3)
    assert code == 0
    assert out.startswith("NodeName=zen3 Features=x86_64,x86_64_v2,")
    assert out.count("\n") == 1


def test_the_list_format_is_one_a_line(zen3: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--root", zen3, "--format", "list")
    _, line, _ = run(capsys, "--root", zen3)
    assert out.split() == line.split("Features=")[1].strip().split(",")


def test_json_follows_its_schema(zen3: str, capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads((PROJECT / "docs/schema/cmeta.features-1.json").read_text())
    for words in (["--root", zen3], []):
        _, out, _ = run(capsys, *words, "--format", "json")
        jsonschema.validate(json.loads(out), schema)
    value = json.loads(run(capsys, "--root", zen3, "--node", "n7", "--format", "json")[1])
    assert value["node"] == "n7"
    assert {"key": "nvidia.count", "value": "4"}.items() <= next(
        f for f in value["facts"] if f["key"] == "nvidia.count"
    ).items()
    assert all(f["source"] for f in value["facts"])


def test_prometheus_reads_the_prom_format(zen3: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--root", zen3, "--format", "prom")
    found = {family.name: family.samples for family in text_string_to_metric_families(out)}
    (info,) = found["cmeta_node_info"]
    assert info.labels["cpu"] == "zen3"
    assert info.labels["cuda"] == "12.4"
    assert {s.labels["feature"] for s in found["cmeta_node_feature"]} >= {"zen3", "sm=80"}
    assert [(s.labels, s.value) for s in found["cmeta_node_gpus"]] == [({"vendor": "nvidia"}, 4)]


def test_verbose_says_what_could_not_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "little"
    (root / "proc").mkdir(parents=True)
    source = node_trees.machine(tmp_path / "whole", "zen3") / "proc/cpuinfo"
    (root / "proc/cpuinfo").write_text(source.read_text())
    code, out, err = run(capsys, "--root", str(root), "-v", "--node", "n1")
    assert code == 0
    assert "zen3" in out
    assert "cmeta=1" not in out
    assert "cmeta: kernel is unknown: /proc/sys/kernel/osrelease" in err
    assert "cmeta: no cmeta=1, as" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--dry-run"], 2, "--dry-run needs --apply"),
        (["--root", "/no/such/place"], 2, "no such directory"),
        (["--site", "/no/such/place"], 4, "no such directory"),
        (["--node", "a b"], 2, "is no name of a node"),
        (["--node", "a,b"], 2, "is no name of a node"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done, out, err = run(capsys, *words)
    assert (done, out) == (code, "")
    assert message in err.splitlines()[-1]


def test_an_empty_root_is_an_error_and_no_empty_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "--root", str(tmp_path))
    assert (code, out) == (4, "")
    assert "not even the architecture" in err


def test_a_closed_pipe_is_no_error(zen3: str) -> None:
    line = f"{sys.executable} -m slurm_cmeta.cli.features --root {zen3} --format json | true"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert "Traceback" not in done.stderr
