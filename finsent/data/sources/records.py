"""A row on its way from a source into a table: readable, or quarantined."""

from dataclasses import dataclass
from datetime import datetime

from finsent.data.validation.row_validation import Reason
from finsent.text import Forms


@dataclass(frozen=True, slots=True)
class Row:
    """A readable row. `place` names it in the quarantine, together with `number`."""

    source: str
    place: str
    number: int
    text: str
    label: str
    created_at: datetime | None
    forms: Forms
    flags: str | None = None
    """What was noticed about the text, e.g. "mojibake repaired"."""

    @property
    def id(self) -> str:
        """Identity of the text."""
        return self.forms.id


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that was not taken. `place` and `number` say where it stands; `source` is what reports count it under."""

    source: str
    place: str
    number: int
    text: str
    reason: Reason
    detail: str
    id: str | None = None
    """Identity of the text, where it could be read."""
    input: str | None = None
    """Identity of what was read, see `finsent.data.quarantine.input_identity`; None where it is no file."""
    label: str | None = None
    """The class that it was read as, where it could be used but for others."""
