"""The data report end to end: page, MLflow run, and that doing it again doubles nothing."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finsent.config import Config, Source, load_config
from finsent.data import tables
from finsent.data.dataset import data_version, report_path
from finsent.errors import InputError
from finsent.registry.tracking import connect, experiment_id
from finsent.reporting.data_report import write_data_report
from finsent.reporting.pages import NOT_RECORDED
from finsent.steps.context import make_context
from finsent.steps.data_report import DataReport, describe, figures, report_data, report_ingestion
from finsent.steps.ingest import ingest
from finsent.steps.review import decide
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from tests.conftest import Sampled

CORE = ("zeroshot_sent_train", "pyfin_moritz", "mattgilgo", "yash612", "poojathakoor", "fiqa", "surge_crypto", "surge_stock")
SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def config() -> Config:
    return load_config()


class Page(HTMLParser):
    """Fails on tags that are not closed in order; keeps what is shown and what is referred to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for key, value in attrs if key in {"src", "href"}]
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def write(path: Path, *rows: tuple[str, str]) -> Source:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return Source(uri=str(path))


def test_page_and_run_hold_the_same_and_are_there_once(mlflow_home: Workspace, config: Config, sampled: "Sampled") -> None:
    shutil.copytree(sampled.home.root, mlflow_home.root, dirs_exist_ok=True)
    first, second = sampled.first, sampled.second
    path = report_data(make_context(config, mlflow_home)).path
    assert path == mlflow_home.reports / f"data-v{second.version}.html"
    page = Page(path)
    assert len(page.references) == 4
    assert second.split_conflicts > 0
    assert f"touched two splits: {second.split_conflicts}" in page.text
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not re.search(r"@import|url\(|<script", page.source)
    assert f"Data version {second.version}" in page.text
    assert str(second.fingerprint) in page.text
    assert f"Of {second.read:,} rows read, {second.accepted:,} were accepted" in page.text
    assert "Duplicate pairs across splits, all together: 0" in page.text
    assert f"{second.accepted:,} added, 0 removed, 0 relabelled, 0 moved between splits" in page.text
    assert all(reason in page.text for reason in second.reasons)

    again = report_data(make_context(config, mlflow_home))
    client = connect(mlflow_home)
    experiment = experiment_id(client, mlflow_home, config.experiment)
    runs = client.search_runs([experiment], filter_string="tags.kind = 'data'")
    assert [run.info.run_id for run in runs] == [again.run_id]
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.data.tags["data_version"] == str(second.version)
    assert run.data.tags["fingerprint"] == run.data.params["data.fingerprint"] == second.fingerprint
    wanted = {"read": second.read, "accepted": second.accepted, "leaks": 0}
    wanted["quarantined_split_conflict"] = second.reasons["split conflict"]
    assert second.reasons["split conflict"] > 0
    assert {key: run.data.metrics[key] for key in wanted} == wanted
    (logged,) = run.inputs.dataset_inputs
    assert json.loads(logged.dataset.source)["delta_table_version"] == second.version
    assert {item.path for item in client.list_artifacts(run.info.run_id, "data")} == {
        f"data/data-v{second.version}.html",
        f"data/data-v{second.version}.json",
    }

    earlier = report_data(make_context(config, mlflow_home), first.version)
    assert earlier.run_id != again.run_id
    assert earlier.facts.quarantined == first.reasons, "what later ingestions quarantined is not of this version"
    assert earlier.facts.difference is None


def test_hostile_texts_stay_texts(home: Workspace, config: Config, tmp_path: Path) -> None:
    attack = "<script>alert('$AAPL')</script><img src=x onerror=alert(1)> & more"
    source = write(tmp_path / "a.jsonl", (attack, "Bullish"), (attack + "!", "Bearish"), ("fed meets", "Neutral"), ("<b>up", "?"))
    ingest(make_context(config, home), [source])
    done = report_data(make_context(config, home), to_mlflow=False)
    page = Page(done.path)
    assert "<script" not in page.source
    assert "onerror" in page.text
    assert page.references
    assert all(reference.startswith("data:image/png") for reference in page.references)
    assert done.facts.conflicts
    assert done.run_id is None
    assert not (home.root / "mlflow.db").exists()


def test_what_ingestion_records_is_shown(home: Workspace, config: Config, tmp_path: Path) -> None:
    done = _with_report(
        home,
        config,
        tmp_path,
        audit={"exact": {"train-test": 0}, "near": {"train-test": 3, "train-validation": 0}},
        group_sizes={"1": 5, "2": 2, "3-5": 0, "6-10": 0, "11-100": 0, ">100": 0},
        split_conflicts=4,
        schemas={"a": {"columns": ["text", "label"], "labels": {"0": "Bearish"}}},
        inputs=[{"name": "a", "uri": "postgresql://ada:secret@db/tweets", "sha256": "ab" * 32, "bytes": 1234}],
    )
    page = Page(done.path)
    assert re.search(r"train and test\s+0\s+3\s+train and validation\s+0\s+0", page.text)
    assert "Near-duplicate groups of new rows that touched two splits: 4; rows of them" in page.text
    assert "0: Bearish" in page.text
    assert "postgresql://db/tweets" in page.text
    assert "secret" not in page.source + json.dumps(describe(done.facts), default=str)


