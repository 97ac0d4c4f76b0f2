"""The grammar of NVIDIA_REQUIRE_*, and what the facts made of it mean."""

from __future__ import annotations

import itertools
import random

import pytest

from slurm_cmeta.evidence import nvidia
from slurm_cmeta.evidence.nvidia import Terms, TermsError, parse
from slurm_cmeta.facts import Fact
from slurm_cmeta.image.content import Warnings

CUDA_12_4 = "cuda>=12.4 " + " ".join(
    f"brand={brand},driver>={branch},driver<{branch + 1}"
    for branch in (470, 525, 535)
    for brand in (
        *("tesla", "unknown", "nvidia", "nvidiartx", "geforce", "geforcertx", "quadro"),
        *("quadrortx", "titan", "titanrtx"),
    )
)
"""NVIDIA_REQUIRE_CUDA of nvidia/cuda:12.4.0-base-ubuntu22.04."""


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", ()),
        ("   ", ()),
        ("cuda>=12.2", ((("cuda", ">=", "12.2"),),)),
        ("cuda>=9.0 ", ((("cuda", ">=", "9.0"),),)),
        (
            "cuda>=12.2 brand=tesla,driver>=470,driver<471",
            (
                (("cuda", ">=", "12.2"),),
                (("brand", "=", "tesla"), ("driver", ">=", "470"), ("driver", "<", "471")),
            ),
        ),
        ("cuda=12.2", ((("cuda", "=", "12.2"),),)),
        ("cuda==12.2", ((("cuda", "=", "12.2"),),)),
        ("cuda!=12.2", ((("cuda", "!=", "12.2"),),)),
        ("cuda<12.2", ((("cuda", "<", "12.2"),),)),
        ("cuda<=12.2", ((("cuda", "<=", "12.2"),),)),
        ("cuda>12.2", ((("cuda", ">", "12.2"),),)),
        ("CUDA>=12", ((("cuda", ">=", "12"),),)),
        ("driver>=535.104.05", ((("driver", ">=", "535.104.05"),),)),
        ("arch>=7.0", ((("gpu.arch", ">=", "compute_70"),),)),
        ("arch>=12", ((("gpu.arch", ">=", "compute_120"),),)),
        ("arch=9.0.1", ((("gpu.arch", "=", "compute_90"),),)),
        ("brand!=GeForce", ((("brand", "!=", "geforce"),),)),
        # Unknown properties: left out of an `and`, and no alternative of their own.
        ("foo>=1", ()),
        ("<>=!", ()),
        ("((((cuda>=12))))", ()),
        ("cuda>=12 (driver>=470)", ((("cuda", ">=", "12"),),)),
        ("foo>=1 cuda>=12", ((("cuda", ">=", "12"),),)),
        ("foo>=1,cuda>=12", ((("cuda", ">=", "12"),),)),
        (",cuda>=12,, ,", ((("cuda", ">=", "12"),),)),
        ("cuda>=12 cuda>=12", ((("cuda", ">=", "12"),),)),
    ],
)
def test_grammar(text: str, terms: Terms) -> None:
    assert parse(text) == terms


@pytest.mark.parametrize(
    "text",
    [
        "cuda",
        "cuda >= 12.2",
        "cuda>=",
        "cuda>=foo",
        "cuda>=12.",
        "cuda>=.12",
        "cuda>=12..2",
        "cuda=>12",
        "cuda!12",
        "cuda>=-1",
        "cuda>=12.2-rc1",
        "cuda>=\u0661\u0662",
        "cuda>=12\x1b[31m",
        "cuda>=" + "1" * 50,
        "cuda>=1.2.3.4.5.6.7",
        "arch>=7.10",
        "brand>=tesla",
        "brand=",
        "brand=te\0sla",
        "a" * 100_000,
        "cuda>=12 " * 100_000,
        "cuda>=12," * 100,
        "cuda>=12" + " driver>=470" * 600,
        ">=12 x",
    ],
)
def test_what_is_not_of_the_grammar(text: str) -> None:
    with pytest.raises(TermsError) as problem:
        parse(text)
    assert len(str(problem.value)) < 100
    assert str(problem.value).isprintable()


def test_a_real_one() -> None:
    terms = parse(CUDA_12_4)
    assert len(terms) == 31
    assert terms[0] == (("cuda", ">=", "12.4"),)
    assert terms[-1] == (
        ("brand", "=", "titanrtx"),
        ("driver", ">=", "535"),
        ("driver", "<", "536"),
    )


def test_random_text_never_raises_anything_else() -> None:
    rng = random.Random(5)  # noqa: S311
    pieces = ("cuda", "driver", "brand", "arch", ">", "<", "=", "!", ",", " ", "12", ".", "\n", "é")
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randrange(12)))
        try:
            terms = parse(text)
        except TermsError:
            continue
        assert all(term for term in terms)


def demands(environment: dict[str, str]) -> tuple[list[tuple[str, Terms]], list[str]]:
    warnings = Warnings()
    return [tuple(d) for d in nvidia.demands(environment, warnings)], list(warnings)  # type: ignore[misc]


