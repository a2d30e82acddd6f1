"""Predictions as people look for them: by time, label, cashtag, answer and model, with the tweets' texts from the inbox.

Whatever the size of the tables, one window of rows is in memory at a time, and some 40 bytes of every row.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from finsent.data import tables
from finsent.data.current_predictions import KEY, find_current, moments
from finsent.data.table_access import delta_errors, open_table
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError, format_names, quoted
from finsent.text import cashtags, text_hash
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

WINDOW: Final = 400_000
"""Rows of predictions whose texts are looked up together: a scan of the inbox for each so many."""
_NEWEST: Final = 100_000  # rows that a listing searches first
_FEW: Final = 1000  # ids that Arrow looks up faster than Python
_FEWEST_OF_DIGEST: Final = 8  # characters, so that no digest passes for a version


@dataclass(frozen=True)
class PredictionFilter:
    """What is looked for; what is None does not matter."""

    since: datetime | None = None
    """Scored since then."""
    labels: tuple[str, ...] = ()
    """With one of these labels; empty for any."""
    ticker: str | None = None
    """Cashtag in the text, see `parse_ticker`; tweets whose text the inbox no longer has are left out."""
    abstained: bool | None = None
    model: str | None = None
    """Version, or at least eight characters of the model's digest: of each tweet that model's prediction, current or not."""
    all_versions: bool = False
    """Every model's prediction of a tweet, in place of the current one."""


@dataclass(frozen=True)
class FoundPredictions:
    """Rows of one version of the table `predictions`."""

    version: int | None
    """None where nothing was ever scored."""
    places: NDArray[np.int64]
    """Numbers of the rows in the table's order, from 0, ascending."""
    moments: NDArray[np.int64]
    """When each was scored, in microseconds."""
    since: datetime | None = None
    """Rows scored earlier are not counted in `places`."""

    def newest(self, limit: int) -> "FoundPredictions":
        """The newest so many."""
        chosen = np.sort(np.argsort(-self.moments, kind="stable")[:limit])
        return replace(self, places=self.places[chosen], moments=self.moments[chosen])


def parse_ticker(given: str) -> str:
    """The cashtag for `PredictionFilter.ticker`: `AAPL`, `$aapl` and `$AAPL` are one.

    Raises:
        InputError: it is none.
    """
    wanted = "$" + given.strip().removeprefix("$").casefold()
    if cashtags(wanted) != {wanted}:
        raise InputError(f"{quoted(given)} is no cashtag. Give one such as AAPL, '$aapl' or BTC.X (--ticker).")
    return wanted


def find_predictions(home: Workspace, wanted: PredictionFilter) -> FoundPredictions:
    """The rows that are looked for.

    Raises:
        InputError: no row is of that model.
    """
    import pyarrow as pa

    version = tables.version(home, "predictions")
    if version is None:
        return FoundPredictions(None, np.zeros(0, np.int64), np.zeros(0, np.int64))
    tagged = None if wanted.ticker is None else _ids_with_cashtag(home, wanted.ticker)
    considered: list[NDArray[np.bool_]] = []
    matching: list[NDArray[np.bool_]] = []
    times: list[NDArray[np.int64]] = []
    versions: set[str] = set()

    def of_the_model() -> "Iterator[pa.RecordBatch]":
        columns = [*KEY, "label", "abstained", "model_version"]
        for every in tables.batches(home, "predictions", columns, version=version, filters=_scored_since(wanted.since)):
            versions.update(every["model_version"].unique().to_pylist())
            considered.append(_is_by(every, wanted.model))
            batch = every.filter(pa.array(considered[-1]))
            times.append(moments(batch))
            matching.append(_matches(batch, wanted, tagged))
            yield batch

    if wanted.all_versions:
        for _ in of_the_model():
            pass
    else:
        current = find_current(of_the_model())
    if not times:
        return FoundPredictions(version, np.zeros(0, np.int64), np.zeros(0, np.int64), wanted.since)
    places = np.flatnonzero(np.concatenate(considered))
    if wanted.model is not None and not len(places) and wanted.since is None:
        known = format_names(sorted(version for version in versions if version))
        raise InputError(f"no prediction is by the model {quoted(wanted.model)} (--model). Versions that have some: {known}.")
    chosen = np.concatenate(matching) if wanted.all_versions else np.concatenate(matching) & current
    return FoundPredictions(version, places[chosen], np.concatenate(times)[chosen], wanted.since)


def find_newest(home: Workspace, wanted: PredictionFilter, limit: int) -> tuple[FoundPredictions, bool]:
    """The newest so many of the rows that are looked for, and whether there are more.

    The newest files of the table are searched first, and all of it where they do not hold as many.

    Raises:
        InputError: no row is of that model.
    """
    start = _start_of_newest(home)
    if start is not None and (wanted.since is None or wanted.since < start):
        # of a tweet scored since then the newest row is among these, too
        found = find_predictions(home, replace(wanted, since=start))
        if len(found.places) > limit:
            return found.newest(limit), True
    found = find_predictions(home, wanted)
    return found.newest(limit), len(found.places) > limit


