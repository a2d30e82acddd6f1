"""The inbox: unlabelled tweets to be scored, each id once.

An id that comes again with the same text (after `finsent.text.normalise`) is known; with another text it is quarantined, so that
a prediction's id stands for one text. That holds for ids that were scored and removed, too: of their texts the hash is left.
Where a good part of a file's ids come with other texts they are no ids, and the file is not read.
"""

import dataclasses
import gc
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from finsent.config import DataConfig, InboxSource
from finsent.data import tables
from finsent.data.inbox_reading import FileRows, InboxRow, find_reuse, read_file, refuse
from finsent.data.quarantine import append_records
from finsent.data.received_rows import ReceivedFile, trace_rows
from finsent.data.sources.column_times import SourceTimes
from finsent.data.sources.file_counts import FileCounts, count_file
from finsent.data.sources.records import QuarantinedRow
from finsent.data.sources.resolve import resolve
from finsent.data.sources.whole_text import whole_text
from finsent.data.table_schemas import SCHEMAS, CommitMetadata
from finsent.data.validation.row_validation import Rejection
from finsent.data.validation.text_cleaning import mask_handles
from finsent.errors import CheckFailed, InputError, shorten
from finsent.files import lock_holder, locked
from finsent.logging_setup import track
from finsent.text import text_hash, text_id
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from pyarrow.compute import Expression

_log = logging.getLogger(__name__)

_APPLICATION: Final = "finsent-receive"
_TIME: Final = pa.timestamp("us", tz="UTC")
_WAIT: Final = 600.0  # seconds for another process at the inbox
_BUSY: Final = "another process has held the inbox for ten minutes. Nothing was written."
_REMOVED_AT_ONCE: Final = 10_000  # ids in one commit's predicate
_SHOWN: Final = 500  # characters of each text that a reused id is quarantined with
_HIGH_QUARANTINE_RATE: Final = 0.2  # share of the rows read


@dataclass(frozen=True)
class InboxReport:
    """Where every row read ended: read = received + known + quarantined."""

    read: int
    received: int
    known: int
    """Rows whose id the inbox, or an earlier row of the same files, has for the same text."""
    quarantined: int
    reasons: dict[str, int]
    """Quarantined rows by reason."""
    version: int | None
    """Version of the table `inbox` afterwards; None when nothing was ever received."""
    undated: int = 0
    """Rows taken without their date, which cannot be read."""
    repeated: int = 0
    """Of `known`, the rows that repeat an earlier row of the same files, and that the inbox had not before."""
    flags: dict[str, int] = field(default_factory=dict)
    """Readable rows by what was noticed about their texts."""
    dry_run: bool = False
    """Whether this says what would have been written, and nothing was."""
    files: list[FileCounts] = field(default_factory=list)
    """What became of the rows of each file."""
    left_out: list[str] = field(default_factory=list)
    """Files of folders whose endings are not read."""


def receive(
    sources: Sequence[InboxSource],
    home: Workspace,
    *,
    max_characters: int = DataConfig().max_characters,
    repaired: bool = DataConfig().repair_mojibake,
    masked: bool = False,
    dry_run: bool = False,
    traced: list[ReceivedFile] | None = None,
) -> InboxReport:
    """Put unlabelled tweets into the inbox.

    Args:
        sources: Files, folders, globs or `hf://` datasets, and their columns.
        home: Where the tables are.
        max_characters: Longer texts are quarantined.
        repaired: Undo what can be undone without loss (`data.repair_mojibake`).
        masked: Store `@user` in place of handles (`data.mask_handles`).
        dry_run: Write nothing; the report says what would have been.
        traced: Filled with what became of each row of each file.

    Raises:
        InputError: a file or column is wrong; nothing was written.
    """
    rows: list[InboxRow] = []
    bad: list[QuarantinedRow] = []
    undated, found_in = 0, dict[int, FileRows]()
    advised, flags = set(), Counter[str]()
    of_sources = [SourceTimes(resolve(source)) for source in sources]
    files = [(file, times, count_file(file)) for times in of_sources for file in times.files]
    with rare_garbage_collection():
        for file, times, count in track(files, description="reading", unit="file"):
            found = read_file(file, times, max_characters=max_characters, masked=masked, repaired=repaired)
            count.add(found.read, len(found.rows), found.bad)
            rows += found.rows
            bad += found.bad
            found_in[id(file)] = found
            undated += found.undated
            flags += found.flags
            if found.advice is not None and file.source.uri not in advised:
                advised.add(file.source.uri)
                _log.warning("%s", found.advice)
    counts = [count for *_, count in files]
    report, stored = store_rows(home, rows, bad, sum(count.read for count in counts), masked=masked, dry_run=dry_run)
    for file, _, count in files:
        count.taken, count.duplicates = stored.received[id(file)], stored.known[id(file)]
        count.reject(stored.reused.get(id(file), ()))
    if traced is not None:
        traced += trace_rows([(file, found_in[id(file)]) for file, *_ in files], stored.rows, stored.refused, masked=masked)
    left_out = [name for file, *_ in files for name in file.left_out]
    return dataclasses.replace(report, undated=undated, flags=dict(flags), files=counts, left_out=left_out)


