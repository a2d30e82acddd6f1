"""Result files in three formats: exact, whole or not there, and never over another file."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from finsent.data.output_file import write_output
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


def test_all_formats_hold_the_rows_to_the_bit(tmp_path: Path) -> None:
    files = [tmp_path / f"out{ending}" for ending in (".parquet", ".csv", ".jsonl")]
    assert [write_output(file, SCHEMA, iter([TABLE, TABLE.slice(0, 0), TABLE])) for file in files] == [4, 4, 4]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert parquet.read_table(files[0]).to_pylist() == ROWS * 2
    as_csv = pd.read_csv(files[1], dtype={"id": str}, lineterminator=None, keep_default_na=False, na_values=[])
    assert as_csv["id"].tolist() == ["007", "", "007", ""]
    assert as_csv["text"].tolist()[:2] == ['say "buy",\r\n\x1b[2J\x7f 🚀', ""]
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
    (tmp_path / ".o.parquet.part").write_bytes(b"half" * 1000)
    assert write_output(out, SCHEMA, [TABLE]) == 2
    assert parquet.read_table(out).num_rows == 2
    assert list(tmp_path.iterdir()) == [out]


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_one_message(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"cannot write .*Permission denied"):
        write_output(tmp_path / "o.csv", SCHEMA, [])
