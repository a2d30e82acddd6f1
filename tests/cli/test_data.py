"""`finsent ingest` with options for one kind of source, and `finsent data`: JSON, text and exit codes."""

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import load_config
from finsent.data import tables
from finsent.data.corrections import TWEETS_APPLICATION
from finsent.data.sample import sample_sources
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.text import TEMPLATE
from finsent.workspace import Workspace, resolve_workspace
from tests.homes import copy_home

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent
    from tests.conftest import Sampled


ROWS = [("shares of Acme rise on strong results", "Bullish"), ("Beta Corp sinks after a profit warning", "Bearish")]


def options(home: Workspace) -> tuple[str, ...]:
    return ("--home", str(home.root), "--json", "--set", "data.check_labels=false")


def test_a_query_of_a_database(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    with sqlite3.connect(tmp_path / "desk.db") as connection:
        connection.execute("CREATE TABLE tweets (body, mood)")
        connection.executemany("INSERT INTO tweets VALUES (?, ?)", ROWS)
    connection.close()
    query = "SELECT body, mood FROM tweets"
    database = f"sqlite:///{tmp_path / 'desk.db'}"
    said = finsent("ingest", database, "--query", query, "--text", "body", "--label", "mood", *options(home))
    assert (said.code, said.json()["accepted"], list(said.json()["by_source"])) == (0, 2, ["desk"])
    assert sorted(tables.read(home, "tweets")["text"].to_pylist()) == sorted(text for text, _ in ROWS)


def test_a_password_is_not_in_what_is_said(finsent: "Finsent", home: Workspace) -> None:
    address = "postgresql://reader:hunter2@127.0.0.1:1/desk"
    for more in (("--query", "SELECT 1"), (), ("--query", "SELECT 1", "--name", "x", "--traceback")):
        said = finsent("ingest", address, *more, *options(home))
        assert said.code == 2
        assert "reader:***@127.0.0.1" in said.json()["error"]["message"]
        assert "hunter2" not in said.out + said.err
    wrong = finsent("config", "show", "--set", f"data.sources={address}")
    assert wrong.code == 2
    shown = finsent("config", "show", "--set", f"data.sources=[{{uri: '{address}', query: SELECT 1}}]")
    assert shown.code == 0
    assert "hunter2" not in wrong.out + wrong.err + shown.out + shown.err
    assert "reader:***@127.0.0.1" in shown.out


def test_a_split_of_a_dataset(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    folder = tmp_path / "owner" / "tweets" / "data"
    folder.mkdir(parents=True)
    for split, (text, label) in zip(("train", "test"), ROWS, strict=True):
        pq.write_table(pa.table({"text": [text], "label": [label]}), folder / f"{split}-00000-of-00001.parquet")
    said = finsent("ingest", f"hf://{folder.parent}", "--split", "test", "--revision", "main", *options(home))
    assert said.code == 0, said.err
    assert tables.read(home, "tweets")["text"].to_pylist() == [ROWS[1][0]]
    wrong = finsent("ingest", f"hf://{folder.parent}", "--split", "dev", *options(home))
    assert wrong.code == 2
    assert "split 'dev'" in wrong.json()["error"]["message"]


def test_a_format_that_the_name_does_not_tell(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    (tmp_path / "export.txt").write_text("".join(f"{a}\t{b}\n" for a, b in [("text", "label"), *ROWS]), encoding="utf-16")
    said = finsent("ingest", tmp_path / "export.txt", "--format", "tsv", *options(home))
    assert (said.code, said.json()["accepted"]) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.csv", "--split", "test"), "--split 'test' is for labelled datasets of the Hub"),
        (("a.csv", "--revision", "main"), "--revision 'main' is for labelled datasets of the Hub"),
        (("a.csv", "--query", "SELECT 1"), "'a.csv' is not a database URL, and a query was given"),
        (("a.csv", "b.csv", "--query", "SELECT 1"), "--query needs one FILE"),
        (("--inbox", "sqlite:///a.db", "--query", "SELECT 1"), "For the inbox, export the rows to a file"),
        (("--label-map", "0=Neutral"), "--label-map '0=Neutral' needs a FILE"),
        (("--text", "text"), "--text 'text' needs a FILE"),
        (("--label", "mood"), "--label 'mood' needs a FILE"),
        (("--created-at", "posted"), "--created-at 'posted' needs a FILE"),
        (("--name", "x"), "--name 'x' names one source, and 0 were given"),
        (("--inbox", "a.csv", "--label-map", "0=Neutral"), "--label-map '0=Neutral' is for labelled tweets"),
        (("--inbox", "a.csv", "--label", "label"), "--label 'label' is for labelled tweets"),
        (("a.csv", "--label", "Bullish=b.csv"), "'a.csv' is given beside --label Bullish=b.csv"),
        (("--label", "Bullish=nowhere.csv"), "there is no file 'nowhere.csv'"),
        (("--inbox", "--label", "Bullish=a.csv"), "--label Bullish=a.csv is for labelled tweets"),
        (("a.csv", "--label", "x=y", "--label-value", "Bullish"), "and --label 'x=y' says how labels are read"),
        (("--inbox", "a.csv", "--name", "x"), "--name 'x' is for labelled tweets"),
        (("a.csv", "--name", ""), "the name '' (--name) is blank"),
        (("",), "'' is not an address"),
        (("--inbox", " "), "' ' is not an address"),
        (("a.csv", "--format", "xml"), "'xml' is not one of"),
    ],
)
def test_options_that_would_be_passed_over(finsent: "Finsent", home: Workspace, arguments: tuple[str, ...], message: str) -> None:
    said = finsent("ingest", *arguments, *options(home))
    assert said.code == 2
    assert message in said.json()["error"]["message"]


@pytest.fixture(scope="module")
def two_days(sampled: "Sampled", tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy, since reports are written to it."""
    return copy_home(sampled.home.root, tmp_path_factory.mktemp("data") / "home")


def test_versions(finsent: "Finsent", two_days: Workspace) -> None:
    latest, first = finsent("data", "versions", "--home", two_days.root, "--json").json()["versions"]
    assert (latest["version"], first["version"]) == (2, 1)
    assert latest["leaks"] == 0
    assert first["inputs"] == ["desk", "street", "archive"]
    said = finsent("data", "versions", "--home", two_days.root)
    assert said.code == 0
    assert latest["fingerprint"] in said.out


def test_versions_whose_files_a_vacuum_removed_are_marked_and_the_others_work(
    finsent: "Finsent", two_days: Workspace, tmp_path: Path
) -> None:
    from deltalake import DeltaTable

    home = copy_home(two_days.root, tmp_path / "vacuumed")
    DeltaTable(tables.location(home, "tweets")).optimize.compact()
    DeltaTable(tables.location(home, "tweets")).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    latest, first = finsent("data", "versions", "--home", home.root, "--json").json()["versions"]
    for item in (latest, first):
        assert item["rows"] is None
        assert f"version {item['version']} of table 'tweets' can no longer be read: its files were removed" in item["unreadable"]
    shown = finsent("data", "versions", "--home", home.root)
    assert (shown.code, shown.out.count("unreadable")) == (0, 2)
    assert "removed by a vacuum" in shown.out
    said = finsent("data", "diff", str(first["version"]), str(latest["version"]), "--home", home.root)
    assert said.code == 2
    assert f"version {first['version']} of table 'tweets' can no longer be read: its files were removed by a vacuum" in said.err
    assert finsent("data", "report", "--no-mlflow", "--home", home.root).code == 0
    (page,) = home.reports.glob(f"data-v{tables.version(home, 'tweets')}.html")
    assert "No comparison: version" in page.read_text(encoding="utf-8")


def test_report_prints_where_the_page_is(finsent: "Finsent", two_days: Workspace) -> None:
    said = finsent("data", "report", "--version", "1", "--no-mlflow", "--home", two_days.root)
    assert said.code == 0
    assert said.out.strip() == str(two_days.reports / "data-v1.html")
    assert Path(said.out.strip()).is_file()
    found = finsent("data", "report", "--no-mlflow", "--home", two_days.root, "--json").json()
    assert (found["version"], found["run_id"]) == (2, None)
    assert found["report"]["confounding"]["sentence"].startswith("Label and source")
    assert not (two_days.root / "mlflow.db").exists()


def test_diff_of_two_ingestions(finsent: "Finsent", two_days: Workspace) -> None:
    found = finsent("data", "diff", "1", "2", "--home", two_days.root, "--json").json()
    assert found["moved"] == found["removed"] == found["relabelled"] == {}
    assert sum(found["added"]["arrivals"].values()) == found["rows_after"] - found["rows_before"]
    said = finsent("data", "diff", "1", "2", "--home", two_days.root)
    assert said.code == 0
    assert "moved between splits  0" in said.out
    assert finsent("data", "diff", "1", "9", "--home", two_days.root).code == 2


def test_a_row_that_moved_between_splits_exits_with_1(finsent: "Finsent", home: Workspace) -> None:
    from deltalake import write_deltalake

    source = sample_sources(1)[:1]
    ingest(make_context(load_config(), home), source)
    rows = tables.read(home, "tweets")
    swapped = pa.array(["test" if split == "train" else "train" for split in rows["split"].to_pylist()])
    moved = rows.set_column(rows.schema.get_field_index("split"), "split", swapped)
    write_deltalake(tables.location(home, "tweets"), moved, mode="overwrite")
    said = finsent("data", "diff", "1", "2", "--home", home.root)
    assert said.code == 1
    assert "MOVED BETWEEN SPLITS" in said.out
    assert finsent("data", "diff", "1", "2", "--home", home.root, "--json").json()["moved"]


def test_quarantine(finsent: "Finsent", two_days: Workspace) -> None:
    found = finsent("data", "quarantine", "--reason", "empty", "--limit", "2", "--home", two_days.root, "--json").json()
    assert len(found["rows"]) == 2
    assert found["total"] > 2
    assert {row["reason"] for row in found["rows"]} == {"empty"}
    said = finsent("data", "quarantine", "--limit", "1", "--home", two_days.root)
    assert "contradictory label" in said.out
    assert "more with --limit" in said.out
    wrong = finsent("data", "quarantine", "--source", "nowhere", "--home", two_days.root)
    assert wrong.code == 2
    assert "no quarantined row has source 'nowhere'" in wrong.err


def test_nothing_there_yet_is_said_and_makes_nothing(finsent: "Finsent", tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert "no data yet" in finsent("data", "versions", "--home", new).out
    assert "The quarantine is empty." in finsent("data", "quarantine", "--home", new).out
    for command in (("report",), ("diff", "1", "2")):
        assert finsent("data", *command, "--home", new).code == 2
    assert not new.exists()


def test_audit_finds_a_leak_that_was_planted(finsent: "Finsent", two_days: Workspace, tmp_path: Path) -> None:
    found = finsent("data", "audit", "--home", two_days.root, "--json").json()
    assert (found["version"], found["leaks"]) == (2, 0)
    assert finsent("data", "audit", "--home", two_days.root).code == 0
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / "home")})
    rows = tables.read(two_days, "tweets").to_pylist()[:50]
    twin = next(row for row in rows if row["split"] == "train")
    leaked = twin | {"id": "0" * 32, "text": f"RT @x: {twin['text']}", "split": "test"}
    tables.append(home, "tweets", pa.Table.from_pylist([*rows, leaked], schema=tables.SCHEMAS["tweets"]))
    said = finsent("data", "audit", "--home", home.root)
    assert said.code == 1
    assert "train-test" in said.out
    assert "earlier release" not in said.out


@pytest.mark.parametrize(("text", "leaks"), [("$AAPL to the moon - and beyond!", 1), ("the fed meets on tuesday", 0)])
def test_audit_says_that_an_earlier_release_split_the_rows(finsent: "Finsent", home: Workspace, text: str, leaks: int) -> None:
    texts = {"train": "$AAPL to the moon and beyond", "test": text}
    rows = [
        {"id": split, "text": text, "label": "Bullish", "source": "desk", "group": split, "split": split}
        for split, text in texts.items()
    ]
    rule = {"split_rule": json.dumps({"normalisation": "2"})}  # as releases wrote it whose form was that of the identity
    table = pa.Table.from_pylist(rows, schema=tables.SCHEMAS["tweets"])
    tables.append_if_unchanged(home, "tweets", table, TWEETS_APPLICATION, tables.Position(-1, 0), rule)
    said = finsent("data", "audit", "--home", home.root)
    assert said.code == leaks
    assert f"split these rows, by near-duplicate form 2; here they are compared by form\n{TEMPLATE}, which takes" in said.out
    assert ("ingest all sources again into a new home" in said.out) == bool(leaks)
    found = finsent("data", "audit", "--home", home.root, "--json").json()
    assert (found["leaks"], found["split_form"], found["form"]) == (leaks, "2", TEMPLATE)


def test_texts_and_names_of_a_file_do_not_act_on_the_terminal(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    title, hidden = "\x1b]0;owned\x07", "\u202eevil\u200b"
    file = tmp_path / f"a{hidden}b.jsonl"
    rows = [*((f"shares of Acme rise {title}{hidden}", label) for label in ("Bullish", "Bearish")), ROWS[1]]
    file.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), encoding="utf-8")
    plain = [part for part in options(home) if part != "--json"]
    said = [
        finsent("ingest", file, "--no-report", *plain),
        finsent("ingest", file, "--label", f"no{hidden}", *plain),
        finsent("data", "quarantine", *plain),
        finsent("data", "versions", *plain),
    ]
    shown = "".join(one.out + one.err for one in said)
    assert r"\u202eevil\u200b" in shown
    assert not set(shown) & set(title + hidden) - set("]0;ownedevil")
    as_json = finsent("data", "quarantine", *options(home)).json()
    assert all(hidden in row["text"] for row in as_json["rows"])
    assert as_json["total"] == 2


def test_a_file_of_another_encoding_is_no_success(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    rows = "".join(f"Müller {n} steigt,Bullish\n" for n in range(3))
    (tmp_path / "street.csv").write_bytes(f"text,label\n{rows}".encode("latin-1"))
    said = finsent("ingest", tmp_path / "street.csv", "--home", home.root, "--no-report")
    assert said.code == 2
    assert "3 lines are not UTF-8, and no other has a letter beyond ASCII" in said.err
    assert "--encoding cp1252. Nothing was written." in said.err
    again = finsent("ingest", tmp_path / "street.csv", "--encoding", "cp1252", "--home", home.root, "--no-report")
    assert again.code == 0, again.err
    assert tables.read(home, "tweets")["text"].to_pylist() == ["Müller 0 steigt", "Müller 1 steigt", "Müller 2 steigt"]


def test_columns_that_are_not_read_and_dates_that_come_too_late_are_named(
    finsent: "Finsent", tmp_path: Path, home: Workspace
) -> None:
    path = tmp_path / "day.csv"
    path.write_text("text,label,tweet_id,posted\ngold up\x1b,Bullish,1,2026-01-02\noil down,Bearish,2,2026-01-03\n")
    at = ("--home", home.root, "--no-report")
    first = finsent("ingest", path, *at).out
    assert "day: columns not read: 'tweet_id', 'posted' (dates? --created-at posted)" in first
    assert "1  control characters" in first
    stored = tables.read(home, "tweets").to_pylist()
    assert {row["text"]: row["flags"] for row in stored} == {"gold up\x1b": "control characters", "oil down": None}
    again = finsent("ingest", path, "--created-at", "posted", *at).out
    assert "2 stored rows without a creation time came again with one: it is not filled in" in again
    assert "columns not read" not in again
    path = tmp_path / "nested.jsonl"
    path.write_text(
        '{"text": "tin up", "entities": {"sentiment": {"basic": "Bullish"}}, "updated_at": 1, "created_at": "2026-01-02"}'
    )
    nested = finsent("ingest", path, "--label", "entities.sentiment.basic", *at).out
    assert "nested: columns not read: 'updated_at'\n" in nested


def test_a_file_for_each_class_and_files_that_are_left_out(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    folder = tmp_path / "bull"
    folder.mkdir()
    (folder / "a.csv").write_text("text\nshares of Acme rise on strong results\nshares of Acme rise on strong results\n,\n")
    (folder / "b.jsonl").write_text('{"text": "Gamma Ltd beats all estimates"}\n')
    (folder / "notes.md").write_text("read me")
    bear = tmp_path / "bear.csv"
    bear.write_text("text\nBeta Corp sinks after a profit warning\nGamma Ltd beats all estimates\n")
    by_class = ("--label", f"bullish={folder}", "--label", f"Bearish={bear}", "--name", "desk")
    said = finsent("ingest", *by_class, "--home", home.root)
    assert said.code == 0
    assert {row["text"]: row["label"] for row in tables.read(home, "tweets").to_pylist()} == dict(ROWS)
    assert f"{folder / 'a.csv'}: 3 rows read, 1 accepted, 1 duplicates; 1 empty (row 3: no characters)" in said.out
    assert f"{bear}: 2 rows read, 1 accepted; 1 contradictory label (row 2: Gamma Ltd beats all estimates)" in said.out
    assert "Left out, since their endings are not read (1): 'notes.md'" in said.out
    received = finsent("ingest", "--inbox", folder, *options(home)).json()
    assert [(item["read"], item["taken"], item["duplicates"]) for item in received["files"]] == [(3, 1, 1), (1, 1, 0)]
    assert received["files"][0]["examples"] == {"empty": "row 3: no characters"}
    assert received["left_out"] == ["notes.md"]
