"""Ingestion that is interrupted, overtaken or retried: nothing is lost, doubled or leaked."""

import subprocess
import sys
from collections import Counter
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import finsent.data
from finsent.data import ingest_commit, ingest_report, tables
from finsent.data.dataset import data_version
from finsent.data.ingest_report import IngestReport
from finsent.data.staging import open_staging
from finsent.errors import CheckFailed
from finsent.steps import ingest as module
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.review import decide
from finsent.text import text_id
from finsent.workspace import Workspace, resolve_workspace
from tests.steps.ingestion import CONFIG, bad_rows, check, shared_homes, write

CORE = ("zeroshot_sent_train", "pyfin_moritz", "mattgilgo", "yash612", "poojathakoor", "fiqa", "surge_crypto", "surge_stock")
SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("crash_at", ["quarantine", "tweets", "signatures", "report"])
def test_a_crash_between_the_commits_loses_and_doubles_nothing(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    words = " ".join(f"word{index}" for index in range(20))
    first = [("$AAPL is a buy", "Bullish"), (words, "Bullish")]
    rows = [("$AAPL is a buy now!", "Bearish"), ("fed meets", "Neutral"), ("", "Neutral"), (words + " x", "Bearish")]
    rows += [("gold is up", "Bullish"), ("gold is up", "Bearish"), ("rates stay where they are", "Neutral")]
    source = write(tmp_path / "a.jsonl", *first, *rows)
    whole = resolve_workspace({"FINSENT_HOME": str(tmp_path / "whole")})
    for there in (home, whole):
        ingest(make_context(CONFIG, there), [write(tmp_path / "first.jsonl", first[1])])
    expected = ingest(make_context(CONFIG, whole), [source])

    class Crash(BaseException):
        """Stands for a kill."""

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if crash_at == "report":
            patch.setattr(ingest_report, "report_path", crash)
        elif crash_at == "signatures":
            patch.setattr(ingest_commit, "add_signatures", crash)
        else:
            patch.setattr(
                tables,
                "_append",
                lambda home, name, *rest, **more: crash() if name == crash_at else APPEND(home, name, *rest, **more),
            )
        with pytest.raises(Crash):
            ingest(make_context(CONFIG, home), [source])
    report = ingest(make_context(CONFIG, home), [source])
    assert report.fingerprint == expected.fingerprint
    assert data_version(home).leaks == 0
    assert tables.read(home, "signatures").sort_by("id") == tables.read(whole, "signatures").sort_by("id")
    assert not list(home.root.glob("staging/[!.]*"))
    for name in ("tweets", "quarantine"):
        kept = [name for name in tables.SCHEMAS[name].names if name != "ingested_at"]
        assert tables.read(home, name, columns=kept).to_pylist() == tables.read(whole, name, columns=kept).to_pylist()


APPEND = tables._append


@pytest.mark.integration
def test_two_ingestions_at_once_both_land(home: Workspace, tmp_path: Path) -> None:
    sources = [
        write(tmp_path / f"{name}.jsonl", *((f"{name} tweet number {n} says hello", "Neutral") for n in range(50)))
        for name in "ab"
    ]
    script = (
        "import sys; from finsent.config import Source, load_config; from finsent.workspace import resolve_workspace; "
        "from finsent.steps.context import make_context; from finsent.steps.ingest import ingest; "
        "ingest(make_context(load_config(), resolve_workspace({'FINSENT_HOME': sys.argv[1]})), [Source(uri=sys.argv[2])]); "
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
    made = ingest(make_context(CONFIG, here), sources)
    assert not there.root.exists()
    assert data_version(there) == data_version(here)
    assert (data_version(there).leaks, data_version(there).naive_leak) == (0, made.naive_leak)
    again = ingest(make_context(CONFIG, there), sources)
    assert (again.new_version, again.naive_leak, again.version) == (False, made.naive_leak, made.version)
    ingest(make_context(CONFIG, there), [write(tmp_path / "b.jsonl", ("rates stay", "Neutral"))])
    assert made.version is not None
    assert data_version(here).leaks == data_version(here, made.version).leaks == 0


def test_a_run_that_another_machine_overtook_places_its_rows_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = shared_homes(tmp_path)
    ours = [write(tmp_path / "ours.jsonl", ("$AAPL is a buy", "Bullish"), ("fed meets today", "Neutral"), ("gold up", "Bullish"))]
    theirs = [write(tmp_path / "theirs.jsonl", ("$AAPL is a buy", "Bullish"), ("fed meets today!", "Bearish"))]
    real = ingest_commit.append_tweets
    overtaken: list[IngestReport] = []

    def late(home: Workspace, *rest: Any) -> Any:
        if home == here and not overtaken:
            overtaken.append(ingest(make_context(CONFIG, there), theirs))
        return real(home, *rest)

    monkeypatch.setattr(ingest_commit, "append_tweets", late)
    report = ingest(make_context(CONFIG, here), ours)
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
    real, overtaken = ingest_commit.append_tweets, []

    def late(home: Workspace, *rest: Any) -> Any:
        if home == here and not overtaken:
            overtaken.append(ingest(make_context(CONFIG, there), theirs))
            assert tables.read(here, "quarantine").num_rows == 0
        return real(home, *rest)

    monkeypatch.setattr(ingest_commit, "append_tweets", late)
    report = ingest(make_context(CONFIG, here), ours)
    check(report, here)
    assert (report.accepted, report.duplicates, report.quarantined) == (1, 1, 2)
    assert sorted(bad_rows(here)) == [("ours", 2, "contradictory label"), ("ours", 3, "empty")]
    again = ingest(make_context(CONFIG, here), ours)
    assert (again.accepted, again.quarantined, again.reasons) == (0, 2, report.reasons)
    assert len(bad_rows(here)) == 2
    # what their file holds is in the data, and no contradiction that was found in vain keeps it out of another
    assert ingest(make_context(CONFIG, there), theirs).duplicates == 1


@pytest.mark.parametrize("at", ["existing_rows.load_snapshot", "existing_rows.build_graph", "ingest_commit.quarantine_records"])
def test_a_row_that_another_machine_drops_meanwhile_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    here, there = shared_homes(tmp_path)
    words = " ".join(f"word{index}" for index in range(20))
    ingest(make_context(CONFIG, here), [write(tmp_path / "a.jsonl", (words, "Bullish"), ("the fed meets on tuesday", "Neutral"))])
    real, dropped = attrgetter(at)(finsent.data), []

    def late(*arguments: Any, **more: Any) -> Any:
        if not dropped:
            dropped.append(decide(there, [text_id(words)], "drop", who="ada", why="spam").version)
        return real(*arguments, **more)

    monkeypatch.setattr(f"finsent.data.{at}", late)
    # a near twin of the row that goes, and a contradiction to it
    later = [write(tmp_path / "b.jsonl", (words + " more", "Bullish"), (words + " other", "Bearish"), ("gold up", "Bullish"))]
    report = ingest(make_context(CONFIG, here), later)
    check(report, here)
    assert dropped != [None]
    assert report.version == (dropped[0] or 0) + 1
    stored = set(tables.read(here, "tweets")["text"].to_pylist())
    assert words not in stored
    assert "gold up" in stored


def test_the_parts_group_again_when_the_table_moved_and_can_be_retried(home: Workspace, tmp_path: Path) -> None:
    ours = [
        write(tmp_path / "a.jsonl", ("fed meets today", "Neutral")),
        write(tmp_path / "b.jsonl", ("gold up", "Bullish"), ("", "")),
    ]
    theirs = [write(tmp_path / "c.jsonl", ("fed meets today", "Neutral"))]
    with open_staging(home.root / "staging", CONFIG.data) as staging:
        parts = [
            module.read_source(make_context(CONFIG, home), staging, source)
            for source in module.resolve_sources(make_context(CONFIG, home), ours)
        ]
        assert [part.staged.ids.to_pylist() for part in parts] == [[text_id("fed meets today")], [text_id("gold up")]]
        grouping = module.group_near_duplicates(make_context(CONFIG, home), parts)
        assert ingest(make_context(CONFIG, home), theirs).accepted == 1
        first, again = module.commit(make_context(CONFIG, home), grouping), module.commit(make_context(CONFIG, home), grouping)
        report = module.write_report(make_context(CONFIG, home), grouping, first)
    check(report, home)
    assert (report.accepted, report.duplicates, report.quarantined) == (1, 1, 1)
    assert (again.accepted, again.duplicates, again.fingerprint) == (0, 2, report.fingerprint)
    assert bad_rows(home) == [("b", 2, "empty")]
    assert {row["input"] for row in tables.read(home, "quarantine").to_pylist()} == {
        grouping.read.staged.rejected[0]["input"][0].as_py()
    }


def test_a_source_that_could_not_be_read_can_be_read_again(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.jsonl", ("fed meets", "Neutral"))
    with open_staging(home.root / "staging", CONFIG.data) as staging:
        (files,) = module.resolve_sources(make_context(CONFIG, home), [source])
        with monkeypatch.context() as patch:
            patch.setattr(module, "input_identity", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                module.read_source(make_context(CONFIG, home), staging, files)
        assert [path.name for path in staging.folder.iterdir()] == ["lock"]
        assert len(module.read_source(make_context(CONFIG, home), staging, files).staged) == 1


@pytest.mark.parametrize(("names", "calls"), [("xyx", [3]), ("xxy", [2, 1]), ("xyz", [1, 1, 1]), ("xyyz", [1, 2, 1])])
def test_sources_of_one_name_are_read_in_one_call(home: Workspace, tmp_path: Path, names: str, calls: list[int]) -> None:
    sources = [
        write(tmp_path / f"{number}.jsonl", ("fed meets", "Neutral")).model_copy(update={"name": name})
        for number, name in enumerate(names)
    ]
    resolved = module.resolve_sources(make_context(CONFIG, home), sources)
    assert [len(call) for call in resolved] == calls
    assert [source for call in resolved for source, _ in call] == sources


def test_a_run_that_is_overtaken_for_ever_says_so(home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_commit, "append_tweets", lambda *_: None)
    with pytest.raises(CheckFailed, match=r"other runs wrote to table 'tweets' .* before each of 10 attempts"):
        ingest(make_context(CONFIG, home), [write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"))])
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
        "import sys; from finsent.config import Source, load_config; from finsent.workspace import resolve_workspace; "
        "from finsent.steps.context import make_context; from finsent.steps.ingest import ingest; "
        "home = resolve_workspace({'FINSENT_HOME': sys.argv[1], 'FINSENT_TABLES': sys.argv[2]}); "
        "ingest(make_context(load_config(), home), [Source(uri=sys.argv[3])]); from finsent.cli.main import leave; leave(0)"
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
