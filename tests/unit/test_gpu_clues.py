"""What labels, libraries and toolkits tell of GPUs, and the names that they use."""

from __future__ import annotations

import json

import pytest
from elf_files import elf
from subjects import HARD, SOFT, Said, examined, gpu_facts, gpu_requirements

from slurm_cmeta import vocabulary
from slurm_cmeta.evidence import gpu
from slurm_cmeta.evidence.gpu_target import conditions, target


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"org.supercontainers.gpu": "cuda"}, [("gpu", "", "nvidia", HARD)]),
        ({"org.supercontainers.gpu": "ROCm"}, [("gpu", "", "amd", HARD)]),
        ({"org.supercontainers.gpu": "opencl"}, []),
        ({"org.supercontainers.gpu": "unknown"}, []),
        ({"com.nvidia.volumes.needed": "nvidia_driver"}, [("gpu", "", "nvidia", HARD)]),
        (
            {"com.nvidia.volumes.needed": "nvidia_driver", "com.nvidia.cuda.version": "8.0"},
            [("gpu", "", "nvidia", HARD), ("cuda", ">=", "8.0", HARD)],
        ),
        (
            {"com.nvidia.cuda.version": "8.0"},
            [("gpu", "", "nvidia", SOFT), ("cuda", ">=", "8.0", SOFT)],
        ),
        (
            {"hardware.gpu.enabled": "true", "hardware.gpu.driver.version": "535.54"},
            [("gpu", "", "nvidia", HARD), ("driver", ">=", "535.54", HARD)],
        ),
        ({"compspec.gpu": "yes", "hardware.gpu.architecture": "gfx90a"}, [
            ("gpu", "", "amd", HARD),
            ("gpu.arch", "=", "gfx90a", HARD),
        ]),
        ({"hardware.gpu.architecture": "8.0, sm_90"}, [
            ("gpu", "", "nvidia", SOFT),
            ("gpu.arch", "=", "sm_80", SOFT),
        ]),
        ({"compspec.gpu": "no"}, []),
    ],
)  # fmt: skip
def test_labels(labels: dict[str, str], said: Said) -> None:
    subject = examined(labels=labels)
    assert gpu_requirements(subject) == said
    assert subject.warnings == []


def test_a_gpu_of_whatever_vendor() -> None:
    (fact,) = gpu.read(examined(labels={"org.supercontainers.hardware.gpu.available": "yes"}))
    assert not fact.hint
    assert (fact.value, fact.alternatives) == (
        "nvidia",
        ((("gpu", "=", "amd"),), (("gpu", "=", "intel"),)),
    )


@pytest.mark.parametrize(
    "labels",
    [
        {"org.supercontainers.gpu": "a\x1b[31mquantum computer"},
        {"compspec.gpu": "x" * 10_000},
        {"com.nvidia.cuda.version": "eight"},
        {"hardware.gpu.architecture": "ampere"},
        {"hardware.gpu.architecture": "sm_80 " * 50_000 + "z"},
    ],
)
def test_labels_that_are_not_understood(labels: dict[str, str]) -> None:
    subject = examined(labels=labels)
    assert gpu.read(subject) == []
    (warning,) = subject.warnings
    assert warning.isprintable()
    assert len(warning) < 200


