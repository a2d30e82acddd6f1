"""Removal of a source: a version of the data without its rows, so that it can be read again, with the right label map say.

Rows of other sources keep their label, group and split, and earlier versions keep every row. What was recorded because of the
source goes too: its schema, and the quarantined contradictions that only it was a side of. First the quarantine, then the tweets:
a run that was killed in between still finds the rows, and does the rest when it is repeated.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import quarantine, tables
from finsent.data.corrections import INGEST_BUSY, INGEST_WAIT, TWEETS_APPLICATION
from finsent.data.dataset import FINGERPRINTED, fingerprint_rows, fingerprint_table, read_audit, subtract_fingerprint
from finsent.data.ingest_report import known_schemas
from finsent.data.table_schemas import SCHEMAS, CommitKey
from finsent.data.validation.row_validation import CONFLICT
from finsent.data.validation.text_cleaning import mask_handles
from finsent.errors import InputError, did_you_mean, escape_invalid, format_names
from finsent.files import locked
from finsent.workspace import Workspace

_OF_LABELS: Final = frozenset({"unknown label", CONFLICT, "split conflict"})
"""Reasons that no tweet of the inbox is quarantined for: its files may have the same names."""
_SIDE: Final = re.compile(r"(?:^|; )(?:Neutral|Bullish|Bearish)(?:, accepted before| in (?P<place>.+?) row \d+), ")


@dataclass(frozen=True)
class Removal:
    """What removing a source did, or in a dry run would do."""

    source: str
    rows: dict[str, dict[str, int]]
    """Its rows by split and label."""
    quarantined: int
    """Entries of the quarantine that go with it."""
    remaining: int
    """Rows of other sources, which stay as they are."""
    version: int | None
    """Version of the data afterwards."""
    dry_run: bool


def remove_source(home: Workspace, name: str, *, who: str, why: str, dry_run: bool = False) -> Removal:
    """Make a version of the data without a source. Idempotent: what a killed run left is done by the next one.

    Args:
        home: Where the tables are.
        name: Name of the source, as in the column `source`.
        who: Who removes it.
        why: The reason; recorded with the commit.
        dry_run: Write nothing.

    Raises:
        InputError: no such source, or no name or reason was given.
        CheckFailed: other runs kept committing first.
    """
    if not (who.strip() and why.strip()) and not dry_run:
        raise InputError("a removal needs the name of who decided it and a reason (--who, --why), and one of them is empty.")
    if dry_run:
        return _counted(home, name, tables.version(home, "tweets"), dry_run=True)
    with locked(home.lock("ingest"), INGEST_WAIT, INGEST_BUSY):
        found = _counted(home, name, tables.version(home, "tweets"))
        tables.retry_on_conflict(home, "quarantine", quarantine.APPLICATION, lambda at: _clear_quarantine(home, name, at))
        if not found.rows and name not in known_schemas(home):
            return found
        told = {"who": escape_invalid(who.strip()), "why": escape_invalid(why.strip())}
        record = {"source": name, **told, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        written = tables.retry_on_conflict(home, "tweets", TWEETS_APPLICATION, lambda at: _remove(home, record, at))
        return Removal(**asdict(found) | {"version": written.version})


def _counted(home: Workspace, name: str, version: int | None, *, dry_run: bool = False) -> Removal:
    """What there is to remove.

    Raises:
        InputError: nothing, for there is no such source.
    """
    stored = tables.read(home, "tweets", version=version, columns=["source", "split", "label"])
    ours = stored.filter(pc.equal(stored["source"], name))
    counts = Counter(zip(ours["split"].to_pylist(), ours["label"].to_pylist(), strict=True))
    rows: dict[str, dict[str, int]] = {}
    for (split, label), n in sorted(counts.items()):
        rows.setdefault(split, {})[label] = n
    gone = sum(table.num_rows for table in _entries_to_drop(home, name))
    schemas = known_schemas(home)
    if not (rows or gone or name in schemas):
        known = sorted({*pc.unique(stored["source"]).to_pylist(), *schemas})
        raise InputError(f"there is no source {name!r} in the data. Sources: {format_names(known)}.{did_you_mean(name, known)}")
    return Removal(name, rows, gone, stored.num_rows - ours.num_rows, version, dry_run)


def _remove(home: Workspace, record: dict[str, str], at: tables.Position) -> tables.Position | None:
    version, name, n = at.version, record["source"], 0
    of_source = pc.field("source") == name

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal n
        for batch in tables.batches(home, "tweets", FINGERPRINTED, version=version, filters=of_source):
            n += batch.num_rows
            yield batch

    part = fingerprint_rows(counted())
    before = fingerprint_table(home, version)
    # a removal adds no pair of texts across splits: the audit on record still holds
    metadata: dict[CommitKey, str] = {
        "fingerprint": subtract_fingerprint(before, part),
        "removed": json.dumps(record | {"rows": n}, ensure_ascii=False),
        **read_audit(home, version, before).metadata(),
    }
    if (rule := tables.last_metadata(home, "tweets", "split_rule")) is not None:
        metadata["split_rule"] = rule
    if not n:  # all its rows were duplicates: only its schema is on record
        return tables.append_if_unchanged(home, "tweets", SCHEMAS["tweets"].empty_table(), TWEETS_APPLICATION, at, metadata)
    return tables.replace_where(home, "tweets", f"source = {_literal(name)}", None, TWEETS_APPLICATION, at, metadata)


def _clear_quarantine(home: Workspace, name: str, at: tables.Position) -> tables.Position | None:
    doomed = _entries_to_drop(home, name)
    if not doomed:
        return at
    keys = {_key(row) for table in doomed for row in table.to_pylist()}
    places = sorted({place for *_, place in keys})
    chosen = pc.field("source").isin(pa.array(places, pa.string()))

    def stay(there: pa.Table) -> pa.Table:
        rows = there.select(_KEY).to_pylist()
        return there.filter(pa.array([_key(row) not in keys for row in rows], pa.bool_()))

    predicate = f"source IN ({', '.join(map(_literal, places))})"
    return tables.replace_where(home, "quarantine", predicate, (chosen, stay), quarantine.APPLICATION, at)


_KEY: Final = ["input", "row", "reason", "id", "source"]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[column] for column in _KEY)


def _entries_to_drop(home: Workspace, name: str) -> list[pa.Table]:
    """Entries of the source, and contradictions of other sources with it alone; columns as in `_KEY`."""
    columns = [*_KEY, "text", "detail"]
    inputs, is_ours = _inputs_of(home, name), _places_of(home, name)
    doomed: list[pa.Table] = []
    others: list[tuple[str, dict[str, Any]]] = []
    for batch in tables.batches(home, "quarantine", columns):
        ours = pa.array(
            [
                is_ours(place) and (reason in _OF_LABELS or given in inputs)
                for place, reason, given in zip(*(batch[key].to_pylist() for key in ("source", "reason", "input")), strict=True)
            ],
            pa.bool_(),
        )
        doomed.append(pa.Table.from_batches([batch.filter(ours)]))
        rest = batch.filter(pc.and_(pc.invert(ours), pc.equal(batch["reason"], CONFLICT)))
        others += zip(quarantine.ids_of(rest), rest.to_pylist(), strict=True)
    doomed.append(pa.Table.from_pylist(_only_against(home, name, others, is_ours), schema=_schema(columns)))
    return [table.select(_KEY) for table in doomed if table.num_rows]


def _schema(columns: list[str]) -> pa.Schema:
    return pa.schema([SCHEMAS["quarantine"].field(column) for column in columns])


def _only_against(
    home: Workspace, name: str, others: list[tuple[str, dict[str, Any]]], is_ours: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """Of contradictory rows of other sources those that nothing but the source contradicted, and their later readings."""
    sides: list[list[tuple[str | None, str]]] = []
    for _, row in others:
        _, *against = quarantine.AGAINST.split(str(row["detail"]), maxsplit=1)
        found = list(_SIDE.finditer(against[0])) if against else []
        ends = [match.start() for match in found[1:]] + [None]
        sides.append([(match["place"], against[0][match.end() : end]) for match, end in zip(found, ends, strict=True)])
    accepted = _shown_texts(home, name, {text for some in sides for place, text in some if place is None})
    ours = [
        bool(some) and all(is_ours(place) if place is not None else text in accepted for place, text in some) for some in sides
    ]
    released = {row_id for (row_id, _), mine in zip(others, ours, strict=True) if mine}
    blocked = {row_id for (row_id, _), mine, some in zip(others, ours, sides, strict=True) if some and not mine}
    return [
        row
        for (row_id, row), mine, some in zip(others, ours, sides, strict=True)
        if mine or (not some and row_id in released - blocked)
    ]


def _shown_texts(home: Workspace, name: str, wanted: set[str]) -> set[str]:
    """Those of the texts, as contradictions show them, that are rows of the source."""
    found: set[str] = set()
    if wanted:
        for batch in tables.batches(home, "tweets", ["text"], filters=pc.field("source") == name):
            for text in batch["text"].to_pylist():
                found |= {quarantine.shown_text(text), quarantine.shown_text(mask_handles(text))} & wanted
    return found


def _places_of(home: Workspace, name: str) -> Callable[[str], bool]:
    """Tells whether a place in the quarantine is of a source: its name, followed by the file's where it has several.

    Another source may be called `desk:2024` beside `desk`: the longest name that fits has the place.
    """
    others = tuple(other for other in known_schemas(home) if other.startswith(f"{name}:"))
    of_others = tuple(f"{other}:" for other in others)

    def is_ours(place: str) -> bool:
        fits = place == name or place.startswith(f"{name}:")
        return fits and place not in others and not place.startswith(of_others)

    return is_ours


def _inputs_of(home: Workspace, name: str) -> set[str]:
    """Identities of the files that were read under this name."""
    reports = (json.loads(commit.get("report", "{}")) for commit in tables.commit_history(home, "tweets"))
    return {
        quarantine.input_identity(item) for report in reports for item in report.get("inputs", ()) if item.get("name") == name
    }


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
