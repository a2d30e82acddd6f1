"""What ingestion does to texts: repaired, masked, of a language."""

import json
from pathlib import Path

import pytest

from finsent.config import Source, load_config
from finsent.data import tables
from finsent.errors import ConfigError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.text import text_id
from finsent.workspace import Workspace
from tests.steps.ingestion import give, stored


def test_mojibake_is_repaired_without_loss_or_flagged(home: Workspace, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": "itâ€™s a buy", "label": "Bullish"},
        {"text": "lost \ufffd bytes", "label": "Neutral"},
        {"text": "café €5 🚀", "label": "Neutral"},
    ]
    report = give(home, tmp_path / "a.jsonl", rows)
    assert report.flags == {"mojibake repaired": 1, "replacement character": 1}
    assert {text: row["flags"] for text, row in stored(home).items()} == {
        "it’s a buy": "mojibake repaired",
        "lost \ufffd bytes": "replacement character",
        "café €5 🚀": None,
    }


def test_mojibake_stays_where_asked(home: Workspace, tmp_path: Path) -> None:
    config = load_config(overrides=["data.repair_mojibake=false"])
    give(home, tmp_path / "a.jsonl", [{"text": "itâ€™s a buy", "label": "Bullish"}], config)
    assert stored(home)["itâ€™s a buy"]["flags"] == "mojibake"


def test_handles_are_masked_wherever_text_is_kept(home: Workspace, tmp_path: Path) -> None:
    config = load_config(overrides=["data.mask_handles=true"])
    rows: list[dict[str, object]] = [
        {"text": "RT @Some_One: $AAPL is a buy", "label": "Bullish"},
        {"text": "@somebody says $AAPL is a buy!", "label": "Bearish"},
        {"text": "@other says $AAPL is a buy!", "label": "Bullish"},
        {"text": "thanks @nobody", "label": "so so"},
    ]
    report = give(home, tmp_path / "a.jsonl", rows, config)
    assert report.quarantined == 3
    assert set(stored(home)) == {"RT @user: $AAPL is a buy"}
    kept = json.dumps([tables.read(home, name, columns=["text"]).to_pylist() for name in ("tweets", "quarantine")])
    kept += json.dumps(tables.read(home, "quarantine", columns=["detail"]).to_pylist())
    for handle in ("Some_One", "somebody", "other", "nobody"):
        assert handle not in kept
    assert next(iter(stored(home).values()))["id"] == text_id("RT @Some_One: $AAPL is a buy")


def test_handles_are_masked_in_what_is_shown_of_rows_from_before_and_of_rows_that_cannot_be_read(
    home: Workspace, tmp_path: Path
) -> None:
    give(home, tmp_path / "a.jsonl", [{"text": "@elonmusk says $AAPL is a buy", "label": "Bullish"}])
    config = load_config(overrides=["data.mask_handles=true"])
    give(home, tmp_path / "b.jsonl", [{"text": "@elonmusk says $AAPL is a buy!", "label": "Bearish"}], config)
    good = b'{"text":"the fed meets","label":"Neutral"}\n'
    torn = '{"text": "hey @Jürgenelonmusk and @elonmusk\n'.encode()
    latin = b'{"text": "caf\xe9@elonmusk @m\xfcelonmusk","label":"Bullish"}\n'
    (tmp_path / "c.jsonl").write_bytes(good + torn + latin)
    ingest(make_context(config, home), [Source(uri=str(tmp_path / "c.jsonl"))])
    (tmp_path / "d.csv").write_bytes(b"text,label\nRT\xe9@elonmusk hi,Bullish\n@elonmusk,extra,fields,here\ngold,Neutral\n")
    ingest(make_context(config, home), [Source(uri=str(tmp_path / "d.csv"))])
    kept = tables.read(home, "quarantine").to_pylist()
    assert len(kept) == 5
    assert "elonmusk" not in json.dumps([(row["text"], row["detail"]) for row in kept])
    assert any("@user says $AAPL is a buy'" in row["detail"] for row in kept)
    assert any(text.startswith("@elonmusk") for text in stored(home))  # rows from before stay as they are


def test_other_languages_are_quarantined_where_asked(home: Workspace, tmp_path: Path) -> None:
    config = load_config(overrides=["data.languages=[en]"])
    rows: list[dict[str, object]] = [
        {"text": "$AAPL 株価は上昇しています、買いです", "label": "Bullish"},
        {"text": "$AAPL looks ready to break out this week", "label": "Bullish"},
        {"text": "puts", "label": "Bearish"},
    ]
    assert give(home, tmp_path / "a.jsonl", rows, config).reasons == {"other language": 1}
    assert len(stored(home)) == 2


def test_a_home_that_masks_goes_on_masking(home: Workspace, tmp_path: Path) -> None:
    masked = load_config(overrides=["data.mask_handles=true"])
    give(home, tmp_path / "a.jsonl", [{"text": "@someone likes $AAPL", "label": "Bullish"}], masked)
    with pytest.raises(ConfigError, match=r"stores handles masked, and data\.mask_handles is false"):
        give(home, tmp_path / "b.jsonl", [{"text": "@other sells $AAPL", "label": "Bearish"}])
    assert len(stored(home)) == 1