def test_what_was_not_recorded_is_said_to_be_missing(home: Workspace, config: Config, tmp_path: Path) -> None:
    ingest(make_context(config, home), [write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"))])
    facts = replace(report_data(make_context(config, home), to_mlflow=False).facts, report={})
    write_data_report(facts, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.text.lower().count(NOT_RECORDED) >= 5
    assert "This is the first version." in page.text
    assert "No ingestion is on record for it" in page.text
    assert figures(facts)["rows"] == 1
    assert "read" not in figures(facts)


def test_upkeep_makes_a_version_but_no_other_data(home: Workspace, config: Config, tmp_path: Path) -> None:
    from deltalake import DeltaTable

    for name in "ab":
        ingest(make_context(config, home), [write(tmp_path / f"{name}.jsonl", (f"$AAPL is a buy says {name * 9}", "Bullish"))])
    DeltaTable(tables.location(home, "tweets")).optimize.compact()
    facts = report_data(make_context(config, home), to_mlflow=False).facts
    assert facts.data.version == 3
    assert facts.report["version"] == 2
    assert facts.difference is not None
    assert (facts.difference.before, facts.difference.n_added) == (1, 1)


def test_a_version_made_by_a_review_shows_what_it_changed(home: Workspace, config: Config, tmp_path: Path) -> None:

    ingest(make_context(config, home), [write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bearish"), ("fed meets", "Neutral"))])
    (wrong,) = (row["id"] for row in tables.read(home, "tweets").to_pylist() if row["label"] == "Bearish")
    decide(home, [wrong], "fix", label="Bullish", who="ada", why="it says buy")
    facts = report_data(make_context(config, home), to_mlflow=False).facts
    assert facts.difference is not None
    assert facts.difference.relabelled == {"Bearish to Bullish": 1}
    assert facts.difference.moved == {}
    assert not facts.report


def test_no_data_no_report(home: Workspace, config: Config) -> None:
    with pytest.raises(InputError, match="no data yet"):
        report_data(make_context(config, home))
    assert not home.root.exists()


def _with_report(home: Workspace, config: Config, tmp_path: Path, **more: Any) -> DataReport:
    """A report beside which the ingestion recorded more."""
    made = ingest(
        make_context(config, home), [write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"), ("fed meets", "Neutral"))]
    )
    assert made.version is not None
    path = report_path(home, made.version)
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return report_data(make_context(config, home), to_mlflow=False)


@pytest.mark.long
@pytest.mark.skipif(not SHARED.is_dir(), reason="the eight core files are not beside this checkout (../shared/data)")
def test_label_and_source_of_the_core_files_are_confounded(home: Workspace, config: Config) -> None:
    ingest(make_context(config, home), [Source(uri=str(SHARED / f"{name}.csv.gz")) for name in CORE])
    found = report_data(make_context(config, home), to_mlflow=False).facts.confounding
    assert found.confounded
    assert "of the Neutral rows come from zeroshot_sent_train" in found.sentence
    # 0.591 against 0.460 over all rows (SOURCES.md); here learnt on train and scored on test
    assert found.source_majority_accuracy == pytest.approx(0.591, abs=0.02)
    assert found.majority_accuracy == pytest.approx(0.460, abs=0.02)


def test_an_ingestion_is_reported_once_and_not_where_no_row_is_left(
    mlflow_home: Workspace, config: Config, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.jsonl", ("$AAPL is a buy", "Bullish"), ("fed meets", "Neutral"))
    made = ingest(make_context(config, mlflow_home), [source])
    first = report_ingestion(make_context(config, mlflow_home), made)
    assert first is not None
    assert first.run_id
    assert first.facts.data == data_version(mlflow_home)
    written = first.path.read_bytes()
    again = ingest(make_context(config, mlflow_home), [source])
    assert (again.version, report_ingestion(make_context(config, mlflow_home), again)) == (made.version, None)
    assert first.path.read_bytes() == written
    gone = decide(mlflow_home, tables.read(mlflow_home, "tweets")["id"].to_pylist(), "drop", who="ada", why="spam")
    empty = ingest(make_context(config, mlflow_home), [source])
    assert (empty.version, empty.new_version, empty.accepted) == (gone.version, False, 0)
    assert report_ingestion(make_context(config, mlflow_home), empty) is None
