"""Tweets that an API cut short are read whole where the whole stands beside them."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import DataConfig, InboxSource, Source
from finsent.data.inbox import receive
from finsent.data.sources.formats import read_rows
from finsent.data.sources.reading import read_validated
from finsent.data.sources.records import labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.data.sources.whole_text import columns_beside, whole_text
from finsent.errors import InputError
from finsent.text import text_id
from finsent.workspace import Workspace
from tests.data.inbox_feeding import inbox

WHOLE = (
    "$TSLA deliveries beat every estimate of the Street &amp; margins hold, so I keep my shares for another year or two, whatever"
)
CUT = f"{WHOLE[:100]}… https://t.co/aB1"
RETWEET = f"RT @desk: {WHOLE[:90]}…"
LINKED = "up and up and up again https://t.co/aB1 and up"
NEXT_VERSION = {"data": {"text": RETWEET}, "includes": {"tweets": [{"text": WHOLE}]}, "label": "Bullish"}
LONGER = f"{WHOLE[:-2]}… https://t.co/x"
COMPAT = {"text": CUT, "truncated": True, "extended_tweet": {"full_text": WHOLE}}
TWEETS: dict[str, tuple[dict[str, Any], str]] = {
    "streaming": (COMPAT, WHOLE),
    "extended": ({"text": CUT, "full_text": WHOLE}, WHOLE),
    "note": ({"text": f"{WHOLE[:80]}…", "note_tweet": {"text": WHOLE}}, WHOLE),
    "retweet": ({"text": RETWEET, "truncated": False, "retweeted_status": {"text": WHOLE}}, f"RT @desk: {WHOLE}"),
    "retweet, streaming": ({"text": RETWEET, "retweeted_status": {**COMPAT, "text": LONGER}}, f"RT @desk: {WHOLE}"),
    "retweet, extended": ({"text": RETWEET, "retweeted_status": {"full_text": WHOLE}}, f"RT @desk: {WHOLE}"),
    "retweet, version 2": ({"text": RETWEET, "referenced_tweets": [{"type": "retweeted", "text": WHOLE}]}, f"RT @desk: {WHOLE}"),
    "cut in an entity": ({"text": f"{WHOLE[: WHOLE.index('&') + 3]}…", "full_text": WHOLE}, WHOLE),
    "inside a link": ({"text": f"{LINKED[:35]}…", "full_text": LINKED}, LINKED),
    "without its ellipsis": ({"text": WHOLE[:100], "truncated": "True", "full_text": WHOLE}, WHOLE),
    "without entities": ({"text": CUT.replace("&amp;", "&"), "full_text": WHOLE}, WHOLE),
}  # fmt: skip


@pytest.mark.parametrize("name", TWEETS)
def test_the_whole_is_taken(name: str) -> None:
    tweet, whole = TWEETS[name]
    assert whole_text(tweet["text"], [tweet]) == whole


@pytest.mark.parametrize(
    "tweet",
    [
        {"text": CUT, "full_text": f"Not that one: {WHOLE}"},
        {"text": CUT, "full_text": CUT},
        {"text": f"{CUT[:60]}…", "full_text": f"{CUT[:60]}… https://t.co/b"},
        {"text": CUT, "full_text": WHOLE[:50]},
        {"text": WHOLE[:100], "full_text": WHOLE},  # a headline and its article begin alike, too
        {"text": "…", "full_text": WHOLE},
        {"text": "$TSLA…", "full_text": WHOLE},
        {"text": RETWEET, "retweeted_status": {"full_text": f"x {WHOLE}"}},
        {"text": CUT, "full_text": None, "extended_tweet": "x", "retweeted_status": [], "truncated": True},
        {"text": CUT},
    ],
)
def test_another_text_is_not_taken(tweet: dict[str, Any]) -> None:
    assert whole_text(tweet["text"], [tweet]) is None


def test_columns_are_found_as_programs_flatten_them() -> None:
    names = [
        "text",
        "truncated",
        "extended_tweet.full_text",
        "retweeted_status_extended_tweet_full_text",
        "Full Text",
        "user.text",
    ]
    assert list(columns_beside("text", names).values()) == names[1:5]
    assert columns_beside("tweet.text", ["tweet.text", "tweet.full_text", "full_text"]) == {"full_text": "tweet.full_text"}


def write(folder: Path, form: str) -> tuple[Source, list[str]]:
    """Every tweet in one of the forms of files, and the whole texts."""
    rows: list[dict[str, Any]] = [{"label": "Bullish", **tweet} for tweet, _ in TWEETS.values()]
    path = folder / f"a.{form}"
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif form == "json":
        path.write_text(json.dumps([{"tweet": row, "label": "Bullish"} for row in rows]))
        return Source(uri=str(path), text="tweet.text"), [whole for _, whole in TWEETS.values()]
    else:
        import pandas as pd

        flat = pd.json_normalize(rows, sep="." if form == "parquet" else "_").drop(columns="referenced_tweets").astype("string")
        _ = pq.write_table(pa.Table.from_pandas(flat), path) if form == "parquet" else flat.to_csv(path, index=False)
        return Source(uri=str(path)), [
            row["text"] if "2" in name else TWEETS[name][1] for name, row in zip(TWEETS, rows, strict=True)
        ]
    return Source(uri=str(path)), [whole for _, whole in TWEETS.values()]


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet"])
def test_files_give_the_whole_texts_flagged(tmp_path: Path, form: str) -> None:
    source, texts = write(tmp_path, form)
    (file,) = resolve(source)
    batches = read_validated(file, DataConfig(), datetime.now(UTC), Counter(), labelled_columns(source))
    rows = [row for _, good, _ in batches for row in good]
    assert [row.text for row in rows] == [text.replace("&amp;", "&") for text in texts]
    flags = Counter(flag for row in rows for flag in str(row.flags).split(", "))
    assert flags["whole text taken"] == len(texts) - (form in ("csv", "parquet"))


def test_what_is_too_long_does_not_cost_the_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": CUT, "label": "Bullish", "full_text": WHOLE + "x" * 5000}))
    source = Source(uri=str(tmp_path / "a.jsonl"))
    batches = read_validated(resolve(source)[0], DataConfig(), datetime.now(UTC), Counter(), labelled_columns(source))
    assert [(row.text, row.flags) for _, good, _ in batches for row in good] == [
        (CUT.replace("&amp;", "&"), "HTML entities undone")
    ]


def test_the_inbox_knows_a_text_that_it_has_cut(home: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"id": "a", "text": CUT}) + "\n" + json.dumps({"text": RETWEET}))
    assert receive([InboxSource(uri=str(path))], home).received == 2
    path.write_text(
        json.dumps({"id": "a", **COMPAT}) + "\n" + json.dumps(TWEETS["retweet"][0]) + "\n" + json.dumps({"id": "b", **COMPAT})
    )
    report = receive([InboxSource(uri=str(path))], home)
    assert (report.known, report.received, report.flags["whole text taken"]) == (2, 1, 3)
    assert inbox(home).keys() == {"a", "b", text_id(RETWEET)}
    path.write_text(
        "".join(json.dumps({"id": name, "text": CUT}) + "\n" for name in "ab") + json.dumps({"id": "b", "text": "Not that one…"})
    )
    report = receive([InboxSource(uri=str(path), id="id")], home)
    assert (report.known, report.reasons) == (2, {"id reused": 1}), "cut in one file, and whole in another"


def test_a_file_of_whole_texts_says_which_column_to_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"full_text": WHOLE, "label": "Bullish"}))
    (tmp_path / "b.json").write_text(json.dumps([{"tweet": {"full_text": WHOLE}, "label": "Bullish"}]))
    for name, option in (("a.jsonl", "--text full_text"), ("b.json", "--text tweet.full_text")):
        source = Source(uri=str(tmp_path / name))
        with pytest.raises(InputError, match=option):
            list(read_rows(resolve(source)[0], labelled_columns(source)))


def test_of_a_line_of_the_stream_of_version_2_the_whole_is_beside_its_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(NEXT_VERSION))
    source = Source(uri=str(tmp_path / "a.jsonl"), text="data.text")
    (row,) = (row for batch in read_rows(resolve(source)[0], labelled_columns(source)) for row in batch)
    assert (row.text, row.whole) == (RETWEET, f"RT @desk: {WHOLE}")


def test_objects_of_both_kinds_in_one_file(tmp_path: Path) -> None:
    rows = [{"text": "up", "label": "Bullish"}, {"full_text": WHOLE, "label": "Bullish"}, {"full_text": 7, "label": "Bullish"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Source(uri=str(tmp_path / "a.jsonl"))
    found = [(row.text, row.whole) for batch in read_rows(resolve(source)[0], labelled_columns(source)) for row in batch]
    assert found == [("up", None), (WHOLE, WHOLE), (7, None)]
