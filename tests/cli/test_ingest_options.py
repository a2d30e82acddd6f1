"""Options of `ingest` that belong to one kind of source: a query for databases, split and revision for the Hub, a format."""

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.data import tables
from finsent.home import Home

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent

ROWS = [("shares of Acme rise on strong results", "Bullish"), ("Beta Corp sinks after a profit warning", "Bearish")]


def options(home: Home) -> tuple[str, ...]:
    return ("--home", str(home.root), "--json", "--no-report", "--set", "data.check_labels=false")


def test_a_query_of_a_database(finsent: "Finsent", tmp_path: Path, home: Home) -> None:
    with sqlite3.connect(tmp_path / "desk.db") as connection:
        connection.execute("CREATE TABLE tweets (body, mood)")
        connection.executemany("INSERT INTO tweets VALUES (?, ?)", ROWS)
    connection.close()
    query = "SELECT body, mood FROM tweets"
    database = f"sqlite:///{tmp_path / 'desk.db'}"
    said = finsent("ingest", database, "--query", query, "--text", "body", "--label", "mood", *options(home))
    assert (said.code, said.json()["accepted"], list(said.json()["by_source"])) == (0, 2, ["desk"])
    assert sorted(tables.read(home, "tweets")["text"].to_pylist()) == sorted(text for text, _ in ROWS)


def test_a_password_is_not_in_what_is_said(finsent: "Finsent", home: Home) -> None:
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


def test_a_split_of_a_dataset(finsent: "Finsent", tmp_path: Path, home: Home) -> None:
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


def test_a_format_that_the_name_does_not_tell(finsent: "Finsent", tmp_path: Path, home: Home) -> None:
    (tmp_path / "export.txt").write_text("".join(f"{a}\t{b}\n" for a, b in [("text", "label"), *ROWS]), encoding="utf-16")
    said = finsent("ingest", tmp_path / "export.txt", "--format", "tsv", *options(home))
    assert (said.code, said.json()["accepted"]) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.csv", "--split", "test"), "--split 'test' is for labelled datasets of the Hub"),
        (("a.csv", "--revision", "main"), "--revision 'main' is for labelled datasets of the Hub"),
        (("a.csv", "--query", "SELECT 1"), "'a.csv' is no database's URL, and a query was given"),
        (("a.csv", "b.csv", "--query", "SELECT 1"), "--query needs one FILE"),
        (("--inbox", "sqlite:///a.db", "--query", "SELECT 1"), "For the inbox, export the rows to a file"),
        (("--inbox", "a.txt", "--format", "csv"), "--format 'csv' needs a labelled FILE"),
        (("--label-map", "0=Neutral"), "--label-map '0=Neutral' needs a FILE"),
        (("--text", "text"), "--text 'text' needs a FILE"),
        (("--label", "mood"), "--label 'mood' needs a FILE"),
        (("--created-at", "posted"), "--created-at 'posted' needs a FILE"),
        (("--name", "x"), "--name 'x' names one source, and 0 were given"),
        (("--inbox", "a.csv", "--label-map", "0=Neutral"), "--label-map '0=Neutral' is for labelled tweets"),
        (("--inbox", "a.csv", "--label", "label"), "--label 'label' is for labelled tweets"),
        (("--inbox", "a.csv", "--name", "x"), "--name 'x' is for labelled tweets"),
        (("a.csv", "--name", ""), "the name '' (--name) says nothing"),
        (("",), "'' is no address"),
        (("--inbox", " "), "' ' is no address"),
        (("a.csv", "--format", "xml"), "'xml' is not one of"),
    ],
)
def test_options_that_would_be_passed_over(finsent: "Finsent", home: Home, arguments: tuple[str, ...], message: str) -> None:
    said = finsent("ingest", *arguments, *options(home))
    assert said.code == 2
    assert message in said.json()["error"]["message"]
