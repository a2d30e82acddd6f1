"""What became of the rows of each file: the lines of a summary, and files that were left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from finsent.data.sources.records import QuarantinedRow, SourceFile
from finsent.errors import escape_control, escape_invalid, shorten

_NEXT_TO_NOTHING: Final = 0.1
_EXAMPLE: Final = 160  # characters


@dataclass
class FileCounts:
    """Rows of one file: read = taken + duplicates + unlabelled + those rejected by reason."""

    file: str
    read: int = 0
    readable: int = 0
    """Valid by themselves; some of them may be duplicates, or contradict others."""
    taken: int = 0
    """Accepted into the data, received into the inbox, or evaluated."""
    duplicates: int = 0
    """Known already, or the same again."""
    unlabelled: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Rejected rows by reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first row of each reason."""

    def add(self, read: int, readable: int, rejected: Sequence[QuarantinedRow]) -> None:
        """Count a batch."""
        self.read += read
        self.readable += readable
        self.unlabelled += read - readable - len(rejected)
        self.reject(rejected)

    def reject(self, rows: Iterable[QuarantinedRow]) -> None:
        """Count rows as rejected."""
        for row in rows:
            self.reasons[row.reason] = self.reasons.get(row.reason, 0) + 1
            if row.reason not in self.examples:
                self.examples[row.reason] = format_example(row.number, row.detail)


def format_example(number: int, detail: str) -> str:
    """A row as an example of why some are rejected."""
    return f"row {number}: {escape_control(shorten(detail, _EXAMPLE))}"


def count_file(file: SourceFile) -> FileCounts:
    """Counts of a file, still without any row."""
    return FileCounts(escape_invalid(file.uri))


def is_next_to_nothing(read: int, used: int, unlabelled: int) -> bool:
    """Whether under a tenth of the rows that have a label were of use: a wrong file or a wrong setting."""
    return read > 0 and used < _NEXT_TO_NOTHING * max(read - unlabelled, 1)


def next_to_nothing(files: Iterable[FileCounts]) -> bool:
    """The same of some files together."""
    counts = [(item.read, item.taken + item.duplicates, item.unlabelled) for item in files]
    return bool(counts) and is_next_to_nothing(*(sum(column) for column in zip(*counts, strict=True)))
