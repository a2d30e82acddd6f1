"""Ingestion that crashes between its commits, or meets another run on the same tables: nothing is lost or doubled."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finsent.data import tables
from finsent.data.dataset import data_version
from finsent.errors import Refused
from finsent.home import Home, resolve_home
from finsent.pipeline import ingest as module
from finsent.pipeline.accounting import IngestReport
from finsent.pipeline.ingest import ingest
from finsent.pipeline.review import decide
from finsent.text import text_id
from tests.pipeline.ingestion import CONFIG, bad_rows, check, shared_homes, write

APPEND = tables.append


@pytest.mark.parametrize("crash_at", ["quarantine", "tweets", "signatures", "report"])
def test_a_crash_between_the_commits_loses_and_doubles_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    words = " ".join(f"word{index}" for index in range(20))
    first = [("$AAPL is a buy", "Bullish"), (words, "Bullish")]
    rows = [("$AAPL is a buy now!", "Bearish"), ("fed meets", "Neutral"), ("", "Neutral"), (words + " x", "Bearish")]
    rows += [("gold is up", "Bullish"), ("gold is up", "Bearish"), ("rates stay where they are", "Neutral")]
    source = write(tmp_path / "a.jsonl", *first, *rows)
    whole = resolve_home({"FINSENT_HOME": str(tmp_path / "whole")})
    for there in (home, whole):
        ingest(CONFIG, there, [write(tmp_path / "first.jsonl", first[1])])
    expected = ingest(CONFIG, whole, [source])

    class Crash(BaseException):
        """Stands for a kill."""

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if crash_at == "report":
            patch.setattr(module, "report_path", crash)
        elif crash_at == "signatures":
            patch.setattr(module, "add_signatures", crash)
        else:
            patch.setattr(
                module.tables,
                "append",
                lambda home, name, *rest, **more: crash() if name == crash_at else APPEND(home, name, *rest, **more),
            )
        with pytest.raises(Crash):
            ingest(CONFIG, home, [source])
    report = ingest(CONFIG, home, [source])
    assert report.fingerprint == expected.fingerprint
    assert data_version(home).leaks == 0
    assert tables.read(home, "signatures").sort_by("id") == tables.read(whole, "signatures").sort_by("id")
    assert not list(home.root.glob("spool/[!.]*"))
    for name in ("tweets", "quarantine"):
        kept = [name for name in tables.SCHEMAS[name].names if name != "ingested_at"]
        assert tables.read(home, name, columns=kept).to_pylist() == tables.read(whole, name, columns=kept).to_pylist()


@pytest.mark.integration
def test_two_ingestions_at_once_both_land(home: Home, tmp_path: Path) -> None:
    sources = [
        write(tmp_path / f"{name}.jsonl", *((f"{name} tweet number {n} says hello", "Neutral") for n in range(50)))
        for name in "ab"
    ]
    script = (
        "import sys; from finsent.config import Source, load_config; from finsent.home import resolve_home; "
        "from finsent.pipeline.ingest import ingest; "
        "ingest(load_config(), resolve_home({'FINSENT_HOME': sys.argv[1]}), [Source(uri=sys.argv[2])]); "
        "from finsent.cli.main import leave; leave(0)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(home.root), source.uri], stderr=subprocess.PIPE, text=True)
        for source in sources
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert Counter(tables.read(home, "tweets")["source"].to_pylist()).keys() == {"a", "b"}
    assert data_version(home).leaks == 0


def test_the_audit_travels_with_the_tables(tmp_path: Path) -> None:
    here, there = shared_homes(tmp_path)
    sources = [
        write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"), ("$TSLA is a buy", "Bullish"), ("fed meets", "Neutral"))
    ]
    made = ingest(CONFIG, here, sources)
    assert not there.root.exists()
    assert data_version(there) == data_version(here)
    assert (data_version(there).leaks, data_version(there).naive_leak) == (0, made.naive_leak)
    again = ingest(CONFIG, there, sources)
    assert (again.new_version, again.naive_leak, again.version) == (False, made.naive_leak, made.version)
    ingest(CONFIG, there, [write(tmp_path / "b.jsonl", ("rates stay", "Neutral"))])
    assert made.version is not None
    assert data_version(here).leaks == data_version(here, made.version).leaks == 0


def test_a_run_that_another_machine_overtook_places_its_rows_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = shared_homes(tmp_path)
    ours = [write(tmp_path / "ours.jsonl", ("$AAPL is a buy", "Bullish"), ("fed meets today", "Neutral"), ("gold up", "Bullish"))]
    theirs = [write(tmp_path / "theirs.jsonl", ("$AAPL is a buy", "Bullish"), ("fed meets today!", "Bearish"))]
    real = module.append_tweets
    overtaken: list[IngestReport] = []

    def late(home: Home, *rest: Any) -> Any:
        if home == here and not overtaken:
            overtaken.append(ingest(CONFIG, there, theirs))
        return real(home, *rest)

    monkeypatch.setattr(module, "append_tweets", late)
    report = ingest(CONFIG, here, ours)
    check(report, here)
    assert overtaken[0].accepted == 2
    assert (report.accepted, report.duplicates, report.reasons) == (1, 1, {"contradictory label": 1})
    stored = {row["text"]: row["label"] for row in tables.read(here, "tweets").to_pylist()}
    assert stored == {"$AAPL is a buy": "Bullish", "fed meets today!": "Bearish", "gold up": "Bullish"}
    assert data_version(there).leaks == 0


def test_a_run_that_lost_leaves_nothing_of_its_first_attempt_in_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = shared_homes(tmp_path)
    words = " ".join(f"word{index}" for index in range(20))
    ours = [write(tmp_path / "ours.jsonl", (words, "Bullish"), (words, "Bearish"), ("", "Bullish"), ("gold up", "Bullish"))]
    theirs = [write(tmp_path / "theirs.jsonl", (words, "Bullish"))]
    real, overtaken = module.append_tweets, []

    def late(home: Home, *rest: Any) -> Any:
        if home == here and not overtaken:
            overtaken.append(ingest(CONFIG, there, theirs))
            assert tables.read(here, "quarantine").num_rows == 0
        return real(home, *rest)

    monkeypatch.setattr(module, "append_tweets", late)
    report = ingest(CONFIG, here, ours)
    check(report, here)
    assert (report.accepted, report.duplicates, report.quarantined) == (1, 1, 2)
    assert sorted(bad_rows(here)) == [("ours", 2, "contradictory label"), ("ours", 3, "empty")]
    again = ingest(CONFIG, here, ours)
    assert (again.accepted, again.quarantined, again.reasons) == (0, 2, report.reasons)
    assert len(bad_rows(here)) == 2
    # what their file holds is in the data, and no contradiction that was found in vain keeps it out of another
    assert ingest(CONFIG, there, theirs).duplicates == 1


@pytest.mark.parametrize("at", ["load_stored", "build_graph", "tell"])
def test_a_row_that_another_machine_drops_meanwhile_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    here, there = shared_homes(tmp_path)
    words = " ".join(f"word{index}" for index in range(20))
    ingest(CONFIG, here, [write(tmp_path / "a.jsonl", (words, "Bullish"), ("the fed meets on tuesday", "Neutral"))])
    real, dropped = getattr(module, at), []

    def late(*arguments: Any, **more: Any) -> Any:
        if not dropped:
            dropped.append(decide(there, [text_id(words)], "drop", who="ada", why="spam").version)
        return real(*arguments, **more)

    monkeypatch.setattr(module, at, late)
    # a near twin of the row that goes, and a contradiction to it
    later = [write(tmp_path / "b.jsonl", (words + " more", "Bullish"), (words + " other", "Bearish"), ("gold up", "Bullish"))]
    report = ingest(CONFIG, here, later)
    check(report, here)
    assert dropped != [None]
    assert report.version == (dropped[0] or 0) + 1
    stored = set(tables.read(here, "tweets")["text"].to_pylist())
    assert words not in stored
    assert "gold up" in stored


def test_a_run_that_is_overtaken_for_ever_says_so(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "append_tweets", lambda *_: None)
    with pytest.raises(Refused, match=r"other runs wrote to table 'tweets' .* before each of 10 attempts"):
        ingest(CONFIG, home, [write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"))])
    assert tables.version(home, "tweets") is None


@pytest.mark.integration
def test_two_machines_on_one_table_both_land(tmp_path: Path) -> None:
    homes = shared_homes(tmp_path)
    both = [("$AAPL is a buy for the long run", "Bullish"), ("the fed meets on tuesday again", "Neutral")]
    sources = [
        write(tmp_path / f"{name}.jsonl", *both, *((f"{name * 9} tweet number {n} says hello", "Neutral") for n in range(20)))
        for name in "xy"
    ]
    script = (
        "import sys; from finsent.config import Source, load_config; from finsent.home import resolve_home; "
        "from finsent.pipeline.ingest import ingest; "
        "home = resolve_home({'FINSENT_HOME': sys.argv[1], 'FINSENT_TABLES': sys.argv[2]}); "
        "ingest(load_config(), home, [Source(uri=sys.argv[3])]); from finsent.cli.main import leave; leave(0)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(home.root), home.tables_url, source.uri], stderr=subprocess.PIPE, text=True
        )
        for home, source in zip(homes, sources, strict=True)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    texts = tables.read(homes[0], "tweets")["text"].to_pylist()
    assert len(texts) == len(set(texts)) == 42
    assert [data_version(home).leaks for home in homes] == [0, 0]
