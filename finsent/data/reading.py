"""From sources to rows that are readable and rows that are not. Nothing is written here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from finsent.config import DataConfig, Source
from finsent.data.contract import Rejection, check_label, check_text, check_time, label_key, shorten, understand_label
from finsent.data.formats import read
from finsent.data.grouping import Row
from finsent.data.quarantine import Quarantined
from finsent.data.sources import RawRow, SourceFile, fingerprint_file, labelled, resolve
from finsent.errors import InputError
from finsent.progress import track
from finsent.text import forms

_KEPT_OF_BAD_TEXT: Final = 2000


@dataclass(frozen=True)
class Reading:
    """All rows of some sources."""

    rows: list[Row]
    quarantined: list[Quarantined]
    read: dict[str, int]
    """Rows read of each source."""
    inputs: list[dict[str, str | int]]
    """What was read: address, size and hash of each file."""


def read_sources(sources: Sequence[Source], config: DataConfig, now: datetime) -> Reading:
    """Read every source to its end.

    Raises:
        InputError: a file, a column or all labels of a source are wrong.
    """
    resolved = [(source, file) for source in sources for file in resolve(source)]
    reading = Reading([], [], {}, [])
    seen: dict[int, Counter[str]] = {id(source): Counter() for source in sources}
    for source, file in track(resolved, description="reading", unit="file"):
        for batch in read(file, labelled(source)):
            seen[id(source)].update(label_key(raw.label) for raw in batch if raw.fault is None)
            for raw in batch:
                _sort_in(reading, raw, file, source, config, now)
            reading.read[file.name] = reading.read.get(file.name, 0) + len(batch)
        reading.inputs.append(fingerprint_file(file))
    for source in sources:
        _check_labels(source, seen[id(source)])
    return reading


def _sort_in(reading: Reading, raw: RawRow, file: SourceFile, source: Source, config: DataConfig, now: datetime) -> None:
    checked = _check(raw, source.labels, config.max_characters, now)
    if isinstance(checked, Rejection):
        reading.quarantined.append(reject(raw, checked, file))
    else:
        text, label, created_at = checked
        reading.rows.append(Row(file.name, file.label, raw.number, text, label, created_at, forms(text)))


def _check(
    raw: RawRow, labels: Mapping[str, str] | None, longest: int, now: datetime
) -> tuple[str, str, datetime | None] | Rejection:
    if raw.fault is not None:
        return raw.fault
    text = check_text(raw.text, longest)
    if isinstance(text, Rejection):
        return text
    label = check_label(raw.label, labels)
    if isinstance(label, Rejection):
        return label
    created_at = check_time(raw.created_at, now)
    return created_at if isinstance(created_at, Rejection) else (text, label, created_at)


def reject(raw: RawRow, why: Rejection, file: SourceFile) -> Quarantined:
    """A row of a file for the quarantine; its text made storable, and cut where it is very long."""
    return Quarantined(file.name, file.label, raw.number, storable(raw.text), why.reason, why.detail)


def storable(value: Any) -> str:
    """Whatever stood where the text should be, as text that a table can hold."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return shorten(str(value).encode("utf-8", "backslashreplace").decode(), _KEPT_OF_BAD_TEXT)
    try:
        raw = value.encode("utf-8", "surrogateescape")  # back to the bytes that the file has
    except UnicodeEncodeError:
        raw = value.encode("utf-8", "backslashreplace")
    readable = raw.decode("utf-8", "backslashreplace")
    return shorten(readable, _KEPT_OF_BAD_TEXT)


def _check_labels(source: Source, seen: Counter[str]) -> None:
    """A source of which no label at all is understood is a wrong setting, not a heap of bad rows."""
    if not seen or any(understand_label(value, source.labels) for value in seen):
        return
    values = ", ".join(f"{shorten(value)!r} ({count} rows)" for value, count in seen.most_common(10))
    raise InputError(
        f"{source.uri!r}: no label in column {source.label!r} is understood. Values: {values}. "
        "Say what they mean in the source's `labels`, e.g. {0: Bearish, 1: Bullish, 2: Neutral} (on the command line "
        "--label-map '0=Bearish,1=Bullish,2=Neutral'). "
        "Numbers are never guessed: datasets disagree on their order."
    )
