"""From sources to rows that are readable and rows that are not. Nothing is written to a table here."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from finsent.config import DataConfig, Source
from finsent.data.contract import Rejection, check_label, check_text, check_time, label_key, quoted, shorten, understand_label
from finsent.data.formats import read
from finsent.data.language import check_language
from finsent.data.masking import mask_handles
from finsent.data.mojibake import repair
from finsent.data.plausibility import Polarity, check_polarity, describe_implausible
from finsent.data.rows import Quarantined, Row
from finsent.data.sources import RawRow, SourceFile, fingerprint_file, labelled, resolve
from finsent.data.spool import Spool
from finsent.errors import InputError, Refused
from finsent.progress import track
from finsent.text import forms

_KEPT_OF_BAD_TEXT: Final = 2000


@dataclass(frozen=True)
class Reading:
    """What some sources held, besides the rows."""

    read: dict[str, int]
    """Rows read of each source."""
    rejected: dict[str, int]
    """Rows of each source that cannot be used."""
    reasons: dict[str, int]
    """Those by reason."""
    flags: dict[str, int]
    """Readable rows by what was noticed about them."""
    inputs: list[dict[str, str | int]]
    """What was read: address, size and hash of each file."""


def spool_sources(sources: Sequence[Source], config: DataConfig, now: datetime, spool: Spool) -> Reading:
    """Read every source to its end.

    Raises:
        InputError: a file, a column or all labels of a source are wrong.
        Refused: the labels of a source look mapped wrongly.
    """
    read, rejected, reasons, flags = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    inputs = []
    resolved = [[(source, file) for file in resolve(source)] for source in sources]
    for files in resolved:
        seen, polarity = Counter[str](), Polarity()
        for source, file in files:
            for number, good, bad in track(checked(file, source, config, now, seen), description=file.label, unit="batch"):
                spool.add(good, bad)
                polarity.add((row.label, row.text) for row in good)
                read[file.name] += number
                rejected[file.name] += len(bad)
                reasons.update(row.reason for row in bad)
                flags.update(row.flags for row in good if row.flags is not None)
            inputs.append(fingerprint_file(file))
        check_labels(files[0][0], seen)
        if config.check_labels and (implausible := check_polarity(polarity, files[0][0].labels)):
            raise Refused(describe_implausible(implausible, files[0][1].name))
    return Reading(dict(read), dict(rejected), dict(reasons), dict(flags), inputs)


def checked(
    file: SourceFile, source: Source, config: DataConfig, now: datetime, seen: Counter[str]
) -> Iterator[tuple[int, list[Row], list[Quarantined]]]:
    """Rows of a file in batches: how many were read, those that are readable, those that are not.

    Args:
        file: A file of the source.
        source: As configured.
        config: What is asked of a row.
        now: Our clock.
        seen: Counts the label values that were met.
    """
    for batch in read(file, labelled(source)):
        seen.update(label_key(raw.label) for raw in batch if raw.fault is None)
        good, bad = [], []
        for raw in batch:
            row = _check(raw, file, source.labels, config, now)
            if isinstance(row, Rejection):
                bad.append(reject(raw, row, file, mask=config.mask_handles))
            else:
                good.append(row)
        yield len(batch), good, bad


def _check(raw: RawRow, file: SourceFile, labels: Mapping[str, str] | None, config: DataConfig, now: datetime) -> Row | Rejection:
    fields = _fields(raw, labels, config, now)
    if isinstance(fields, Rejection):
        return fields
    text, label, created_at = fields
    text, flag = _repaired(text, config)
    if (foreign := check_language(text, config.languages)) is not None:
        return foreign
    if config.mask_handles:
        text = mask_handles(text)
    return Row(file.name, file.label, raw.number, text, label, created_at, forms(text), flag)


def _fields(
    raw: RawRow, labels: Mapping[str, str] | None, config: DataConfig, now: datetime
) -> tuple[str, str, datetime | None] | Rejection:
    if raw.fault is not None:
        return raw.fault
    text = check_text(raw.text, config.max_characters)
    if isinstance(text, Rejection):
        return text
    label = check_label(raw.label, labels)
    if isinstance(label, Rejection):
        return label
    created_at = check_time(raw.created_at, now)
    if created_at is None and config.split == "time":
        return Rejection("no date", "rows are split by time (data.split), and this one has none")
    return created_at if isinstance(created_at, Rejection) else (text, label, created_at)


def _repaired(text: str, config: DataConfig) -> tuple[str, str | None]:
    found = repair(text)
    if found.text != text and not config.repair_mojibake:
        return text, "mojibake"
    return found.text, found.flag


def reject(raw: RawRow, why: Rejection, file: SourceFile, *, mask: bool = False) -> Quarantined:
    """A row of a file for the quarantine; its text made storable, cut where it is very long, handles masked if asked for."""
    text, detail = storable(raw.text), why.detail
    if mask:
        text, detail = mask_handles(text), mask_handles(detail)
    return Quarantined(file.name, file.label, raw.number, text, why.reason, detail)


def storable(value: Any) -> str:
    """Whatever stood where the text should be, as text that a table can hold."""
    if value is None:
        return ""
    if not isinstance(value, str):
        try:
            written = str(value)
        except (ValueError, RecursionError):  # numbers of thousands of digits, endless nests
            written = quoted(value)
        return shorten(written.encode("utf-8", "backslashreplace").decode(), _KEPT_OF_BAD_TEXT)
    try:
        raw = value.encode("utf-8", "surrogateescape")  # back to the bytes that the file has
    except UnicodeEncodeError:
        raw = value.encode("utf-8", "backslashreplace")
    readable = raw.decode("utf-8", "backslashreplace")
    return shorten(readable, _KEPT_OF_BAD_TEXT)


def check_labels(source: Source, seen: Counter[str]) -> None:
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