def at_least(version: str) -> Terms:
    return ((("cuda", ">=", version),),)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, []),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.2"}, [("NVIDIA_REQUIRE_CUDA", at_least("12.2"))]),
        ({"CUDA_VERSION": "10.2.89"}, [("CUDA_VERSION", at_least("10.2"))]),
        ({"CUDA_VERSION": "12.2.2.009"}, [("CUDA_VERSION", at_least("12.2"))]),
        ({"CUDA_VERSION": "11"}, [("CUDA_VERSION", at_least("11.0"))]),
        (
            {"CUDA_VERSION": "12.2.2", "NVIDIA_REQUIRE_CUDA": "cuda>=9.0"},
            [("NVIDIA_REQUIRE_CUDA", at_least("9.0"))],
        ),
        (
            {"CUDA_VERSION": "12.2.2", "NVIDIA_REQUIRE_CUDA": ""},
            [("CUDA_VERSION", at_least("12.2"))],
        ),
        (
            {"NVIDIA_REQUIRE_Z": "driver>=535", "NVIDIA_REQUIRE_CUDA": "cuda>=9.0"},
            [
                ("NVIDIA_REQUIRE_CUDA", at_least("9.0")),
                ("NVIDIA_REQUIRE_Z", ((("driver", ">=", "535"),),)),
            ],
        ),
        (
            {"NVIDIA_REQUIRE_JETPACK": "csv-mounts=all", "NVIDIA_REQUIRE_JETPACK_HOST_MOUNTS": "x"},
            [],
        ),
    ],
)
def test_variables(environment: dict[str, str], found: list[tuple[str, Terms]]) -> None:
    assert demands(environment) == (found, [])


@pytest.mark.parametrize(
    "environment",
    [
        {"NVIDIA_REQUIRE_CUDA": "cuda>=\x1b[2Jtwelve"},
        {"CUDA_VERSION": "118"},
        {"CUDA_VERSION": "none\n"},
        {"CUDA_VERSION": "9" * 10_000},
        {"NVIDIA_REQUIRE_\n": "nonsense"},
        {f"NVIDIA_REQUIRE_{n}": "nonsense" for n in range(1000)},
    ],
)
def test_what_is_not_understood_asks_for_nothing(environment: dict[str, str]) -> None:
    found, warnings = demands(environment)
    assert found == []
    assert 0 < len(warnings) < 30
    assert all(text.isprintable() and len(text) < 200 for text in warnings)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("all", True),
        ("0,1", True),
        ("GPU-fef8089b", True),
        ("void", False),
        ("none", False),
        ("", False),
        (" , ", False),
        ("0,void", False),
        ("none,all", False),
        ("all,none", True),
    ],
)
def test_visible_devices(value: str | None, expected: bool | None) -> None:
    assert nvidia.asked({} if value is None else {"NVIDIA_VISIBLE_DEVICES": value}) is expected


@pytest.mark.parametrize("value", ["1", "t", "T", "TRUE", "true", "True"])
def test_disabled(value: str) -> None:
    assert nvidia.disabled({"NVIDIA_DISABLE_REQUIRE": value})


@pytest.mark.parametrize("value", ["0", "", "yes", "tRUE", "false", " true"])
def test_not_disabled(value: str) -> None:
    assert not nvidia.disabled({"NVIDIA_DISABLE_REQUIRE": value})


def made_of(text: str) -> list[Fact]:
    return nvidia.facts(nvidia.Demand("NVIDIA_REQUIRE_CUDA", parse(text)), False)


def test_facts_of_what_images_say() -> None:
    assert made_of("cuda>=12.2 brand=tesla,driver>=470,driver<471") == [
        Fact(
            "cuda",
            "12.2",
            "NVIDIA_REQUIRE_CUDA",
            op=">=",
            alternatives=(
                (("brand", "=", "tesla"), ("driver", ">=", "470"), ("driver", "<", "471")),
            ),
        )
    ]
    assert made_of("driver>=470,driver<471") == [
        Fact("driver", "470", "NVIDIA_REQUIRE_CUDA", op=">="),
        Fact("driver", "471", "NVIDIA_REQUIRE_CUDA", op="<"),
    ]
    (fact,) = made_of("arch>=7.0,brand=tesla brand=tesla driver>=535")
    assert (fact.key, fact.op, fact.value) == ("driver", ">=", "535")


def test_facts_mean_what_the_text_means() -> None:
    """Every small formula, on every combination of true and false conditions."""
    names = ("cuda>=1", "driver>=2", "brand=a")
    words = [",".join(c) for n in (1, 2, 3) for c in itertools.combinations(names, n)]
    for count in (1, 2, 3):
        for formula in itertools.permutations(words, count):
            terms = parse(" ".join(formula))
            facts = made_of(" ".join(formula))
            conditions = [parse(name)[0][0] for name in names]
            for truth in itertools.product((True, False), repeat=3):
                holds = dict(zip(conditions, truth, strict=True))
                expected = any(all(holds[c] for c in term) for term in terms)
                answer = all(
                    holds[f.key, f.op, f.value]
                    or any(all(holds[c] for c in term) for term in f.alternatives)
                    for f in facts
                )
                assert answer is expected, formula
