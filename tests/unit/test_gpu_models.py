"""The names of GPU models, and the CUDA version of a driver."""

from __future__ import annotations

import re

import pytest

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence.gpu_target import target
from slurm_cmeta.vocabulary import gpus

TABLE = vocabulary.load("gpu_models")


@pytest.mark.parametrize(
    ("feature", "name"),
    [
        ("a100", "a100"),
        ("A100", "a100"),
        ("nvidia_a100", "a100"),
        ("gpu_v100", "v100"),
        ("v100_gpu", "v100"),
        ("a100-80gb", "a100"),
        ("a100_40g", "a100"),
        ("v100-32", "v100"),
        ("tesla_v100", "v100"),
        ("A100-SXM4-80GB", "a100"),
        ("a100sxm4", "a100"),
        ("nvidia_a100-sxm4-40gb", "a100"),  # the type that Slurm's gpu/nvml gives
        ("nvidia_a100_3g.20gb", "a100"),  # a MIG device there
        ("v100s", "v100s"),
        ("l40s", "l40s"),
        ("h100_pcie", "h100"),
        ("gracehopper", "gh200"),
        ("rtx_3090", "rtx3090"),
        ("geforce_rtx_3090_ti", "rtx3090ti"),
        ("2080ti", "rtx2080ti"),
        ("gtx_1080_ti", "gtx1080ti"),
        ("titan-v", "titanv"),
        ("rtx_6000_ada", "rtx6000ada"),
        ("rtx_a6000", "a6000"),
        ("amd_mi300a", "mi300a"),
        ("instinct-mi250x", "mi250x"),
        ("max1550", "max1550"),
        ("gpu", None),
        ("nvidia", None),
        ("bigmem", None),
        ("zen3", None),
        ("icelake", None),
        ("100gb", None),
        ("a10010", None),
        ("v100x", None),  # a name that is not in the table is not the one it begins with
        ("rtx_3080_laptop", None),
        ("vii", None),
        ("node-a100-rack", None),
        ("amd_a10", None),  # a brand of another vendor
        ("intel_p4", None),
        ("nvidia_mi300a", None),
        ("instinct_a100", None),
        ("nvidia_amd_a100", None),
        ("gpu_mi210", "mi210"),
        ("nvidia_tesla_t4", "t4"),
        ("", None),
        ("a100\x00", "a100"),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}100", None),
        ("a100" * 1000, None),
    ],
)
def test_a_feature_stands_for_a_model(feature: str, name: str | None) -> None:
    found = gpus.model(feature)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("product", "name", "arch"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100", "sm_80"),
        ("A100-PCIE-40GB", "a100", "sm_80"),
        ("NVIDIA A100 80GB PCIe", "a100", "sm_80"),
        ("NVIDIA A100-SXM-64GB", "a100", "sm_80"),
        ("NVIDIA A100-PG509-200", "a100", "sm_80"),
        ("NVIDIA A800 40GB Active", "a800", "sm_80"),
        ("NVIDIA A2", "a2", "sm_86"),
        ("NVIDIA A10G", "a10g", "sm_86"),
        ("NVIDIA A30", "a30", "sm_80"),
        ("NVIDIA H100 80GB HBM3", "h100", "sm_90"),
        ("NVIDIA H100 NVL", "h100", "sm_90"),
        ("NVIDIA H20 NVL16", "h20", "sm_90"),
        ("NVIDIA GH200 480GB", "gh200", "sm_90"),
        ("NVIDIA GH200 144G HBM3e", "gh200", "sm_90"),
        ("NVIDIA B200", "b200", "sm_100"),
        ("NVIDIA B300 SXM6 AC", "b300", "sm_103"),
        ("NVIDIA GB10", "gb10", "sm_121"),
        ("NVIDIA L40S", "l40s", "sm_89"),
        ("Tesla V100-SXM2-16GB", "v100", "sm_70"),
        ("Tesla V100S-PCIE-32GB", "v100s", "sm_70"),
        ("Tesla P100-PCIE-16GB", "p100", "sm_60"),
        ("Tesla K80", "k80", "sm_37"),
        ("Quadro RTX 6000", "rtx6000", "sm_75"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada", "sm_89"),
        ("NVIDIA RTX A6000", "a6000", "sm_86"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtxpro6000", "sm_120"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtxpro6000", "sm_120"),
        ("NVIDIA GeForce RTX 4090", "rtx4090", "sm_89"),
        ("NVIDIA GeForce RTX 2070 SUPER", "rtx2070", "sm_75"),
        ("NVIDIA TITAN X (Pascal)", "titanxpascal", "sm_61"),
        ("NVIDIA TITAN Xp", "titanxp", "sm_61"),
        ("Orin (nvgpu)", "orin", "sm_87"),
        ("AMD Instinct MI300X OAM", "mi300x", "gfx942"),
        ("AMD INSTINCT MI250 (MCM) OAM AC MBA", "mi250", "gfx90a"),
        ("AMD Instinct MI250X/MI250", "mi250", "gfx90a"),
        ("Intel(R) Data Center GPU Max 1550", "max1550", None),
    ],
)
def test_a_product_has_a_name_and_an_architecture(
    product: str, name: str, arch: str | None
) -> None:
    found = gpus.model_of_product(product)
    assert found is not None
    assert (found.name, found.arch) == (name, arch)
    assert gpus.slug(product) == name


