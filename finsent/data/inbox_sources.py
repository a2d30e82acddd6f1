"""Fills the inbox from `scoring.sources`: only what is new is read, and what cannot be read does not stop the rest.

Rows are committed first and files recorded after them (`inbox_files`), some ten thousand at a time, so that memory is bounded.
Killed in between, the next run reads those files again, and ids decide: no row is lost or doubled.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from finsent.config import DataConfig, InboxSource, ScoringConfig
from finsent.data.inbox import rare_garbage_collection, store_rows
from finsent.data.inbox_files import (
    FAULTS,
    FileKey,
    FileRecord,
    FileState,
    InboxFault,
    append_files,
    faults_of,
    load_contents,
    load_records,
    time_of_record,
)
from finsent.data.inbox_reading import InboxRow, read_file
from finsent.data.sources.arrivals import (
    Arrival,
    arriving_file,
    content_identity,
    is_about_content,
    is_unchanged,
    list_arrivals,
    seconds_to_settle,
)
from finsent.data.sources.records import QuarantinedRow, SourceFile
from finsent.data.sources.resolve import holds_files
from finsent.data.sources.s3 import ReplacedWhileRead
from finsent.data.validation.text_cleaning import mask_raw_handles
from finsent.data.validation.text_repair import format_flags
from finsent.errors import FinsentError, ServiceError, causes, escape_invalid, one_line, shorten
from finsent.logging_setup import track
from finsent.machine_faults import describe
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

_ROWS_AT_ONCE: Final = 50_000  # in memory, and in one commit
_FILES_AT_ONCE: Final = 10_000
_LOGGED: Final = 20  # faults of one run that get a line each
_REASON: Final = 1000  # characters


@dataclass(frozen=True)
class SourceArrivals:
    """What one source gave to one run; in rows, read = received + known + quarantined."""

    source: str
    """Its name, or its address."""
    files: int
    """Files that were read, since they are new or changed; a query counts as one."""
    files_before: int
    """Files that were received before, and were not read again."""
    unsettled: tuple[str, ...]
    """Files that somebody was still writing; a later run reads them."""
    read: int
    received: int
    known: int
    quarantined: int
    faults: tuple[InboxFault, ...]
    """What is there and is not read, found now or by an earlier run."""


@dataclass
class _Tally:
    """The same, as it is counted."""

    source: str
    uri: str
    files: int = 0
    files_before: int = 0
    unsettled: list[str] = field(default_factory=list)
    read: int = 0
    received: int = 0
    known: int = 0
    faults: dict[FileKey, FileRecord] = field(default_factory=dict)
    unreadable: dict[FileKey, str] = field(default_factory=dict)
    """Why it, folders of it or links in it could not be listed."""
    flags: Counter[str] = field(default_factory=Counter)
    """Rows by what was noticed about their texts."""
    advised: bool = False
    """Whether a column that looks like its ids was pointed out."""
    lost: bool = False
    """Whether it could not be listed, or its store stopped answering."""


class _Listed(NamedTuple):
    """A file that is there."""

    source: InboxSource
    tally: _Tally
    key: FileKey
    arrival: Arrival


@dataclass
class _Run:
    """What is on record, and what was read and is not committed yet."""

    home: Workspace
    data: DataConfig
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    seen: set[FileKey] = field(default_factory=set)
    latest: dict[FileKey, FileRecord] = field(default_factory=dict)
    contents: dict[tuple[str, str], FileRecord] = field(default_factory=dict)
    rows: list[InboxRow] = field(default_factory=list)
    bad: list[QuarantinedRow] = field(default_factory=list)
    files: list[tuple[_Listed, SourceFile, str | None, int]] = field(default_factory=list)
    """With the identity of their contents, and their rows."""
    read: int = 0
    records: list[FileRecord] = field(default_factory=list)
    logged: int = 0


def receive_sources(scoring: ScoringConfig, data: DataConfig, home: Workspace) -> tuple[SourceArrivals, ...]:
    """Put what is new in `scoring.sources` into the inbox.

    A damaged file is set aside until its content changes; a source or file that cannot be reached is tried by the next run. Both
    are on record and in the report, and the others go on.

    Raises:
        InputError, ServiceError: the tables cannot be read or written.
    """
    run = _Run(home, data)
    tallies = [_Tally(escape_invalid(source.name or source.uri), escape_invalid(source.uri)) for source in scoring.sources]
    listed = [item for source, tally in zip(scoring.sources, tallies, strict=True) for item in _list(run, source, tally)]
    run.latest = load_records(home, (uri for uri, _ in run.seen))
    run.now = time_of_record(run.latest)
    for tally in tallies:
        for key, reason in tally.unreadable.items():
            _record(run, tally, key, "not read", reason=reason)
    new = [item for item in listed if _is_new(run, item)]
    begun = time.monotonic()
    waits = seconds_to_settle([item.arrival for item in new], scoring.settle_seconds, time.time())
    resting = [item for item, wait in zip(new, waits, strict=True) if not wait]
    young = [item for item, wait in zip(new, waits, strict=True) if wait]
    with rare_garbage_collection():
        _take_all(run, resting)
        time.sleep(max(0.0, begun + max(waits, default=0.0) - time.monotonic()))
        _take_all(run, [item for item in young if _has_rested(item)])
    _clear_faults(run, tallies)
    _commit(run)
    if run.logged > _LOGGED:
        _log.warning(
            "%d more files of the inbox's sources were set aside or not read: see `finsent status`", run.logged - _LOGGED
        )
    for tally in tallies:
        if tally.flags:
            _log.info("%s: %s", tally.source, format_flags(tally.flags))
    return tuple(_report(tally) for tally in tallies)


def _clear_faults(run: _Run, tallies: Sequence[_Tally]) -> None:
    """Note that what was damaged or out of reach is not there any more; not where nothing could be seen this time."""
    seen_whole = {tally.uri for tally in tallies if not tally.lost}
    unseen = tuple(f"{uri}/" for tally in tallies for uri, _ in tally.unreadable)
    for key, record in run.latest.items():
        gone = key not in run.seen and record.source in seen_whole and not record.uri.startswith(unseen)
        if gone and record.state in FAULTS:
            run.records.append(record._replace(stamp=None, identity=None, state="gone", reason=None, rows=0, recorded_at=run.now))


def _report(tally: _Tally) -> SourceArrivals:
    return SourceArrivals(
        source=tally.source,
        files=tally.files,
        files_before=tally.files_before,
        unsettled=tuple(tally.unsettled),
        read=tally.read,
        received=tally.received,
        known=tally.known,
        quarantined=tally.read - tally.received - tally.known,
        faults=faults_of(tally.faults.values()),
    )


def _settings(source: InboxSource) -> str:
    """Hash of how the source is read: after a corrected column name, a file that was set aside is another one."""
    names = ("format", "text", "created_at", "id", "query", "revision", "split")
    values: list[Any] = [getattr(source, name) for name in names]
    # options that came later count where they are set: else every file known before would be read again
    later = ("delimiter", "encoding", "header", "columns", "records", "sheet", "date_format")
    defaults = {name: InboxSource.model_fields[name].default for name in later}
    values += [[name, getattr(source, name)] for name in later if getattr(source, name) != defaults[name]]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _list(run: _Run, source: InboxSource, tally: _Tally) -> Iterator[_Listed]:
    """What a source holds and no source before it had."""
    settings = _settings(source)

    def failed(uri: str, reason: str) -> None:
        key = escape_invalid(uri), settings
        run.seen.add(key)
        tally.unreadable[key] = reason

    try:
        for arrival in list_arrivals(source, failed):
            key = escape_invalid(arrival.uri), settings
            if key not in run.seen:
                run.seen.add(key)
                yield _Listed(source, tally, key, arrival)
    except FinsentError as error:
        tally.lost = True
        failed(source.uri, str(error))


def _is_new(run: _Run, item: _Listed) -> bool:
    """Whether a file's content may be new; one that is on record as it is costs no more than its listing."""
    before = run.latest.get(item.key)
    if before is None or before.state not in ("received", "set aside"):
        return True
    if item.arrival.stamp is None or before.stamp != item.arrival.stamp:
        return True
    if before.state == "set aside":
        item.tally.faults[item.key] = before
        if before.source != item.tally.uri:  # its address is written differently now, and `find_faults` goes by that
            run.records.append(before._replace(source=item.tally.uri, recorded_at=run.now))
    else:
        item.tally.files_before += 1
    return False


