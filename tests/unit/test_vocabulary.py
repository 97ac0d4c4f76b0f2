"""The names of architectures and CPUs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from slurm_cmeta import nodefacts, vocabulary
from slurm_cmeta.evidence.machinecode import arm_table, features
from slurm_cmeta.vocabulary import build, cpu_flags

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


def test_the_flags_say_what_archspec_says() -> None:
    archspec = pytest.importorskip("archspec.cpu", reason="archspec is not installed")
    installed = build.flags_table()
    table = vocabulary.load("cpu_flags")
    if installed["source"] != table["source"]:
        pytest.skip(f"the table is of {table['source']}, installed is {installed['source']}")
    assert installed == table
    assert list(installed["targets"]) == list(table["targets"])  # of equals the first counts
    aliases = table["feature_aliases"]
    words = {f for t in archspec.TARGETS.values() for f in t.features} | set(aliases)
    for name, target in archspec.TARGETS.items():
        family = str(target.family)
        own = cpu_flags.flags_of(name)
        assert own == target.features.union(*(a.features for a in target.ancestors)), name
        for word in words:
            assert cpu_flags.has_flag(word, own, family) == (word in target), (name, word)


def test_both_tables_of_cpus_are_of_one_archspec() -> None:
    cpu, flags = vocabulary.load("cpu"), vocabulary.load("cpu_flags")
    assert cpu["source"] == flags["source"]
    assert sorted(cpu["targets"]) == sorted(flags["targets"])


def test_the_files_are_what_build_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("archspec.cpu", reason="archspec is not installed")
    if build.table()["source"] != vocabulary.load("cpu")["source"]:
        pytest.skip("another archspec is installed")
    monkeypatch.setattr(build, "CPU_JSON", str(tmp_path / "cpu.json"))
    monkeypatch.setattr(build, "CPU_FLAGS_JSON", str(tmp_path / "cpu_flags.json"))
    monkeypatch.setattr(build, "SPELLINGS_JSON", str(tmp_path / "cpu_spellings.json"))
    build.write()
    for name in ("cpu.json", "cpu_flags.json", "cpu_spellings.json"):
        assert (tmp_path / name).read_text() == (DATA / name).read_text()


@pytest.mark.parametrize(
    ("target", "wanted", "missing"),
    [
        ("zen4", ["avx2", "avx512f"], []),
        ("zen3", ["avx2", "avx512f", "avx512bw"], ["avx512bw", "avx512f"]),
        ("x86_64_v3", ["sse3", "sse4.1", "abm"], []),
        ("x86_64_v2", ["abm", "sse3"], ["abm"]),
        ("x86_64", ["sse2"], ["sse2"]),  # archspec gives the family no features
        ("icelake", ["avx512"], []),
        ("power9le", ["altivec", "vsx", "avx"], ["avx"]),
        ("neoverse_v1", ["sve", "neon", "sve2"], ["sve2"]),
        ("no such CPU", ["avx2"], ["avx2"]),
        ("zen4", [], []),
    ],
)
def test_missing_flags(target: str, wanted: list[str], missing: list[str]) -> None:
    assert sorted(cpu_flags.missing_flags(wanted, target)) == missing


def test_published_flags_count_besides_the_name() -> None:
    published = ["avx512f", "ssse3"]
    assert not cpu_flags.missing_flags(["avx512", "sse3"], "x86_64", published)


def test_an_unknown_name_has_no_flags() -> None:
    assert cpu_flags.flags_of("no such CPU") == frozenset()


def test_arm_levels_are_names_of_archspec_and_their_flags_its_words() -> None:
    levels = vocabulary.load("cpu_hosts")["arm_levels"]
    arm = [n for n, t in vocabulary.load("cpu")["targets"].items() if t["family"] == "aarch64"]
    generic = {n for n in arm if vocabulary.load("cpu")["targets"][n]["vendor"] == "generic"}
    assert set(levels) == generic - {"aarch64"}
    words = {f for name in arm for f in cpu_flags.flags_of(name)}
    assert {f for flags in levels.values() for f in flags} <= words


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


def test_the_flags_that_programs_can_need_are_those_that_the_readers_know() -> None:
    flags = vocabulary.load("isa")["flags"]
    assert flags["x86_64"] == sorted(set(features.FLAGS.values()))
    assert flags["aarch64"] == sorted({row[2] for row in arm_table.TABLE})


GCC_NAMES = {"skylake_avx512": "skylake-avx512", "mic_knl": "knl", "icelake": "icelake-server"}
GCC_OPTIONS = {"abm": "lzcnt", "bmi1": "bmi", "pclmulqdq": "pclmul", "sha_ni": "sha"}


@pytest.mark.parametrize(
    "target",
    [n for n, t in vocabulary.load("cpu")["targets"].items()
     if t["family"] == "x86_64" and t["vendor"] in ("GenuineIntel", "AuthenticAMD")],
)  # fmt: skip
def test_every_flag_that_gcc_uses_for_a_cpu_is_known_of_it(target: str) -> None:
    """A flag that we did not know of would refuse a machine that runs the code."""
    spelled: dict[str, str] = vocabulary.load("cpu_aliases")["aliases"]
    march = GCC_NAMES.get(target) or next(
        (a for a, name in spelled.items() if name == target and a.startswith(("znver", "bdver"))),
        "amdfam10" if target == "k10" else target,
    )
    command = [shutil.which("gcc") or "gcc", f"-march={march}", "-Q", "--help=target"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("gcc is not installed")
    if done.returncode or "-mavx2" not in done.stdout:
        pytest.skip(f"this gcc does not know {march}")
    enabled = set(re.findall(r"^\s+-m([\w.-]+)\s+\[enabled\]", done.stdout, re.MULTILINE))
    known = cpu_flags.surely_has(target)
    for flag in vocabulary.load("isa")["flags"]["x86_64"]:
        if flag == "avx512_vp2intersect" and target == "sapphirerapids":
            continue  # gcc 12's mistake, taken back in gcc 13
        option = GCC_OPTIONS.get(flag, flag.replace("sse4_", "sse4."))
        if {option, option.replace("_", ""), option.replace("_", "-")} & enabled:
            assert flag in known


@pytest.mark.parametrize(
    ("flag", "family", "since"),
    [
        ("avx512_bf16", "x86_64", (5, 3)),
        ("amx_tile", "x86_64", (5, 16)),
        ("amx_int8", "x86_64", (5, 17)),
        ("avx_ifma", "x86_64", cpu_flags.NEVER),
        ("sha512", "x86_64", cpu_flags.NEVER),
        ("sha512", "aarch64", None),
        ("sve2", "aarch64", (5, 2)),
        ("bf16", "aarch64", (5, 6)),
        ("avx2", "x86_64", None),
        ("avx512_vnni", "x86_64", None),
        ("altivec", "ppc64le", None),
        ("", "", None),
    ],
)
def test_a_flag_is_listed_from_some_linux_on(
    flag: str, family: str, since: tuple[int, int] | None
) -> None:
    assert cpu_flags.listed_since(flag, family) == since


def test_what_is_said_of_the_kernel_is_said_of_flags_that_programs_need() -> None:
    isa = vocabulary.load("isa")
    for family, flags in isa["flags"].items():
        assert set(isa["since"]["flags"][family]) <= set(flags)
        for flag in isa["since"]["flags"][family]:
            assert (4, 18) < (cpu_flags.listed_since(flag, family) or (0, 0)) <= cpu_flags.NEVER


def test_every_network_that_a_probe_names_is_read_back() -> None:
    table = vocabulary.load("network")
    kinds = {row["kind"] for name in ("drivers", "nodes", "layers") for row in table[name]}
    assert kinds | {"slingshot"} == nodefacts.NETWORKS
