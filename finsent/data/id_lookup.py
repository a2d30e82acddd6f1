"""Looks up texts by the ids, or prefixes of ids, that a reviewer typed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.corrections import ReviewDecision, load_decisions
from finsent.data.quarantine import ids_of, labels_of
from finsent.data.validation.row_validation import CONFLICT
from finsent.errors import InputError
from finsent.workspace import Workspace

_ID_DIGITS: Final = 32


@dataclass(frozen=True)
class IdLookup:
    """Texts that the given ids can mean."""

    texts: dict[str, str]
    stored: dict[str, str]
    """Labels of those in the data."""
    contradictory: dict[str, set[str]]
    """Labels under which the others were quarantined as contradictory."""
    decided: dict[str, ReviewDecision]

    @classmethod
    def load(cls, home: Workspace, ids: Sequence[str]) -> "IdLookup":
        """All texts in the tables whose id begins with one of `ids`."""
        given = {item.strip().casefold() for item in ids}
        whole = {item for item in given if len(item) == _ID_DIGITS}  # a filled listing may give thousands
        prefixes = tuple(given - whole)
        rows = tables.read(home, "tweets", columns=["id", "text", "label"], filters=_id_filter(whole, prefixes)).to_pylist()
        texts = {row["id"]: row["text"] for row in rows}
        labels: dict[str, set[str]] = defaultdict(set)
        columns, filters = ["id", "text", "reason", "detail", "label"], pc.field("reason").isin([CONFLICT, "dropped by review"])
        for batch in tables.batches(home, "quarantine", columns, filters=filters):
            read = zip(ids_of(batch), batch["reason"].to_pylist(), labels_of(batch), strict=True)
            for row, (row_id, reason, label) in enumerate(read):
                if row_id in whole or row_id.startswith(prefixes):
                    texts.setdefault(row_id, batch["text"][row].as_py())
                    if reason == CONFLICT:
                        labels[row_id].add(label)
        return cls(texts, {row["id"]: row["label"] for row in rows}, dict(labels), load_decisions(home))

    def resolve(self, given: str) -> str:
        """The full id. A full id without a known text is accepted; a prefix must match exactly one known id.

        Raises:
            InputError: no id, or a prefix of none or of several.
        """
        prefix = given.strip().casefold()
        if not prefix or len(prefix) > _ID_DIGITS or set(prefix) - set("0123456789abcdef"):
            raise InputError(f"{given!r} is no id: ids are {_ID_DIGITS} hexadecimal digits. `finsent review list` shows them.")
        if len(prefix) == _ID_DIGITS:
            return prefix
        found = sorted(row_id for row_id in {*self.texts, *self.decided} if row_id.startswith(prefix))
        if len(found) != 1:
            several = f"begins {len(found)} ids ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
            raise InputError(f"{given!r} {several if found else 'begins the id of no known text'}. Give more of it.")
        return found[0]

    def check(self, row_id: str, decision: ReviewDecision) -> None:
        """Check a decision against what is known of the text.

        Raises:
            InputError: `accept` where the text has several labels, or was fixed to another.
        """
        if decision.kind != "accept":
            return
        before = self.decided.get(row_id)
        if before is not None and before.kind == "fix":
            raise InputError(
                f"{row_id!r} was fixed to {before.label}, so that its own label no longer counts. To undo that, fix it to the "
                "label it had; to confirm it, there is nothing to do."
            )
        there = self.stored.get(row_id)
        labels = sorted({*self.contradictory.get(row_id, ()), *([there] if there else ())})
        if len(labels) > 1:
            stands = f"; the data has {there}" if there else ""
            raise InputError(f"{row_id!r} was read as {' and as '.join(labels)}{stands}: say which with fix, or drop it.")


def _id_filter(whole: Iterable[str], prefixes: Iterable[str]) -> Any:
    wanted = pc.field("id").isin(pa.array(list(whole), pa.string()))
    for prefix in prefixes:
        wanted |= pc.starts_with(pc.field("id"), pattern=prefix)
    return wanted
