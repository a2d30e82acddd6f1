"""How results look: JSON for scripts, bold and folded on a terminal, plain and uncut in a pipe."""

import io
import json
import math
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from finsent.cli.output import (
    as_text,
    cell_text,
    duration,
    key_values,
    lines,
    paragraph,
    plain,
    section,
    shorten,
    show,
    stack,
    status_word,
    table,
    to_json,
    with_interval,
)


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
    with pytest.raises(TypeError, match="cannot write object as JSON"):
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
    text = as_text(table(("name", "rows", "note"), [("desk", 1200, "fine"), ("a longer name", None, "x")], indent=0))
    assert text == (
        "name            rows  note\n"
        "-------------- ------ ----\n"
        "desk           1,200  fine\n"
        "a longer name      -  x"
    )  # fmt: skip
    assert text.isascii()


@given(st.lists(st.tuples(st.text("abc", max_size=9), st.integers()), min_size=1))
def test_every_table_row_is_one_line_with_its_columns_in_place(rows: list[tuple[str, int]]) -> None:
    shown = as_text(table(("text", "number"), rows)).split("\n")
    assert len(shown) == len(rows) + 2
    assert len({len(line) for line in shown}) == 1


def test_key_values_align() -> None:
    assert as_text(key_values([("run", "abc"), ("rows a day", 12)])) == "  run         abc\n  rows a day  12"


def test_sections_and_stacks_leave_out_what_is_empty() -> None:
    assert as_text(stack(section("Title", "body", ""), "", lines("a", "", "b"))) == "Title\nbody\n\na\nb"


TWEET = "[bold]$AAPL[/bold] :rocket: " + "to the moon " * 20
LONG = "finsent train --config " + "x" * 200


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 60 columns as stdout."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    return Terminal()


def everything() -> Any:
    rows = [(status_word("fail"), 1, TWEET)]
    return stack(section("Title", table(("", "n", "text"), rows)), paragraph(TWEET), LONG)


def test_a_terminal_gets_bold_and_colour_and_texts_folded_to_its_width(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        show(everything())
    shown = terminal.getvalue()
    assert "\x1b[1mTitle\x1b[0m" in shown
    assert "\x1b[31mfail" in shown
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown).split("\n")
    assert LONG in bare, "a command stays in one piece to be copied"
    assert max(len(line) for line in bare if line != LONG) <= 60
    assert sum("[bold]$AAPL[/bold] :rocket:" in line for line in bare) == 2


@pytest.mark.parametrize(("name", "value", "absent"), [("NO_COLOR", "1", "\x1b[3"), ("TERM", "dumb", "\x1b")])
def test_no_color_and_a_dumb_terminal_are_respected(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str, absent: str
) -> None:
    monkeypatch.setenv(name, value)
    with redirect_stdout(terminal):
        show(everything())
    assert "fail" in terminal.getvalue()
    assert absent not in terminal.getvalue()


def test_a_pipe_gets_plain_lines_that_are_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("COLUMNS", "40")
    show(everything())
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert "\x1b" not in shown
    assert shown.count(TWEET.strip()) == 2
    assert LONG in shown.split("\n")
    assert [line for line in shown.split("\n") if line != line.rstrip()] == []


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


HOSTILE = "\x1b]0;owned\x07 \u202eevil\u202c \u200bhidden\r\x08\x9b31m \x7f\ufeff\u2028 [red]x[/red]"
SHOWN = r"\x1b]0;owned\x07 \u202eevil\u202c \u200bhidden\r\x08\x9b31m \x7f\ufeff\u2028 [red]x[/red]"


def parts_with(text: str) -> list[Any]:
    return [
        text,
        table(("text",), [(text,)]),
        table((text,), [("x",)]),
        key_values([("name", text)]),
        key_values([(text, "value")]),
        section(text, text),
        lines(text),
        stack(text, paragraph(text)),
    ]


@pytest.mark.parametrize("part", parts_with(HOSTILE), ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_nothing_from_outside_acts_on_the_terminal(part: Any, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    screen = Screen()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with redirect_stdout(screen):
        show(part)
    written = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())  # rich's own colours
    assert SHOWN in written
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2028\ufeff]", written)


def test_a_text_with_line_breaks_is_one_row() -> None:
    text = as_text(table(("id", "text"), [(1, "good\n2   forged")]))
    assert r"good\n2   forged" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("text", ["👩‍👩‍👧 ❤️‍🔥 🏳️‍🌈", "می‌خواهم", "क्‍ष", "caf\u00e9 £€ 🚀"])
def test_what_a_script_or_an_emoji_needs_stays(text: str) -> None:
    assert as_text(text) == text


def test_json_is_exact_and_acts_on_no_terminal() -> None:
    written = to_json({"text": HOSTILE, "emoji": "🚀", "half": "\ud83d"})
    assert json.loads(written) == {"text": HOSTILE, "emoji": "🚀", "half": "\ud83d"}
    assert written.isascii()
    assert written.isprintable()