def _has_rested(item: _Listed) -> bool:
    """Whether a file is still the one that was listed; else a later run reads it."""
    unchanged = is_unchanged(item.arrival)
    if not unchanged:
        item.tally.unsettled.append(item.key[0])
    return unchanged


def _take_all(run: _Run, items: Sequence[_Listed]) -> None:
    """Read files, except those whose content is on record under another name or time; commit whenever enough was read."""
    for start in range(0, len(items), _FILES_AT_ONCE):
        some = [(item, _identify(run, item)) for item in items[start : start + _FILES_AT_ONCE]]
        found = [(item, *identified) for item, identified in some if identified is not None]
        run.contents = load_contents(run.home, [identity for _, _, identity in found if identity is not None])
        for item, file, identity in track(found, description="reading", unit="file"):
            _take(run, item, file, identity)
            if len(run.rows) + len(run.bad) >= _ROWS_AT_ONCE:
                _commit(run)
        _commit(run)


def _identify(run: _Run, item: _Listed) -> tuple[SourceFile, str | None] | None:
    """The file, and the identity of its content; None if it cannot be read."""
    if item.tally.lost:
        return None
    try:
        file = arriving_file(item.source, item.arrival.uri)
        return file, content_identity(file)
    except FinsentError as error:
        _fail(run, item, None, error)
        return None


