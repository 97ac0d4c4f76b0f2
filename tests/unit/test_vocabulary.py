"""The names of architectures and CPUs."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from slurm_cmeta import vocabulary
from slurm_cmeta.vocabulary import build

DATA = Path(vocabulary.__file__).parent


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("zen4", "zen4"),
        ("znver4", "zen4"),
        ("Zen4", "zen4"),
        ("skylake-avx512", "skylake_avx512"),
        ("icelake-server", "icelake"),
        ("neoverse-v1", "neoverse_v1"),
        ("x86-64-v3", "x86_64_v3"),
        ("X86_64_V3", "x86_64_v3"),
        ("amd64v3", "x86_64_v3"),
        ("amd64/v3", "x86_64_v3"),
        ("linux/amd64/v3", "x86_64_v3"),
        ("linux/arm64/v8.2", "armv8.2a"),
        ("linux/arm64/v8", "aarch64"),
        ("linux/arm/v7", "arm"),
        ("linux/ppc64le/power9", "power9le"),
        ("x86_64/amd/zen3", "zen3"),
        ("x86_64/intel/haswell", "haswell"),
        ("x86_64/generic", "x86_64"),
        ("aarch64/nvidia/grace", "neoverse_v2"),
        ("bdver4", "excavator"),
        ("amd64", "x86_64"),
        ("x86_64/arm/neoverse_v1", None),  # the parts contradict each other
        ("native", None),
        ("", None),
        ("z" * 10_000, None),
        ("zen4 zen3", None),
    ],
)
def test_cpu_target_knows_the_spelling(spelling: str, name: str | None) -> None:
    assert vocabulary.cpu_target(spelling) == name


@pytest.mark.parametrize(
    ("spelling", "family"),
    [
        ("amd64", "x86_64"),
        ("arm64", "aarch64"),
        ("ARM64", "aarch64"),
        ("ppc64el", "ppc64le"),
        ("386", "x86"),
        ("riscv64", "riscv64"),
        ("vax", None),
    ],
)
def test_architecture_knows_the_spelling(spelling: str, family: str | None) -> None:
    assert vocabulary.architecture(spelling) == family


def test_every_alias_leads_to_a_name_that_archspec_knows() -> None:
    aliases = vocabulary.load("cpu_aliases")["aliases"]
    assert [a for a, name in aliases.items() if vocabulary.cpu(name) is None] == []
    assert [a for a in aliases if a != a.lower().replace("-", "_")] == []


def test_no_name_of_archspec_is_hidden_by_an_alias() -> None:
    targets = vocabulary.load("cpu")["targets"]
    aliases = vocabulary.load("cpu_aliases")["aliases"]
    assert [a for a, name in aliases.items() if a in targets and a != name] == []


def test_the_table_says_what_archspec_says() -> None:
    archspec = pytest.importorskip("archspec.cpu", reason="archspec is not installed")
    installed = build.table()
    table = vocabulary.load("cpu")
    if installed["source"] != table["source"]:
        pytest.skip(f"the table is of {table['source']}, installed is {installed['source']}")
    assert installed == table
    for name, target in archspec.TARGETS.items():
        ours = vocabulary.cpu(name)
        assert ours is not None
        assert ours.ancestors == {a.name for a in target.ancestors}
        for other_name, other in archspec.TARGETS.items():
            theirs = vocabulary.cpu(other_name)
            assert theirs is not None
            assert ours.runs(theirs) == (target >= other), (name, other_name)


def test_the_options_of_gcc_are_those_that_archspec_gives() -> None:
    pytest.importorskip("archspec.cpu", reason="archspec is not installed")
    installed, table = build.spellings(), vocabulary.load("cpu_spellings")
    if installed["source"] != table["source"]:
        pytest.skip(f"the table is of {table['source']}, installed is {installed['source']}")
    assert installed == table


def test_every_platform_is_of_a_target_and_family_that_we_know() -> None:
    platforms = vocabulary.load("platforms")
    for path, name in platforms["eessi"].items():
        assert vocabulary.cpu_target(path) == name
    for family, name in platforms["goarch"].items():
        assert vocabulary.architecture(name) == family


def test_an_ambiguous_name_is_marked_and_real() -> None:
    names = vocabulary.load("cpu_aliases")["ambiguous_as_feature"]
    assert [n for n in names if vocabulary.feature_target(n) is None] == []
    assert vocabulary.is_ambiguous_feature("m1")
    assert not vocabulary.is_ambiguous_feature("zen4")


@pytest.mark.parametrize(
    ("node", "image", "answer"),
    [
        ("x86_64", "x86_64", True),
        ("x86_64", "x86", True),
        ("x86", "x86_64", False),
        ("aarch64", "arm", None),
        ("aarch64", "x86_64", False),
    ],
)
def test_also_runs(node: str, image: str, answer: bool | None) -> None:
    assert vocabulary.also_runs(node, image) is answer


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_every_file_has_the_documented_shape(path: Path) -> None:
    schema = json.loads((DATA.parents[1] / "docs/schema/vocabulary.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(path.read_text())
    shape = {**schema, "$ref": f"#/$defs/{path.stem}"}
    jsonschema.validate(document, shape, cls=jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "x": 1}, shape, cls=jsonschema.Draft202012Validator)
