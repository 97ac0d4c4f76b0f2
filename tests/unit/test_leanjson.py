"""JSON without the module json: the same values, and the same errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_cmeta.leanjson import dumps, loads

ROOT = Path(__file__).resolve().parents[2]

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
documents = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(documents, st.sampled_from(["", " ", "\n\t\r "]))
def test_what_json_writes_is_read(value: Any, blanks: str) -> None:
    text = blanks + json.dumps(value) + blanks
    assert loads(text) == json.loads(text) == value


@given(documents)
def test_what_is_written_json_reads(value: Any) -> None:
    assert dumps(value) == json.dumps(value)


@given(st.text(alphabet='{}[]",:0123456789truefalsnul\\eE.- \n', max_size=30))
def test_what_json_refuses_is_refused(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - json has no better one
            loads(text)
    else:
        assert repr(loads(text)) == repr(expected)


@pytest.mark.parametrize("text", ["", " ", "\ufeff{}", "{} {}", "[1,]", "'a'", '"\n"', '"\x00"'])
def test_odd_documents_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        loads(text)


def test_deep_documents_end_as_with_json() -> None:
    deep = "[" * 1_000_000
    with pytest.raises(RecursionError):
        json.loads(deep)
    with pytest.raises(RecursionError):
        loads(deep)


def test_numbers_are_whoever_asks_makes_them() -> None:
    options: dict[str, Any] = {"parse_int": str, "parse_float": len, "parse_constant": str}
    text = "[1, 2.50, NaN, -Infinity]"
    assert loads(text, **options) == json.loads(text, **options)


def test_odd_values_are_refused() -> None:
    with pytest.raises(TypeError):
        dumps({"a": object()})


@pytest.mark.parametrize("hidden", ["_json", ""])
def test_without_the_scanner_json_does_it(hidden: str) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.modules.update({{{hidden!r}: None}} if {hidden!r} else {{}})\n"
        "from slurm_cmeta.leanjson import dumps, loads\n"
        "print(dumps(loads(' {\"a\": [1, null]} ')), 'json' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == f'{{"a": [1, null]}} {bool(hidden)}\n'
