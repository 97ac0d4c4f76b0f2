"""The nearest miss, and what would change it."""

from __future__ import annotations

import pytest

from slurm_cmeta import match, nearest
from slurm_cmeta.cluster import NodeClass
from slurm_cmeta.facts import DECLARED, OBSERVED
from slurm_cmeta.match import ClassVerdict
from slurm_cmeta.requirement import HARD, KEYS, SOFT, Requirement


def needs(
    key: str, value: str, op: str = "", evidence: str = OBSERVED, strength: str = HARD
) -> Requirement:
    return Requirement(key, op or KEYS[key], value, strength, evidence, "label x")


def judge(
    requirements: list[Requirement], features: str, nodes: str = "n3", count: int = 1
) -> ClassVerdict:
    one = NodeClass(nodes, count, tuple(features.split(",")), memory=(64000, 64000))
    return match.judge(requirements, one)


def told(requirement: Requirement, features: str) -> list[tuple[str, str]]:
    verdict = judge([requirement], features)
    return [(c.by, c.text) for c in nearest.changes(verdict, [requirement])]


@pytest.mark.parametrize(
    ("key", "op", "value", "features", "node", "image"),
    [
        ("arch", "", "aarch64", "zen3", "a node with aarch64; n3 has x86_64", "built for x86_64"),
        ("cpu", "", "zen4", "zen3", "a node with zen4; n3 has zen3", "built for zen3 or x86_64_v3"),
        ("cpu", "", "x86_64_v3", "x86_64_v2", "n3 has x86_64_v2", "built for x86_64_v2"),
        ("isa", "", "avx512f avx2", "zen3", "CPU has avx512f, avx2; n3 has zen3 without avx512f",
         "built for zen3 or x86_64_v3"),
        ("gpu", "", "nvidia", "cmeta=1,zen3", "an NVIDIA GPU; n3 carries cmeta=1 and lists none",
         "that needs no GPU"),
        ("gpu", "", "amd", "nvidia", "an AMD GPU; n3 has nvidia", "for GPUs of NVIDIA"),
        ("gpu.arch", "", "sm_90", "a100", "GPU runs sm_90; n3 has sm_80", "with code for sm_80"),
        ("cuda", "", "12.4", "cuda=12.2", "supports CUDA 12.4 or later; n3 has cuda 12.2",
         "runs with CUDA 12.2"),
        ("driver", "<", "471", "driver=535", "driver older than 471; n3 has driver 535",
         "runs with driver 535"),
        ("driver", "!=", "535", "driver=535", "driver other than 535", "runs with driver 535"),
        ("rocm", "", "6.1", "rocm=5.7", "ROCm 6.1 or later; n3 has rocm 5.7", "with ROCm 5.7"),
        ("kernel", "", "5.10", "kernel=4.18", "Linux 5.10 or later; n3 has kernel 4.18",
         "programs run on Linux 4.18"),
        ("glibc", "", "2.31", "glibc=2.36", "glibc 2.31 or older; n3 has glibc 2.36",
         "with glibc 2.36 or later"),
        ("page", "", "4096", "page=64k", "pages of 4 KiB or less; n3 has 64 KiB pages",
         "linked for 64 KiB pages"),
        ("memory", "", "128000", "zen3", "with 128000 MiB of memory", "runs with 64000 MiB"),
        ("runtime", "", "encrypted", "apptainer=1.3,cmeta=1", "mounts encrypted images",
         "that is not encrypted"),
    ],
)  # fmt: skip
def test_what_would_change_it(
    key: str, op: str, value: str, features: str, node: str, image: str
) -> None:
    changes = told(needs(key, value, op), features)
    texts = dict(changes)
    assert texts["node"].startswith("a node ")
    assert node in texts["node"]
    assert image in texts["image"]


def test_every_key_is_spoken_for() -> None:
    assert set(nearest._IMAGE) == set(KEYS)


def test_alternatives_are_named() -> None:
    either = needs("cuda", "12.4")._replace(
        alternatives=((("driver", ">=", "470"), ("driver", "<", "471")),)
    )
    (text, *_) = [text for _, text in told(either, "cuda=12.2,driver=535")]
    assert "12.4 or later (or driver >= 470 and driver < 471); n3 has" in text


@pytest.mark.parametrize(
    ("key", "evidence", "site"),
    [
        ("cpu", DECLARED, "label x says zen4; strength.cpu: soft in cmeta.yaml"),
        ("cpu", OBSERVED, None),
        ("arch", DECLARED, None),
    ],
)
def test_a_setting_is_offered_only_for_what_was_declared(
    key: str, evidence: str, site: str | None
) -> None:
    value = {"cpu": "zen4", "arch": "aarch64"}[key]
    text = dict(told(needs(key, value, evidence=evidence), "zen3")).get("site")
    assert (text is None) == (site is None)
    assert site is None or (text or "").startswith(site)


def test_what_follows_from_another_failure_is_not_listed() -> None:
    requirements = [needs("arch", "aarch64"), needs("cpu", "neoverse_v1"), needs("gpu", "nvidia"),
                    needs("gpu.arch", "sm_90"), needs("cuda", "12.4")]  # fmt: skip
    verdict = judge(requirements, "zen3,cmeta=1")
    assert len(nearest.failed(verdict)) == 5
    assert {c.key for c in nearest.changes(verdict, requirements)} == {"arch", "gpu"}


def test_nothing_would_change_what_fits_or_is_a_preference() -> None:
    assert told(needs("cpu", "zen3"), "zen4") == []
    assert told(needs("cpu", "zen4", strength=SOFT), "zen3") == []


def test_the_nearest_fails_least_and_then_has_most_nodes() -> None:
    requirements = [needs("cpu", "zen4"), needs("cuda", "12.4")]
    far = judge(requirements, "zen3,cuda=12.2", "a[1-9]", 9)
    one = judge(requirements, "zen3,cuda=12.4", "b1", 1)
    two = judge(requirements, "zen4,cuda=12.2", "c[1-2]", 2)
    fits = judge(requirements, "zen4,cuda=12.4", "d1", 1)
    assert nearest.ranked([far, one, fits, two]) == [two, one, far]


def test_hostile_values_are_one_line() -> None:
    bad = needs("runtime", "x\x1b[2J\ny")
    texts = [text for _, text in told(bad, "runtime=ext3,apptainer=1.4,cmeta=1")]
    assert texts
    assert all(text.isprintable() for text in texts)
