"""People's decisions brought into the table `tweets`: labels replaced and rows removed in one commit, a new version of the data.

A row keeps its group and its split, and the version before keeps the old label. Ingestion looks at the decisions by itself;
this is for rows that were accepted before someone decided.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from finsent.data import tables
from finsent.data.dataset import (
    FINGERPRINTED,
    add_fingerprints,
    fingerprint_rows,
    fingerprint_table,
    read_audit,
    subtract_fingerprint,
)
from finsent.data.reviews import Decision, load_decisions
from finsent.home import Home

_log = logging.getLogger(__name__)

APPLICATION: Final = "finsent-ingest"
"""The same as ingestion's: commits that change what the data says follow one another, whichever of the two makes them."""


@dataclass(frozen=True)
class _Applied:
    version: int | None
    """The version that the commit made; None when there was nothing to change."""


def apply_to_table(home: Home) -> int | None:
    """Bring every decision on a row of `tweets` into it, in one commit; the new version, or None when nothing changed.

    Takes the home's lock `ingest`, so call it outside of that. Doing it again changes nothing.

    Raises:
        Refused: other runs kept getting ahead.
    """
    from filelock import FileLock

    if tables.version(home, "tweets") is None:
        return None
    home.lock("ingest").parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.lock("ingest")):
        return tables.contend(home, "tweets", APPLICATION, lambda position: _apply(home, position)).version


def _apply(home: Home, position: tables.Position) -> _Applied | None:
    import pyarrow.compute as pc

    decisions = load_decisions(home)
    decided = pc.field("id").isin(pa.array(list(decisions), pa.string()))
    rows = tables.read(home, "tweets", columns=FINGERPRINTED, filters=decided)
    changes = _changes(rows, decisions)
    if not changes.num_rows:
        return _Applied(None)
    before = fingerprint_table(home)
    # a label or a removal adds no pair of texts across splits: what was audited before still holds
    audit = read_audit(home, position.version, before)
    untouched = subtract_fingerprint(before, fingerprint_rows(rows))
    after = add_fingerprints(untouched, fingerprint_rows(_changed(rows, changes)))
    metadata = {"fingerprint": after, **audit.metadata()}
    rule = tables.last_metadata(home, "tweets", "split_rule")
    if rule is not None:
        metadata["split_rule"] = rule
    written = tables.change_next(home, "tweets", changes, APPLICATION, position, metadata)
    if written is None:
        return None
    removed = sum(changes["removed"].to_pylist())
    _log.info(
        "version %d of the data: %d labels fixed, %d rows dropped by review",
        written.version,
        changes.num_rows - removed,
        removed,
    )
    return _Applied(written.version)


def _changes(rows: pa.Table, decisions: Mapping[str, Decision]) -> pa.Table:
    """What the decisions change in these rows: id, label, removed."""
    found = [
        (row_id, decision.label or label, decision.kind == "drop")
        for row_id, label in zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True)
        if (decision := decisions.get(row_id)) is not None
        and (decision.kind == "drop" or (decision.kind == "fix" and decision.label != label))
    ]
    columns = [[row[index] for row in found] for index in range(3)]
    schema = pa.schema([("id", pa.string()), ("label", pa.string()), ("removed", pa.bool_())])
    return pa.table(columns, schema=schema)


def _changed(rows: pa.Table, changes: pa.Table) -> pa.Table:
    """The rows as they will be."""
    new = {change["id"]: change for change in changes.to_pylist()}
    ids = rows["id"].to_pylist()
    labels = [
        new[row_id]["label"] if row_id in new else label for row_id, label in zip(ids, rows["label"].to_pylist(), strict=True)
    ]
    kept = pa.array([not (row_id in new and new[row_id]["removed"]) for row_id in ids])
    return rows.set_column(rows.schema.get_field_index("label"), "label", pa.array(labels, pa.string())).filter(kept)
