"""Answers to files of tweets: for each of their rows, in their order, the current prediction or why there is none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.current_predictions import read_current
from finsent.data.output_file import write_output
from finsent.data.predictions import ModelIdentity, predicted_in_line
from finsent.data.quarantine import INBOX_PLACE
from finsent.data.received_rows import ReceivedFile
from finsent.data.table_schemas import SCHEMAS
from finsent.data.validation.dates import is_missing
from finsent.data.validation.row_validation import EXACT_FLOATS
from finsent.logging_setup import track
from finsent.workspace import Workspace

_PREDICTED: Final = ("label", "confidence", "p_neutral", "p_bullish", "p_bearish", "abstained", "model_version", "scored_at")
_ROWS: Final = 50_000  # written at a time
_NOT_YET: Final = "not scored yet: its prediction or its inbox row was removed meanwhile; run this again"
_INT64: Final = range(-(2**63), 2**63)


@dataclass(frozen=True)
class AnswerFile:
    """A file of answers: as many rows as the files that were given."""

    path: Path
    rows: int
    unanswered: int
    """Rows without a label: the column `reason` says why."""


def write_answers(home: Workspace, files: Sequence[ReceivedFile], path: Path, model: ModelIdentity) -> AnswerFile:
    """Write one row for each row of the files: its own id, text, prediction and reason; `file` says which of several it is of.

    Predictions are those of the model and of the other champions of its registry.

    Raises:
        InputError: the file cannot be written, or is there already.
    """
    rows = [(file, row) for file in files for row in file.rows]
    ids = pa.array(sorted({row.id for _, row in rows if row.id is not None}), pa.string())
    found = read_current(home, ["id", *_PREDICTED], among=pc.field("id").isin(ids) & predicted_in_line(model))
    places = {name: place for place, name in enumerate(found["id"].to_pylist())}
    why = _reasons(home, [name for name in ids.to_pylist() if name not in places])
    kinds = _own_id_kinds(files)
    schema = _schema(kinds, several=len(files) > 1)
    unanswered = sum(row.id not in places for _, row in rows)

    def parts() -> Iterator[pa.Table]:
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            predicted = found.take(pa.array([places.get(row.id or "") for _, row in some], pa.int64()))
            columns: dict[str, Any] = {
                "file": [file.uri for file, _ in some],
                "row": [row.number for _, row in some],
                **{name: [_own_id(row.own_id, kind) if file.id_column == column else None for file, row in some]
                   for column, (name, kind) in kinds.items()},
                "text": [row.text for _, row in some],
                **{name: predicted[name] for name in _PREDICTED},
                "reason": [row.reason or (None if row.id in places else why.get(row.id or "", _NOT_YET)) for _, row in some],
            }  # fmt: skip
            # as where one text is labelled: without an answer there is none to rely on
            columns["abstained"] = pc.fill_null(columns["abstained"], fill_value=True)
            yield pa.table(
                [
                    pa.array(columns[field.name], field.type) if isinstance(columns[field.name], list) else columns[field.name]
                    for field in schema
                ],
                schema=schema,
            )

    shown = track(parts(), description="writing", total=-(-len(rows) // _ROWS), unit="part")
    return AnswerFile(path, write_output(path, schema, shown), unanswered)


def _schema(kinds: Mapping[str, tuple[str, pa.DataType]], *, several: bool) -> pa.Schema:
    own = [pa.field(name, kind) for name, kind in kinds.values()]
    before = [pa.field("file", pa.string())] if several else []
    predicted = [SCHEMAS["predictions"].field(name) for name in _PREDICTED]
    row, text, reason = pa.field("row", pa.int64()), pa.field("text", pa.string()), pa.field("reason", pa.string())
    return pa.schema([*before, row, *own, text, *predicted, reason])


def _own_id_kinds(files: Sequence[ReceivedFile]) -> dict[str, tuple[str, pa.DataType]]:
    """Of each id column its name in the output, and its type: whole numbers where all of its values are, else strings."""
    values: dict[str, list[object]] = {}
    for file in files:
        if file.id_column is not None:
            values.setdefault(file.id_column, []).extend(row.own_id for row in file.rows)
    taken = {"file", "row", "text", *_PREDICTED, "reason"}
    kinds = {}
    for column, given in values.items():
        whole = all(_whole(value) is not None for value in given if not is_missing(value))
        kinds[column] = (f"own_{column}" if column in taken else column, pa.int64() if whole else pa.string())
    return kinds


def _whole(value: object) -> int | None:
    """The whole number that a value is; pandas makes floats of a column of them as soon as one is missing."""
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_FLOATS:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value in _INT64 else None


def _own_id(value: object, kind: pa.DataType) -> object:
    if is_missing(value):
        return None
    return _whole(value) if kind == pa.int64() else str(value)


def _reasons(home: Workspace, ids: Sequence[str]) -> dict[str, str]:
    """Why scoring set these rows of the inbox aside; only those that it did."""
    if not ids:
        return {}
    chosen = pc.field("source").isin(pa.array([INBOX_PLACE + name for name in ids]))
    rows = tables.read(home, "quarantine", columns=["source", "reason", "detail", "ingested_at"], filters=chosen)
    return {
        row["source"].removeprefix(INBOX_PLACE): f"{row['reason']}: {row['detail']}"
        for row in rows.sort_by("ingested_at").to_pylist()
    }