def _take(run: _Run, item: _Listed, file: SourceFile, identity: str | None) -> None:
    _, tally, key, arrival = item
    if tally.lost:
        return
    before = run.contents.get((identity, key[1])) if identity is not None else None
    if before is not None:
        if _has_rested(item):
            tally.files_before += before.state == "received"
            _record(run, tally, key, before.state, arrival, identity, before.reason)
        return
    data = run.data
    try:
        found = read_file(file, max_characters=data.max_characters, masked=data.mask_handles, repaired=data.repair_mojibake)
    except Exception as error:  # noqa: BLE001 - whatever one file does to a reader, it must not stop the others
        _fail(run, item, identity, error)
        return
    if _has_rested(item):
        tally.files += 1
        tally.read += found.read
        run.rows += found.rows
        run.bad += found.bad
        run.read += found.read
        run.files.append((item, file, identity, found.read))
        tally.flags += found.flags
        if found.advice is not None and not tally.advised:
            tally.advised = True
            _log.warning("%s", found.advice)
        _record(run, tally, key, "received", arrival, identity, rows=found.read)


def _fail(run: _Run, item: _Listed, identity: str | None, error: Exception) -> None:
    """Note that a file could not be read: for good, for now, or because it is gone or was being written."""
    source, tally, key, arrival = item
    reason = str(error)
    if not isinstance(error, FinsentError) and (refused := describe(error)) is not None:
        reason = refused
    elif not isinstance(error, FinsentError):
        _log.warning("%r: an unexpected error", key[0], exc_info=error)
        reason = f"unexpected {type(error).__name__}: {one_line(error)}. This is a fault in finsent, please report it."
    if isinstance(error, ServiceError):
        tally.lost = True  # its other files would each wait for the same store
        _record(run, tally, (tally.uri, key[1]), "not read", reason=reason)
    elif isinstance(error, ReplacedWhileRead):
        tally.unsettled.append(key[0])
    elif holds_files(source) and any(isinstance(cause, FileNotFoundError) for cause in causes(error)):
        _log.info("%r vanished before it was read", key[0])
    elif identity is None or not is_about_content(source, error):
        _record(run, tally, key, "not read", arrival, reason=reason)
    elif _has_rested(item):
        _record(run, tally, key, "set aside", arrival, identity, reason)


def _record(
    run: _Run,
    tally: _Tally,
    key: FileKey,
    state: FileState,
    arrival: Arrival | None = None,
    identity: str | None = None,
    reason: str | None = None,
    rows: int = 0,
) -> None:
    """Note what became of a file; a fault is reported, and logged where it is news."""
    if reason is not None:
        reason = shorten(escape_invalid(mask_raw_handles(reason) if run.data.mask_handles else reason), _REASON)
    found = FileRecord(tally.uri, *key, arrival.stamp if arrival else None, identity, state, reason, rows, run.now)
    run.records.append(found)
    if identity is not None:
        run.contents[identity, key[1]] = found
    if state not in FAULTS:
        return
    before = run.latest.get(key)
    known = before is not None and (before.state, before.identity, before.reason) == (state, identity, reason)
    tally.faults[key] = before if before is not None and known else found
    if not known:
        run.logged += 1
        if run.logged <= _LOGGED:
            _log.warning("%r, of the source %r, is %s: %s", key[0], tally.source, state, reason)


def _commit(run: _Run) -> None:
    """Rows into the inbox, then the records of their files."""
    if run.read:
        faults: dict[int, str] = {}
        _, counts = store_rows(run.home, run.rows, run.bad, run.read, masked=run.data.mask_handles, faults=faults)
        for item, file, identity, rows in run.files:
            item.tally.received += counts.received[id(file)]
            item.tally.known += counts.known[id(file)]
            if id(file) in faults:
                item.tally.files -= 1
                item.tally.read -= rows
                _take_back(run, item, identity, faults[id(file)])
    append_files(run.home, run.records, run.latest)
    run.latest.update((record.key, record) for record in run.records)
    run.rows, run.bad, run.files, run.read, run.records = [], [], [], 0, []


def _take_back(run: _Run, item: _Listed, identity: str | None, reason: str) -> None:
    """Set aside a file that was read before its ids were compared with those of the inbox, and its copies."""
    _, tally, key, arrival = item
    run.records = [record for record in run.records if record.key != key]
    _record(run, tally, key, "set aside", arrival, identity, reason)
    fault = run.records[-1]
    run.records = [
        record._replace(state=fault.state, reason=fault.reason)
        if identity is not None and (record.identity, record.settings) == (identity, key[1])
        else record
        for record in run.records
    ]
