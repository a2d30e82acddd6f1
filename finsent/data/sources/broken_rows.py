"""Files of which no row can be read: the fault is the file's, such as its encoding, and the advice is about the file."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from finsent.data.sources.records import QuarantinedRow, SourceFile

FAULTS_OF_FILES: Final = frozenset({"malformed row", "bad encoding"})
_SAMPLED: Final = 100
_HIGH_BYTES: Final = re.compile(r"(?:\\x[89a-f][0-9a-f])+")  # as `escape_invalid` and `repr` show bytes that are no UTF-8
_UNDEFINED: Final = re.compile(r"\\x(?:81|8d|8f|90|9d)")  # no character of Windows-1252
_ONE: Final = len(r"\xe4")


@dataclass
class BrokenRows:
    """Counts the rows of a file, and those that a fault of the file has made unreadable."""

    rows: int = 0
    broken: int = 0
    bytes_found: str = ""
    """Rows of a wrong encoding, a sample."""
    first: str = ""

    def add(self, rows: int, rejected: Sequence[QuarantinedRow]) -> None:
        """Count a batch of `rows`, `rejected` among them."""
        found = [row for row in rejected if row.reason in FAULTS_OF_FILES]
        self.rows += rows
        if found and not self.broken:
            self.first = f"{found[0].reason}: {found[0].detail}"
            encoded = [row.text or row.detail for row in found[:_SAMPLED] if row.reason == "bad encoding"]
            self.bytes_found = "\n".join(encoded)
        self.broken += len(found)

    def advice(self, file: SourceFile) -> str | None:
        """What to do about the file where none of its rows could be read; else None."""
        if not self.rows or self.broken < self.rows:
            return None
        said = f"{file.uri!r}: no row of this file could be read"
        runs = _HIGH_BYTES.findall(self.bytes_found)
        if not runs:
            return f"{said} ({self.first}). Correct the file and ingest it again."
        # letters of Western languages stand alone among ASCII; characters of two bytes and other alphabets come in runs
        western = sum(len(run) == _ONE for run in runs) > len(runs) / 2 and not _UNDEFINED.search(self.bytes_found)
        if not western:
            return f"{said}: it is not UTF-8. Find out its encoding, convert it (`iconv -f ENCODING -t UTF-8`), ingest it again."
        target = f"utf-8-{PurePath(file.uri).name}"
        convert = f"iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(file.uri)} > {shlex.quote(target)}"
        return f"{said}; it looks like Latin-1/Windows-1252: convert it with `{convert}` and ingest that."
