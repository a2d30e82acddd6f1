"""`finsent data preview`: the command that it prints brings the file in, whatever its form; and it writes nothing."""

import csv
import json
import shlex
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from finsent.config import InboxSource, Source
from finsent.data.preview import preview_source
from finsent.data.sources.records import inbox_columns, labelled_columns
from finsent.labels import LABELS
from tests.workbooks import write_workbook

if TYPE_CHECKING:
    from finsent.workspace import Workspace
    from tests.cli.conftest import Finsent

TEXTS = [
    "$ACME breaks out on heavy volume, adding more shares here",
    "$ACME cuts its guidance, this drops tomorrow for sure",
    "$ACME reports on Thursday after the close of the market",
    "Great quarter from $LMNO, raising my own price target",
    "Sold all my $LMNO today, the margins look weak to me",
    "Which broker has the best options chain for $VWXY then?",
]
CLASSES = ["Bullish", "Bearish", "Neutral"] * 2
WORDS = ["positive", "negative", "neutral"] * 2
IDS = [str(1650000000000000001 + 977 * number) for number in range(6)]


def table(path: Path, names: Sequence[str], *columns: Sequence[object], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([list(names)] if names else [])
        writer.writerows(zip(*columns, strict=True))
    return path


def foreign_names(at: Path) -> Path:
    dates = [f"2021-03-0{number} 10:00:00" for number in range(1, 7)]
    return table(at / "a.csv", ["Tweet", "Sentiment", "Post Date", "status_id"], TEXTS, CLASSES, dates, IDS)


def semicolons_in_latin1(at: Path) -> Path:
    texts = [text.replace("the", "Société") for text in TEXTS]
    return table(at / "a.csv", ["text", "label", "Wert"], texts, CLASSES, ["0,75"] * 6, delimiter=";", encoding="cp1252")


def tabs_named_csv(at: Path) -> Path:
    return table(at / "a.csv", ["body", "class"], TEXTS, WORDS, delimiter="\t")


def without_header(at: Path) -> Path:
    return table(at / "a.csv", [], WORDS, TEXTS)


def numbers_without_header(at: Path) -> Path:
    return table(at / "a.txt", [], range(1, 7), [1, -1, 0] * 2, TEXTS, delimiter=";")


def json_array(at: Path) -> Path:
    rows = [{"content": text, "polarity": label} for text, label in zip(TEXTS, WORDS, strict=True)]
    (at / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    return at / "a.json"


def envelope(at: Path) -> Path:
    rows = [
        {"id": 7 + number, "data": {"body": text, "entities": {"sentiment": {"basic": label}}}, "user": {"id": 3, "bio": text}}
        for number, (text, label) in enumerate(zip(TEXTS, CLASSES, strict=True))
    ]
    document = {"symbols": [{"title": "Acme"}], "cursor": {"more": True}, "messages": rows}
    (at / "a.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return at / "a.json"


def workbook(at: Path) -> Path:
    rows = [["headline", "label"], *map(list, zip(TEXTS, WORDS, strict=True))]
    return write_workbook(at / "a.xlsx", {"read me": [["note"], ["of 2021"]], "tweets": rows})


def archive(at: Path) -> Path:
    with zipfile.ZipFile(at / "a.zip", "w") as file:
        file.write(table(at / "b.csv", ["message", "label"], TEXTS, CLASSES), "b.csv")
    return at / "a.zip"


def class_labels(at: Path) -> Path:
    names = {"sentence": {"dtype": "string"}, "label": {"names": ["negative", "neutral", "positive"], "_type": "ClassLabel"}}
    rows = pa.table({"sentence": TEXTS, "label": pa.array([2, 0, 1] * 2)})
    stored = json.dumps({"info": {"features": names}})
    pq.write_table(rows.replace_schema_metadata({"huggingface": stored}), at / "a.parquet")
    return at / "a.parquet"


def scores(at: Path) -> Path:
    return table(at / "a.csv", ["text", "target", "sentiment"], TEXTS, ["AAPL", "X", "Y", "Z", "V", "W"], [0.51, -0.62, 0.04] * 2)


def numbers(at: Path) -> Path:
    return table(at / "a.csv", ["text", "label"], TEXTS, [1, 0, 2] * 2)


def stars(at: Path) -> Path:
    return table(at / "a.csv", ["text", "rating"], TEXTS, [5, 1, 3, 4, 2, 3])


def other_class(at: Path) -> Path:
    return table(at / "a.csv", ["text", "label"], TEXTS, [*WORDS[:4], "irrelevant", "irrelevant"])


def day_first(at: Path) -> Path:
    rows = [
        {"text": text, "label": label, "date": f"{10 + day}/02/2021 10:00"}
        for day, (text, label) in enumerate(zip(TEXTS, CLASSES, strict=True))
    ]
    (at / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return at / "a.jsonl"


def open_order(at: Path) -> Path:
    return table(at / "a.csv", ["text", "label", "date"], TEXTS, CLASSES, [f"0{day}/02/2021 10:00" for day in range(1, 7)])


def spreadsheet_days(at: Path) -> Path:
    return table(at / "a.csv", ["text", "label", "created_at"], TEXTS, CLASSES, [44237.65 + day for day in range(6)])


def row_numbers(at: Path) -> Path:
    return table(at / "a.csv", ["id", "text", "url"], range(6), TEXTS, [f"https://x.com/a/status/{name}" for name in IDS])


def two_sheets(at: Path) -> Path:
    rows = [["tweet", "label"], *map(list, zip(TEXTS, CLASSES, strict=True))]
    return write_workbook(at / "a.xlsx", {"May": rows[:5], "June": rows})


def one_class_a_file(at: Path) -> Path:
    (at / "tweets").mkdir()
    table(at / "tweets" / "bullish.csv", ["text"], TEXTS[::3])
    table(at / "tweets" / "negative.csv", ["text"], TEXTS[1::3])
    table(at / "tweets" / "neutral.csv", ["text"], TEXTS[2::3])
    return at / "tweets"


def one_class_a_file_with_dates(at: Path) -> Path:
    (at / "tweets").mkdir()
    for number, name in enumerate(("bullish", "negative", "neutral")):
        table(at / "tweets" / f"{name}.csv", ["text", "date"], TEXTS[number::3], ["2021-03-01"] * 2)
    return at / "tweets"


def dates_beside_one_class(at: Path) -> Path:
    return table(at / "bull.csv", ["text", "date"], TEXTS, ["2021-03-01", "2021-03-02"] * 3)


def ids_without_header(at: Path) -> Path:
    dates = [f"Wed Mar 0{number} 10:00:00 PDT 2021" for number in range(3, 9)]
    return table(at / "a.csv", [], [2, 0, 4] * 2, IDS, dates, ["NO_QUERY"] * 6, ["ann", "bob", "eve"] * 2, TEXTS)


def lists_of_one_label(at: Path) -> Path:
    rows = [{"id": n, "text": text, "label": [WORDS[n][:3]], "Comments": []} for n, text in enumerate(TEXTS)]
    (at / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return at / "a.jsonl"


def german_scores(at: Path) -> Path:
    return table(at / "a.csv", ["Text", "Stimmung"], TEXTS, ["0,51", "-0,62", "0,04"] * 2, delimiter=";")


def nulls_of_a_database(at: Path) -> Path:
    return table(
        at / "a.txt", ["id", "body", "sentiment", "lang"], IDS, TEXTS, map(str.upper, CLASSES), [r"\N"] * 6, delimiter="|"
    )


def time_of_labelling(at: Path) -> Path:
    rows = [
        {
            "created_at": "2024-05-01T09:00:00Z",
            "sentiment": CLASSES[number],
            "data": {"text": text, "tweet_id": IDS[number], "posted": f"2021-03-0{number + 1}T10:00:00Z"},
        }
        for number, text in enumerate(TEXTS)
    ]
    (at / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    return at / "a.json"


FORMS: dict[Callable[[Path], Path], tuple[str, int]] = {
    foreign_names: ("--created-at 'Post Date'", 1),
    semicolons_in_latin1: ("--encoding cp1252", 1),
    tabs_named_csv: (r"--delimiter '\t'", 1),
    without_header: ("--no-header --columns label,text", 1),
    numbers_without_header: ("--columns 1,label,text", 1),
    json_array: ("--text content", 1),
    envelope: ("--label data.entities.sentiment.basic", 1),
    workbook: ("--sheet tweets", 1),
    two_sheets: ("--sheet June", 2),
    archive: ("--text message", 1),
    class_labels: ("--text sentence --label-map positive=Bullish,negative=Bearish,neutral=Neutral", 1),
    scores: ("--label-bins=-0.1,0.1", 2),
    numbers: ("--label-map 0=Bearish,1=Bullish,2=Neutral", 6),
    stars: ("--label-bins 2.5,3.5", 1),
    other_class: ("irrelevant=Neutral", 2),
    day_first: ("--created-at date", 1),
    open_order: ("--date-format month-first", 2),
    spreadsheet_days: ("--date-format excel", 1),
    row_numbers: ("--inbox", 4),
    one_class_a_file: ("--label Bullish=", 2),
    one_class_a_file_with_dates: ("--label Bullish=", 2),
    dates_beside_one_class: ("--created-at date --label-value Bullish", 2),
    ids_without_header: ("--inbox", 3),
    lists_of_one_label: ("--label-map pos=Bullish,neg=Bearish,neu=Neutral", 1),
    german_scores: ("--label Stimmung --label-bins=-0.1,0.1", 2),
    nulls_of_a_database: ("--id id --label sentiment", 1),
    time_of_labelling: ("--created-at data.posted", 1),
}
"""Each form with a part of the command to choose, and the number of commands."""


def source_of(entry: dict[str, Any]) -> tuple[type[Source], list[Any]]:
    (section,) = entry
    return (InboxSource if section == "scoring" else Source), entry[section]["sources"]


def read_as(source: Source) -> dict[str, str]:
    """The column that is read in each role, of a file that has those which are read where they are there."""
    wanted = inbox_columns(source) if isinstance(source, InboxSource) else labelled_columns(source)
    return wanted.optional | wanted.required


def check_columns_shown(found: dict[str, Any]) -> None:
    """Every command reads in each role the column that is shown in it."""
    columns = {column["name"]: column["role"] for column in found["columns"]}
    for choice, entry in zip(found["choices"], found["yaml"], strict=True):
        kind, entries = source_of(yaml.safe_load(entry))
        for source in (kind(**one) for one in entries):
            read = {role: name for role, name in read_as(source).items() if name in columns}
            for name, role in columns.items():
                if role in ("text", "created_at", "id") or (role == "label" and not choice["look_again"]):
                    assert read.get(role) == name, (role, name, entry)
            assert all(columns[name] in (role, f"{role}?") for role, name in read.items() if role != "label"), (read, columns)


@pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)
def test_the_command_that_is_printed_reads_the_file(
    make: Callable[[Path], Path], finsent: "Finsent", home: "Workspace", tmp_path: Path
) -> None:
    path, (part, count) = make(tmp_path), FORMS[make]
    said = finsent("data", "preview", path, "--json", "--home", home.root)
    assert said.code == 0, said.err
    assert not home.root.exists()
    found = said.json()
    assert found["trial"]["problem"] is None
    assert not any("check_labels" in command for command in found["commands"]) or "checks that labels" in str(found["choices"])
    assert len(found["commands"]) == count, found["commands"]
    index = next(index for index, command in enumerate(found["commands"]) if part in command)
    check_columns_shown(found)
    program, *arguments = shlex.split(found["commands"][index])
    done = finsent(*arguments, "--dry-run", "--json")
    assert (program, done.code) == ("finsent", 0), done.err
    report = done.json()
    assert (report["read"], report.get("accepted", report.get("received"))) == (6, 6)


def test_a_query_of_a_database(finsent: "Finsent", tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "desk.db") as connection:
        connection.execute("CREATE TABLE tweets (body, mood)")
        connection.executemany("INSERT INTO tweets VALUES (?, ?)", zip(TEXTS, CLASSES, strict=True))
    connection.close()
    address, query = f"sqlite:///{tmp_path / 'desk.db'}", "SELECT * FROM tweets"
    (command,) = finsent("data", "preview", address, "--query", query, "--json").json()["commands"]
    words = ["finsent", "ingest", address, "--query", query, "--text", "body", "--label", "mood"]
    assert sorted(shlex.split(command)) == sorted(words)


def test_a_screen_of_a_file(finsent: "Finsent", tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["tweet", "sentiment", "x"], [*TEXTS[:5], "\x1b]0;evil\x07 $ACME"], WORDS, ["", *"abcde"])
    said = finsent("data", "preview", path)
    assert said.code == 0
    assert "\x1b" not in said.out
    for line in (
        "CSV, UTF-8, separated by commas, the first row names the columns; 6 rows",
        "  x                   text     83%  a | b | c",
        "  positive     2  Bullish  $ACME breaks out on heavy volume, adding more shares here",
        "    2  Bearish  -                   $ACME cuts its guidance, this drops tomorrow for sure",
        f"  finsent ingest {path} --text tweet --label sentiment --label-map positive=Bullish,negative=Bearish,neutral=Neutral",
        "    label: sentiment",
        "The label map is what these values usually mean: check it",
    ):
        assert line in said.out, line


def test_what_cannot_be_told_is_said(finsent: "Finsent", tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["a", "b"], [1, 2, 3], [4, 5, 6])
    said = finsent("data", "preview", path)
    assert said.code == 0
    assert "No column holds sentences" in said.out
    path.write_text("Export of 2021\n\ntext,label\nup,Bullish\n", encoding="utf-8")
    assert "2 rows cannot be read: malformed row, row 1: 2 fields under 1 columns" in finsent("data", "preview", path).out
    document = {"a": [{"text": TEXTS[0], "x": 1}], "b": [{"body": TEXTS[1], "z": 1}]}
    (tmp_path / "a.json").write_text(json.dumps(document), encoding="utf-8")
    assert f"finsent data preview {tmp_path / 'a.json'} --records b" in finsent("data", "preview", tmp_path / "a.json").out
    path = table(tmp_path / "b.csv", ["text", "label"], TEXTS[:3], ["joy", "fear", "joy"])
    said = finsent("data", "preview", path)
    assert "--label-map joy=CLASS,fear=CLASS" in said.out
    assert ", ".join(LABELS) in said.out
    path = table(tmp_path / "c.csv", ["text", "label"], TEXTS, ["good, buy", "bad, sell", "good, buy"] * 2)
    said = finsent("data", "preview", path)
    assert "finsent ingest --config FILE.yaml" in said.out
    assert "good, buy: Bullish" in said.out


def test_only_the_first_rows_are_looked_at(finsent: "Finsent", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(preview_source.__kwdefaults__, "limit", 3)
    path = table(tmp_path / "a.csv", ["text", "label"], TEXTS, ["positive", "negative", "neutral", "other", "other", "other"])
    found = finsent("data", "preview", path, "--json").json()
    assert any("Rows further down" in note for note in found["notes"])
    assert (found["rows"], found["bounded"], len(found["commands"])) == (3, True, 1)


def test_what_is_given_counts(finsent: "Finsent", tmp_path: Path) -> None:
    path = ids_without_header(tmp_path)
    found = finsent("data", "preview", path, "--json").json()
    assert [shlex.split(command)[-2:] for command in found["commands"][:2]] == [["--label", "1"], ["--label", "5"]]
    assert found["choices"][0]["look_again"]
    again = finsent(*shlex.split(found["commands"][0])[1:], "--json").json()
    assert len(again["commands"]) == 6, again["open"]
    by_number = finsent("data", "preview", path, "--label", "1", "--json").json()
    assert [label["value"] for label in by_number["labels"]] == ["2", "0", "4"]
    assert all("--id id" in command and "--label 1" in command for command in (*again["commands"], *by_number["commands"]))
    path = table(tmp_path / "b.csv", ["day", "text", "until"], ["2021-03-01"] * 6, TEXTS, ["2021-04-01", "2021-04-02"] * 3)
    found = finsent("data", "preview", path, "--created-at", "day", "--json").json()
    assert [column["role"] for column in found["columns"]] == ["created_at", "text", None]
    assert finsent("data", "preview", path, "--date-format", "quarter").code == 2


def test_rows_in_another_encoding_and_files_that_differ(finsent: "Finsent", tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = "".join(f"{text},Bullish\n" for text in (*TEXTS, "The Café Société is up a lot today"))
    path.write_bytes(f"text,label\n{rows}".encode("latin-1"))
    assert "Rows that are not UTF-8 (1) may be in cp1252: --encoding cp1252 reads them" in finsent("data", "preview", path).out
    table(tmp_path / "b.csv", ["body", "mood"], TEXTS, CLASSES)
    said = finsent("data", "preview", tmp_path)
    assert said.code == 2
    assert f"Columns are proposed by the first of 2 files, {str(path)!r}" in said.err


def test_labels_that_are_not_known_are_shown(finsent: "Finsent", tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["text", "Mood"], TEXTS, ["🌞", "🌧", "🌥"] * 2)
    said = finsent("data", "preview", path)
    assert "  🌞        2  ?      $ACME breaks out" in said.out
    assert "Put a class in place of each CLASS, and read it with" in said.out
    path = table(tmp_path / "b.csv", ["text", "label"], TEXTS, ["Positive", "NEUTRAL", "meh"] * 2)
    found = finsent("data", "preview", path, "--json").json()
    assert {label["value"]: label["label"] for label in found["labels"]} == {
        "Positive": "Bullish",
        "NEUTRAL": "Neutral",
        "meh": None,
    }
    path = table(tmp_path / "c.csv", ["text", "positive", "negative"], TEXTS, [1, 0] * 3, [0, 1] * 3)
    (command,) = finsent("data", "preview", path, "--json").json()["commands"]
    assert "--inbox" in command
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"data": {"text": text}, "annotations": [{"result": [{"x": 1}]}]} for text in TEXTS]))
    (command,) = finsent("data", "preview", path, "--json").json()["commands"]
    assert "--inbox" in command