class StoredCounts(NamedTuple):
    """Rows of each file that became new rows of the inbox, that it had, and that reuse an id, by the `id` of its `SourceFile`."""

    received: Counter[int]
    known: Counter[int]
    reused: Mapping[int, Sequence[QuarantinedRow]]
    rows: Sequence[InboxRow]
    """All of them, under the ids that the inbox has them by."""
    refused: Sequence[tuple[InboxRow, QuarantinedRow]]
    """Of `rows` those that reuse an id."""


def store_rows(
    home: Workspace,
    rows: Sequence[InboxRow],
    bad: Sequence[QuarantinedRow],
    number_read: int,
    *,
    masked: bool,
    dry_run: bool = False,
    faults: MutableMapping[int, str] | None = None,
) -> tuple[InboxReport, StoredCounts]:
    """Put rows that were read into the inbox, and those that could not be into the quarantine.

    Files whose ids are none, see `find_reuse`, are left out and told in `faults`, by the `id` of their `SourceFile`.

    Raises:
        InputError: there are such files, and `faults` is None.
    """
    # the lock keeps runs of this home apart, the transaction number those of other machines on the same tables
    with _after_others(home):
        report, counts = tables.retry_on_conflict(
            home,
            "inbox",
            _APPLICATION,
            lambda before: _commit(home, rows, bad, number_read, before, masked=masked, dry_run=dry_run, faults=faults),
        )
    if report.read != report.received + report.known + report.quarantined:
        raise CheckFailed(f"rows do not add up: {report}. This is a fault in finsent, please report it.")
    if report.quarantined > _HIGH_QUARANTINE_RATE * report.read:
        why = ", ".join(f"{reason} ({count:,})" for reason, count in Counter(report.reasons).most_common(3))
        _log.warning("%d of %d rows were quarantined: %s. See `finsent data quarantine`.", report.quarantined, report.read, why)
    return report, counts


@contextmanager
def _after_others(home: Workspace) -> Iterator[None]:
    """Wait for who writes to the inbox; beside one that is stopped, go on: when it thaws, its commit's number is taken."""
    path = home.lock("inbox")

    def is_stopped() -> bool:
        holder = lock_holder(path)
        return holder is not None and holder.is_stopped

    def require_progress() -> None:
        if is_stopped():
            raise CheckFailed(f"a process at the inbox commits nothing. {lock_holder(path) or ''}")

    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, _WAIT, _BUSY, while_waiting=require_progress))
        except CheckFailed as stuck:
            if not is_stopped():
                raise
            _log.warning("%s This run goes on beside it; no row comes in twice.", stuck)
        yield


