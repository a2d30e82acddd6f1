"""Files of one tweet a line are not cut at commas; tables in text are known as such."""

import subprocess
from pathlib import Path

import pytest

from finsent.config import Source
from finsent.data.sources.formats import read_rows
from finsent.data.sources.line_forms import how_to_read_lines, is_table, is_tweets
from finsent.data.sources.records import RawRow, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError

TWEETS = (
    "$ZRPQ smashed guidance again, adding on every dip",
    "Loading up on $KLVN calls, breakout above 42, targets 50",
    "$BRMX just signed a huge contract 🚀",
    "Great call by the $TYBE CEO; raising my target",
)
ONE_COMMA = ("$ZRPQ smashed guidance again, adding on every dip", "Loading up on calls, breakout above 42") * 3


def rows_of(uri: Path, **given: object) -> list[RawRow]:
    source = Source.model_validate({"uri": str(uri), **given})
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


@pytest.mark.parametrize("lines", [TWEETS, ONE_COMMA, TWEETS[2:]])
def test_a_text_file_is_read_as_one_tweet_a_line(tmp_path: Path, lines: tuple[str, ...]) -> None:
    path = tmp_path / "bullish.txt"
    path.write_text("\n\n".join(lines) + "\n")
    assert [row.text for row in rows_of(path, label_value="Bullish")] == list(lines)
    with pytest.raises(InputError, match="--label-value CLASS"):
        rows_of(path)


@pytest.mark.parametrize("lines", [TWEETS, ONE_COMMA])
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_tweets_are_not_cut_where_they_are_called_a_table(tmp_path: Path, lines: tuple[str, ...], name: str) -> None:
    (tmp_path / name).write_text("\n".join(lines))
    with pytest.raises(InputError, match="--format text"):
        rows_of(tmp_path / name, format="csv", header=False, text="1", label_value="Bullish")
    assert [row.text for row in rows_of(tmp_path / name, format="text", label_value="Bullish")] == list(lines)


def test_the_text_files_of_a_folder_are_read_where_the_format_says_so(tmp_path: Path) -> None:
    for name in ("a/0.txt", "b/1.txt", "c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("gold, up\n")
    assert len(rows_of(tmp_path, format="text", label_value="Bullish")) == 2
    (tmp_path / "c.csv").unlink()
    with pytest.raises(InputError, match="--format text"):
        resolve(Source(uri=str(tmp_path)))


@pytest.mark.parametrize(
    "lines",
    [
        ["text,label", *TWEETS],
        ["$A up,Bullish", '"$B, down",Bearish', "$C,Neutral"],
        ["1;2,5;a, b", "2;3,5;c", "3;4,0;d"],
        ["2021-01-01 12:00,gold up today", "2021-01-02 12:00,oil down today"],
    ],
)
def test_tables_are_tables(lines: list[str]) -> None:
    assert is_table(lines)
    assert not is_tweets(lines)


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        (["__label__bullish gold, up", "__label__bearish oil down"], "label,text"),
        (["gold of @desk, up@positive", "oil down@negative"], "text,label"),
        (["Bullish,gold, up", "Bearish,oil down"], "label,text"),
    ],
    ids=["fastText", "FinancialPhraseBank", "unquoted"],
)
def test_the_command_for_labelled_lines_makes_a_table_of_them(tmp_path: Path, lines: list[str], columns: str) -> None:
    path = tmp_path / "my tweets.txt"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="Make a table") as refused:
        resolve(Source(uri=str(path)))
    command = str(refused.value).partition("Make a table of them: ")[2].partition("; then read")[0]
    subprocess.run(command, shell=True, check=True)  # noqa: S602 - the command as a user would run it
    rows = rows_of(tmp_path / "my tweets.txt.tsv", header=False, columns=columns.split(","))
    assert [row.text for row in rows] == ["gold of @desk, up" if "@" in lines[0] else "gold, up", "oil down"]
    assert {str(row.label).casefold() for row in rows} <= {"bullish", "bearish", "positive", "negative"}


def test_a_delimiter_that_is_nowhere_else_needs_no_conversion() -> None:
    assert "--delimiter '@' --no-header --columns text,label" in how_to_read_lines("a.txt", ["gold, up@neutral", "oil@positive"])
