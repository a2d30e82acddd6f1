"""Files of kinds that are not read say what to do, and what they say works."""

import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, orc

from finsent.config import Source
from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError

ROWS = pd.DataFrame({"text": ["gold up", "oil down"], "label": ["Bullish", "Bearish"]})
TABLE = pa.Table.from_pandas(ROWS)
CSV = ROWS.to_csv(index=False)


def texts_of(path: Path, **settings: object) -> list[object]:
    source = Source.model_validate({"uri": str(path), **settings})
    return [row.text for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        texts_of(path)
    return str(error.value)


def write_stream(path: str) -> None:
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, TABLE.schema) as stream:
        stream.write_table(TABLE)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: feather.write_feather(TABLE, path, compression="uncompressed"),
        lambda path: orc.write_table(TABLE, path),
        ROWS.to_pickle,
        write_stream,
    ],
    ids=["feather", "orc", "pickle", "stream"],
)
def test_the_line_that_is_printed_converts_the_file(tmp_path: Path, write: Callable[[str], None]) -> None:
    path = tmp_path / "it's $HOME.csv"
    write(str(path))
    program, flag, code = shlex.split(refusal(path).partition("Convert it: ")[2])
    assert (program, flag) == ("python", "-c")
    exec(code)  # noqa: S102 - what a shell would give to Python
    assert texts_of(Path(f"{path}.parquet")) == ["gold up", "oil down"]


def test_archives_are_unpacked_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
            archive.add(tmp_path / "a.csv", "a.csv")
        assert f"tar -xf {tmp_path / name} -C {tmp_path / name}.d" in refusal(tmp_path / name)


def test_spreadsheets_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "tabs.xls").write_text(CSV.replace(",", "\t"))
    (tmp_path / "commas.xlsx").write_text(CSV)
    assert texts_of(tmp_path / "tabs.xls") == texts_of(tmp_path / "commas.xlsx") == ["gold up", "oil down"]
    (tmp_path / "web.xls").write_text("<html><table><tr><td>text</td></tr></table></html>")
    assert "is HTML" in refusal(tmp_path / "web.xls")
    (tmp_path / "old.xls").write_text("<?xml version='1.0'?><Workbook xmlns='urn:schemas-microsoft-com:office:spreadsheet'/>")
    assert "save it as .xlsx" in refusal(tmp_path / "old.xls")


def test_text_with_nul_bytes(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_bytes(CSV.encode("utf-16-le"))
    assert "--encoding utf-16-le." in refusal(tmp_path / "wide.csv")
    assert texts_of(tmp_path / "wide.csv", encoding="utf-16-le") == ["gold up", "oil down"]
    (tmp_path / "cut.csv").write_bytes(CSV.encode() + bytes(100))
    assert "tr -d '\\000' <" in refusal(tmp_path / "cut.csv")


def test_lines_without_a_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('gold up\noil down "now"\n')
    assert "--format text" in refusal(tmp_path / "a.txt")
    assert texts_of(tmp_path / "a.txt", format="text", label_value="Neutral") == ["gold up", 'oil down "now"']
