"""`finsent predictions`: what a person reads, what a script reads, what is in the file, and one message for what is wrong."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from finsent.cli.predictions import parse_since
from finsent.data import tables
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError
from finsent.text import text_hash

if TYPE_CHECKING:
    from finsent.workspace import Workspace
    from tests.cli.conftest import Finsent

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("12H", NOW - timedelta(hours=12)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        (" 2026-11-01T10:30+02:00", datetime(2026, 11, 1, 8, 30, tzinfo=UTC)),
    ],
)
def test_since_is_a_date_a_time_or_so_long_ago(given: str, expected: datetime) -> None:
    assert parse_since(given, NOW) == expected


@pytest.mark.parametrize("given", ["", "yesterday", "2026-13-01", "999999d", "0001-01-01T00:00+14:00", "7", "-7d", "\x1b[2J"])
def test_since_that_is_no_time_is_told_with_what_is(given: str) -> None:
    with pytest.raises(InputError, match=r"is no time\. Give a date such as 2026-11-30") as caught:
        parse_since(given, NOW)
    assert "\x1b" not in str(caught.value)


def test_predictions_are_listed_filtered_and_written(finsent: "Finsent", home: "Workspace", tmp_path: Path) -> None:
    options = ("--home", home.root)
    empty = finsent("predictions", *options)
    assert (empty.code, empty.out.startswith("There are no predictions yet. Next: finsent score")) == (0, True)
    assert not home.root.exists()

    texts = {f"t{number}": f"$AAPL \x1b[2Jup\nagain {number}" for number in range(25)}
    at = NOW - timedelta(days=400)
    inbox = [{"id": name, "text": text, "received_at": at} for name, text in texts.items() if name != "t24"]
    tables.append(home, "inbox", pa.Table.from_pylist(inbox, schema=SCHEMAS["inbox"]))
    shared = {"label": "Bullish", "confidence": 0.9, "abstained": False, "model_version": "3", "model_digest": "ab" * 32}
    rows = [
        {"id": name, "text_hash": text_hash(text), "scored_at": at + timedelta(minutes=place), **shared}
        for place, (name, text) in enumerate(texts.items())
    ]
    rows[23] |= {"abstained": True, "label": "Neutral"}
    tables.append(home, "predictions", pa.Table.from_pylist(rows, schema=SCHEMAS["predictions"]))

    said = finsent("predictions", *options)
    lines = said.out.splitlines()
    assert (said.code, lines[0]) == (0, "The newest 20 predictions; there are more")
    assert ("t24" in lines[3], "(no longer in the inbox)" in lines[3]) == (True, True)
    assert ("abstained" in lines[4], r"$AAPL \x1b[2Jup again 23" in lines[4]) == (True, True)
    assert "\x1b" not in said.out
    assert len(lines) == 3 + 20 + 2
    assert finsent("predictions", "--since", "1d", *options).out == "No prediction matches.\n"

    found = finsent(
        "predictions", "--ticker", "aapl", "--answered", "--label", "bullish", "--limit", 2, *options, "--json"
    ).json()
    assert (found["more"], [row["id"] for row in found["predictions"]]) == (True, ["t22", "t21"])
    assert found["predictions"][0]["text"] == texts["t22"]

    out = tmp_path / "all.jsonl"
    assert finsent("predictions", "--out", out, *options).out == f"25 predictions written to {out}\n"
    written = {row["id"]: row for row in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    assert {name: row["text"] for name, row in written.items()} == texts | {"t24": None}
    assert finsent("predictions", "--out", tmp_path / "o.csv", "--limit", 3, *options, "--json").json() == {
        "rows": 3,
        "more": True,
        "out": str(tmp_path / "o.csv"),
    }
    wrong = {
        ("--out", out): "is there already",
        ("--label", "up"): "'up' is not one of",
        ("--ticker", "A B"): "is no cashtag",
        ("--model", "9"): "Versions that have some: '3'",
        ("--since", "soon"): "is no time",
    }
    for given, message in wrong.items():
        said = finsent("predictions", *given, *options)
        assert (said.code, message in said.err, said.out) == (2, True, "")
