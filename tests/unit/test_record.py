"""slurm_cmeta.record behaves as what it stands for does."""

from __future__ import annotations

import copy
import pickle
import typing
from typing import Any

import pytest

from slurm_cmeta import record


class Ours(record.NamedTuple):
    """A record."""

    name: str
    size: int = 7
    parts: tuple[str, ...] = ()

    @property
    def doubled(self) -> int:
        return self.size * 2


class Theirs(typing.NamedTuple):
    """A record."""

    name: str
    size: int = 7
    parts: tuple[str, ...] = ()

    @property
    def doubled(self) -> int:
        return self.size * 2


class Below(Ours):
    """One with another method."""

    def shout(self) -> str:
        return self.name.upper()


WAYS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a",), {}),
    (("a", 1, ("b",)), {}),
    ((), {"name": "a"}),
    (("a",), {"parts": ("b",)}),
    ((), {"parts": (), "size": 2, "name": "a"}),
]

WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((), {"size": 1}),
    (("a", 1, (), 4), {}),
    (("a",), {"name": "b"}),
    (("a",), {"other": 1}),
]


def test_it_is_not_the_standard_librarys() -> None:
    assert type(Ours).__module__ == "slurm_cmeta.record"


@pytest.mark.parametrize(("values", "named"), WAYS)
def test_made_alike(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)
    assert tuple(ours) == tuple(theirs)
    assert hash(ours) == hash(theirs)
    assert ours._asdict() == theirs._asdict()
    assert (ours.name, ours.size, ours.parts, ours.doubled) == (*theirs, theirs.doubled)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert tuple(ours._replace(size=3)) == tuple(theirs._replace(size=3))
    assert type(ours._replace(size=3)) is Ours
    assert copy.deepcopy(ours) == ours == pickle.loads(pickle.dumps(ours))  # noqa: S301  # our own


@pytest.mark.parametrize("kind", [Ours, Theirs])
@pytest.mark.parametrize(("values", "named"), WRONG)
def test_refused_alike(kind: Any, values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        kind(*values, **named)


def test_the_class_says_what_it_has() -> None:
    for name in ("_fields", "_field_defaults", "__match_args__", "__doc__"):
        assert getattr(Ours, name) == getattr(Theirs, name)
    assert tuple(Ours._make(["a", 1, ()])) == ("a", 1, ())
    with pytest.raises(TypeError):
        Ours._make(["a"])
    with pytest.raises((TypeError, ValueError)):
        Ours("a")._replace(other=1)  # type: ignore[call-arg]


def test_it_cannot_be_changed() -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(AttributeError):
            setattr(kind("a"), "name", "b")  # noqa: B010  # mypy would see it
        with pytest.raises(AttributeError):
            setattr(kind("a"), "other", "b")  # noqa: B010


def test_patterns_and_classes_below() -> None:
    match Below("a", 2):
        case Ours(name, size=2):
            assert name == "a"
        case _:
            pytest.fail("no match")
    assert Below("a").shout() == "A"
    assert Below._fields == Ours._fields
    assert type(Below("a")._replace(size=1)) is Below