def remove_scored(
    home: Workspace, scored: "Expression", before: datetime, *, upto: int | None = None, dry_run: bool = False
) -> int:
    """Remove rows received before a time that have predictions among `scored`; with `upto`, of those that this version has.

    Predictions stay, so an id that comes again is received again and not scored twice. Files are removed by `tidy_tables`, once
    nobody can be reading them. An id of which another writer put in a younger row keeps all of its rows.
    """
    done = tables.read(home, "predictions", columns=["id"], filters=scored)["id"].combine_chunks()
    inbox = tables.read(home, "inbox", columns=["id", "received_at"])
    is_old = pc.fill_null(pc.less(inbox["received_at"], pa.scalar(before, _TIME)), fill_value=False)
    young = inbox["id"].filter(pc.invert(is_old)).combine_chunks()
    inbox = inbox.filter(pc.and_not(is_old, pc.is_in(inbox["id"], value_set=young)))
    if upto is not None:
        there = tables.read(home, "inbox", version=upto, columns=["id"])["id"].combine_chunks()
        inbox = inbox.filter(pc.is_in(inbox["id"], value_set=there))
    old = inbox.filter(pc.is_in(inbox["id"], value_set=done)).sort_by("received_at")["id"].combine_chunks()
    if dry_run or not len(old):
        return len(old)
    with locked(home.lock("inbox"), _WAIT, _BUSY):
        for start in range(0, len(old), _REMOVED_AT_ONCE):
            ids = old.slice(start, _REMOVED_AT_ONCE)
            changes = pa.table({"id": ids, "removed": pa.array([True] * len(ids))})
            metadata: CommitMetadata = {"scored_removed": "true"}
            remove = partial(tables.update_rows, home, "inbox", changes, _APPLICATION, metadata=metadata)
            tables.retry_on_conflict(home, "inbox", _APPLICATION, remove)
    return len(old)


def _commit(
    home: Workspace,
    rows: Sequence[InboxRow],
    unreadable: Sequence[QuarantinedRow],
    number_read: int,
    before: tables.Position,
    *,
    masked: bool,
    dry_run: bool,
    faults: MutableMapping[int, str] | None,
) -> tuple[InboxReport, StoredCounts] | None:
    """Append the new rows; None if another run appended to the inbox in between."""
    ids = {item.id for item in rows} | {item.given_id for item in rows if item.given_id is not None}
    ids |= {
        f"{number}.0" for number in ids if number.removeprefix("-").isdecimal()
    }  # what 0.1 made of whole numbers that came as floats
    there = _stored_texts(home, ids)
    scored = _scored_hashes(home, ids - there.keys())
    stored = there.keys() | scored.keys()
    rows = [_as_stored(item, stored) for item in rows]
    new, known, repeated, reused = _classify(rows, there, scored, masked=masked)
    if found := find_reuse(rows, reused):
        if faults is None:
            raise InputError(f"{next(iter(found.values()))} Nothing was written.")
        faults.update(found)
        inputs = {row.input for row in rows if id(row.file) in found}
        kept = [row for row in rows if id(row.file) not in found]
        sound = [row for row in unreadable if row.input not in inputs]
        number_read -= len(rows) - len(kept) + len(unreadable) - len(sound)
        return _commit(home, kept, sound, number_read, before, masked=masked, dry_run=dry_run, faults=faults)
    bad = [*unreadable, *(row for _, row in reused)]
    now = datetime.now(UTC)
    version = tables.version(home, "inbox")
    if new and not dry_run:
        # scoring takes rows so marked for new, without reading all of inbox and predictions
        checked: CommitMetadata = {} if any(item.id in scored for item in new) else {"ids_new_after": str(before.version)}
        written = tables.append_if_unchanged(home, "inbox", _table(new, now), _APPLICATION, before, checked)
        if written is None:
            return None
        version = written.version
    if not dry_run:
        append_records(home, bad, now)  # only now: had another run been first, another row would be the one that reuses an id
    of_file: dict[int, list[QuarantinedRow]] = {}
    for item, row in reused:
        of_file.setdefault(id(item.file), []).append(row)
    counts = StoredCounts(Counter(id(row.file) for row in new), known, of_file, rows, reused)
    report = InboxReport(
        number_read,
        len(new),
        known.total(),
        len(bad),
        dict(Counter(row.reason for row in bad)),
        version,
        repeated=repeated,
        dry_run=dry_run,
    )
    return report, counts


def _table(rows: Sequence[InboxRow], now: datetime) -> pa.Table:
    columns = {"id": [row.id for row in rows], "created_at": [row.created_at for row in rows], "text": [row.text for row in rows]}
    return pa.table(columns | {"received_at": [now] * len(rows)}, schema=SCHEMAS["inbox"])


