"""The stored signature index: signatures of the existing tweets, so that their texts need not be read again.

The table `signatures` has a row for each tweet. It is derived data: missing rows (an ingestion was killed between two commits, or
tweets were added by other means) are computed from the text; all are recomputed when the signature rule changed. Rows of removed
tweets are ignored.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finsent.config import DataConfig
from finsent.data import tables
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import (
    Signatures,
    concat_signatures,
    empty_signatures,
    make_signatures,
    signature_rule,
)
from finsent.data.table_schemas import SCHEMAS
from finsent.logging_setup import track
from finsent.text import forms
from finsent.workspace import Workspace

_TABLE = "signatures"
_RULE = "signature_rule"
_BATCH = 20_000


def load_signatures(
    home: Workspace, ids: pa.StringArray, config: DataConfig, version: int | None = None, *, rebuild: bool = False
) -> Signatures:
    """Signatures of the tweets with these ids, in their order; missing ones, or all with `rebuild`, are computed and stored.

    The ids are those of a version of the tweets, by default the latest.
    """
    rule = signature_rule(config)
    current = not rebuild and tables.last_metadata(home, _TABLE, _RULE) == rule
    stored = tables.read(home, _TABLE) if current else SCHEMAS[_TABLE].empty_table()
    place = pc.index_in(ids, value_set=stored["id"].combine_chunks())
    missing = ids.filter(pc.is_null(place))
    known = _from_table(stored, config)
    del stored
    if not len(missing):
        return known.take(_numbers(place))
    order, made = _sign_stored(home, missing, config, version)
    add_signatures(home, order, made, config, rebuild=not current)
    # the new rows follow the stored ones
    rows = _numbers(pc.fill_null(place, -1))
    rows[rows < 0] = len(known) + _numbers(pc.index_in(missing, value_set=order))
    return concat_signatures([known, made]).take(rows)


def add_signatures(
    home: Workspace, ids: pa.StringArray, signatures: Signatures, config: DataConfig, *, rebuild: bool | None = None
) -> None:
    """Add signatures to the table; they replace all rows with `rebuild`, or when those were made by another rule."""
    rule = signature_rule(config)
    if rebuild is None:
        rebuild = tables.last_metadata(home, _TABLE, _RULE) != rule
    table = pa.table(
        {
            "id": ids,
            "template": signatures.template,
            "prefix": signatures.prefix,
            "cut": signatures.cut,
            "bands": _binary(signatures.bands.view(np.uint8)),
            "sketch": _binary(signatures.sketch),
        },
        schema=SCHEMAS[_TABLE],
    )
    (tables.replace if rebuild else tables.append)(home, _TABLE, table, metadata={_RULE: rule})


def _sign_stored(
    home: Workspace, ids: pa.StringArray, config: DataConfig, version: int | None
) -> tuple[pa.StringArray, Signatures]:
    order, made = [pa.array([], pa.string())], [empty_signatures(config)]
    for batch in track(texts_by_id(home, ids, version), description="signing stored tweets", unit="batch"):
        order.append(batch["id"])
        made.append(make_signatures([forms(text) for text in batch["text"].to_pylist()], config))
    return pa.concat_arrays(order), concat_signatures(made)


def texts_by_id(home: Workspace, ids: pa.StringArray, version: int | None = None) -> Iterator[pa.RecordBatch]:
    """Ids and texts of the tweets with these ids, in batches, in table order."""
    for batch in tables.batches(home, "tweets", ["id", "text"], version=version, rows=_BATCH):
        there = pc.is_in(batch["id"], value_set=ids)
        if pc.any(there).as_py():
            yield batch.filter(there)


def stored_templates(home: Workspace, ids: Sequence[str], version: int | None = None) -> dict[str, str]:
    """Templates of the tweets with these ids, at a version, by default the latest."""
    found: dict[str, str] = {}
    if len(ids):
        for batch in texts_by_id(home, pa.array(ids, pa.string()), version):
            found |= {key: forms(text).template for key, text in zip(*batch.to_pydict().values(), strict=True)}
    return found


def _from_table(table: pa.Table, config: DataConfig) -> Signatures:
    if not table.num_rows:
        return empty_signatures(config)
    return Signatures(
        template=table["template"].to_numpy(),
        prefix=table["prefix"].to_numpy(),
        cut=table["cut"].to_numpy(),
        bands=_matrix(table["bands"]).view(np.uint32),
        sketch=_matrix(table["sketch"]),
    )


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Binary values of one length as rows of bytes."""
    width = pa.binary(len(column[0].as_py()))
    buffers = [chunk.cast(width).buffers()[1] for chunk in column.chunks if len(chunk)]
    return np.concatenate([np.frombuffer(buffer, np.uint8).reshape(-1, width.byte_width) for buffer in buffers])


def _binary(matrix: npt.NDArray[np.uint8]) -> pa.BinaryArray:
    """Rows of bytes as binary values."""
    count, width = matrix.shape
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(np.ascontiguousarray(matrix))])
    return fixed.cast(pa.binary())


def _numbers(array: pa.Array) -> Int64:
    return np.array(array.to_numpy(zero_copy_only=False), np.int64)
