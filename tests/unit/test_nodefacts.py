"""What features say of a node: our names, plain ones, and a site's own."""

from __future__ import annotations

import pytest

from slurm_cmeta import nodefacts
from slurm_cmeta.nodefacts import SiteNames


def said(features: str, key: str, names: SiteNames = nodefacts.NO_NAMES) -> set[str]:
    return set(nodefacts.read(features.split(","), names).said(key))


@pytest.mark.parametrize(
    ("features", "key", "values"),
    [
        ("nvidia,sm=80", "gpu", {"nvidia"}),
        ("nvidia,sm=80", "gpu.arch", {"sm_80"}),
        ("sm=80", "gpu", {"nvidia"}),
        ("sm_80", "gpu.arch", {"sm_80"}),
        ("cc80", "gpu.arch", set()),  # a cabinet
        ("cc80,nvidia", "gpu.arch", {"sm_80"}),
        ("cc=8.0", "gpu.arch", {"sm_80"}),
        ("sm=120", "gpu.arch", {"sm_120"}),
        ("sm=70,sm=80", "gpu.arch", {"sm_70", "sm_80"}),
        ("accel/nvidia/cc90", "gpu.arch", {"sm_90"}),
        ("gfx90a", "gpu", {"amd"}),
        ("gfx90a", "gpu.arch", {"gfx90a"}),
        ("amdgpu", "gpu", {"amd"}),
        ("intelgpu", "gpu", {"intel"}),
        ("a100", "gpu", {"nvidia"}),
        ("a100", "gpu.arch", {"sm_80"}),
        ("A100", "gpu.arch", {"sm_80"}),
        ("nvidia_a100", "gpu.arch", {"sm_80"}),
        ("gpu_v100", "gpu.arch", {"sm_70"}),
        ("tesla_v100", "gpu.arch", {"sm_70"}),
        ("gpu=h100", "gpu.arch", {"sm_90"}),
        ("gpu=nvidia", "gpu", {"nvidia"}),
        ("mi250x", "gpu.arch", {"gfx90a"}),
        ("mi300a", "gpu", {"amd"}),
        ("t4", "gpu", set()),  # it could be anything
        ("t4,nvidia", "gpu.arch", {"sm_75"}),
        ("cuda=12.4,driver=550.54.14", "cuda", {"12.4"}),
        ("cuda=12.4,driver=550.54.14", "driver", {"550.54.14"}),
        ("CUDA=12.4", "cuda", {"12.4"}),
        ("rocm=6.0", "rocm", {"6.0"}),
        ("page=64k", "page", {"65536"}),
        ("page=65536,aarch64", "page", {"65536"}),
        ("x86_64", "page", {"4096"}),
        ("zen3", "page", {"4096"}),
        ("aarch64", "page", set()),  # 4, 16 or 64 KiB
        ("memory=1500G", "memory", {"1536000"}),
        ("mem=512", "memory", {"512"}),
        ("infiniband", "network", {"infiniband"}),
        ("runtime=ext3,runtime=encrypted", "runtime", {"ext3", "encrypted"}),
        ("mpi=mpich", "mpi", {"mpich"}),
        ("kernel=6.1", "kernel", {"6.1"}),
        ("isa=avx512f", "isa", {"avx512f"}),
        ("intel", "gpu", set()),  # a CPU at most sites
        ("amd", "gpu", set()),
        ("gpu", "gpu", set()),
        ("80", "gpu.arch", set()),
        ("8.0", "gpu.arch", set()),
        ("cuda=", "cuda", set()),
        ("page=big", "page", set()),
        ("memory=lots", "memory", set()),
        ("rack=r12,bigmem,floor2,2023,ib-hdr", "gpu", set()),
    ],
)
def test_what_a_feature_says(features: str, key: str, values: set[str]) -> None:
    assert said(features, key) == values


@pytest.mark.parametrize(
    "name",
    [
        "bigmem",
        "hdr100",
        "lustre",
        "local_ssd",
        "ssd",
        "nvme",
        "c2s16",
        "r12",
        "fat",
        "thin",
        "login",
        "viz",
        "n1",
    ],
)
def test_common_names_that_are_no_gpu_and_no_cpu(name: str) -> None:
    facts = nodefacts.read([name])
    assert dict(facts.values) == {}
    assert facts.cpus == ()


NAMES = SiteNames(
    prefix="hw.",
    means={
        "gpu_big": ("nvidia", "sm=90"),
        "bigmem": ("memory=1500G",),
        "rome": (),
        "milan-node": ("zen3",),
    },
)


def test_a_sites_own_names_mean_what_cmeta_yaml_says() -> None:
    assert said("gpu_big", "gpu.arch", NAMES) == {"sm_90"}
    assert said("bigmem", "memory", NAMES) == {"1536000"}
    assert {c.name for c in nodefacts.read(["milan-node"], NAMES).cpus} == {"zen3"}


def test_a_name_that_means_nothing_says_nothing() -> None:
    assert nodefacts.read(["rome", "x86_64"], NAMES).cpus == nodefacts.read(["x86_64"]).cpus
    assert nodefacts.read(["rome", "x86_64"]).cpus != nodefacts.read(["x86_64"]).cpus


def test_a_prefix_is_taken_off_and_plain_names_count_as_well() -> None:
    facts = nodefacts.read(["hw.zen3", "hw.cuda=12.4", "hw.cmeta=1", "a100"], NAMES)
    assert facts.families == {"x86_64"}
    assert facts.said("cuda") == ("12.4",)
    assert facts.said("gpu.arch") == ("sm_80",)
    assert facts.complete
    assert not nodefacts.read(["hw.cmeta=1"]).complete


@pytest.mark.parametrize(
    ("features", "gres", "key", "values"),
    [
        ("x86_64", "gpu:a100:4", "gpu.arch", {"sm_80"}),
        ("x86_64", "gpu:a100:4(S:0-1)", "gpu.arch", {"sm_80"}),
        ("x86_64", "gpu:nvidia_h100_80gb_hbm3:8", "gpu.arch", {"sm_90"}),
        ("x86_64", "gpu:t4:1", "gpu.arch", {"sm_75"}),
        ("x86_64", "gpu:a100:2,gpu:v100:2", "gpu.arch", {"sm_80", "sm_70"}),
        ("x86_64,t4", "gpu:2", "gpu.arch", {"sm_75"}),  # beside a GPU the name counts
        ("x86_64,t4", "", "gpu.arch", set()),
        ("x86_64", "gpu:4", "gpu", set()),
        ("x86_64", "nic:2,tmpdisk:100G", "gpu", set()),
        ("x86_64", "gpu:mystery:4", "gpu", set()),
    ],
)
def test_what_gres_says(features: str, gres: str, key: str, values: set[str]) -> None:
    facts = nodefacts.read(features.split(","), gres=[gres] if gres else [])
    assert set(facts.said(key)) == values
