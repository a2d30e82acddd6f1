"""The file that a person fills: what is written comes back, however a spreadsheet saved it, and what is wrong is said."""

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.data.review_file import COLUMNS, FilledEntry, ReviewEntry, read_entries, write_entries
from finsent.errors import InputError


def entry(text: str) -> ReviewEntry:
    return ReviewEntry("a" * 32, text, "Bullish", "Bearish", 0.0123, "desk", "suspect", "in the train split")


def fill(path: Path, delimiter: str = ",", encoding: str = "utf-8-sig", **values: str) -> None:
    """Write values into the first row, and save as a spreadsheet would."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= values
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_is_filled_in_comes_back(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "review.csv"
    write_entries([entry('two\nlines, "quoted" 🚀'), entry("other")], path)
    fill(path, delimiter, decision=" Fix ", new_label="Bearish", why="sarcasm; clearly")
    assert read_entries(path) == [FilledEntry(3, "a" * 32, "fix", "Bearish", "sarcasm; clearly")]


def test_an_untouched_file_decides_nothing(tmp_path: Path) -> None:
    write_entries([entry("$AAPL up")], tmp_path / "review.csv")
    assert read_entries(tmp_path / "review.csv") == []
    assert (tmp_path / "review.csv").read_text("utf-8-sig").splitlines() == [
        ",".join(COLUMNS),
        f"{'a' * 32},$AAPL up,Bullish,Bearish,0.0123,,desk,,suspect,in the train split,,,",
    ]


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "+1", "-5% today", "@user hello", "\t=1"])
def test_a_text_is_no_formula(tmp_path: Path, text: str) -> None:
    write_entries([entry(text)], tmp_path / "review.csv")
    with (tmp_path / "review.csv").open(encoding="utf-8-sig", newline="") as file:
        assert next(csv.DictReader(file))["text"] == "'" + text


def test_a_text_does_not_act_on_a_terminal(tmp_path: Path) -> None:
    write_entries([entry("up \x1b]0;owned\x07\u202e\nand away")], tmp_path / "review.csv")
    assert '"up \\x1b]0;owned\\x07\\u202e\nand away"' in (tmp_path / "review.csv").read_text("utf-8-sig")


def test_what_someone_filled_in_is_not_written_over(tmp_path: Path) -> None:
    write_entries([entry("a")], tmp_path / "review.csv")
    with pytest.raises(InputError, match=r"review.csv' is there already, and may hold decisions"):
        write_entries([entry("b")], tmp_path / "review.csv")
    with pytest.raises(InputError, match="cannot write"):
        write_entries([entry("b")], tmp_path / "absent" / "review.csv")


WRONG = {
    "columns": ("id,text,label\n", "has no column 'decision'. Columns: 'id', 'text', 'label'"),
    "empty": ("", "has no column 'id'"),
    "width": ("id,decision,new_label,why\nab,drop,\n", "line 2: 3 fields, and the header has 4"),
    "quote": ('id,decision,new_label,why\nab,drop,,"spam\n', "line 2: unexpected end of data"),
    "undecided": ("id,decision,new_label,why\nab,,Bearish,\n", "line 2: new_label 'Bearish' without a decision"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_none_is_explained(tmp_path: Path, name: str) -> None:
    content, said = WRONG[name]
    (tmp_path / "review.csv").write_text(content)
    with pytest.raises(InputError, match=said):
        read_entries(tmp_path / "review.csv")


def test_a_file_in_another_encoding_or_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        read_entries(tmp_path / "review.csv")
    (tmp_path / "review.csv").write_bytes("id,decision,new_label,why\nab,drop,,naïve\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"is not UTF-8 \(byte 37\)"):
        read_entries(tmp_path / "review.csv")


@settings(max_examples=25)  # each is a file on the disk
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4),
    why=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
def test_no_text_breaks_the_file(texts: list[str], why: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "review.csv"
        write_entries([entry(text) for text in texts], path)
        fill(path, decision="drop", why=why)
        (found,) = read_entries(path)
        assert (found.id, found.decision, found.why) == ("a" * 32, "drop", why.strip())
