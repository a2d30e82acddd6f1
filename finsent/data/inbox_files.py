"""What became of each file of `scoring.sources`: a Delta table beside the inbox, so that whoever shares the one shares the other.

A record is written after the rows it speaks of, so a run that dies in between reads the file again and finds its rows known.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from finsent.config import InboxSource
from finsent.data import tables
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import escape_invalid
from finsent.workspace import Workspace

_TABLE: Final = "inbox_files"
FileState = Literal["received", "set aside", "not read", "gone"]
"""`set aside`: damaged, and not tried again until its content changes; `not read`: out of reach, each run tries; `gone`: had been
one of these, and is not there any more."""
FAULTS: Final = ("set aside", "not read")

FileKey = tuple[str, str]
"""Address, and `settings`: a hash of how the source is read. Read another way, a file is another one."""


class FileRecord(NamedTuple):
    """One line of the table. A tuple to save memory: there may be hundreds of thousands."""

    source: str
    """Address of the source that it was found in."""
    uri: str
    settings: str
    stamp: str | None
    """See `finsent.data.sources.arrivals.Arrival`: spares reading a file to find its identity, and is not the identity."""
    identity: str | None
    """See `finsent.data.sources.arrivals.content_identity`."""
    state: FileState
    reason: str | None
    rows: int
    recorded_at: datetime

    @property
    def key(self) -> FileKey:
        """What the file is found by."""
        return self.uri, self.settings


@dataclass(frozen=True)
class InboxFault:
    """A file or a whole source that is not read."""

    uri: str
    state: str
    """`set aside` or `not read`, see `FileState`."""
    reason: str
    identity: str | None
    since: datetime
    configured: bool = True
    """Whether its source is among those of the configuration that asks."""


def load_records(home: Workspace, uris: Iterable[str]) -> dict[FileKey, FileRecord]:
    """The latest record of each file at one of these addresses, and of each that ever was at fault.

    Only these: a year of daily files is not kept in memory.
    """
    faulty = tables.read(home, _TABLE, columns=["uri"], filters=pc.field("state").isin(FAULTS))["uri"].to_pylist()
    latest: dict[FileKey, FileRecord] = {}
    for record in _find(home, "uri", {*uris, *faulty}):
        if record.key not in latest or latest[record.key].recorded_at < record.recorded_at:
            latest[record.key] = record
    return latest


def load_contents(home: Workspace, identities: Iterable[str]) -> dict[tuple[str, str], FileRecord]:
    """The record that counts of each of these contents, by its identity and `settings`: received content stays received."""
    contents: dict[tuple[str, str], FileRecord] = {}
    for record in _find(home, "identity", set(identities)):
        content = str(record.identity), record.settings
        if record.state == "received" or (record.state == "set aside" and content not in contents):
            contents[content] = record
    return contents


def _find(home: Workspace, column: str, values: AbstractSet[str]) -> Iterator[FileRecord]:
    """Records with one of these values; where the inbox was deleted, nothing was received."""
    if not values:
        return
    deleted = tables.version(home, "inbox") is None
    for batch in tables.batches(home, _TABLE, FileRecord._fields, filters=pc.field(column).isin(pa.array(sorted(values)))):
        for row in zip(*batch.to_pydict().values(), strict=True):
            record = FileRecord(*row)
            if not (deleted and record.state == "received" and record.rows):
                yield record


def append_files(home: Workspace, records: Iterable[FileRecord], latest: Mapping[FileKey, FileRecord]) -> int:
    """Append those records that say something new of their file, in one commit; returns their number."""
    new = [record for record in records if not _says_the_same(record, latest.get(record.key))]
    if new:
        columns = dict(zip(FileRecord._fields, zip(*new, strict=True), strict=True))
        tables.append(home, _TABLE, pa.table({name: list(values) for name, values in columns.items()}, schema=SCHEMAS[_TABLE]))
    return len(new)


def _says_the_same(record: FileRecord, before: FileRecord | None) -> bool:
    return before is not None and record[:7] == before[:7]


def time_of_record(latest: Mapping[FileKey, FileRecord]) -> datetime:
    """Now, or just after the last record where the clock was set back: the latest one must win."""
    last = max((record.recorded_at for record in latest.values()), default=None)
    now = datetime.now(UTC)
    return now if last is None or last < now else last + timedelta(microseconds=1)


def find_faults(home: Workspace, sources: Sequence[InboxSource]) -> tuple[InboxFault, ...]:
    """What is not read, as the last scoring run left it, the oldest first; of sources that are not among `sources`, too.

    Whoever asks may have another configuration than the runs that found the faults, and must see them all the same.
    """
    configured = {escape_invalid(source.uri) for source in sources}
    return faults_of(load_records(home, ()).values(), configured)


def faults_of(records: Iterable[FileRecord], configured: AbstractSet[str] | None = None) -> tuple[InboxFault, ...]:
    """The records that speak of something that is not read, the oldest first; `configured` None: all their sources are."""
    found = [record for record in records if record.state in FAULTS]
    found.sort(key=lambda record: (record.recorded_at, record.uri))
    return tuple(
        InboxFault(
            record.uri,
            record.state,
            record.reason or "",
            record.identity,
            record.recorded_at,
            configured is None or record.source in configured,
        )
        for record in found
    )