@pytest.mark.parametrize(
    "product",
    [
        "NVIDIA Graphics Device",
        "Unknown",
        "NVIDIA GeForce RTX 9990",
        "GRID A100D-40C",
        "",
        "Matrox",
    ],
)
def test_a_product_that_nobody_lists_is_not_guessed(product: str) -> None:
    assert gpus.model_of_product(product) is None
    assert gpus.slug(product) is None


def test_a_name_of_several_generations_says_no_architecture() -> None:
    for name in TABLE["arch_varies"]:
        found = gpus.model(name)
        assert found is not None
        assert (found.vendor, found.arch) == ("nvidia", None)
    certain = gpus.model("quadro_rtx_6000")
    assert certain is not None
    assert certain.arch == "sm_75"


@pytest.mark.parametrize(
    ("feature", "ambiguous"),
    [
        ("t4", True),
        ("A10", True),
        ("k80", True),
        ("3090", True),
        ("thor", True),
        ("tesla_t4", False),
        ("nvidia_a10", False),
        ("gpu-k80", False),
        ("a100", False),
        ("rtx3090", False),
        ("l40s", False),
        ("bigmem", False),
        ("b200", True),
        ("B300", True),
        ("h800", True),
        ("v620", True),
        ("r9700", True),
        ("a6000", True),
        ("nvidia_b200", False),
        ("gpu_b200", False),
        ("radeonprov620", False),
        ("gb200", False),
        ("gh200", False),
        ("h200", False),
        ("v100", False),
        ("p100", False),
        ("v100-32", False),
        ("b200-180gb", True),
    ],
)
def test_a_short_name_may_mean_something_else(feature: str, ambiguous: bool) -> None:
    assert gpus.is_ambiguous_feature(feature) is ambiguous


def test_every_short_name_is_marked_as_ambiguous() -> None:
    spellings = {s for n, m in TABLE["models"].items() for s in (n, *m["names"])}
    short = {s for s in spellings if re.fullmatch(r"[a-z]\d{1,4}|\d+", s)}
    short -= {"a100", "h100", "h200", "v100", "p100"}
    assert short <= set(TABLE["ambiguous_as_feature"]) <= spellings
    assert set(TABLE["arch_varies"]) <= spellings


def test_no_spelling_and_no_number_stands_for_two_models() -> None:
    models = TABLE["models"]
    spellings = [s for name, entry in models.items() for s in (name, *entry["names"])]
    assert sorted(set(spellings)) == sorted(spellings)
    numbers = [(e["vendor"], n) for e in models.values() for n in e["pci"]]
    assert sorted(set(numbers)) == sorted(numbers)
    products = [entry["product"] for entry in models.values()]
    assert sorted(set(products)) == sorted(products)


