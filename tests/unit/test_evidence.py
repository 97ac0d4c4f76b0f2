"""Facts and warnings that an image's content gives rise to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sif_files import Part, build, metadata, need_tools, partition, real_sif, signature

from slurm_cmeta import evidence, vocabulary
from slurm_cmeta.facts import DECLARED, Fact
from slurm_cmeta.image import open_image

PARTITION = "SIF partition descriptor 2"
DOCKER = "org.opencontainers.image."
WISH = "org.supercontainers.hardware.cpu.optimized.version"
STATES = {
    *("cpu", "architecture", "base", "bootstrap", "created", "memory", "disk", "gpus", "os"),
    *("mpi", "mpi-version", "mpi-portability", "fabric", "os-version", "built-with", "built-on"),
    *("title", "version", "vendor", "source", "revision", "licenses"),
}


class Read:
    """Facts and warnings of a SIF built for one test."""

    def __init__(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        with open_image(str(path)) as image:
            self.facts = evidence.read(image).facts
            self.warnings = list(image.warnings)
            assert evidence.read(image).facts == self.facts
            assert image.warnings == self.warnings

    def of(self, key: str) -> list[tuple[str, str]]:
        return [(fact.value, fact.source) for fact in self.facts if fact.key == key]

    def value(self, key: str) -> str | None:
        found = self.of(key)
        return found[0][0] if found else None

    @property
    def cpu(self) -> list[str]:
        return [value for value, _ in self.of("cpu")]


def labelled(
    tmp_path: Path, labels: dict[str, str], arch: bytes = b"02", header: bytes | None = None
) -> Read:
    data = build(metadata(labels), partition(arch), arch=arch if header is None else header)
    return Read(tmp_path / "img.sif", data)


def test_real_file(tmp_path: Path) -> None:
    need_tools()
    path = real_sif(
        tmp_path / "img.sif",
        arch="arm64",
        labels={"io.archspec.cpu.target": "neoverse-v1"},
        deffile="Bootstrap: docker\nFrom: debian:12\n\n%post\nFrom: nowhere\n",
    )
    with open_image(str(path)) as image:
        facts = evidence.read(image).facts
        assert image.warnings == []
    source = "SIF partition descriptor 3"
    assert facts[:2] == [
        Fact("arch", "aarch64", source, DECLARED, False),
        Fact("cpu", "neoverse_v1", "label io.archspec.cpu.target", DECLARED, False),
    ]
    assert Fact("base", "debian:12", "definition file") in facts
    assert Fact("bootstrap", "docker", "definition file") in facts
    assert Fact("filesystem", "squashfs", source) in facts


@pytest.mark.parametrize(
    ("code", "family"),
    [(b"01", "x86"), (b"02", "x86_64"), (b"04", "aarch64"), (b"06", "ppc64le"),
     (b"11", "s390x"), (b"12", "riscv64"), (b"13", "loongarch64")],
)  # fmt: skip
def test_architectures_are_spelled_as_archspec_does(
    tmp_path: Path, code: bytes, family: str
) -> None:
    read = labelled(tmp_path, {}, code)
    assert read.of("arch") == [(family, PARTITION)]
    assert read.warnings == []


def test_partition_wins_over_header(tmp_path: Path) -> None:
    read = labelled(tmp_path, {}, b"04", header=b"02")
    assert read.of("arch") == [("aarch64", PARTITION)]
    assert read.warnings == [
        "the SIF header says amd64, the SIF partition descriptor 2 says aarch64: "
        "the SIF header is ignored"
    ]


def test_header_serves_where_the_partition_says_nothing(tmp_path: Path) -> None:
    assert labelled(tmp_path, {}, b"00", header=b"06").of("arch") == [("ppc64le", "SIF header")]


def test_no_architecture(tmp_path: Path) -> None:
    read = labelled(tmp_path, {"org.label-schema.build-arch": "amd64"}, b"00")
    assert read.of("arch") == []
    assert "states no architecture" in read.warnings[0]


@pytest.mark.parametrize(
    "key",
    [
        "org.label-schema.build-arch",
        "org.opencontainers.image.architecture",
        "io.archspec.cpu.family",
        "cpu.family",
    ],
)
def test_labels_never_give_the_architecture(tmp_path: Path, key: str) -> None:
    read = labelled(tmp_path, {key: "amd64"}, b"04")
    assert read.of("arch") == [("aarch64", PARTITION)]
    assert len(read.warnings) == 1
    assert f"label {key} says amd64" in read.warnings[0]
    assert "the label is ignored" in read.warnings[0]
    assert labelled(tmp_path, {key: "arm64"}, b"04").warnings == []
    assert labelled(tmp_path, {key: "6"}, b"04").warnings == []


HARD = ["io.archspec.cpu.target", "cpu.target", "compspec.architecture"]
SOFT = [WISH, "hardware.cpu.optimized.version"]


@pytest.mark.parametrize("key", HARD + SOFT)
def test_cpu_labels(tmp_path: Path, key: str) -> None:
    read = labelled(tmp_path, {key: " znver3 "})
    facts = [fact for fact in read.facts if fact.key == "cpu"]
    assert facts == [Fact("cpu", "zen3", f"label {key}", DECLARED, key in SOFT)]
    assert read.warnings == []


def test_every_rule_is_complete_and_tested() -> None:
    rules: list[dict[str, Any]] = vocabulary.load("labels")["labels"]
    keys = [rule["key"] for rule in rules]
    assert len(set(keys)) == len(keys)
    for rule in rules:
        assert rule["source"]
        assert rule["states"] in STATES
        if rule["states"] in ("cpu", "memory", "disk", "gpus"):
            assert rule["strength"] in ("hard", "soft")
    cpu = [rule["key"] for rule in rules if rule["states"] == "cpu" and "form" not in rule]
    assert sorted(cpu) == sorted(HARD + SOFT)


@pytest.mark.parametrize(
    ("text", "target"),
    [("x86-64-v3", "x86_64_v3"), ("X86_64_V3", "x86_64_v3"), ("amd64v3", "x86_64_v3"),
     ("skylake-avx512", "skylake_avx512"), ("x86_64/amd/zen3", "zen3"), ("amd64/v4", "x86_64_v4")],
)  # fmt: skip
def test_spellings(tmp_path: Path, text: str, target: str) -> None:
    assert labelled(tmp_path, {"cpu.target": text}).cpu == [target]


@pytest.mark.parametrize("text", ["amd64", "x86_64", "amd64/v1", "", "  "])
def test_a_target_that_adds_nothing_gives_no_fact(tmp_path: Path, text: str) -> None:
    read = labelled(tmp_path, {"cpu.target": text})
    assert read.cpu == []
    assert read.warnings == []


def test_a_plain_architecture_counts_where_the_file_states_none(tmp_path: Path) -> None:
    assert labelled(tmp_path, {"cpu.target": "zen3"}, b"00").cpu == ["zen3"]


@pytest.mark.parametrize("text", ["native", "generic", "any CPU\x1b[31m\nwill do", "x" * 10_000])
def test_unknown_targets_are_named(tmp_path: Path, text: str) -> None:
    read = labelled(tmp_path, {"cpu.target": text})
    assert read.cpu == []
    assert len(read.warnings) == 1
    assert read.warnings[0].startswith("label cpu.target says " + text[:5])
    assert len(read.warnings[0]) < 200
    assert read.warnings[0].isprintable()


@pytest.mark.parametrize(
    ("labels", "arch", "targets"),
    [
        ({DOCKER + "architecture": "amd64", DOCKER + "variant": "v3"}, b"02", ["x86_64_v3"]),
        ({DOCKER + "variant": "v3"}, b"02", ["x86_64_v3"]),
        ({DOCKER + "architecture": "amd64", DOCKER + "variant": "v1"}, b"02", []),
        ({DOCKER + "architecture": "amd64", DOCKER + "variant": ""}, b"02", []),
        ({DOCKER + "architecture": "arm64", DOCKER + "variant": "v8"}, b"04", []),
        ({DOCKER + "architecture": "arm64", DOCKER + "variant": "v8.2"}, b"04", ["armv8.2a"]),
        ({DOCKER + "variant": "power9"}, b"06", ["power9le"]),
    ],
)
def test_oci_variants(
    tmp_path: Path, labels: dict[str, str], arch: bytes, targets: list[str]
) -> None:
    read = labelled(tmp_path, labels, arch)
    assert read.cpu == targets
    assert read.warnings == []
    assert all(source == f"label {DOCKER}variant" for _, source in read.of("cpu"))


def test_variant_of_another_architecture(tmp_path: Path) -> None:
    labels = {DOCKER + "architecture": "arm64", DOCKER + "variant": "v8.2"}
    read = labelled(tmp_path, labels, b"02")
    assert read.cpu == []
    assert len(read.warnings) == 2
    assert (
        "arm64/v8.2, a CPU of architecture aarch64, but the image is for x86_64"
        in (read.warnings[1])
    )


def test_cpu_of_another_architecture(tmp_path: Path) -> None:
    read = labelled(tmp_path, {"cpu.target": "zen3"}, b"04")
    assert read.cpu == []
    assert read.warnings == [
        "label cpu.target says zen3, a CPU of architecture x86_64, but the image is for aarch64: "
        "the label is ignored"
    ]


@pytest.mark.parametrize("backwards", [False, True])
def test_one_fact_for_a_target_and_the_hard_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    rules = vocabulary.load("labels")["labels"]
    ordered = rules[::-1] if backwards else rules
    monkeypatch.setattr(vocabulary, "load", wrapped(vocabulary.load, "labels", {"labels": ordered}))
    read = labelled(tmp_path, {WISH: "zen3", "cpu.target": "znver3", HARD[0]: "zen3"})
    cpu = [fact for fact in read.facts if fact.key == "cpu"]
    source = "label cpu.target" if backwards else f"label {HARD[0]}"
    assert cpu == [Fact("cpu", "zen3", source, DECLARED, False)]


def wrapped(load: Callable[[str], Any], name: str, answer: Any) -> Callable[[str], Any]:
    return lambda asked: answer if asked == name else load(asked)


def test_targets_that_imply_each_other(tmp_path: Path) -> None:
    read = labelled(tmp_path, {"cpu.target": "zen4", HARD[0]: "x86-64-v3"})
    assert sorted(read.cpu) == ["x86_64_v3", "zen4"]
    assert read.warnings == []


def test_targets_that_exclude_each_other(tmp_path: Path) -> None:
    read = labelled(tmp_path, {"cpu.target": "zen4", HARD[0]: "icelake"})
    assert sorted(read.cpu) == ["icelake", "zen4"]
    assert len(read.warnings) == 1
    assert "neither implies the other" in read.warnings[0]


def test_keys_are_matched_exactly(tmp_path: Path) -> None:
    assert labelled(tmp_path, {"CPU.target": "zen3", "xcpu.target": "zen3"}).cpu == []


@pytest.mark.parametrize(
    ("fs", "runtime", "encrypted"),
    [(1, [], "no"), (2, ["ext3"], "no"), (5, ["encrypted"], "yes"), (6, ["encrypted"], "yes")],
)
def test_runtime(tmp_path: Path, fs: int, runtime: list[str], encrypted: str) -> None:
    read = Read(tmp_path / "img.sif", build(metadata({}), partition(fs=fs)))
    assert [value for value, _ in read.of("runtime")] == runtime
    assert read.of("encrypted") == [(encrypted, PARTITION)]


def test_signatures_are_never_called_valid(tmp_path: Path) -> None:
    data = build(metadata({}), partition(), signature(), signature(), signature("AB" * 20))
    read = Read(tmp_path / "img.sif", data)
    assert read.of("signed") == [("yes", "3 signature(s), not verified")]
    assert read.of("signer") == [
        (
            "433FE984155206BD962725E20E8713472A879943",
            "SIF signature descriptor 3, not verified",
        ),
        ("AB" * 20, "SIF signature descriptor 5, not verified"),
    ]
    assert labelled(tmp_path, {}).value("signed") == "no"


def test_created_from_the_header_else_from_a_label(tmp_path: Path) -> None:
    assert labelled(tmp_path, {}).of("created") == [("2023-11-14T22:13:20Z", "SIF header")]
    label = "org.label-schema.build-date"
    for stamp in (-62135596800, 0, 253402300800, 2**62, -(2**63), 2**63 - 1):
        data = build(metadata({label: "Tue\x1b"}), partition(), created=stamp)
        read = Read(tmp_path / "img.sif", data)
        assert read.of("created") == [("Tue\\x1b", f"label {label}")]


def test_base_from_labels(tmp_path: Path) -> None:
    read = labelled(
        tmp_path,
        {
            "org.label-schema.usage.singularity.deffile.from": "x\ny",
            "org.label-schema.usage.singularity.deffile.bootstrap": "docker",
        },
    )
    assert read.value("base") == "x\\ny"
    assert read.value("bootstrap") == "docker"


@pytest.mark.parametrize("text", [b"", b"\xff\xfe:\n::", b"%post\nFrom: x\n", b"# From: x\n"])
def test_definition_file_without_a_base(tmp_path: Path, text: bytes) -> None:
    read = Read(tmp_path / "img.sif", build(Part(0x4001, text), partition()))
    assert read.value("base") is None


def test_sbom(tmp_path: Path) -> None:
    data = build(metadata({}), partition(), Part(0x4009, b"{}"), Part(0x4009, b"{}"))
    assert Read(tmp_path / "img.sif", data).of("sbom") == [("yes", "SIF descriptor 3")]
