"""A file of which no row can be read: what is said about it, from the bytes that are no UTF-8."""

from dataclasses import replace

import pytest

from finsent.config import Source
from finsent.data.sources.broken_rows import BrokenRows
from finsent.data.sources.records import QuarantinedRow, SourceFile
from finsent.data.validation.row_validation import Reason
from finsent.errors import escape_invalid

FILE = SourceFile("day", "day", "/in/my day.csv", "csv", Source(uri="/in/my day.csv"))


def rejected(*texts: bytes, reason: Reason = "bad encoding") -> list[QuarantinedRow]:
    shown = (escape_invalid(text.decode("utf-8", "surrogateescape")) for text in texts)
    return [QuarantinedRow("day", "day", number, text, reason, "why") for number, text in enumerate(shown, 1)]


@pytest.mark.parametrize(
    ("text", "codec", "named"),
    [
        ("Müller steigt, Käufer größer", "latin-1", "cp1252"),
        ("€ up – “good”", "cp1252", "cp1252"),
        ("акции растут, рынок сегодня сильный", "cp1251", "cp1251"),
    ],
)
def test_an_unreadable_file_is_called_what_it_looks_like(text: str, codec: str, named: str) -> None:
    broken = BrokenRows()
    broken.add(2, rejected(text.encode(codec), text.encode(codec)))
    said = str(broken.advice(FILE))
    assert said.startswith("'/in/my day.csv': no row of this file could be read")
    assert f"--encoding {named}" in said


def test_no_encoding_is_advised_where_it_has_no_effect() -> None:
    broken = BrokenRows()
    broken.add(1, rejected("Käufer".encode("latin-1")))
    for file in (replace(FILE, format="parquet"), replace(FILE, source=Source(uri="a.csv", encoding="ascii"))):
        assert "Correct the file" in str(broken.advice(file))


def test_a_file_is_unreadable_only_where_each_row_is_and_the_file_is_to_blame() -> None:
    assert BrokenRows().advice(FILE) is None, "it has no rows"
    some, labels, malformed = BrokenRows(), BrokenRows(), BrokenRows()
    some.add(3, rejected(b"M\xfcller", b"M\xfcller"))
    assert some.advice(FILE) is None
    labels.add(1, rejected(b"up", reason="unknown label"))
    assert labels.advice(FILE) is None, "--label-map mends it"
    malformed.add(1, rejected(b"up", reason="malformed row"))
    assert "could be read (malformed row: why). Correct the file" in str(malformed.advice(FILE))