@pytest.mark.parametrize(
    ("needed", "present", "said"),
    [
        (["libcuda.so.1"], [], [("gpu", "", "nvidia", HARD)]),
        (["libnvidia-ml.so.1"], [], [("gpu", "", "nvidia", HARD)]),
        # The image has one of its own (cuda-compat): the program starts without a driver.
        (["libcuda.so.1"], ["libcuda.so.1"], [("gpu", "", "nvidia", SOFT)]),
        (
            ["libcudart.so.12", "libcublas.so.12"],
            ["libcudart.so.12"],
            [("gpu", "", "nvidia", SOFT), ("cuda", ">=", "12.0", SOFT)],
        ),
        (["libcudart.so.11.0"], [], [("gpu", "", "nvidia", SOFT), ("cuda", ">=", "11.0", SOFT)]),
        (["libcudart.so.10.2"], [], [("gpu", "", "nvidia", SOFT), ("cuda", ">=", "10.2", SOFT)]),
        (
            ["libcuda.so.1", "libcudart.so.12"],
            [],
            [("gpu", "", "nvidia", HARD), ("cuda", ">=", "12.0", SOFT)],
        ),
        (["libamdhip64.so.5"], [], [("gpu", "", "amd", SOFT), ("rocm", ">=", "5", SOFT)]),
        ([], ["libhsa-runtime64.so.1"], [("gpu", "", "amd", SOFT)]),
        ([], ["libze_loader.so.1"], [("gpu", "", "intel", SOFT)]),
        (["libOpenCL.so.1", "libsycl.so.8"], ["libOpenCL.so.1"], []),
        (["libcudart.so.\x1b[0m"], [], [("gpu", "", "nvidia", SOFT)]),
        (["libcudart"], [], [("gpu", "", "nvidia", SOFT)]),
        (["not-libcuda.so.1", "libcuda-fake.so.1", ""], [], []),
    ],
)
def test_libraries(needed: list[str], present: list[str], said: Said) -> None:
    subject = examined(program=elf(needed=needed), libraries=present)
    assert gpu_requirements(subject) == said
    assert all(f.source.isprintable() and f.value.isprintable() for f in gpu.read(subject))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/app", [("gpu", "", "nvidia", HARD)]),
        ("/usr/local/bin/tool", [("gpu", "", "nvidia", SOFT)]),
        ("/bin/sh", []),
        ("/usr/lib/libucx.so", []),
    ],
)
def test_only_the_program_itself_makes_a_need_hard(path: str, said: Said) -> None:
    files = {path: elf(needed=("libcuda.so.1",))}
    assert gpu_requirements(examined(program=elf(), files=files)) == said


def test_any_file_of_the_application_in_a_deep_look() -> None:
    subject = examined(files={"/opt/app/x.so": elf(needed=("libcuda.so.1",))}, deep=True)
    assert gpu_requirements(subject) == [("gpu", "", "nvidia", SOFT)]


def test_libraries_of_two_vendors() -> None:
    subject = examined(libraries={"libcudart.so.12": "/a", "libamdhip64.so.6": "/b"})
    found = {f.value: f for f in gpu_facts(subject, "gpu")}
    assert found["nvidia"].alternatives == ((("gpu", "=", "amd"),),)
    assert found["amd"].alternatives == ((("gpu", "=", "nvidia"),),)
    assert all(f.hint for f in gpu.read(subject) if not f.key.endswith(".runtime"))
    # Neither driver is asked for where the other vendor's GPU is.
    (cuda,), (rocm,) = gpu_facts(subject, "cuda"), gpu_facts(subject, "rocm")
    assert cuda.alternatives == ((("gpu", "=", "amd"),),)
    assert rocm.alternatives == ((("gpu", "=", "nvidia"),),)


CUDA = ("gpu", "", "nvidia", SOFT)
ROCM = ("gpu", "", "amd", SOFT)
SITE = "lib/python3.11/site-packages/torch/version.py"
TORCH = b"from typing import Optional\n__version__ = '2.3.0'\ncuda: Optional[str] = %s\nhip = %s\n"


@pytest.mark.parametrize(
    ("path", "content", "said", "runtime"),
    [
        (
            "/usr/local/cuda-12.4/version.json",
            json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.4.1"}}).encode(),
            [CUDA, ("cuda", ">=", "12.0", SOFT)],
            ["12.4.1"],
        ),
        (
            "/usr/local/cuda/version.txt",
            b"CUDA Version 10.2.89\n",
            [CUDA, ("cuda", ">=", "10.2", SOFT)],
            ["10.2.89"],
        ),
        (
            "/opt/rocm-5.7.1/.info/version",
            b"5.7.1-98\n",
            [ROCM, ("rocm", ">=", "5.7", SOFT)],
            ["5.7.1"],
        ),
        (
            f"/usr/local/{SITE}",
            TORCH % (b"'12.1'", b"None"),
            [CUDA, ("cuda", ">=", "12.0", SOFT)],
            ["12.1"],
        ),
        (
            f"/opt/conda/{SITE}",
            TORCH % (b"None", b"'6.0.32830-d62f6a171'"),
            [ROCM, ("rocm", ">=", "6.0", SOFT)],
            ["6.0.32830"],
        ),
        (f"/usr/{SITE}", TORCH % (b"None", b"None"), [], []),
        ("/usr/local/cuda/version.json", b"[" * 100_000, [], []),
        ("/usr/local/cuda/version.json", b'{"cuda": {"version": 12}}', [], []),
        ("/usr/local/cuda/version.json", b'{"cuda": ["version"]}', [], []),
        ("/usr/local/cuda/version.json", b'{"cuda": {"version": "12\\u001b[31m"}}', [], []),
        ("/usr/local/cuda/version.txt", b"\xff\x1b[31m unknown", [], []),
    ],
)
def test_toolkits(path: str, content: bytes, said: Said, runtime: list[str]) -> None:
    subject = examined(files={path: content})
    assert gpu_requirements(subject) == said
    found = [f.value for f in gpu.read(subject) if f.key in ("cuda.runtime", "rocm.runtime")]
    assert found == runtime


