"""Ingestion end to end on real Delta tables: the bundled sample, rerun, wrong input, the real core files."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finsent.config import Config, Source
from finsent.data import tables
from finsent.data.dataset import RecordedAudit, data_version, fingerprint_rows, load_split, read_report, report_path
from finsent.data.splits import split_rule
from finsent.errors import CheckFailed, ConfigError, InputError
from finsent.steps import ingest as module
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.review import decide
from finsent.text import TEMPLATE, text_id
from finsent.workspace import Workspace, resolve_workspace
from tests.steps.ingestion import CONFIG, bad_rows, check, write

if TYPE_CHECKING:
    from tests.conftest import Sampled

CORE = ("zeroshot_sent_train", "pyfin_moritz", "mattgilgo", "yash612", "poojathakoor", "fiqa", "surge_crypto", "surge_stock")
SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_the_sample_shows_every_outcome(sampled: "Sampled") -> None:
    home, first, second = sampled.home, sampled.first, sampled.second
    check(second, home)
    assert first.reasons.keys() == {
        "contradictory label",
        "empty",
        "unknown label",
        "too long",
        "bad encoding",
        "not a string",
        "malformed row",
    }
    assert first.flags["future date"] > 0, "its text and label are good: it is taken without the date"
    assert first.duplicates > 200
    assert first.conflicts > 20
    assert first.naive_leak is not None
    assert first.naive_leak > 0.1
    assert second.reasons["split conflict"] > 0
    assert set(first.by_source) == {"desk", "street", "archive"}


def test_most_rows_are_in_small_groups(sampled: "Sampled") -> None:
    home = sampled.home
    sizes = Counter(tables.read(home, "tweets")["group"].to_pylist())
    assert sum(size for size in sizes.values() if size <= 3) > 0.8 * sum(sizes.values())


def test_single_words_do_not_solve_the_sample(sampled: "Sampled") -> None:
    from finsent.evaluation.baselines import tfidf_predictions

    home = sampled.home
    train, test = load_split(home, "train", version=1), load_split(home, "test", version=1)
    accuracy = float((tfidf_predictions(train.texts, train.labels, test.texts) == test.labels).mean())
    assert 0.72 < accuracy < 0.86


def test_reading_again_changes_nothing(sampled: "Sampled") -> None:
    home, first, again, second = sampled.home, sampled.first, sampled.again, sampled.second
    assert (again.accepted, again.new_version, again.version) == (0, False, first.version)
    assert (again.quarantined, again.reasons) == (first.quarantined, first.reasons)
    assert (again.fingerprint, again.naive_leak, again.splits) == (first.fingerprint, first.naive_leak, first.splits)
    assert tables.read(home, "quarantine").num_rows == first.quarantined + second.quarantined


def test_no_row_moves_when_data_grows(sampled: "Sampled") -> None:
    home, first, second = sampled.home, sampled.first, sampled.second
    before, after = (
        {row["id"]: (row["group"], row["split"]) for row in tables.read(home, "tweets", version=report.version).to_pylist()}
        for report in (first, second)
    )
    assert len(after) == len(before) + second.accepted
    assert all(after[row_id] == place for row_id, place in before.items())


def test_versions_carry_their_audit_and_lineage(sampled: "Sampled") -> None:
    home, first, second = sampled.home, sampled.first, sampled.second
    assert tables.last_metadata(home, "tweets", "fingerprint") == second.fingerprint
    for report in (first, second):
        assert report.version is not None
        version = data_version(home, report.version)
        assert (version.fingerprint, version.leaks, version.naive_leak) == (report.fingerprint, 0, report.naive_leak)
        assert version.rows == {split: sum(by_label.values()) for split, by_label in report.splits.items()}
        recorded = read_report(home, report.version)
        assert recorded["read"] == report.read
        assert {item["name"] for item in recorded["inputs"]} == set(report.by_source)
        assert all(len(item["sha256"]) == 64 for item in recorded["inputs"])


def test_the_quarantine_says_where_and_why(home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "desk.csv").write_bytes(b"text,label\n$AAPL up,Bullish\nna\xefve,Bearish\n$SPY flat,meh\n")
    ingest(make_context(CONFIG, home), [Source(uri=str(tmp_path / "desk.csv"))])
    rows = {row["row"]: row for row in tables.read(home, "quarantine").to_pylist()}
    assert {(number, row["source"], row["reason"]) for number, row in rows.items()} == {
        (2, "desk", "bad encoding"),
        (3, "desk", "unknown label"),
    }
    assert rows[2]["text"] == "na\\xefve"
    assert "'meh'" in rows[3]["detail"]


def test_the_quarantine_knows_files_by_their_contents(home: Workspace, tmp_path: Path) -> None:
    today = write(tmp_path / "a.jsonl", ("fed meets", "Neutral"), ("", "Neutral"))
    ingest(make_context(CONFIG, home), [today, today])
    assert bad_rows(home) == [("a", 2, "empty")]
    ingest(make_context(CONFIG, home), [today])
    assert len(bad_rows(home)) == 1
    tomorrow = write(tmp_path / "a.jsonl", ("gold is up today", "Neutral"), ("", "Neutral"))
    ingest(make_context(CONFIG, home), [tomorrow])
    assert bad_rows(home) == [("a", 2, "empty")] * 2
    assert len(set(tables.read(home, "quarantine")["input"].to_pylist())) == 2


def test_rows_quarantined_before_files_were_told_apart_are_not_recorded_again(home: Workspace, tmp_path: Path) -> None:
    from deltalake import write_deltalake

    source = write(tmp_path / "a.jsonl", ("fed meets", "Neutral"), ("", "Neutral"), ("", "Bullish"))
    ingest(make_context(CONFIG, home), [source])
    old = tables.read(home, "quarantine").slice(0, 1).drop_columns(["id", "input", "label", "source_id"])
    other = resolve_workspace({"FINSENT_HOME": str(tmp_path / "other")})
    Path(tables.location(other, "quarantine")).mkdir(parents=True)
    write_deltalake(tables.location(other, "quarantine"), old)
    ingest(make_context(CONFIG, other), [source])
    assert sorted(bad_rows(other)) == [("a", 2, "empty"), ("a", 3, "empty")]


def test_contradictions_stay_out_when_one_side_comes_again(home: Workspace, tmp_path: Path) -> None:
    both = write(tmp_path / "both.jsonl", ("$AAPL is a buy", "Bullish"), ("$AAPL is a buy!", "Bearish"), ("fed meets", "Neutral"))
    one = write(tmp_path / "one.jsonl", ("$AAPL is a buy", "Bullish"))
    ingest(make_context(CONFIG, home), [both])
    report = ingest(make_context(CONFIG, home), [one])
    check(report, home)
    assert report.reasons == {"contradictory label": 1}
    assert [row["text"] for row in tables.read(home, "tweets").to_pylist()] == ["fed meets"]


def test_reading_again_after_a_review_is_no_report_of_the_version_that_the_review_made(home: Workspace, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"), ("fed meets", "Neutral"))
    made = ingest(make_context(CONFIG, home), [source])
    version = decide(home, [text_id("fed meets")], "fix", label="Bearish", who="ada", why="read").version
    again = ingest(make_context(CONFIG, home), [source])
    assert again.version == version == (made.version or 0) + 1
    assert not report_path(home, again.version).exists()
    report_path(home, made.version or 0).unlink()
    assert read_report(home, again.version) == {}
    assert read_report(home, made.version or 0)["accepted"] == 2


def test_nothing_accepted_at_all(home: Workspace, tmp_path: Path) -> None:
    report = ingest(
        make_context(CONFIG, home), [write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"), ("$AAPL is a buy", "Bearish"))]
    )
    assert (report.version, report.fingerprint, report.new_version, report.conflicts) == (None, None, False, 1)
    with pytest.raises(InputError, match="no data yet"):
        data_version(home)


def test_configured_sources_are_the_default(home: Workspace, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"))
    config = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"sources": (source,)})})
    assert ingest(make_context(config, home)).accepted == 1
    with pytest.raises(InputError, match="nothing to ingest"):
        ingest(make_context(CONFIG, home))


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "absent.csv": ({}, "there is no file"),
    "numbers.csv": ({}, r"no label in column 'label' is understood. Values: '1' \(2 rows\), '0' \(1 rows\). Say what they mean"),
    "mapped.csv": ({"labels": {"5": "Neutral"}}, "no label in column 'label' is understood"),
    "column.csv": ({"label": "sentiment"}, r"no column 'sentiment' for the label. Columns: 'text' \(.*\), 'label' \("),
    "empty.csv": ({}, "is empty"),
    "binary.csv": ({}, "PNG"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_stops_before_anything_is_written(home: Workspace, tmp_path: Path, name: str) -> None:
    for file, data in {
        "numbers.csv": b"text,label\na,1\nb,0\nc,1\n",
        "mapped.csv": b"text,label\na,1\n",
        "column.csv": b"text,label\na,Bullish\n",
        "empty.csv": b"",
        "binary.csv": b"\x89PNG\r\n" + bytes(50),
    }.items():
        (tmp_path / file).write_bytes(data)
    good = write(tmp_path / "good.jsonl", ("$AAPL is a buy", "Bullish"))
    settings, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        ingest(make_context(CONFIG, home), [good, Source(uri=str(tmp_path / name), **settings)])
    assert not home.root.exists()


@pytest.mark.parametrize("change", [{"split_salt": "new"}, {"test_fraction": 0.2}, {"near_duplicate_jaccard": 0.7}])
def test_another_split_rule_needs_another_home(home: Workspace, tmp_path: Path, change: dict[str, object]) -> None:
    source = write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"))
    ingest(make_context(CONFIG, home), [source])
    other: Config = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update=change)})
    with pytest.raises(ConfigError, match=f"split by another rule: {next(iter(change))} = "):
        ingest(make_context(other, home), [source])
    assert tables.version(home, "tweets") == data_version(home).version


def test_a_leak_is_refused_before_writing(home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = " ".join(f"word{index}" for index in range(30))
    ingest(make_context(CONFIG, home), [write(tmp_path / "a.jsonl", (words, "Bullish"))])
    version = tables.version(home, "tweets")
    foreign = tables.read(home, "tweets").to_pylist()[0]
    foreign |= {
        "id": "0" * 32,
        "text": words + " more",
        "group": "g",
        "split": "test" if foreign["split"] == "train" else "train",
    }
    import pyarrow as pa

    tables.append(home, "tweets", pa.Table.from_pylist([foreign], schema=tables.SCHEMAS["tweets"]))
    with pytest.raises(CheckFailed, match="1 duplicate pairs lie across splits"):
        ingest(make_context(CONFIG, home), [write(tmp_path / "b.jsonl", ("something else", "Neutral"), ("", "Neutral"))])
    assert tables.version(home, "tweets") == (version or 0) + 1
    assert tables.version(home, "quarantine") is None
    assert data_version(home).leaks is None


@pytest.mark.parametrize("twins", [True, False])
def test_rows_that_an_older_form_split_are_audited_whole(home: Workspace, tmp_path: Path, *, twins: bool) -> None:
    import pyarrow as pa

    texts = ["shares of the firm slip - again", "shares of the firm slip, again" if twins else "nothing new from the board today"]
    rows = [
        {"id": text_id(text), "text": text, "label": "Bearish", "source": "old", "group": text_id(text), "split": split}
        for text, split in zip(texts, ("train", "test"), strict=True)
    ]
    rule = {key: value for key, value in split_rule(CONFIG.data).describe().items() if key != "template"}
    table = pa.Table.from_pylist(rows, schema=tables.SCHEMAS["tweets"])
    found = {"fingerprint": fingerprint_rows(table), "split_rule": json.dumps(rule), **RecordedAudit(0, 0.0).metadata()}
    tables.append(home, "tweets", table, metadata=found)
    for _ in range(2):  # the first attempt has made today's signatures: they must not let the second one through
        if twins:
            with pytest.raises(CheckFailed, match="an earlier release split these rows"):
                ingest(make_context(CONFIG, home), [write(tmp_path / "b.jsonl", ("something else", "Neutral"))])
        else:
            assert ingest(make_context(CONFIG, home), [write(tmp_path / "b.jsonl", ("something else", "Neutral"))]).leaks == 0
    written = json.loads(tables.last_metadata(home, "tweets", "split_rule") or "{}")
    assert written.get("template") == (None if twins else TEMPLATE)


def test_rows_that_do_not_add_up_are_refused_before_writing(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.stage_sources

    def miscounted(*arguments: Any) -> Any:
        reading = real(*arguments)
        reading.read["a"] += 1
        return reading

    monkeypatch.setattr(module, "stage_sources", miscounted)
    with pytest.raises(CheckFailed, match=r"rows of source 'a' do not add up: .* Nothing was written"):
        ingest(make_context(CONFIG, home), [write(tmp_path / "a.jsonl", ("fed meets", "Neutral"), ("", "Neutral"))])
    assert [tables.version(home, name) for name in ("tweets", "quarantine")] == [None, None]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the eight core files are not beside this checkout (../shared/data)")
def test_the_eight_core_files(home: Workspace) -> None:
    report = ingest(make_context(CONFIG, home), [Source(uri=str(SHARED / f"{name}.csv.gz")) for name in CORE])
    check(report, home)
    assert report.read == 38_121
    assert set(report.by_source) == set(CORE)
    assert report.accepted > 30_000
    # 19.9 % by word 3-grams at 0.85 (SOURCES.md); character shingles at 0.8 over masked cashtags see somewhat more
    assert report.naive_leak == pytest.approx(0.215, abs=0.02)
    assert load_split(home, "test").ids
