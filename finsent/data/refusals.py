"""Rows that are readable and quarantined all the same, because of others: told with both sides shown."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from finsent.data.index import texts_by_id
from finsent.data.placing import Before, Refusal
from finsent.data.sources.records import QuarantinedRow
from finsent.data.spool import Spooled, column, input_of
from finsent.data.validation.row_validation import Reason, shorten
from finsent.data.validation.text_cleaning import mask_handles
from finsent.home import Home
from finsent.labels import LABELS

_SHOWN: Final = 120
_CHUNK: Final = 4096


def tell(
    refusals: Sequence[Refusal],
    spooled: Spooled,
    before: Before,
    home: Home,
    version: int | None = None,
    *,
    masked: bool = False,
) -> Callable[[], Iterator[QuarantinedRow]]:
    """What gives the rows refused, for the quarantine. Stored texts are read here and now: not while a table is written.

    Rows accepted `before` are those of `version` of the tweets, or of the latest. With `masked` (`data.mask_handles`) they are
    shown with `@user` for handles, as the spooled ones are already.
    """
    old_ids = before.rows.ids.take(pa.array(sorted({row for item in refusals for old, row in item.against if old}), pa.int64()))
    old_texts: dict[str, str] = {}
    if len(old_ids):
        for batch in texts_by_id(home, old_ids, version):
            old_texts |= dict(zip(*batch.to_pydict().values(), strict=True))
    if masked:
        old_texts = {name: mask_handles(text) for name, text in old_texts.items()}

    def told() -> Iterator[QuarantinedRow]:
        for start in range(0, len(refusals), _CHUNK):
            yield from _tell(refusals[start : start + _CHUNK], spooled, before, old_texts)

    return told


def _tell(refusals: Sequence[Refusal], spooled: Spooled, before: Before, old_texts: dict[str, str]) -> Iterator[QuarantinedRow]:
    shown = {item.row for item in refusals} | {row for item in refusals for old, row in item.against if not old}
    numbers = np.array(sorted(shown), np.int64)
    names = ("source", "place", "number", "text", "label", "id", "file")
    rows = dict(zip(numbers.tolist(), zip(*(column(spooled, name, numbers) for name in names), strict=True), strict=True))

    def side(old: bool, row: int) -> str:
        if not old:
            _, place, number, text, label, *_ = rows[row]
            return f"{label} in {place} row {number}, {shorten(text, _SHOWN)!r}"
        text = old_texts[before.rows.ids[row].as_py()]
        return f"{LABELS[before.rows.labels[row]]}, accepted before, {shorten(text, _SHOWN)!r}"

    for item in refusals:
        source, place, number, text, label, identity, file = rows[item.row]
        if item.against:
            detail = f"{side(False, item.row)} against {'; '.join(side(*other) for other in item.against)}"
        else:
            detail = item.detail or f"{side(False, item.row)}: an earlier ingestion quarantined this text as contradictory"
        reason: Reason = item.reason
        yield QuarantinedRow(source, place, number, text, reason, detail, identity, input_of(spooled, file), label)