def test_a_library_that_only_the_loader_s_cache_names(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = examined(libraries=["libcudart.so.12"])
    named = {
        "libcudart.so.12": "/usr/lib/libcudart.so.12",
        "librocrand.so.1": "/lib/librocrand.so.1",
    }
    monkeypatch.setattr(subject, "libraries", lambda: named)
    assert [fact.value for fact in gpu_facts(subject, "gpu")] == ["nvidia"]


def test_the_version_in_the_name_of_a_library() -> None:
    app = elf(needed=("libcudart.so.12",))
    files: dict[str, bytes | str] = {
        "/usr/local/cuda/lib64/libcudart.so": "->libcudart.so.12",
        "/usr/local/cuda/lib64/libcudart.so.12": "->libcudart.so.12.4.127",
        "/usr/local/cuda/lib64/libcudart.so.12.4.127": elf(),
    }
    (fact,) = gpu_facts(examined(program=app, files=files), "cuda.runtime")
    assert (fact.value, fact.source) == ("12.4.127", max(files))
    assert gpu_facts(examined(program=app), "cuda.runtime") == []


def test_a_toolkit_knows_better_than_a_library() -> None:
    files = {
        "/opt/rocm/.info/version": b"6.2.0-66",
        "/opt/rocm/lib/libamdhip64.so.6.2.60200": elf(),
    }
    subject = examined(files=files)
    (fact,) = gpu_facts(subject, "rocm")
    assert fact.value == "6.2"
    (fact,) = gpu_facts(subject, "rocm.runtime")
    assert fact.value == "6.2.0"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sm_80", "sm_80"), ("SM_90a", "sm_90a"), ("compute_90", "compute_90"), ("8.0", "sm_80"),
        ("12.0", "sm_120"), ("cc80", "sm_80"), ("accel/nvidia/cc80", "sm_80"), ("sm80", "sm_80"),
        ("100f", "sm_100f"), ("gfx90a", "gfx90a"), ("gfx90a:xnack-", "gfx90a"),
        ("accel/amd/gfx90a", "gfx90a"), ("gfx9-4-generic", "gfx9-4-generic"),
        ("gfx", ""), ("gfxabc", ""), ("ampere", ""), ("sm_", ""), ("sm_8", ""), ("", ""),
        ("sm_8000", ""), ("8.00", ""), ("8.", ""), (".8", ""), ("a", ""), ("sm_80aa", ""),
        ("\u0668.\u0660", ""), ("sm_80" * 20, ""), ("/", ""),
    ],
)  # fmt: skip
def test_names_of_architectures(text: str, name: str) -> None:
    assert target(text) == name


def test_order_of_targets() -> None:
    names = ["compute_90", "gfx906", "sm_100f", "sm_90a", "sm_90", "compute_90a", "sm_80"]
    assert [(op, value) for _, op, value in conditions(names)] == [
        *(("=", "sm_80"), ("=", "sm_90"), ("=", "sm_90a"), ("=", "sm_100f")),
        *((">=", "compute_90"), ("=", "compute_90a"), ("=", "gfx906")),
    ]


def test_the_vocabulary_is_whole() -> None:
    table = vocabulary.load("gpu")
    entries = [*table["libraries"].values(), *table["labels"], *table["toolkits"]]
    entries += [table[name] for name in ("amdgpu_mach", "amdgpu_generic", "words", "python")]
    assert all(entry["source"] for entry in entries)
    known = set(table["amdgpu_mach"]["values"].values())
    assert len(known) == len(table["amdgpu_mach"]["values"])
    for generic, members in table["amdgpu_generic"]["members"].items():
        assert {generic, *members} <= known
    for entry_ in table["libraries"].values():
        assert entry_["vendor"] in ("nvidia", "amd", "intel", "")
        assert entry_["role"] in ("driver", "runtime", "library", "neutral")
        assert bool(entry_["vendor"]) == (entry_["role"] != "neutral")
    assert {rule["states"] for rule in table["labels"]} == {
        "need",
        "cuda",
        "driver",
        "gpu.arch",
        "cudnn",
    }