def _stored_texts(home: Workspace, ids: AbstractSet[str]) -> dict[str, str]:
    """Texts in the inbox by id, for these ids."""
    if not ids:
        return {}
    found = tables.read(home, "inbox", columns=["id", "text"], filters=pc.field("id").isin(pa.array(sorted(ids))))
    return dict(zip(found["id"].to_pylist(), found["text"].to_pylist(), strict=True))


def _scored_hashes(home: Workspace, ids: AbstractSet[str]) -> dict[str, set[str]]:
    """Hashes of the texts that these ids were scored for; only ids that were."""
    if not ids:
        return {}
    found = tables.read(home, "predictions", columns=["id", "text_hash"], filters=pc.field("id").isin(pa.array(sorted(ids))))
    hashes: dict[str, set[str]] = {}
    for row_id, digest in zip(found["id"].to_pylist(), found["text_hash"].to_pylist(), strict=True):
        hashes.setdefault(row_id, set()).add(digest)
    return hashes


def _as_stored(item: InboxRow, stored: AbstractSet[str]) -> InboxRow:
    """The row under the id that an earlier release gave it, where that is stored: by a float, or by a text before its repair."""
    if item.id in stored:
        return item
    if f"{item.id}.0" in stored:
        return item._replace(id=f"{item.id}.0")
    by_text = item.given_id in stored and item.id == text_id(item.text)
    return item._replace(id=str(item.given_id)) if by_text else item


def _as_scored(item: InboxRow, hashes: AbstractSet[str], *, masked: bool) -> InboxRow | None:
    """The row with the text that its id was scored for, repaired, masked or as it came; None if that is another text.

    An id made of the text is of no other.
    """
    given = str(item.raw.text)
    for text in (item.text, mask_handles(item.text), given, mask_handles(given)):
        if text_hash(text) in hashes:
            return item if masked and text != mask_handles(text) else item._replace(text=text)
    return item if item.id in (text_id(item.text), item.given_id) else None


def _is_same(first: str, item: InboxRow) -> bool:
    """Whether a text of its id is the row's, but for its form, its repair, or a cut by an API in one of the two."""
    if first == item.text or text_id(first) in (text_id(item.text), item.given_id):
        return True
    return any(whole_text(cut, [{"full_text": whole}]) for cut, whole in ((item.text, first), (first, item.text)))


def _classify(
    rows: Sequence[InboxRow], there: Mapping[str, str], scored: Mapping[str, AbstractSet[str]], *, masked: bool
) -> tuple[list[InboxRow], Counter[int], int, list[tuple[InboxRow, QuarantinedRow]]]:
    """New rows, known rows by the `id` of their file, how many of these only repeat a new row, and rows that reuse an id.

    The last come as read and as they are quarantined. Of several rows with one id the first counts.
    """
    texts, new, known, repeated, reused = dict(there), [], Counter[int](), 0, []
    for item in rows:
        name, text = item.id, item.text
        first = texts.get(name)
        fresh = None if first is not None else item if name not in scored else _as_scored(item, scored[name], masked=masked)
        if fresh is not None:
            texts[name] = fresh.text
            new.append(fresh)
        elif first is not None and _is_same(first, item):
            known[id(item.file)] += 1
            repeated += name not in there
        else:
            if first is None:
                where = "was scored for another text, which the inbox no longer has"
            else:
                shown = mask_handles(first) if masked else first  # one in the inbox may be from before masking
                where = f"is {'in the inbox' if name in there else 'earlier in these files'} for {shorten(shown, _SHOWN)!r}"
            detail = f"id {shorten(name)!r} {where}, and comes here with {shorten(text, _SHOWN)!r}"
            raw = dataclasses.replace(item.raw, text=text)
            row = dataclasses.replace(refuse(raw, Rejection("id reused", detail), item.file, masked), input=item.input)
            reused.append((item, row))
    return new, known, repeated, reused


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Collect rarely, not never: rows make no reference cycles, and searching millions of them takes a quarter of the time."""
    before = gc.get_threshold()
    gc.set_threshold(1_000_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)
