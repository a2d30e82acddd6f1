"""What results look like."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from finsent.cli.output import cell_text, duration, key_values, plain, shorten, table, with_interval


@dataclass(frozen=True)
class Inner:
    path: Path
    scores: tuple[float, ...]


class Outer(BaseModel):
    inner: Inner
    when: datetime


def test_results_of_any_kind_become_plain_json() -> None:
    value = Outer(inner=Inner(Path("a/b"), (0.5, math.nan, math.inf)), when=datetime(2026, 1, 2, tzinfo=UTC))
    assert plain(value) == {
        "inner": {"path": "a/b", "scores": [0.5, None, None]},
        "when": "2026-01-02T00:00:00+00:00",
    }
    assert plain({1: np.float32(0.5), "array": np.arange(3), "set": {7}}) == {"1": 0.5, "array": [0, 1, 2], "set": [7]}


def test_what_json_cannot_say_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(TypeError, match="cannot say object in JSON"):
        plain({"x": object()})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_plain_values_are_strict_json_and_stable(value: object) -> None:
    once = plain(value)
    assert json.loads(json.dumps(once, allow_nan=False)) == once
    assert plain(once) == once


def test_tables_align_and_survive_a_pipe() -> None:
    text = table(("name", "rows", "note"), [("desk", 1200, "fine"), ("a longer name", None, "x")], indent=0)
    assert text == (
        "name            rows  note\n"
        "-------------  -----  ----\n"
        "desk           1,200  fine\n"
        "a longer name      -  x"
    )  # fmt: skip
    assert text.isascii()


@given(st.lists(st.tuples(st.text("abc", max_size=9), st.integers()), min_size=1))
def test_every_table_row_is_one_line_with_its_columns_in_place(rows: list[tuple[str, int]]) -> None:
    lines = table(("text", "number"), rows).splitlines()
    assert len(lines) == len(rows) + 2
    assert len({len(line) for line in lines}) == 1


def test_facts_align() -> None:
    assert key_values([("run", "abc"), ("rows a day", 12)]) == "  run         abc\n  rows a day  12"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (True, "yes"), (12345, "12,345"), (0.12345, "0.1235"), (math.nan, "-"), ("x", "x")]
)
def test_values_as_text(value: object, text: str) -> None:
    assert cell_text(value) == text


@given(st.text(), st.integers(2, 40))
def test_shortened_text_is_one_line_of_the_width(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) <= width
    assert len(short.splitlines()) <= 1


def test_figures() -> None:
    assert with_interval(0.5, {"low": 0.4, "high": 0.6, "level": 0.95}) == "0.5000 [0.4000, 0.6000]"
    assert with_interval(0.5, None) == "0.5000"
    assert (duration(4.24), duration(185.4)) == ("4.2 s", "3 min 05 s")
