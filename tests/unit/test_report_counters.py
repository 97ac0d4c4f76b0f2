"""cmeta report --textfile: counters that grow, whatever becomes of the log."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from report_lines import FAULT, MATCH, MISMATCH, logged

from slurm_cmeta.cli.main import main
from slurm_cmeta.report.counters import METRICS

ROOT = Path(__file__).parents[2]
UPDATE = {**MATCH, "event": "update"}


class Site:
    """A log, and the textfile that is made of it."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "slurmctld.log"
        self.prom = directory / "cmeta.prom"
        self.state = directory / ".cmeta.prom.state"
        self.log.touch()

    def write(self, data: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(data)

    def rotate(self, name: str = "slurmctld.log.1") -> Path:
        rotated = self.log.with_name(name)
        self.log.rename(rotated)
        self.log.touch()
        return rotated

    def update(self) -> int:
        return main(["report", "--textfile", str(self.prom), str(self.log)])

    def value(self, name: str, **labels: str) -> float:
        assert self.update() == 0
        found = {
            (sample.name, tuple(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.prom.read_text())
            for sample in family.samples
        }
        return found[name, tuple(labels.items())]

    @property
    def matches(self) -> float:
        return self.value("cmeta_decisions_total", verdict="match")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_prometheus_reads_every_metric(site: Site) -> None:
    site.write(logged(MATCH, MISMATCH, {**MISMATCH, "refused": True}, FAULT, UPDATE))
    site.write(b"[x] lua: cmeta decision {}\n[x] lua: cmeta: ignored a handed-over gres\n")
    site.write(b"[x] lua: cmeta: error, the job is left as it is: x\n")
    assert site.matches == 1
    assert site.value("cmeta_decisions_total", verdict="mismatch") == 2
    assert site.value("cmeta_decisions_total", verdict="off") == 0
    for name, value in (
        ("cmeta_refused_total", 1),
        ("cmeta_narrowed_total", 1),
        ("cmeta_no_evidence_total", 0),
        ("cmeta_faults_total", 1),
        ("cmeta_controller_errors_total", 1),
        ("cmeta_ignored_total", 1),
        ("cmeta_updates_total", 1),
        ("cmeta_cache_hits_total", 2),
        ("cmeta_decision_seconds_sum", 0.088),
        ("cmeta_decision_seconds_count", 3),
        ("cmeta_broken_lines_total", 1),
        ("cmeta_last_decision_timestamp_seconds", 1_795_846_484),
    ):
        assert site.value(name) == value, name
    families = {f.name: f for f in text_string_to_metric_families(site.prom.read_text())}
    assert set(families) == {name.removesuffix("_total") for name in METRICS}
    assert all(f.documentation and f.type != "unknown" for f in families.values())


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs/report.md").read_text()
    listed = re.findall(r"^\| `(cmeta_\w+)(?:\{verdict\})?` \| (\w+) \|", page, re.MULTILINE)
    assert listed == [(name, kind) for name, (kind, _) in METRICS.items()]


def test_what_was_counted_is_not_counted_again(site: Site) -> None:
    site.write(logged(MATCH))
    assert [site.matches, site.matches] == [1, 1]
    site.write(logged(MATCH))
    assert site.matches == 2


def test_a_line_that_is_being_written_is_left_for_later(site: Site) -> None:
    whole = logged(MATCH)
    site.write(whole + whole[:50])
    assert site.matches == 1
    site.write(whole[50:])
    assert site.matches == 2


def test_rotation_loses_nothing(site: Site) -> None:
    site.write(logged(MATCH))
    assert site.matches == 1
    site.write(logged(MATCH))
    site.rotate()
    site.write(logged(MATCH))
    assert site.matches == 3
    assert site.matches == 3


def test_several_rotations_lose_nothing_either(site: Site) -> None:
    site.write(logged(MATCH))
    assert site.matches == 1
    site.write(logged(MATCH))
    os.utime(site.rotate("slurmctld.log.3"), (1e9, 1e9))
    site.write(logged(MATCH, MATCH))
    packed = site.rotate("slurmctld.log.2")
    packed.with_name("slurmctld.log.2.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    site.write(logged(MATCH))
    assert site.matches == 5


def test_a_log_that_was_cut_is_read_from_its_start(site: Site) -> None:
    """copytruncate of logrotate."""
    site.write(logged(MATCH, MATCH))
    assert site.matches == 2
    os.truncate(site.log, 0)
    site.write(logged(MATCH))
    assert site.matches == 3
    os.truncate(site.log, 0)
    site.write(logged({**MATCH, "name": "another"}, MATCH, MATCH))
    assert site.matches == 6


def test_a_rotated_log_that_is_gone_costs_its_rest_only(site: Site) -> None:
    site.write(logged(MATCH))
    assert site.matches == 1
    site.write(logged(MATCH))
    site.rotate().unlink()
    site.write(logged(MATCH))
    assert site.matches == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema": "other"}',
        '{"schema":"cmeta.report-state/1","counters":5}',
        '{"schema":"cmeta.report-state/1","counters":{},"position":{"offset":"x"}}',
    ],
)
def test_a_broken_state_is_one_line_and_changes_nothing(
    site: Site, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    site.state.write_text(text)
    assert site.update() == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "remove it to count anew" in said
    assert not site.prom.exists()
    assert site.state.read_text() == text


def test_a_textfile_that_cannot_be_written_is_made_up_for(site: Site, tmp_path: Path) -> None:
    site.write(logged(MATCH))
    site.prom.mkdir()
    assert site.update() == 4
    site.prom.rmdir()
    assert site.matches == 1


def test_files_are_replaced_whole_and_readable_by_all(site: Site) -> None:
    old = os.umask(0o077)
    try:
        assert site.update() == 0
    finally:
        os.umask(old)
    assert site.prom.stat().st_mode & 0o777 == 0o644
    before = site.prom.stat().st_ino
    assert site.update() == 0
    assert site.prom.stat().st_ino != before
    names = {path.name for path in site.log.parent.iterdir()}
    assert names == {"slurmctld.log", "cmeta.prom", ".cmeta.prom.state"}
    assert json.loads(site.state.read_text())["position"]["inode"] == site.log.stat().st_ino


@pytest.mark.parametrize("words", [("-",), ("a", "b"), ("--since", "7d"), ("--journal", "a")])
def test_a_position_goes_with_one_log_alone(
    site: Site, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["report", "--textfile", str(site.prom), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
