"""Result files in three formats: exact, whole or not there, and never over another file."""

import csv
import errno
import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from finsent.data import output_file
from finsent.data.output_file import new_file, require_new_output, write_output
from finsent.errors import InputError

SCHEMA = pa.schema(
    {"id": pa.string(), "text": pa.string(), "p": pa.float64(), "sure": pa.bool_(), "at": pa.timestamp("us", "UTC")}
)
ROWS = [
    {
        "id": "007",
        "text": 'say "buy",\r\n\x1b[2J\x7f 🚀',
        "p": 0.1 + 0.2,
        "sure": True,
        "at": datetime(2026, 1, 2, 3, tzinfo=UTC),
    },
    {"id": None, "text": "", "p": None, "sure": None, "at": None},
]
TABLE = pa.Table.from_pylist(ROWS, schema=SCHEMA)


def test_all_formats_hold_the_rows_and_csv_escapes_control_characters(tmp_path: Path) -> None:
    files = [tmp_path / f"out{ending}" for ending in (".parquet", ".csv", ".jsonl")]
    assert [write_output(file, SCHEMA, iter([TABLE, TABLE.slice(0, 0), TABLE])) for file in files] == [4, 4, 4]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert parquet.read_table(files[0]).to_pylist() == ROWS * 2
    as_csv = pd.read_csv(files[1], dtype={"id": str}, lineterminator=None, keep_default_na=False, na_values=[])
    assert as_csv["id"].tolist() == ["007", "", "007", ""]
    assert as_csv["text"].tolist()[:2] == ['say "buy",\\r\n\\x1b[2J\\x7f 🚀', ""]
    assert float(as_csv["p"][0]) == 0.1 + 0.2
    raw = files[2].read_bytes()
    assert raw.isascii()
    assert b"\x1b" not in raw
    assert b"\x7f" not in raw
    assert [json.loads(line)["text"] for line in raw.splitlines()][:2] == [row["text"] for row in ROWS]
    assert json.loads(raw.splitlines()[0])["at"] == "2026-01-02T03:00:00+00:00"


def test_without_rows_the_columns_are_there(tmp_path: Path) -> None:
    assert write_output(tmp_path / "o.csv", SCHEMA, []) == 0
    assert (tmp_path / "o.csv").read_text(encoding="utf-8").strip() == '"id","text","p","sure","at"'


def test_a_run_that_breaks_off_leaves_nothing_and_what_a_killed_one_left_is_no_hindrance(tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"

    def parts():
        yield TABLE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_output(out, SCHEMA, parts())
    assert list(tmp_path.iterdir()) == []
    with new_file(tmp_path / "o.parquet"):
        (left,) = tmp_path.iterdir()
    out.unlink()
    assert (left.name.startswith(".finsent-"), left.suffix) == (True, ".part")
    left.write_bytes(b"half" * 1000)
    assert write_output(tmp_path / "other.csv", SCHEMA, []) == 0
    assert left.exists()
    assert write_output(out, SCHEMA, [TABLE]) == 2
    assert parquet.read_table(out).num_rows == 2
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "other.csv"]


def test_no_file_is_overwritten_and_no_two_runs_write_one(tmp_path: Path) -> None:
    out = tmp_path / "o.csv"

    def parts():
        with pytest.raises(InputError, match="another process is writing"):
            write_output(out, SCHEMA, [])
        yield TABLE

    assert write_output(out, SCHEMA, parts()) == 2
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"o.csv' is there already. Name another file, or remove it"):
        write_output(out, SCHEMA, [])
    assert out.read_bytes() == before
    with pytest.raises(InputError, match=r"'\.xlsx' is none that is written"):
        write_output(tmp_path / "o.xlsx", SCHEMA, [])
    (tmp_path / "results").mkdir()
    with pytest.raises(InputError, match=r"there is no folder .*reslts.*Did you mean"):
        write_output(tmp_path / "reslts" / "o.csv", SCHEMA, [])


def _no_links(*_: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    out = tmp_path / "o.csv"
    if not links:  # as on FAT
        monkeypatch.setattr(Path, "hardlink_to", _no_links)

    def parts():
        out.write_text("of another run")
        yield TABLE

    with pytest.raises(InputError, match="is there already"):
        write_output(out, SCHEMA, parts())
    assert out.read_text() == "of another run"
    assert write_output(tmp_path / "p.csv", SCHEMA, [TABLE]) == 2
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "p.csv"]


def test_a_part_taken_for_a_leftover_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, taken = output_file._lock, []

    def late(file: IO[bytes]) -> bool:
        if not taken:
            taken.append(next(tmp_path.iterdir()))
            output_file._clear(tmp_path / "o.csv", re.compile(".*"))
        return lock(file)

    monkeypatch.setattr(output_file, "_lock", late)
    assert write_output(tmp_path / "o.csv", SCHEMA, [TABLE]) == 2
    assert pd.read_csv(tmp_path / "o.csv").shape == (2, 5)
    assert list(tmp_path.iterdir()) == [tmp_path / "o.csv"]


def test_files_links_and_pipes_beside_it_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, precious = tmp_path / "o.csv", tmp_path / "precious"
    monkeypatch.setattr(output_file.secrets, "token_hex", lambda _: "0" * 16)
    precious.write_text("precious")
    (tmp_path / ".o.csv.part").write_text("half a download")
    name = hashlib.sha256(b"o.csv").hexdigest()[:12]
    (tmp_path / f".finsent-{name}-{'2' * 16}.part").symlink_to(precious)
    os.mkfifo(tmp_path / f".finsent-{name}-{'3' * 16}.part")
    before = set(tmp_path.iterdir())
    assert write_output(out, SCHEMA, [TABLE]) == 2
    assert set(tmp_path.iterdir()) == before | {out}
    assert (precious.read_text(), (tmp_path / ".o.csv.part").read_text()) == ("precious", "half a download")


def test_csv_marks_formulas_and_the_other_formats_are_exact(tmp_path: Path) -> None:
    schema = pa.schema([("=1+1", pa.string()), ("n", pa.int64())])
    texts = ["=HYPERLINK(1)", "+1", "-1", "@desk", "\n=1", "up", None]
    table = pa.table({"=1+1": texts, "n": [-1] * 7}, schema=schema)
    for ending in ("csv", "parquet", "jsonl"):
        write_output(tmp_path / f"o.{ending}", schema, [table])
    with (tmp_path / "o.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["'=1+1", "n"], *([f"'{text}", "-1"] for text in texts[:5]), ["up", "-1"], ["", "-1"]]
    assert parquet.read_table(tmp_path / "o.parquet").equals(table)
    assert [json.loads(line)["=1+1"] for line in (tmp_path / "o.jsonl").read_text().splitlines()] == texts


def test_a_name_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    longest = tmp_path / f"{'x' * 251}.csv"
    require_new_output(longest)
    assert list(tmp_path.iterdir()) == []
    assert write_output(longest, SCHEMA, [TABLE]) == 2
    with pytest.raises(InputError, match=r"cannot write .*File name too long"):
        require_new_output(tmp_path / f"{'x' * 252}.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_one_message(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for write in (require_new_output, lambda path: write_output(path, SCHEMA, [])):
        with pytest.raises(InputError, match=r"cannot write .*Permission denied"):
            write(tmp_path / "o.csv")
