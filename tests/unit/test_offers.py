"""What a registry said before: believed for a while, and where the registry cannot be reached."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from oci_files import Store, write_layout
from test_offer import application

from slurm_cmeta import config
from slurm_cmeta.errors import ImageError
from slurm_cmeta.kept import values
from slurm_cmeta.kept.sources import Sources
from slurm_cmeta.pull import offers
from slurm_cmeta.pull.offers import get
from slurm_cmeta.pull.report import read_reference
from slurm_cmeta.registry.access import Access
from slurm_cmeta.registry.errors import BROKEN, DENIED, DOWN, LIMITED, MISSING, SLOW, RegistryError
from slurm_cmeta.registry.reference import parse


@pytest.fixture
def kept(tmp_path: Path) -> str:
    place = tmp_path / "slurm-cmeta"
    place.mkdir(mode=0o700)
    return str(place)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    store = Store()
    index = application(store)
    top = store.add(index, index["mediaType"])
    return write_layout(tmp_path / "layout", store, store.index(top))


class Asked:
    """Counts the questions, and answers as the layout or with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from slurm_cmeta.pull import offer

        self.count, self.error, self.read = 0, "", offer.read
        monkeypatch.setattr(offer, "read", self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.error:
            raise RegistryError("docker://h.x/app:1: it has a problem", self.error)
        return self.read(*arguments, **options)


def ask(layout: Path, kept: str, max_age: int = 300) -> Any:
    return get(parse(f"oci:{layout}"), Access.within(5), {}, None, kept, max_age)


def test_what_is_known_is_not_asked_for_again(
    layout: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    first, when = ask(layout, kept)
    again, then = ask(layout, kept)
    assert (again, then, asked.count) == (first, when, 1)
    assert again.variants[3].requirements == first.variants[3].requirements != ()
    ask(layout, kept, max_age=0)
    ask(layout, "")
    assert asked.count == 3


@pytest.mark.parametrize("error", [DOWN, SLOW, LIMITED])
def test_a_registry_that_cannot_be_reached_is_taken_at_its_last_word(
    layout: Path, kept: str, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    asked = Asked(monkeypatch)
    first, _ = ask(layout, kept)
    asked.error = error
    old, when = ask(layout, kept, max_age=0)
    assert (old.variants, when) == (first.variants, None)
    (warning,) = old.warnings
    assert warning.startswith("docker://h.x/app:1: it has a problem; going by what it said ")
    assert warning.endswith(" seconds ago")


@pytest.mark.parametrize("error", [DENIED, MISSING, BROKEN])
def test_what_was_taken_away_is_not_believed_any_more(
    layout: Path, kept: str, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    asked = Asked(monkeypatch)
    ask(layout, kept)
    asked.error = error
    with pytest.raises(RegistryError):
        ask(layout, kept, max_age=0)


def test_with_nothing_known_an_error_is_one(
    layout: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Asked(monkeypatch).error = DOWN
    with pytest.raises(ImageError):
        ask(layout, kept)


@pytest.mark.parametrize("value", [(), (1,), ("x", ()), (time.time(), (1, 2, 3)), None, {"a": 1}])
def test_a_damaged_memory_is_none(layout: Path, kept: str, value: Any) -> None:
    values.keep(kept, offers.KIND, str(parse(f"oci:{layout}")), value, Sources())
    offer, when = ask(layout, kept)
    assert len(offer.variants) == 7
    assert when is not None


def test_the_decision_holds_as_long_as_the_registrys_word(layout: Path, kept: str) -> None:
    report = read_reference(f"oci:{layout}", config.defaults(), 5, "", kept)
    assert report.sources is not None
    assert 290 <= report.sources.until - time.time() <= 300
    assert report.pinned.startswith(f"oci:{layout}@sha256:")
    assert len(report.others) == 6
    softer = report.under({"cpu": "soft"})
    assert {r.strength for needs in softer.others for r in needs if r.key == "cpu"} == {"soft"}


def test_an_age_is_said_in_words() -> None:
    for seconds, said in ((5, "5 seconds"), (130, "2 minutes"), (7300, "2 hours"), (2e5, "2 days")):
        assert offers._ago(seconds) == said
