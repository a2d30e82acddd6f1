"""Quotes in delimited text: no stray one swallows the rows after it, and fields over several lines stay whole."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.config import Source
from finsent.data.sources.csv_reader import MAX_RECORD_LINES, MalformedLine, parse_records
from finsent.data.sources.formats import read_rows
from finsent.data.sources.resolve import RawRow, labelled_columns, resolve
from finsent.errors import InputError


def rows_of(path: Path) -> list[RawRow]:
    source = Source(uri=str(path))
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


def parsed(text: str, delimiter: str = ",") -> list[list[str] | MalformedLine]:
    return list(parse_records(io.StringIO(text, newline=""), delimiter, "a.csv"))


def test_a_stray_quote_in_a_tsv_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"To the moon\tBullish\n"sell" he said\tBearish\n' + "hold\tNeutral\n" * 1001)
    rows = rows_of(path)
    assert len(rows) == 1003
    assert [(row.text, row.label) for row in rows[:3]] == [
        ('"To the moon', "Bullish"),
        ('"sell" he said', "Bearish"),
        ("hold", "Neutral"),
    ]
    assert not any(row.fault for row in rows)


def test_two_stray_quotes_in_a_tsv_do_not_pair_up_over_lines() -> None:
    text = 'text\tlabel\n"To the moon\tBullish\nhold\tNeutral\nthey said so"\tBearish\n'
    assert parsed(text, "\t")[1:] == [['"To the moon', "Bullish"], ["hold", "Neutral"], ['they said so"', "Bearish"]]
    assert parsed('text\n"one\ntwo"\n', "\t") == [["text"], ['"one'], ['two"']]


def test_quoted_fields_of_a_tsv() -> None:
    text = 'label\ttext\nNeutral\t"a\tb"\nNeutral\t"two\nlines, ""so"""\nBullish\t"whole"\n'
    assert parsed(text, "\t") == [
        ["label", "text"], ["Neutral", "a\tb"], ["Neutral", 'two\nlines, "so"'], ["Bullish", "whole"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("after", "until"), [(3, "the file ends inside it"), (1000, f"it goes on for more than {MAX_RECORD_LINES} lines")]
)
@pytest.mark.parametrize(
    ("start", "number"),
    [
        ('"open,Bullish\n', 3),
        ('"fine\ntoo, ""x""","Bull\n', 4),
        ('5" pipe,"Bull\n', 3),
    ],
)
def test_a_quote_that_is_never_closed_refuses_the_file(tmp_path: Path, after: int, until: str, start: str, number: int) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nfirst,Neutral\n" + start + "more,Neutral\n" * after)
    with pytest.raises(InputError) as raised:
        rows_of(path)
    assert f"line {number}: a quote opens a field that is never closed ({until}" in str(raised.value)
    assert "a.csv" in str(raised.value)
    assert "Close the quote" in str(raised.value)


def test_a_stray_quote_that_a_later_one_shows_costs_its_own_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"open,Bullish\nb,Neutral\n"fine, too",Bearish\nlast,Neutral\n')
    rows = rows_of(path)
    assert [row.number for row in rows] == [1, 2, 3, 4]
    assert [row.fault.reason if row.fault else None for row in rows] == ["malformed row", None, None, None]
    assert rows[0].text == '"open,Bullish\n'
    assert rows[0].fault is not None
    assert "line 2" in rows[0].fault.detail
    assert [row.text for row in rows[1:]] == ["b", "fine, too", "last"]


def test_fields_of_many_lines_stay_whole() -> None:
    body = "\n".join(["line"] * (MAX_RECORD_LINES - 1))
    assert parsed(f'text,label\r\n"{body}",Bullish\r\n"a\r\n\r\nb",Neutral\r\n') == [
        ["text", "label"], [body, "Bullish"], ["a\r\n\r\nb", "Neutral"],
    ]  # fmt: skip


def test_a_field_of_many_long_lines_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finsent.data.sources.csv_reader.MAX_LINE_CHARS", 2**20)
    line = "x" * 2**19 + "\n"
    assert len(parsed(f'text,label\n"{line}",Bullish\n')[1]) == 2
    with pytest.raises(InputError, match=r"line 2: a quote opens a field that is never closed .*more than 1 Mi characters"):
        parsed('text,label\n"' + line * 4)
    assert [len(record) for record in parsed('text\tlabel\n"' + (line[:-1] + "\tBullish\n") * 4, "\t")] == [2] * 5


CELLS = st.text(st.sampled_from('a", \n\t🚀'), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=20))
def test_whatever_a_writer_quotes_is_read_back(rows: list[tuple[str, str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("text", "label"), *rows])
    assert parsed(written.getvalue())[1:] == [list(row) for row in rows]


@given(st.lists(st.text(st.sampled_from('a", 🚀'), min_size=1, max_size=8).filter(lambda cell: cell[0] + cell[-1] != '""')))
def test_no_line_of_a_plain_tsv_is_ever_lost(texts: list[str]) -> None:
    text = "text\tlabel\n" + "".join(f"{cell}\tNeutral\n" for cell in texts)
    assert parsed(text, "\t")[1:] == [[cell, "Neutral"] for cell in texts]