def test_every_model_is_found_by_its_own_names() -> None:
    for name, entry in TABLE["models"].items():
        assert gpus.slug(entry["product"]) == name, name
        for spelling in (name, *entry["names"]):
            found = gpus.model(spelling)
            assert found is not None
            assert found.name == name, spelling


def test_every_architecture_is_a_name_that_images_are_built_for() -> None:
    names = {entry["arch"] for entry in TABLE["models"].values() if entry["arch"]}
    names.update(TABLE["integrated"]["targets"])
    assert [name for name in sorted(names) if target(name) != name] == []


def test_numbers_of_the_bus_lead_to_models() -> None:
    found = gpus.model_of_number("nvidia", "20B0")
    assert found is not None
    assert found.name == "a100"
    assert gpus.model_of_number("amd", "20b0") is None
    assert gpus.only_displays("amd", "515e")
    assert not gpus.only_displays("nvidia", "515e")
    assert gpus.is_integrated("gfx90c")
    assert not gpus.is_integrated("gfx942")


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("450.51.06", "11.0"),
        ("470.256.02", "11.4"),
        ("520.61.05", "11.8"),
        ("525.60.13", "12.0"),
        ("535.54.03", "12.2"),
        ("550.54.14", "12.4"),
        ("550.163.01", "12.4"),
        ("580.65.06", "13.0"),
        ("580.142", "13.0"),
        ("590.48.01", "13.1"),
        ("595.45.04", "13.2"),
        ("610.43.02", "13.3"),
        ("540.4.0", None),  # Jetson
        ("550.40.07", None),  # older than what is known
        ("999.1", None),
        ("550", None),
        ("550.54.14\n", None),
        ("x.y", None),
        ("550.\N{ARABIC-INDIC DIGIT FIVE}", None),
        ("", None),
    ],
)
def test_a_driver_has_a_cuda_version(driver: str, cuda: str | None) -> None:
    assert gpus.cuda_of_driver(driver) == cuda


def test_newer_branches_never_have_an_older_cuda() -> None:
    branches = TABLE["cuda_of_driver"]["branches"]
    rows = [[tuple(map(int, text.split("."))) for text in row] for row in branches.values()]
    assert rows == sorted(rows)
    assert [c for _, c in rows] == sorted(c for _, c in rows)
    assert all(row[0].split(".")[0] == branch for branch, row in branches.items())


def test_capabilities_compare_as_numbers() -> None:
    assert gpus.capability("sm_86") == (8, 6)
    assert gpus.capability("sm_120") == (12, 0)
    assert gpus.capability("compute_90a") == (9, 0)
    assert gpus.capability("gfx90a") is None
    assert gpus.capability("sm_8\N{ARABIC-INDIC DIGIT ZERO}") is None


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("sm_80", True),
        ("sm_90a", True),
        ("sm_100f", True),
        ("sm_121", True),
        ("sm_90f", False),
        ("sm_80a", False),
        ("sm_77", False),
        ("sm_10", False),
        ("sm_999", False),
        ("sm_080", False),
        ("sm_8", False),
        ("sm_80 ", False),
        ("sm_8\N{ARABIC-INDIC DIGIT ZERO}", False),
        ("compute_80", False),
        ("gfx90a", False),
        ("", False),
    ],
)
def test_capabilities_that_exist(name: str, there: bool) -> None:
    assert gpus.is_capability(name) is there


def test_every_model_has_a_capability_that_exists() -> None:
    of_nvidia = [m["arch"] for m in TABLE["models"].values() if m["vendor"] == "nvidia"]
    assert [arch for arch in of_nvidia if not gpus.is_capability(arch)] == []


def test_tegra_is_told_from_desktop() -> None:
    assert [n for n in TABLE["capabilities"]["numbers"] if gpus.is_tegra(n)] == [
        *(32, 53, 62, 72, 87, 101, 110)
    ]
    jetsons = {m["arch"] for n, m in TABLE["models"].items() if n in ("xavier", "orin", "thor")}
    assert all(gpus.is_tegra(int(arch.removeprefix("sm_"))) for arch in jetsons)