def _start_of_newest(home: Workspace) -> datetime | None:
    """Time since which the table's newest files hold rows, as its log tells it; None where they are all or that is not known."""
    import pyarrow as pa

    with delta_errors(home, "predictions"):
        handle = open_table(home, "predictions")
        files = [] if handle is None else pa.table(handle.get_add_actions(flatten=True)).to_pylist()
    if any(file.get(name) is None for file in files for name in ("num_records", "min.scored_at", "max.scored_at")):
        return None
    files.sort(key=lambda file: file["max.scored_at"], reverse=True)
    rows, start = 0, None
    for file in files:
        if rows >= _NEWEST:
            return start
        rows += file["num_records"]
        start = file["min.scored_at"] if start is None else min(start, file["min.scored_at"])
    return None


def _scored_since(since: datetime | None) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return None if since is None else pc.field("scored_at") >= pa.scalar(since, pa.timestamp("us", tz="UTC"))


def _is_by(batch: "pa.RecordBatch", model: str | None) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    if model is None:
        return np.ones(len(batch), np.bool_)
    found = pc.equal(batch["model_version"], model)
    if len(model) >= _FEWEST_OF_DIGEST:
        found = pc.or_kleene(found, pc.starts_with(batch["model_digest"], model.casefold()))
    return np.asarray(pc.fill_null(found, fill_value=False))


def _matches(batch: "pa.RecordBatch", wanted: PredictionFilter, tagged: "pa.Array | None") -> NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = np.ones(len(batch), np.bool_)
    if wanted.labels:
        found &= np.asarray(pc.is_in(batch["label"], value_set=pa.array(wanted.labels)))
    if wanted.abstained is not None:
        found &= np.asarray(pc.fill_null(pc.equal(batch["abstained"], wanted.abstained), fill_value=False))
    return found if tagged is None else found & np.asarray(pc.is_in(batch["id"], value_set=tagged))


def _ids_with_cashtag(home: Workspace, ticker: str) -> "pa.Array":
    """Ids of the inbox rows whose text has the cashtag."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found, pattern = [pa.array([], pa.string())], rf"{re.escape(ticker)}(?:[^a-z0-9_]|$)"
    for batch in tables.batches(home, "inbox", ["id", "text"]):
        # what Arrow cannot rule out is read by the rules of `finsent.text`: entities, wide letters
        plain = pc.and_(pc.string_is_ascii(batch["text"]), pc.invert(pc.match_substring(batch["text"], "&")))
        may_have = pc.or_(pc.invert(plain), pc.match_substring_regex(batch["text"], pattern, ignore_case=True))
        some = batch.filter(pc.fill_null(may_have, fill_value=False))
        has = [ticker in cashtags(text) for text in some["text"].to_pylist()]
        found.append(some["id"].filter(pa.array(has, pa.bool_())))
    return pa.concat_arrays(found)


def output_schema() -> "pa.Schema":
    """Columns of `read_found`: those of the table, and the text after the id."""
    import pyarrow as pa

    first, *others = SCHEMAS["predictions"]
    return pa.schema([first, pa.field("text", pa.string()), *others])


def read_found(home: Workspace, found: FoundPredictions) -> "Iterator[pa.Table]":
    """The rows that were found, in the table's order, with their texts; a text is null where the inbox no longer has it."""
    import pyarrow as pa

    if not len(found.places):
        return
    window: list[pa.RecordBatch] = []
    start = rows = 0
    names, chosen = SCHEMAS["predictions"].names, _scored_since(found.since)
    for batch in tables.batches(home, "predictions", names, version=found.version, filters=chosen):
        first, last = np.searchsorted(found.places, (start, start + len(batch)))
        if last > first:
            window.append(batch.take(pa.array(found.places[first:last] - start)))
            rows += last - first
        start += len(batch)
        if rows >= WINDOW or last == len(found.places):
            if window:
                yield _with_texts(home, pa.Table.from_batches(window))
            window, rows = [], 0
        if last == len(found.places):
            return


def newest_first(parts: "Iterable[pa.Table]") -> list[dict[str, Any]]:
    """The rows of `read_found` as mappings, with times in UTC; of one moment in the table's order, as `newest` takes them."""
    import pyarrow as pa

    rows = pa.concat_tables([output_schema().empty_table(), *parts])
    found: list[dict[str, Any]] = rows.sort_by([("scored_at", "descending")]).to_pylist()
    return [row | {"scored_at": row["scored_at"] and row["scored_at"].astimezone(UTC)} for row in found]


def _with_texts(home: Workspace, rows: "pa.Table") -> "pa.Table":
    """The rows with the text of each: the one that was scored, where another writer put several of one id into the inbox."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = rows["id"].to_pylist()
    hashes = dict(zip(ids, rows["text_hash"].to_pylist(), strict=True))
    scored: dict[str, str] = {}
    others: dict[str, str] = {}
    few = pc.field("id").isin(pa.array(sorted(hashes))) if len(hashes) <= _FEW else None
    for batch in tables.batches(home, "inbox", ["id", "text"], filters=few):
        there = pa.array([place for place, name in enumerate(batch["id"].to_pylist()) if name in hashes], pa.int64())
        for name, text in zip(batch["id"].take(there).to_pylist(), batch["text"].take(there).to_pylist(), strict=True):
            if text is not None:
                (scored if text_hash(text) == hashes[name] else others).setdefault(name, text)
        if len(scored) == len(hashes):
            break
    texts = [scored[name] if name in scored else others.get(name) for name in ids]
    return rows.add_column(1, "text", pa.array(texts, pa.string()))
