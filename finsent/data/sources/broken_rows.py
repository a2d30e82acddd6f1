"""Files of which no row can be read: the fault is the file's, such as its encoding, and the advice is about the file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from finsent.data.sources.encodings import likely_encoding
from finsent.data.sources.records import QuarantinedRow, SourceFile

FAULTS_OF_FILES: Final = frozenset({"malformed row", "bad encoding"})
_SAMPLED: Final = 100
_HIGH_BYTE: Final = re.compile(rb"\\x([89a-f][0-9a-f])")  # as `escape_invalid` and `repr` show bytes that are no UTF-8
_OF_TEXT: Final = frozenset({"csv", "tsv", "json", "jsonl", "text"})


@dataclass
class BrokenRows:
    """Counts the rows of a file, and those that a fault of the file has made unreadable."""

    rows: int = 0
    broken: int = 0
    sample: bytes = b""
    """Rows of a wrong encoding, some of them."""
    first: str = ""

    def add(self, rows: int, rejected: Sequence[QuarantinedRow]) -> None:
        """Count a batch of `rows`, `rejected` among them."""
        found = [row for row in rejected if row.reason in FAULTS_OF_FILES]
        self.rows += rows
        if found and not self.broken:
            self.first = f"{found[0].reason}: {found[0].detail}"
            encoded = "\n".join(row.text or row.detail for row in found[:_SAMPLED] if row.reason == "bad encoding")
            self.sample = _HIGH_BYTE.sub(lambda byte: bytes.fromhex(byte[1].decode()), encoded.encode())
        self.broken += len(found)

    def advice(self, file: SourceFile) -> str | None:
        """What to do about the file where none of its rows could be read; else None."""
        if not self.rows or self.broken < self.rows:
            return None
        said = f"{file.uri!r}: no row of this file could be read ({self.first})."
        if not self.sample or file.format not in _OF_TEXT or file.source.encoding is not None:
            return f"{said} Correct the file and ingest it again."
        name = likely_encoding(self.sample)
        return f"{said} It is not UTF-8, and may be {name}: ingest it again with --encoding {name}."
