"""Each requirement against what features say: met, not met, or unchecked."""

from __future__ import annotations

import pytest

from slurm_cmeta import compare, nodefacts
from slurm_cmeta.compare import any_of, condition
from slurm_cmeta.requirement import KEYS

GPU = "nvidia,sm=80,cuda=12.4,driver=550.54.14"
DONE = "x86_64,x86_64_v3,zen3,kernel=6.1,glibc=2.36,cmeta=1"


def verdict(asked: str, features: str) -> str:
    """`asked` is `key op value`."""
    key, operator, value = asked.split(" ", 2)
    return condition((key, operator, value), nodefacts.read(features.split(","))).verdict


@pytest.mark.parametrize(
    ("asked", "features", "expected"),
    [
        # GPUs
        ("gpu = nvidia", "nvidia", "match"),
        ("gpu = nvidia", "a100", "match"),
        ("gpu = nvidia", "mi250x", "mismatch"),
        ("gpu = nvidia", "zen3", "unchecked"),  # nobody said that there is none
        ("gpu = nvidia", DONE, "mismatch"),
        ("gpu = amd", "gfx90a", "match"),
        ("gpu.arch = sm_80", "sm=80", "match"),
        ("gpu.arch = sm_80", "sm=86", "match"),  # the same major number, a later minor one
        ("gpu.arch = sm_86", "sm=80", "mismatch"),
        ("gpu.arch = sm_80", "sm=90", "mismatch"),
        ("gpu.arch = sm_90a", "sm=90", "match"),
        ("gpu.arch = sm_90a", "sm=100", "mismatch"),
        ("gpu.arch = sm_100", "sm=103", "match"),
        ("gpu.arch = sm_100", "sm=120", "mismatch"),
        ("gpu.arch >= compute_80", "sm=90", "match"),  # PTX goes forward
        ("gpu.arch >= compute_90", "sm=80", "mismatch"),
        ("gpu.arch >= compute_80", "sm=120", "match"),
        ("gpu.arch = compute_90a", "sm=90", "match"),
        ("gpu.arch = compute_90a", "sm=100", "mismatch"),
        ("gpu.arch = sm_80", "v100", "mismatch"),
        ("gpu.arch = sm_70", "v100", "match"),
        ("gpu.arch = sm_80", "v100,a100", "match"),  # one of its GPUs does
        ("gpu.arch = sm_80", "nvidia", "unchecked"),
        ("gpu.arch = sm_80", "amdgpu", "mismatch"),
        ("gpu.arch = gfx90a", "mi250x", "match"),
        ("gpu.arch = gfx90a", "gfx942", "mismatch"),
        ("gpu.arch = gfx90a", "sm=80", "mismatch"),
        ("gpu.arch = sm_80", DONE, "mismatch"),
        # versions
        ("cuda >= 12.2", GPU, "match"),
        ("cuda >= 12.4", GPU, "match"),
        ("cuda >= 12.6", GPU, "mismatch"),
        ("cuda >= 9.0", GPU, "match"),  # as numbers: 12 is more than 9
        ("cuda >= 12.4.1", GPU, "match"),  # a driver serves major.minor
        ("cuda >= 12.4", "nvidia", "unchecked"),
        ("cuda >= 12.4", "amdgpu", "mismatch"),
        ("cuda >= 12.4", "cuda=12.10", "match"),
        ("cuda >= 12.4", DONE, "mismatch"),
        ("cuda >= 12.4", "cuda=new", "unchecked"),
        ("cuda >= 12.4", "cuda=12.2,cuda=12.6", "unchecked"),  # contradictory
        ("cuda >= 12.0", "cuda=12.2,cuda=12.6", "match"),
        ("driver >= 525.60.13", GPU, "match"),
        ("driver < 551", GPU, "match"),
        ("driver < 550", GPU, "mismatch"),
        ("driver >= 550.90", GPU, "mismatch"),
        ("driver >= 550.54.14", "driver=550", "unchecked"),  # only the branch is said
        ("driver >= 535", "driver=550", "match"),
        ("driver != 470", GPU, "match"),
        ("rocm >= 6.0", "rocm=6.0", "match"),
        ("rocm >= 6.1", "rocm=6.0", "mismatch"),
        ("rocm >= 6.1", "nvidia", "mismatch"),
        ("kernel >= 3.2.0", "kernel=6.1", "match"),
        ("kernel >= 6.5", "kernel=6.1", "mismatch"),
        ("kernel >= 6.1.20", "kernel=6.1", "unchecked"),
        ("kernel >= 6.1.0", "kernel=6.1", "match"),
        ("kernel >= 6.10", "kernel=6.9", "mismatch"),
        ("kernel >= 3.2.0", "zen3", "unchecked"),
        ("glibc <= 2.36", "glibc=2.36", "match"),
        ("glibc <= 2.31", "glibc=2.36", "mismatch"),
        # sizes
        ("page <= 4096", "aarch64,page=64k", "mismatch"),
        ("page <= 65536", "aarch64,page=64k", "match"),
        ("page <= 4096", "aarch64", "unchecked"),
        ("page <= 4096", "zen3", "match"),
        ("memory >= 100000", "memory=200000", "match"),
        ("memory >= 300000", "memory=200000", "mismatch"),
        ("memory >= 100000", DONE, "unchecked"),
        # what the runtime and the site offer
        ("runtime = encrypted", "runtime=encrypted,apptainer=1.4", "match"),
        ("runtime = encrypted", "runtime=ext3", "unchecked"),
        ("runtime = encrypted", DONE + ",apptainer=1.4", "mismatch"),
        ("runtime = encrypted", DONE + ",singularity=4.1", "mismatch"),
        ("runtime = encrypted", DONE, "unchecked"),  # a module may bring one
        ("mpi = openmpi", "mpi=openmpi,mpi=mpich", "match"),
        ("mpi = openmpi", "mpi=mpich", "unchecked"),
        ("mpi = openmpi", DONE, "unchecked"),  # a module may offer it
        # instructions
        ("isa >= avx2 fma", "zen3", "match"),
        ("isa >= avx2 fma", "x86_64_v3", "match"),
        ("isa >= avx512f", "zen3", "mismatch"),
        ("isa >= avx512f", "zen4", "match"),
        ("isa >= avx512f", "icelake", "match"),
        ("isa >= avx512f", "x86_64_v3", "unchecked"),  # the machine has no name
        ("isa >= avx512f", "x86_64_v3,isa=avx512f", "match"),
        ("isa >= avx512f", "x86_64_v3,kernel=6.1,cmeta=1", "mismatch"),
        ("isa >= adx sha_ni", "zen2", "match"),  # archspec does not list them
        ("isa >= sha_ni", "haswell", "mismatch"),
        ("isa >= fma4", "haswell", "mismatch"),
        ("isa >= fma4", "piledriver", "match"),
        ("isa >= sve", "a64fx", "match"),
        ("isa >= sve", "neoverse_n1", "mismatch"),
        ("isa >= sve", "icelake", "mismatch"),
        ("isa >= power9le", "power9le", "match"),
        ("isa >= power10le", "power9le", "mismatch"),
        ("isa >= avx2", "bigmem", "unchecked"),
        ("isa >= avx2", "bigmem,cmeta=1", "mismatch"),
        ("isa >= avx512f", "skylake", "unchecked"),  # sites call Xeons so, too
        ("isa >= avx512f", "skylake,cmeta=1", "mismatch"),
        ("isa >= avx512f", "skylake,avx512", "match"),
        ("isa >= sha_ni", "zen2", "match"),
        ("isa >= sha_ni", "zen2,kernel=6.1,cmeta=1", "mismatch"),  # hidden: it would be published
        ("isa >= sha_ni", "zen2,isa=sha_ni,cmeta=1", "match"),
        ("isa >= amx_tile", "skylake_avx512,kernel=5.4,cmeta=1", "unchecked"),  # not listed by then
        ("isa >= amx_tile", "skylake_avx512,kernel=6.1,cmeta=1", "mismatch"),
        ("isa >= sha512", "sapphirerapids,kernel=6.1,cmeta=1", "unchecked"),  # never listed
        # CPUs
        ("cpu >= skylake_avx512", "skylake", "unchecked"),
        ("cpu >= x86_64_v4", "skylake", "unchecked"),
        ("cpu >= x86_64_v4", "haswell", "mismatch"),
        ("cpu >= x86_64_v4", "skylake,cmeta=1", "mismatch"),
        ("cpu >= haswell", "x86_64_v3,kernel=6.1,isa=aes,isa=pclmulqdq,cmeta=1", "match"),  # masked
        ("cpu >= haswell", "x86_64_v3,kernel=6.1,cmeta=1", "mismatch"),
        ("cpu >= haswell", "zen3,kernel=6.1,cmeta=1", "mismatch"),  # archspec's partial order
        ("arch = ppc64le", "power9", "match"),
        ("cpu >= power9le", "power9", "match"),
        ("arch = x86_64", "x86", "unchecked"),
        ("arch = x86_64", "x86,zen3", "match"),
        ("arch = aarch64", "i386,zen3", "mismatch"),
        # short, unsaid and foreign words
        ("cuda >= 12.4", "cuda=12", "unchecked"),
        ("cuda >= 11.8", "cuda=12", "match"),
        ("gpu.arch = sm_80", "cc01", "unchecked"),
        ("gpu.arch = sm_80", "sm128,cc12", "unchecked"),
        ("gpu = amd", "cc80", "unchecked"),
        ("gpu.arch = sm_80", "cc80,nvidia", "match"),
        ("gpu.arch = sm_100", "b200,nvidia,sm=80", "match"),  # two GPUs, for all that is said
        ("gpu.arch = sm_89", "a100,rtx6000", "unchecked"),  # an rtx6000 may be one
        ("gpu.arch = sm_80", "nvidia,amdgpu,gfx90a", "unchecked"),
        ("gpu.arch = sm_86", "nvidia,orin,sm=87", "mismatch"),  # no binary compatibility there
        ("gpu.arch >= compute_80", "sm=87", "match"),
        # what nobody compares
        ("brand = tesla", GPU, "unchecked"),
    ],
)
def test_a_condition(asked: str, features: str, expected: str) -> None:
    assert verdict(asked, features) == expected


def test_every_requirement_has_its_comparison() -> None:
    assert set(KEYS) <= set(compare._CHECKS)


@pytest.mark.parametrize("key", sorted(KEYS))
def test_nothing_said_is_unchecked(key: str) -> None:
    value = {"arch": "aarch64", "cpu": "zen4", "gpu": "nvidia", "gpu.arch": "sm_80"}.get(key, "1")
    answer = condition((key, KEYS[key], value), nodefacts.read(["bigmem"]))
    assert answer == ("unchecked", None)


FORWARD = ((("driver", ">=", "470"), ("driver", "<", "471")),)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("cuda=12.4,driver=550.54", "match"),
        ("cuda=11.4,driver=470.82", "match"),  # NVIDIA's forward compatibility
        ("cuda=11.8,driver=520.61", "mismatch"),
        ("cuda=11.4", "unchecked"),  # the driver is not said
        ("zen3", "unchecked"),
        ("zen3,cmeta=1", "mismatch"),
    ],
)
def test_alternatives_are_as_good(features: str, expected: str) -> None:
    facts = nodefacts.read(features.split(","))
    assert any_of(("cuda", ">=", "12.2"), FORWARD, facts).verdict == expected
