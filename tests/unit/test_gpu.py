"""What an image tells of GPUs, put together."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import gpu_files
import pytest
from elf_files import elf
from gpu_files import bundle, entry, fatbin
from subjects import (
    HARD,
    SOFT,
    Said,
    examined,
    gpu_facts,
    gpu_requirements,
    with_code,
)

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import gpu
from slurm_cmeta.facts import DECLARED, OBSERVED, Fact

REQUIRE = {"NVIDIA_REQUIRE_CUDA": "cuda>=12.2", "NVIDIA_VISIBLE_DEVICES": "all"}


def test_an_image_without_any_gpu() -> None:
    subject = examined(
        {"PATH": "/usr/bin"},
        {"maintainer": "somebody"},
        {
            "/usr/local/bin/tool": b"",
            "/opt/app/cuda.txt": b"12.4",
            "/usr/local/cudagarbage": b"1.0",
        },
        elf(needed=("libc.so.6", "libm.so.6")),
        ["libc.so.6", "libm.so.6"],
    )
    assert gpu.read(subject) == []
    assert subject.warnings == []


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (REQUIRE, [("gpu", "", "nvidia", HARD), ("cuda", ">=", "12.2", HARD)]),
        ({"CUDA_VERSION": "10.2.89"}, [("gpu", "", "nvidia", HARD), ("cuda", ">=", "10.2", HARD)]),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, [("gpu", "", "nvidia", SOFT)]),
        ({**REQUIRE, "NVIDIA_VISIBLE_DEVICES": "void"}, []),
        ({**REQUIRE, "NVIDIA_VISIBLE_DEVICES": "none"}, []),
        ({"CUDA_VERSION": "10.2.89", "NVIDIA_VISIBLE_DEVICES": ""}, []),
        (
            {**REQUIRE, "NVIDIA_DISABLE_REQUIRE": "true"},
            [("gpu", "", "nvidia", HARD), ("cuda", ">=", "12.2", SOFT)],
        ),
        (
            {**REQUIRE, "NVIDIA_CPU_ONLY": "1"},
            [("gpu", "", "nvidia", SOFT), ("cuda", ">=", "12.2", SOFT)],
        ),
        ({"NVIDIA_REQUIRE_CUDA": "nonsense"}, [("gpu", "", "nvidia", SOFT)]),
        (
            {"NVIDIA_REQUIRE_CUDA": "cuda>=12.2 driver>=535", "NVIDIA_REQUIRE_ARCH": "arch>=8.0"},
            [
                ("gpu", "", "nvidia", HARD),
                ("cuda", ">=", "12.2", HARD),
                ("gpu.arch", ">=", "compute_80", HARD),
            ],
        ),
    ],
)
def test_variables(environment: dict[str, str], said: Said) -> None:
    assert gpu_requirements(examined(environment)) == said


def test_the_alternatives_of_a_variable() -> None:
    subject = examined({"NVIDIA_REQUIRE_CUDA": "cuda>=12.2 brand=tesla,driver>=470,driver<471"})
    assert gpu.read(subject) == [
        Fact("gpu", "nvidia", "NVIDIA_REQUIRE_CUDA", DECLARED),
        Fact(
            "cuda",
            "12.2",
            "NVIDIA_REQUIRE_CUDA",
            DECLARED,
            False,
            ">=",
            ((("brand", "=", "tesla"), ("driver", ">=", "470"), ("driver", "<", "471")),),
        ),
    ]


def test_a_stated_need_outdoes_libraries_of_another_vendor() -> None:
    subject = examined(REQUIRE, libraries=["libamdhip64.so.6"])
    assert gpu_requirements(subject) == [("gpu", "", "nvidia", HARD), ("cuda", ">=", "12.2", HARD)]


def test_two_stated_needs() -> None:
    """Whatever is asked of NVIDIA's driver must not exclude the other vendor's nodes."""
    subject = examined(REQUIRE, {"org.supercontainers.gpu": "rocm"})
    found = gpu.read(subject)
    assert [(f.key, f.value, f.hint) for f in found] == [
        ("gpu", "nvidia", HARD),
        ("gpu", "amd", HARD),
        ("cuda", "12.2", HARD),
    ]
    assert found[0].alternatives == ((("gpu", "=", "amd"),),)
    assert found[2].alternatives == ((("gpu", "=", "amd"),),)
    assert len(subject.warnings) == 1


def test_a_label_that_refuses_gpus() -> None:
    subject = examined(REQUIRE, {"hardware.gpu.enabled": "no"}, libraries=["libcudart.so.12"])
    assert gpu_requirements(subject) == []
    app = elf(needed=("libcuda.so.1",))
    subject = examined({}, {"hardware.gpu.enabled": "no"}, program=app)
    assert gpu_requirements(subject) == [("gpu", "", "nvidia", HARD)]
    assert "hardware.gpu.enabled" in subject.warnings[0]


CODE = fatbin(entry(2, 80), entry(2, 70), entry(1, 90))


def test_code_of_the_program() -> None:
    subject = with_code(".nv_fatbin", CODE)
    alternatives = ((("gpu.arch", "=", "sm_80"),), (("gpu.arch", ">=", "compute_90"),))
    assert gpu.read(subject) == [
        Fact("gpu", "nvidia", "code in /app", OBSERVED, True),
        Fact("gpu.arch", "sm_70", "code in /app", OBSERVED, True, "=", alternatives),
    ]


@pytest.mark.parametrize(
    ("environment", "labels", "needed", "hint"),
    [
        (REQUIRE, {}, (), HARD),
        ({}, {}, ("libcuda.so.1",), HARD),
        ({}, {"org.supercontainers.gpu": "cuda"}, (), HARD),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, {}, (), SOFT),
        ({}, {"compspec.gpu": "yes"}, (), HARD),
    ],
)
def test_code_is_as_hard_as_the_need(
    environment: dict[str, str], labels: dict[str, str], needed: tuple[str, ...], hint: bool
) -> None:
    subject = with_code(".nv_fatbin", CODE, *needed, environment=environment, labels=labels)
    (fact,) = gpu_facts(subject, "gpu.arch")
    assert fact.hint is hint


def test_code_that_was_not_read_whole_is_a_hint() -> None:
    for data in (CODE[:-30], CODE + b"rubbish!" * 2000, CODE + bytes(50_000) + CODE):
        (fact,) = gpu_facts(with_code(".nv_fatbin", data, environment=REQUIRE), "gpu.arch")
        assert fact.hint


def test_code_of_other_files_is_a_hint_and_only_read_in_a_deep_look() -> None:
    files = {
        "/opt/app/x.so": elf(sections={".nv_fatbin": CODE}),
        "/opt/app/y.so": elf(sections={".nv_fatbin": fatbin(entry(2, 100))}),
    }
    (fact,) = gpu_facts(examined(REQUIRE, files=files, deep=True), "gpu.arch")
    assert fact.hint
    assert fact.source == "code in /opt/app/x.so and 1 more file"
    assert (("gpu.arch", "=", "sm_100"),) in fact.alternatives
    assert gpu_facts(examined(REQUIRE, files=files), "gpu.arch") == []


def test_code_of_the_distribution_s_libraries_if_there_is_no_other() -> None:
    library = {"/usr/lib/libcublas.so.12": elf(sections={".nv_fatbin": CODE})}
    (fact,) = gpu_facts(examined(REQUIRE, files=library, deep=True), "gpu.arch")
    assert (fact.value, fact.hint) == ("sm_70", SOFT)
    other = {"/opt/app/x.so": elf(sections={".nv_fatbin": fatbin(entry(2, 100))})}
    (fact,) = gpu_facts(examined(REQUIRE, files=library | other, deep=True), "gpu.arch")
    assert (fact.value, fact.alternatives) == ("sm_100", ())


def test_a_submission_reads_no_more_for_more_programs() -> None:
    files = {
        f"/usr/local/bin/{n}": elf(
            sections={".nv_fatbin": fatbin(*[entry(2, 100 + n, b"x" * 5000)] * 30)}
        )
        for n in range(5)
    }
    (fact,) = gpu_facts(examined(files=files), "gpu.arch")
    assert fact.alternatives == ((("gpu.arch", "=", "sm_101"),), (("gpu.arch", "=", "sm_102"),))
    (fact,) = gpu_facts(examined(files=files, deep=True), "gpu.arch")
    assert len(fact.alternatives) == 4


def test_code_for_amd() -> None:
    names = ["host-x86_64-unknown-linux--", "hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-"]
    subject = with_code(".hip_fatbin", bundle(names), labels={"org.supercontainers.gpu": "rocm"})
    assert gpu_requirements(subject) == [
        ("gpu", "", "amd", HARD),
        ("gpu.arch", "=", "gfx90a", HARD),
    ]


def test_generic_code_for_amd() -> None:
    subject = with_code(".hip_fatbin", bundle(["hipv4-amdgcn-amd-amdhsa--gfx12-generic"]))
    (fact,) = gpu_facts(subject, "gpu.arch")
    assert fact.value == "gfx12-generic"
    assert fact.alternatives == ((("gpu.arch", "=", "gfx1200"),), (("gpu.arch", "=", "gfx1201"),))


def test_portable_code_for_amd_asks_for_no_architecture() -> None:
    names = ["hip-spirv64-amd-amdhsa--amdgcnspirv", "hipv4-amdgcn-amd-amdhsa--gfx90a"]
    assert gpu_requirements(with_code(".hip_fatbin", bundle(names))) == [("gpu", "", "amd", SOFT)]


def test_code_for_one_vendor_does_not_exclude_another() -> None:
    subject = with_code(".nv_fatbin", CODE, libraries=["libamdhip64.so.6"])
    (fact,) = gpu_facts(subject, "gpu.arch")
    assert (("gpu", "=", "amd"),) in fact.alternatives


def test_bare_code_objects_in_a_deep_look() -> None:
    ident = b"\x7fELF\x02\x01\x01\x33\x07" + bytes(7)
    head = ident + struct.pack("<HHIQQQI", 2, 190, 1, 0, 0, 0, 0x5A0D5A)
    subject = examined(files={"/opt/app/x.cubin": head.ljust(128, b"\0")}, deep=True)
    assert gpu_requirements(subject) == [
        ("gpu", "", "nvidia", SOFT),
        ("gpu.arch", "=", "sm_90a", SOFT),
    ]


def test_more_targets_than_anybody_has() -> None:
    subject = with_code(".nv_fatbin", fatbin(*[entry(2, n) for n in range(10, 900)]))
    assert gpu.read(subject) == []
    assert "not believed" in subject.warnings[0]


def test_a_problem_with_compressed_code_is_a_warning() -> None:
    subject = with_code(".hip_fatbin", gpu_files.compressed(3, 7, b"x" * 100, 5000))
    assert gpu.read(subject) == []
    assert subject.warnings == [
        "/app: code objects are compressed by method 7, which is not known here"
    ]


def test_descriptions() -> None:
    subject = examined(
        {**REQUIRE, "NVIDIA_REQUIRE_JETPACK": "csv-mounts=all", "NVIDIA_DISABLE_REQUIRE": "1"},
        {"com.nvidia.cudnn.version": "8.9.7\n"},
        libraries=["libsycl.so.8", "libOpenCL.so.1"],
    )
    said = {f.key: f.value for f in gpu.read(subject)}
    assert said["jetpack"] == "csv-mounts=all"
    assert said["cuda.check"] == "disabled"
    assert said["cudnn"] == "8.9.7"
    assert said["oneapi"] == "libsycl.so.8"
    assert said["opencl"] == "libOpenCL.so.1"


def test_without_files() -> None:
    subject = examined(REQUIRE)
    subject.tree = None
    assert gpu_requirements(subject) == [("gpu", "", "nvidia", HARD), ("cuda", ">=", "12.2", HARD)]


def test_hostile_images_never_raise() -> None:
    rng = random.Random(17)  # noqa: S311
    names = [*list(vocabulary.load("gpu")["libraries"])[:20], "libc", "x" * 5000, "é"]
    values = ["1", "12.4", "cuda", "all", "void", "\x1b[2J", "9" * 5000, "sm_80", "cuda>=12 a", ""]
    labels = [rule["key"] for rule in vocabulary.load("gpu")["labels"]]
    variables = ["NVIDIA_REQUIRE_CUDA", "CUDA_VERSION", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_CPU_ONLY"]
    numbers = ["", ".so", ".so.1", ".so.\x1b", ".so." + "9" * 30, ".so.1.2.3", ".so.."]
    code = {".nv_fatbin": CODE, ".hip_fatbin": bundle(["hip-amdgcn-amd-amdhsa--gfx906"])}
    for _ in range(1000):
        sonames = [rng.choice(names) + rng.choice(numbers) for _ in range(rng.randrange(6))]
        section = rng.choice(list(code))
        app = bytearray(elf(needed=sonames, sections={section: code[section]}))
        for _ in range(rng.randrange(4)):
            app[
                rng.choice((rng.randrange(64), rng.randrange(len(app)), -rng.randrange(1, 200)))
            ] = 255
        subject = examined(
            {name: rng.choice(values) for name in variables if rng.random() < 0.4},
            {name: rng.choice(values) for name in labels if rng.random() < 0.3},
            {"/usr/local/cuda/version.txt": rng.randbytes(20)},
            bytes(app),
            [name for name in sonames if rng.random() < 0.5 and len(name) < 200],
            deep=rng.random() < 0.5,
        )
        for fact in gpu.read(subject):
            assert (fact.value + fact.source).isprintable()
            assert len(fact.value) < 100
            assert len(fact.source) < 500
        assert all(text.isprintable() for text in subject.warnings)


def test_what_is_imported() -> None:
    """A submission pays for each import: none but of what is loaded anyway."""
    code = (
        "import json, os, struct, sys, time, typing\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import slurm_cmeta.facts, slurm_cmeta.image.content, slurm_cmeta.vocabulary\n"
        "before = set(sys.modules)\n"
        "import slurm_cmeta.evidence.gpu\n"
        "print(*(name for name in set(sys.modules) - before if 'slurm_cmeta' not in name))"
    )
    project = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, project], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
