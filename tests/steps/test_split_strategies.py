"""Splits by time and by source: what is held out stays held out, near copies included, whatever comes in whatever order."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finsent.config import Config, Source, load_config
from finsent.data import tables
from finsent.data.dataset import read_origin
from finsent.data.ingest_report import IngestReport
from finsent.data.leakage import audit_data
from finsent.errors import ConfigError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.workspace import Workspace, resolve_workspace

START = datetime(2025, 1, 1, tzinfo=UTC)
BY_TIME = load_config(
    overrides=[
        "data.split=time",
        "data.validation_from='2025-03-01T00:00:00Z'",
        "data.test_from='2025-04-01T00:00:00Z'",
        "data.embargo_hours=48",
    ]
)
BY_SOURCE = load_config(overrides=["data.split=source", "data.validation_sources=[news]", "data.test_sources=[street]"])
WORDS = "loading up on september calls this morning because the chart looks ready and volume is finally back"


def give(
    home: Workspace, config: Config, path: Path, *rows: tuple[str, datetime | None], name: str | None = None
) -> IngestReport:
    path.write_text(
        "".join(
            json.dumps({"text": text, "label": "Bullish", "created_at": moment.isoformat() if moment else None}) + "\n"
            for text, moment in rows
        )
    )
    return ingest(make_context(config, home), [Source(uri=str(path), name=name)])


def splits(home: Workspace) -> dict[str, str]:
    return {row["text"]: row["split"] for row in tables.read(home, "tweets").to_pylist()}


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def test_time_decides_and_the_embargo_is_kept(home: Workspace, tmp_path: Path) -> None:
    moments = {"early": 10.0, "eve of validation": 57.5, "validation": 59.0, "eve of test": 89.0, "test": 90.0, "late": 300.0}
    report = give(home, BY_TIME, tmp_path / "a.jsonl", *((name, day(at)) for name, at in moments.items()), ("when", None))
    assert splits(home) == {
        "early": "train",
        "eve of validation": "excluded",
        "validation": "validation",
        "eve of test": "excluded",
        "test": "test",
        "late": "test",
    }
    assert report.reasons == {"no date": 1}
    assert sum(report.splits["excluded"].values()) == 2
    assert report.leaks == 0
    origin = read_origin(home, report.version or 0)  # what a model card will say
    assert origin["sources"] == ("a.jsonl",)
    assert origin["split_rule"].startswith("by time, validation from 20")


def test_a_later_twin_of_a_training_row_is_used_for_nothing(home: Workspace, tmp_path: Path) -> None:
    give(home, BY_TIME, tmp_path / "a.jsonl", (WORDS + " today", day(200)), (WORDS, day(1)), ("something else", day(200)))
    assert splits(home) == {WORDS: "train", WORDS + " today": "excluded", "something else": "test"}
    give(home, BY_TIME, tmp_path / "b.jsonl", (WORDS + " now", day(200)), (WORDS + " yes", day(2)), ("something else!", day(3)))
    after = splits(home)
    assert (after[WORDS + " now"], after[WORDS + " yes"], after["something else!"]) == ("excluded", "train", "excluded")
    assert audit_data(BY_TIME, home).leaks == 0


def test_held_out_sources_stay_held_out(home: Workspace, tmp_path: Path) -> None:
    give(home, BY_SOURCE, tmp_path / "desk.jsonl", (WORDS, None), ("rates stay where they are", None))
    give(home, BY_SOURCE, tmp_path / "street.jsonl", (WORDS + " yes", None), ("gold is up", None))
    give(home, BY_SOURCE, tmp_path / "news.jsonl", ("gold is up!", None), ("the board meets on thursday", None))
    assert splits(home) == {
        WORDS: "train",
        "rates stay where they are": "train",
        WORDS + " yes": "excluded",
        "gold is up": "test",
        "gold is up!": "excluded",
        "the board meets on thursday": "validation",
    }


def test_in_one_ingestion_the_held_out_source_wins(home: Workspace, tmp_path: Path) -> None:
    for name, text in (("desk", WORDS), ("street", WORDS + " yes")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text, "label": "Bullish"}) + "\n")
    ingest(make_context(BY_SOURCE, home), [Source(uri=str(tmp_path))])
    assert splits(home) == {WORDS: "excluded", WORDS + " yes": "test"}


@pytest.mark.parametrize("order", [("desk", "street"), ("street", "desk")])
def test_of_equal_texts_the_held_out_one_is_kept_whatever_is_read_first(
    home: Workspace, tmp_path: Path, order: tuple[str, str]
) -> None:
    sources = []
    for name in order:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": WORDS, "label": "Bullish"}) + "\n")
        sources.append(Source(uri=str(tmp_path / f"{name}.jsonl")))
    report = ingest(make_context(BY_SOURCE, home), sources)
    assert splits(home) == {WORDS: "test"}
    assert report.by_source["desk"]["duplicates"] == 1


def test_a_copy_of_an_excluded_row_is_looked_at_anew(home: Workspace, tmp_path: Path) -> None:
    end = "and then the whole sector went up with it"
    give(home, BY_TIME, tmp_path / "a.jsonl", (f"$AAPL {WORDS}", day(57.5)), ("the board meets in oslo", day(200)))
    give(home, BY_TIME, tmp_path / "b.jsonl", (f"$AAPL {WORDS} yes", day(200)))
    assert splits(home)[f"$AAPL {WORDS} yes"] == "test"
    give(home, BY_TIME, tmp_path / "c.jsonl", (f"$TSLA {WORDS}", day(1)), (f"$AAPL {WORDS} {end}", day(1)))
    assert splits(home)[f"$TSLA {WORDS}"] == "excluded"
    assert audit_data(BY_TIME, home).leaks == 0


def test_a_home_keeps_its_strategy(home: Workspace, tmp_path: Path) -> None:
    give(home, BY_SOURCE, tmp_path / "desk.jsonl", ("gold is up", day(1)))
    for other in (load_config(), BY_TIME):
        with pytest.raises(ConfigError, match="split by another rule: split = "):
            give(home, other, tmp_path / "desk2.jsonl", ("gold is down", day(1)))


TEXTS = st.sampled_from([*(f"{WORDS} {end}" for end in "abcd"), *(f"the board meets on thursday in oslo {end}" for end in "xyz")])
BATCHES = st.lists(st.lists(st.tuples(TEXTS, st.floats(0, 120)), min_size=1, max_size=6), min_size=1, max_size=3)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES, st.integers(0, 10**9))
def test_no_order_of_arrival_makes_a_leak_or_moves_a_row(
    tmp_path: Path, batches: list[list[tuple[str, float]]], number: int
) -> None:
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / f"{number}-{len(list(tmp_path.iterdir()))}")})
    before: dict[str, str] = {}
    for index, batch in enumerate(batches):
        give(home, BY_TIME, tmp_path / f"{index}.jsonl", *((text, day(at)) for text, at in batch))
        after = splits(home)
        assert before.items() <= after.items()
        before = after
    assert audit_data(BY_TIME, home).leaks == 0


def test_names_that_are_held_out_are_held_against_the_sources_there_are(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert give(home, BY_SOURCE, tmp_path / "desk.jsonl", ("gold is up", None)).accepted == 1
    assert "data.test_sources: there is no source 'street' yet" in caplog.text
    assert "data.validation_sources: there is no source 'news' yet" in caplog.text
    assert "Sources: 'desk'." in caplog.text
    for name in ("Street", "street.csv", "  STREET "):
        with pytest.raises(ConfigError, match=f"data.test_sources names 'street', and the source is called '{name}'.*'desk'"):
            give(home, BY_SOURCE, tmp_path / "a.jsonl", ("silver is up", None), name=name)
    give(home, BY_SOURCE, tmp_path / "streets.jsonl", ("copper is up", None))
    assert "Did you mean 'streets'?" in caplog.text
    give(home, BY_SOURCE, tmp_path / "street.jsonl", ("silver is up", None))
    give(home, BY_SOURCE, tmp_path / "news.jsonl", ("oil is up", None))
    caplog.clear()
    assert give(home, BY_SOURCE, tmp_path / "Street.jsonl", ("wheat is up", None)).accepted == 1  # both are there: no mistake
    assert "no source" not in caplog.text


def test_other_splits_hold_no_names_against_sources(home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(overrides=["data.test_sources=[street]"])
    assert give(home, config, tmp_path / "Street.jsonl", ("gold is up", None)).accepted == 1
    assert "no source" not in caplog.text
