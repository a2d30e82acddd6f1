"""Rows accepted before, as ingestion compares new ones with them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finsent.config import DataConfig
from finsent.data import tables
from finsent.data.corrections import ReviewDecision
from finsent.data.dataset import EMPTY_FINGERPRINT, fingerprint_table, read_audit
from finsent.data.dedup.assignment import ExistingRows, RowArrays
from finsent.data.dedup.grouping import is_in
from finsent.data.dedup.near_duplicates import TemplateLookup
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signature_index import load_signatures, stored_templates
from finsent.data.dedup.signatures import empty_signatures
from finsent.data.splits import SPLIT_CODES
from finsent.data.staging import StagedRows, column
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError
from finsent.home import Home
from finsent.labels import LABELS


@dataclass(frozen=True)
class TweetsSnapshot:
    """The table `tweets` at one version."""

    version: int | None
    before: ExistingRows
    fingerprint: str
    audited: bool
    """Whether the leak audit of exactly these rows is on record, with no leak."""


def load_snapshot(home: Home, config: DataConfig, version: int | None) -> TweetsSnapshot:
    """Everything that new rows are compared with, but the texts.

    Args:
        home: Where the tables are.
        config: How rows are compared.
        version: Of the table; None before there is one. All that an ingestion reads is read at one version: another machine's
            review may take rows out of a later one.

    Raises:
        InputError: a label or a split in the table is none of ours.
    """
    columns = ("id", "label", "group", "split")
    schema = pa.schema([SCHEMAS["tweets"].field(name) for name in columns])
    rows = schema.empty_table() if version is None else tables.read(home, "tweets", version=version, columns=columns)
    fingerprint = EMPTY_FINGERPRINT if version is None else fingerprint_table(home, version)
    ids = _array(rows["id"])
    audited = version is None or not len(ids) or read_audit(home, version, fingerprint).leaks == 0
    groups = _array(rows["group"]).dictionary_encode()
    before = ExistingRows(
        rows=RowArrays(
            ids,
            _coded(rows["label"], LABELS, "label"),
            load_signatures(home, ids, config, version, rebuild=not audited) if len(ids) else empty_signatures(config),
        ),
        groups=groups.indices.to_numpy().astype(np.int64),
        names=groups.dictionary,
        splits=_coded(rows["split"], SPLIT_CODES, "split"),
    )
    return TweetsSnapshot(version, before, fingerprint, audited)


Mask = npt.NDArray[np.bool_]


def apply_decisions_to_staged(spooled: StagedRows, decisions: Mapping[str, ReviewDecision]) -> tuple[RowArrays, Mask, Mask]:
    """The spooled rows with the labels that people decided on; whose labels those are [N], and which people dropped [N]."""
    labels, decided = spooled.labels.copy(), np.zeros(len(spooled), bool)
    rows = np.flatnonzero(is_in(spooled.ids, pa.array(sorted(decisions), pa.string())))
    by_id: dict[str, list[int]] = {}
    for row, name in zip(rows.tolist(), spooled.ids.take(pa.array(rows)).to_pylist(), strict=True):
        by_id.setdefault(name, []).append(row)
    dropped = np.zeros(len(spooled), bool)
    for name, copies in by_id.items():
        decision = decisions[name]
        if decision.kind == "fix":
            labels[copies] = LABELS.index(str(decision.label))
        dropped[copies] = decision.kind == "drop"
        # of copies with several labels, which one a person found right is not known
        decided[copies] = len(set(labels[copies].tolist())) == 1
    return RowArrays(spooled.ids, labels, spooled.signatures), decided, dropped


def template_lookup(home: Home, stored: TweetsSnapshot, spooled: StagedRows) -> TemplateLookup:
    """Templates by row number: of rows accepted before, then of the spooled ones. Stored texts are read once."""
    cache: dict[int, str] = {}
    before, known = stored.before, len(stored.before.rows)

    def texts_of(rows: Int64) -> list[str]:
        missing = [row for row in rows[rows < known].tolist() if row not in cache]
        if missing:
            names = before.rows.ids.take(pa.array(missing)).to_pylist()
            found = stored_templates(home, names, stored.version)
            cache.update((row, found[name]) for row, name in zip(missing, names, strict=True))
        new = iter(column(spooled, "template", rows[rows >= known] - known))
        return [cache[row] if row < known else next(new) for row in rows.tolist()]

    return texts_of


def _array(values: pa.ChunkedArray) -> pa.StringArray:
    return pa.concat_arrays([pa.array([], pa.string()), *values.chunks])


def _coded(values: pa.ChunkedArray, names: tuple[str, ...], what: str) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    codes = pc.index_in(values, value_set=pa.array(names, pa.string()))
    if codes.null_count:
        odd = pc.filter(values, pc.is_null(codes))[0].as_py()
        raise InputError(
            f"the table 'tweets' has a row whose {what} is {odd!r}; {what}s are {', '.join(names)}. "
            "Was the table changed by hand? Restore an earlier version, or ingest into a new FINSENT_HOME."
        )
    return np.array(codes.to_numpy(), np.int8)
