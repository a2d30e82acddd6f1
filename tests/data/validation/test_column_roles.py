"""Columns are proposed by what they hold and how they are called; what is open stays open."""

from datetime import UTC, datetime

import pytest

from finsent.data.validation.column_roles import (
    class_columns,
    id_column,
    label_candidates,
    label_columns,
    looks_like_row,
    text_columns,
    time_columns,
    value_type,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = [f"$ACME breaks out on volume for the {number}th time" for number in range(12)]
WORDS = ["positive", "negative", "neutral"] * 4
DATES = [f"2021-02-{day:02} 10:00:00" for day in range(1, 13)]
IDS = [str(1650000000000000001 + 977 * number) for number in range(12)]


@pytest.mark.parametrize(
    ("columns", "texts", "labels"),
    [
        ({"Tweet Text": TEXTS, "Airline Sentiment": WORDS, "lang": ["en", "de"] * 6}, ["Tweet Text"], ["Airline Sentiment"]),
        ({"text": TEXTS, "clean_text": TEXTS, "label": WORDS, "sentiment": WORDS[::-1]}, ["text"], ["label"]),
        ({"title": TEXTS, "headline": TEXTS[::-1], "class": WORDS, "target": WORDS}, ["headline", "title"], ["class", "target"]),
        ({"content": TEXTS, "body": TEXTS}, ["body"], []),  # the same twice
        ({"kolumne1": TEXTS, "kolumne2": ["a", "b"] * 6, "n": range(12)}, ["kolumne1"], ["kolumne2"]),
        (
            {"text": TEXTS, "target": [f"ACME{n}" for n in range(12)], "sentiment": [n / 7 for n in range(12)]},
            ["text"],
            ["sentiment"],
        ),
        (
            {"user.description": TEXTS, "data.body": TEXTS, "entities.sentiment.basic": WORDS},
            ["data.body"],
            ["entities.sentiment.basic"],
        ),
        ({"sentiment": WORDS, "sentiment_score": [n / 7 for n in range(12)], "text": TEXTS}, ["text"], ["sentiment"]),
        ({"text": TEXTS, "user_id": ["7", "8"] * 6, "retweet_count": [0, 1] * 6}, ["text"], []),
        ({"when": DATES, "n": range(12)}, [], []),
        ({"text": TEXTS, "date": ["2021-02-01", "2021-02-02"] * 6}, ["text"], []),
        ({"text": TEXTS, "label": ["2021-02-01", "2021-02-02"] * 6}, ["text"], []),
        ({"text": TEXTS, "label": [[word] for word in WORDS], "lang": ["en", "de"] * 6}, ["text"], ["label"]),
        ({"text": TEXTS, "label": [f"x{n}" for n in range(12)], "lang": ["en", "de"] * 6}, ["text"], ["label"]),
        ({"Text": TEXTS, "Stimmung": [f"{n - 6},5" for n in range(12)]}, ["Text"], ["Stimmung"]),
    ],
)
def test_tweets_and_labels(columns: dict[str, list[object]], texts: list[str], labels: list[str]) -> None:
    columns = {name: list(values) for name, values in columns.items()}
    assert text_columns(columns, NOW) == texts
    assert label_columns(columns, texts, NOW) == labels


def test_columns_to_look_at_for_labels() -> None:
    columns = {
        "text": TEXTS,
        "when": DATES,
        "who": ["ann", "bob", "eve", "joe"] * 3,
        "grade": [0, 2, 4] * 4,
        "trust": [n / 7 - 0.9 for n in range(12)],
        "n": list(range(12)),
    }
    assert label_candidates(columns, ["text", None], NOW) == ["grade", "who", "trust"]


def test_times_and_ids() -> None:
    columns = {"user.created_at": DATES, "Post Date": DATES, "n": list(range(12)), "time": ["10:00"] * 12, "status_id": IDS}
    assert time_columns(columns, NOW)[:1] == ["Post Date"]
    assert time_columns({"noted": DATES, "count": [1610668254] * 12}, NOW)[:1] == ["noted"]
    assert time_columns({"count": [1610668254] * 12, "ts": [1610668254] * 12}, NOW)[:1] == ["ts"]
    labelled = {"created_at": DATES[:1] * 12, "data.text": TEXTS, "data.posted": DATES, "updated_at": DATES[1:2] * 12}
    assert time_columns(labelled, NOW, "data.text") == ["data.posted", "created_at", "updated_at"]
    assert time_columns({"created_at": DATES, "data.created_at": DATES}, NOW, "data.text")[0] == "data.created_at"
    assert "'data.tweet_id'" in id_column({"data.tweet_id": IDS})[1]
    assert id_column(columns)[0] == "status_id"
    assert id_column({"data.id_str": IDS, "user.id_str": IDS})[0] == "data.id_str"
    assert id_column({"link": [f"https://x.com/a/status/{name}" for name in IDS]})[0] == "link"
    assert id_column({"key": IDS})[0] == "key"
    assert id_column({"id": list(range(12))})[0] is None


@pytest.mark.parametrize(
    ("names", "rows", "is_row"),
    [
        (["neutral", TEXTS[0]], [WORDS, TEXTS], True),
        (
            ["4", "Mon Apr 06 22:19:45 PDT 2009", "$ACME is up a lot today, see https://x.com/1"],
            [["0", "4"], DATES[:2], TEXTS[:2]],
            True,
        ),
        (["7", TEXTS[0]], [["8", "9"], TEXTS[:2]], True),
        (["text", "label"], [TEXTS, WORDS], False),
        (["text", "label"], [[*TEXTS, "text"], [*WORDS, "label"]], False),  # the header again
        (["0", "1"], [["3", "5"], ["7", "9"]], False),  # as pandas numbers columns
        (["How does the writer of the tweet feel", "text"], [WORDS, TEXTS], False),
        (["text", "positive", "negative"], [TEXTS[:2], ["0", "1"], ["1", "0"]], False),
    ],
)
def test_a_first_row_that_names_no_columns(names: list[str], rows: list[list[object]], is_row: bool) -> None:
    assert looks_like_row(names, rows) is is_row


def test_types_and_classes_in_columns_of_their_own() -> None:
    values = {
        "integer": ["1", "2"],
        "number": [1, 2.5],
        "yes or no": ["True", False],
        "text": ["a", "1"],
        "list": [[1]],
        "empty": [""],
    }
    assert {name: value_type(items) for name, items in values.items()} == {name: name for name in values}
    assert class_columns({"text": TEXTS, "positive": [0.1] * 12, "Negative": ["0.9"] * 12}) == ["positive", "Negative"]
    assert class_columns({"Bullish?": ["Yes", "No"] * 6, "Bearish?": ["", "x"] * 6}) == ["Bullish?", "Bearish?"]
    assert class_columns({"up": ["yes", "maybe"] * 6, "down": ["yes", "no"] * 6}) == []
