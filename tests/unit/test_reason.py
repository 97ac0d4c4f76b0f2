"""A decision's code and its needs, for the log."""

from __future__ import annotations

import pytest
from test_decide import ARM, V2, V3, X86, need, run

from slurm_cmeta import reason
from slurm_cmeta.kept.sources import SourceFile, Sources
from slurm_cmeta.requirement import Requirement
from slurm_cmeta.submission import ImageReport


@pytest.mark.parametrize(
    ("requirements", "options", "said"),
    [
        ([ARM], {}, "narrowed arch=aarch64"),
        ([X86, need("cpu", "zen4")], {}, "narrowed cpu>=zen4"),
        ([ARM], {"constraint": "ib*2"}, "narrowed arch=aarch64"),
        ([X86], {"cluster": {"n1": V2, "n2": V3}}, "fits"),
        ([need("arch", "ppc64le")], {}, "no-node arch=ppc64le"),
        ([need("arch", "ppc64le")], {"on_mismatch": "warn"}, "no-node arch=ppc64le"),
        ([ARM], {"constraint": "zen4|zen2"}, "own-options arch=aarch64"),
        ([], {}, "no-evidence"),
        ([ARM], {"cluster": {"n1": "", "n2": "bigmem"}}, "not-compared arch=aarch64"),
        ([ARM], {"constraint": "typo"}, "unreached"),
        ([need("arch", "ppc64le")], {"unlisted_nodes": True}, "no-node arch=ppc64le"),
        (
            [need("arch", "x86_64"), need("cuda", "12.4")],
            {"cluster": {"n1": "aarch64,cuda=12.4", "n2": f"{V2},cuda=11.8"}},
            "no-node arch=x86_64; cuda>=12.4",
        ),
    ],
)
def test_every_code(requirements: list[Requirement], options: dict[str, str], said: str) -> None:
    assert reason.of(run(*requirements, **options), requirements) == said  # type: ignore[arg-type]


def test_whatever_an_image_says_it_is_one_short_line() -> None:
    evil = [need("gpu.arch", f"sm\n{i}\x1b[2J" + "x" * 500) for i in range(40)]
    said = reason.of(run(*evil, cluster={"n1": "cmeta=1", "n2": "cmeta=1,x86_64"}), evil)
    assert said.startswith("no-node gpu.arch=sm\\n0")
    assert said.isprintable()
    assert len(said) == reason.MAX_REASON
    assert len(said.encode()) < 2048


def test_the_identity_is_that_of_the_file_or_the_digest() -> None:
    def report(sources: Sources | None, pinned: str = "") -> ImageReport:
        return ImageReport("/i.sif", "sif", [], [], {}, [], [], sources, pinned=pinned)

    file = SourceFile("/i.sif", 66305, 12, 4096, 1700000000000000001, 5)
    assert reason.identity(report(Sources((file,)))) == "66305:12:4096:1700000000000000001"
    assert reason.identity(report(Sources(until=5), "docker://h/a@sha256:ab")) == "sha256:ab"
    assert reason.identity(report(None)) is None
