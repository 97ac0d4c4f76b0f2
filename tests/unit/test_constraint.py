"""Slurm's constraint language."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta.constraint import (
    MAX_EXPRESSION,
    Expression,
    Simple,
    add,
    parse_simple,
    select,
)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", Simple("&", ())),
        (None, Simple("&", ())),
        ("a", Simple("&", ("a",))),
        ("a&b", Simple("&", ("a", "b"))),
        ("a,b", Simple("&", ("a", "b"))),
        ("a|b", Simple("|", ("a", "b"))),
        ("cuda=12.4&sm=90", Simple("&", ("cuda=12.4", "sm=90"))),
        ("a|b&c", None),
        ("(a|b)&c", None),
        ("[a|b]", None),
        ("a*4", None),
        ("a&", None),
        ("&a", None),
        ("a||b", None),
        ("a b", None),
        ("a\nb", None),
        ("a\x1b[31m", None),
    ],
)
def test_simple_forms_are_read_and_others_left(text: str | None, parsed: Simple | None) -> None:
    assert parse_simple(text) == parsed


@pytest.mark.parametrize(
    ("user", "names", "group", "result"),
    [
        ("", ("x",), (), "x"),
        ("", ("x", "y"), (), "x&y"),
        ("", (), ("p", "q"), "(p|q)"),
        ("a", ("x",), (), "a&x"),
        ("a&b", ("x",), ("p", "q"), "a&b&x&(p|q)"),
        ("a,b", ("x",), (), "a,b&x"),
        ("a|b", ("x",), (), "(a|b)&x"),
        ("a|b", (), ("p", "q"), "(a|b)&(p|q)"),
        ("x", ("x",), (), "x"),
        ("a&x", ("x", "y"), (), "a&x&y"),
        ("x|b", ("x",), (), "(x|b)&x"),
    ],
)
def test_the_users_text_is_kept(
    user: str, names: tuple[str, ...], group: tuple[str, ...], result: str
) -> None:
    parsed = parse_simple(user)
    assert parsed is not None
    assert add(parsed, user, Expression(names, group)) == result


def rank(name: str) -> int:
    return {"aarch64": 0, "x86_64_v3": 0}.get(name, 1 if name.startswith(("zen", "x86")) else 2)


@pytest.mark.parametrize(
    ("wanted", "unwanted", "result"),
    [
        (["aarch64 ib"], ["x86_64 ib"], "aarch64"),
        (["aarch64 a"], ["x86_64"], "aarch64"),  # not `a`, which says nothing of the need
        (["zen4"], [], ""),
        (["zen4 x86_64", "zen3 x86_64"], ["zen2 x86_64"], "(zen3|zen4)"),
        (["zen4 x86_64_v3", "zen3 x86_64_v3"], ["zen2 x86_64"], "x86_64_v3"),
        (["a c", "b c"], ["a", "b", "c"], "c&(a|b)"),
        (["a b"], ["a", "b"], "a&b"),
        ([""], ["a"], None),  # nothing can be said of nodes without features
        (["a"], ["a"], None),
        (["a"], ["a b"], None),  # Slurm has no NOT
        ([], ["a"], None),
        (["a b|c"], ["b|c"], "a"),  # a name with an operator is never written
    ],
)
def test_the_shortest_expression(
    wanted: list[str], unwanted: list[str], result: str | None
) -> None:
    found = select([w.split() for w in wanted], [u.split() for u in unwanted], rank)
    assert (found.render() if found else None) == result


FEATURES = st.frozensets(st.sampled_from("abcdefg"), max_size=5)


def exists(wanted: list[frozenset[str]], unwanted: list[frozenset[str]]) -> bool:
    """Tell by brute force whether an AND of names with one group selects exactly `wanted`."""
    names = sorted("abcdefg")
    ands = [c for n in range(len(names) + 1) for c in combinations(names, n)]
    for both in ands:
        for group in ands:
            e = Expression(both, group)
            if all(map(e.allows, wanted)) and not any(map(e.allows, unwanted)):
                return True
    return False


@settings(max_examples=150, deadline=None)
@given(st.lists(FEATURES, min_size=1, max_size=4), st.lists(FEATURES, max_size=4))
def test_an_expression_is_exact_and_found_whenever_there_is_one(
    wanted: list[frozenset[str]], unwanted: list[frozenset[str]]
) -> None:
    found = select(wanted, unwanted, rank)
    assert (found is not None) == exists(wanted, unwanted)
    if found is not None:
        assert all(found.allows(features) for features in wanted)
        assert not any(found.allows(features) for features in unwanted)
        assert found == select(wanted, unwanted, rank)


USER = st.one_of(
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=3).map("&".join),
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=3).map("|".join),
)


def left_to_right(text: str, features: frozenset[str]) -> bool:
    """Evaluate an expression as slurmctld does: no precedence, parentheses of one level."""
    value, operator, rest = True, "&", text
    while rest:
        if rest[0] == "(":
            inner, _, rest = rest[1:].partition(")")
            item = left_to_right(inner, features)
        else:
            end = min((rest.find(c) for c in "&|," if c in rest), default=len(rest))
            item, rest = rest[:end] in features, rest[end:]
        value = (value and item) if operator in "&," else (value or item)
        operator, rest = (rest[0], rest[1:]) if rest else ("&", "")
    return value


@settings(max_examples=300, deadline=None)
@given(USER, st.lists(FEATURES, min_size=1, max_size=3), st.lists(FEATURES, max_size=3), FEATURES)
def test_adding_means_and(
    user: str, wanted: list[frozenset[str]], unwanted: list[frozenset[str]], node: frozenset[str]
) -> None:
    found, parsed = select(wanted, unwanted, rank), parse_simple(user)
    assert parsed is not None
    assert parsed.allows(node) == left_to_right(user, node)
    if found is not None:
        both = left_to_right(add(parsed, user, found), node)
        assert both == (parsed.allows(node) and found.allows(node))


def test_two_hundred_classes_are_told_apart_quickly() -> None:
    wanted = [frozenset({"x86_64", f"rack{n}", f"gen{n % 20}", "zen4"}) for n in range(100)]
    unwanted = [frozenset({"x86_64", f"rack{n + 100}", f"gen{n % 20}"}) for n in range(100)]
    found = select(wanted, unwanted, rank)
    assert found is not None
    assert found.render() == "zen4"


def test_an_expression_that_slurm_would_not_take_is_not_given() -> None:
    wanted = [frozenset({f"a-rather-long-feature-name-{n}"}) for n in range(60)]
    found = select(wanted, [frozenset()], rank)
    assert found is None
    assert len("|".join(next(iter(w)) for w in wanted)) > MAX_EXPRESSION
