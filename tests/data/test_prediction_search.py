"""Which predictions are found by time, label, cashtag, answer and model, and what texts they come with."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.data import prediction_search, tables
from finsent.data.current_predictions import find_current, read_current
from finsent.data.prediction_search import PredictionFilter, find_newest, find_predictions, newest_first, parse_ticker, read_found
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError
from finsent.text import text_hash
from finsent.workspace import Workspace

PAGE = (Path(__file__).parents[2] / "docs" / "predictions.md").read_text(encoding="utf-8")
START = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = {
    "a": "$AAPL up",
    "b": "$AAPLX is another, and so is $aapl.x",
    "c": "long $aapl.",
    "d": "AAPL without the sign, https://x.co/$AAPL",
    "e": "＄ＡＡＰＬ wide, and S&amp;P",
    "f": "removed from the inbox",
}


def put_predictions(home: Workspace, ids: str, at: datetime, version: str, label: str = "Bullish", *, sure: bool = True) -> None:
    digest = {"1": "one" * 20, "2": "two" * 20}.get(version)
    shared = {"model_version": version, "model_digest": digest, "scored_at": at, "label": label, "abstained": not sure}
    rows = [{"id": name, "text_hash": text_hash(TEXTS[name]), **shared} for name in ids]
    tables.append(home, "predictions", pa.Table.from_pylist(rows, schema=SCHEMAS["predictions"]))


@pytest.fixture
def filled(home: Workspace) -> Workspace:
    stored = [{"id": name, "text": text, "received_at": START} for name, text in TEXTS.items() if name != "f"]
    foreign = {"id": "c", "text": "another writer's", "received_at": START}
    tables.append(home, "inbox", pa.Table.from_pylist([foreign, *stored], schema=SCHEMAS["inbox"]))
    put_predictions(home, "abcf", START, "1")
    put_predictions(home, "def", START + timedelta(days=1), "1", "Neutral", sure=False)
    put_predictions(home, "ab", START + timedelta(days=2), "2", "Bearish")
    return home


def found(home: Workspace, **wanted) -> str:
    rows = find_predictions(home, PredictionFilter(**wanted))
    return " ".join(f"{row['id']}{row['model_version']}" for row in newest_first(read_found(home, rows)))


def test_one_row_for_each_tweet_newest_first_or_all(filled: Workspace) -> None:
    assert found(filled) == "a2 b2 d1 e1 f1 c1"
    assert found(filled, all_versions=True) == "a2 b2 d1 e1 f1 a1 b1 c1 f1"
    assert found(filled, model="1") == "d1 e1 f1 a1 b1 c1"
    assert found(filled, model="TWOTWOTWO") == "a2 b2"
    with pytest.raises(InputError, match=r"no prediction is by the model '3' \(--model\). Versions that have some: '1', '2'"):
        found(filled, model="3")


def test_filters_are_of_the_current_row(filled: Workspace) -> None:
    assert found(filled, labels=("Bullish",)) == "c1"
    assert found(filled, labels=("Bullish", "Bearish")) == "a2 b2 c1"
    assert found(filled, labels=("Bullish",), all_versions=True) == "a1 b1 c1 f1"
    assert found(filled, abstained=True) == "d1 e1 f1"
    assert found(filled, abstained=False, since=START + timedelta(days=1)) == "a2 b2"
    assert found(filled, since=START + timedelta(days=9)) == ""


def test_a_ticker_is_a_whole_cashtag(filled: Workspace) -> None:
    assert parse_ticker("aapl") == parse_ticker(" $AAPL ") == "$aapl"
    assert found(filled, ticker="$aapl") == "a2 e1 c1"
    assert found(filled, ticker="$aapl.x") == "b2"
    for wrong in ("", "$", "A B", "7", "AAPL.", "\x1b[2J"):
        with pytest.raises(InputError, match="is no cashtag") as caught:
            parse_ticker(wrong)
        assert "\x1b" not in str(caught.value)


def test_texts_are_those_that_were_scored_and_null_where_the_inbox_has_none(filled: Workspace, monkeypatch) -> None:
    monkeypatch.setattr(prediction_search, "WINDOW", 2)  # several windows
    parts = list(read_found(filled, find_predictions(filled, PredictionFilter())))
    assert {row["id"]: row["text"] for part in parts for row in part.to_pylist()} == TEXTS | {"f": None}
    assert len(parts) > 1
    assert all(part.schema == prediction_search.output_schema() for part in parts)


def test_the_newest_few(filled: Workspace) -> None:
    every = find_predictions(filled, PredictionFilter())
    some = every.newest(3)
    assert len(every.places) == 6
    assert [row["id"] for row in newest_first(read_found(filled, some))] == ["a", "b", "d"]
    assert list(read_found(filled, every.newest(0))) == []


def test_a_longer_listing_begins_as_the_shorter_one_does(filled: Workspace) -> None:
    put_predictions(filled, "fca", START + timedelta(days=3), "2")

    def listed(limit: int) -> list[str]:
        rows, _ = find_newest(filled, PredictionFilter(), limit)
        return [row["id"] for row in newest_first(read_found(filled, rows))]

    for limit in range(6):
        assert listed(limit) == listed(6)[:limit]


def test_a_listing_reads_the_newest_files_and_all_where_they_do_not_suffice(filled: Workspace, monkeypatch) -> None:
    monkeypatch.setattr(prediction_search, "_NEWEST", 2)
    assert prediction_search._start_of_newest(filled) == START + timedelta(days=2)
    for wanted in (
        PredictionFilter(),
        PredictionFilter(all_versions=True),
        PredictionFilter(labels=("Bullish",)),
        PredictionFilter(model="1"),
    ):
        every = [row["id"] for row in newest_first(read_found(filled, find_predictions(filled, wanted)))]
        for limit in (0, 1, 3, len(every), 20):
            rows, more = find_newest(filled, wanted, limit)
            assert [row["id"] for row in newest_first(read_found(filled, rows))] == every[:limit]
            assert more == (limit < len(every))
    monkeypatch.setattr(prediction_search, "_NEWEST", 100)
    assert prediction_search._start_of_newest(filled) is None


def test_nothing_scored_and_an_empty_table_are_told_apart(home: Workspace) -> None:
    assert find_predictions(home, PredictionFilter(ticker="$aapl")).version is None
    tables.append(home, "predictions", SCHEMAS["predictions"].empty_table())
    assert find_newest(home, PredictionFilter(), 5)[1] is False
    nothing = find_predictions(home, PredictionFilter())
    assert (nothing.version, len(nothing.places), list(read_found(home, nothing))) == (1, 0, [])


ROW = st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.sampled_from([None, "x", "y"]))


@settings(max_examples=50)
@given(st.lists(ROW, max_size=12), st.integers(1, 5))
def test_current_is_the_newest_whatever_the_batches(rows: list[tuple[str, int, str | None]], size: int) -> None:
    names = ("id", "scored_at", "model_digest")
    schema = pa.schema([SCHEMAS["predictions"].field(name) for name in names])
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=schema)
    last: dict[str, tuple[tuple[int, str, int], int]] = {}
    for place, (name, at, digest) in enumerate(rows):
        last[name] = max(last.get(name, ((-1, "", -1), -1)), ((at, digest or "", place), place))
    expected = np.zeros(len(rows), np.bool_)
    expected[[place for _, place in last.values()]] = True
    assert find_current(table.to_batches(max_chunksize=size)).tolist() == expected.tolist()


def test_the_pandas_snippet_reads_the_current_answers(filled: Workspace) -> None:
    snippet = re.search(r"```python\n# pandas\n(.*?)```", PAGE, re.DOTALL)
    assert snippet is not None
    scope: dict[str, Any] = {"tables": filled.tables_url, "since": datetime(2020, 1, 1, tzinfo=UTC)}
    exec(snippet[1], scope)  # noqa: S102 - of our own page
    answered = scope["answered"].sort_values("id")
    current = [row for row in read_current(filled, ["id", "label", "abstained"]).to_pylist() if not row["abstained"]]
    assert answered["id"].tolist() == sorted(row["id"] for row in current) == ["a", "b", "c"]
    assert answered["label"].tolist() == ["Bearish", "Bearish", "Bullish"]
    assert answered["text"].tolist()[:2] == [TEXTS["a"], TEXTS["b"]]
    assert scope["current"]["scored_at"].min() == START


def test_every_column_is_explained() -> None:
    explained = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")))
    assert set(explained) == set(SCHEMAS["predictions"].names)
