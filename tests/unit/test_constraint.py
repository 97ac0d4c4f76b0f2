"""Slurm's constraint language."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta.constraint.addition import add
from slurm_cmeta.constraint.grammar import MAX_ALTERNATIVES, MAX_EXPRESSION, NOTHING, parse
from slurm_cmeta.constraint.select import Expression, select


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a&b",
        "a,b",
        "a|b",
        "a|b&c",
        "cuda=12.4&sm=90",
        "(a|b)&c",
        "a&(b|c)&(d|e)",
        "(a&b)|c",
        "[a|b]",
        "[a|b]&c",
        "c&[a|(b&d)]",
        "[a*2&b*4]",
        "[(a&x)*2&b*4]",
        "[a*4]",
        "a*4",
        "(a|b)*2",
        "(a)",
        "[" + "|".join(["a"] * MAX_ALTERNATIVES) + "]",
    ],
)
def test_every_form_is_read_and_written_again(text: str) -> None:
    parsed = parse(text)
    assert parsed is not None
    assert parsed.text == text
    pieces = [part.render() for part in parsed.parts]
    both = pieces[0] + "".join(o + p for o, p in zip(parsed.operators, pieces[1:], strict=True))
    assert both == text.replace(",", "&")


@pytest.mark.parametrize(
    "text",
    [
        "a&",
        "&a",
        "a||b",
        "a b",
        "a\nb",
        "a\x1b[31m",
        "a)",
        "(a",
        "()",
        "(a)b",  # 22.05 takes it
        "((a|b)|c)",
        "([a|b])",
        "[a]",
        "[a&b]",
        "[a*2|b*4]",
        "[a*2&b]",
        "[a|b]&[c|d]",
        "[a|b]|c",
        "[[a|b]]",
        "[a|b",
        "a*2&b",  # 22.05 takes it
        "(a*2)",
        "a*0",
        "a*-1",
        "a*x",
        "a*",
        "*2",
        "a*99999999999999999999",
        "[" + "|".join(["a"] * (MAX_ALTERNATIVES + 1)) + "]",
        "a" * (MAX_EXPRESSION + 1),
    ],
)
def test_what_not_every_release_reads_alike_is_left_alone(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize("text", ["", None])
def test_no_constraint_is_what_every_node_satisfies(text: str | None) -> None:
    assert parse(text) is NOTHING
    assert NOTHING.allows(())


X, XY, GROUP = Expression(("x",)), Expression(("x", "y")), Expression(("x",), ("p", "q"))


@pytest.mark.parametrize(
    ("user", "addition", "result"),
    [
        ("", X, "x"),
        ("", XY, "x&y"),
        ("", Expression((), ("p", "q")), "(p|q)"),
        ("a", X, "a&x"),
        ("a&b", GROUP, "a&b&x&(p|q)"),
        ("a,b", X, "a,b&x"),
        ("a|b", X, "(a|b)&x"),
        ("a|b", Expression((), ("p", "q")), "(a|b)&(p|q)"),
        ("a|b&c", X, "(a|b&c)&x"),
        ("x", X, "x"),
        ("a&x", XY, "a&x&y"),
        ("x|b", X, "(x|b)&x"),
        ("(a|b)&c", GROUP, "(a|b)&c&x&(p|q)"),
        ("(a&b)|c", XY, "(a&b)|c&x&y"),
        ("(a&b)|c", GROUP, "(a&b)|c&x&(p|q)"),  # parentheses do not nest: from left to right
        ("(a&b)|c&d", X, "(a&b)|c&d&x"),
        ("[a|b]", GROUP, "[a|b]&x&(p|q)"),
        ("c&[a|b]", X, "c&[a|b]&x"),
        ("[a*2&b*4]", X, None),  # what stands beside counts is not enforced
        ("a*4", X, None),
        ("p&q", GROUP, "p&q&x"),  # the group is satisfied anyway
    ],
)
def test_the_addition_is_ANDed_to_every_form(  # noqa: N802
    user: str, addition: Expression, result: str | None
) -> None:
    parsed = parse(user)
    assert parsed is not None
    assert add(parsed, addition) == result


@pytest.mark.parametrize(
    ("user", "addition", "result"),
    [
        ("a&b", X, "a&b&x"),
        ("", X, "x"),
        ("", GROUP, None),
        ("a|b", X, None),
        ("(a|b)&c", X, None),
        ("[a|b]", X, None),
        ("(a&b)|c", X, None),
    ],
)
def test_with_a_node_features_plugin_only_plain_ANDs_are_written(  # noqa: N802
    user: str, addition: Expression, result: str | None
) -> None:
    parsed = parse(user)
    assert parsed is not None
    assert add(parsed, addition, changeable=True) == result


def test_what_slurm_would_not_take_for_its_length_is_not_written() -> None:
    user = parse("a" * (MAX_EXPRESSION - 2))
    assert user is not None
    assert add(user, X) == user.text + "&x"
    assert add(user, XY) is None


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


def _joined(operators: str) -> st.SearchStrategy[str]:
    return st.tuples(
        st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=3),
        st.lists(st.sampled_from(operators), min_size=2, max_size=2),
    ).map(lambda t: t[0][0] + "".join(o + n for o, n in zip(t[1], t[0][1:], strict=False)))


ITEM = st.one_of(st.sampled_from("abcdefg"), _joined("&|,").map(lambda text: f"({text})"))
USER = st.tuples(
    st.lists(ITEM, min_size=1, max_size=3),
    st.lists(st.sampled_from("&|,"), min_size=2, max_size=2),
).map(lambda t: t[0][0] + "".join(o + i for o, i in zip(t[1], t[0][1:], strict=False)))


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


@settings(max_examples=500, deadline=None)
@given(USER, st.lists(FEATURES, min_size=1, max_size=3), st.lists(FEATURES, max_size=3), FEATURES)
def test_adding_means_and(
    user: str, wanted: list[frozenset[str]], unwanted: list[frozenset[str]], node: frozenset[str]
) -> None:
    found, parsed = select(wanted, unwanted, rank), parse(user)
    assert parsed is not None
    assert parsed.allows(node) == left_to_right(user, node)
    if found is not None:
        text = add(parsed, found)
        assert text is not None
        assert left_to_right(text, node) == (parsed.allows(node) and found.allows(node))
        again = parse(text)
        assert again is not None
        assert again.allows(node) == left_to_right(text, node)


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="ab&|,()[]*12 \n", max_size=12))
def test_any_text_is_read_or_left(text: str) -> None:
    parsed = parse(text)
    if parsed is not None and parsed.parts:
        assert add(parsed, Expression(())) == text


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
