"""Fields of struct columns in Parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import Source
from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import RawRow, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError

TWEETS = [{"text": "gold up", "meta": {"label": ["Bullish"]}}, {"text": "oil down", "meta": None}, None]


def rows_of(path: Path, **settings: str) -> list[RawRow]:
    source = Source.model_validate({"uri": str(path), **settings})
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    columns = {"tweet": TWEETS, "tags": [[{"name": "a"}], [], None], "a.b": ["x", "y", "z"], "created_at": ["2021-01-14"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def test_paths_reach_into_structs(path: Path) -> None:
    rows = rows_of(path, text="tweet.text", label="tweet.meta.label")
    assert [(row.text, row.label) for row in rows] == [("gold up", ["Bullish"]), ("oil down", None), (None, None)]
    assert [row.created_at for row in rows] == ["2021-01-14"] * 3
    assert [row.text for row in rows_of(path, text="a.b", label="tweet.text")] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tweet", r"column 'tweet' holds objects. Name a field of them for --text: 'tweet.text', 'tweet.meta'\."),
        ("tags", r"column 'tags' holds lists.*df\.explode\('tags'\)"),
        ("tags.name", r"column 'tags' holds lists.*df\.explode\('tags'\)"),
        ("tweet.body", r"no column 'tweet\.body' for the tweet\. Columns: .*tweet\.text"),
    ],
)
def test_objects_and_lists_are_refused(path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(path, text=text, label="a.b")
