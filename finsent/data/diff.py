"""What changed between two versions of the data, by one join on the ids."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.home import Home
from finsent.labels import LABELS

_COLUMNS: Final = ["id", "label", "source", "split"]
_OLD: Final = "_before"


@dataclass(frozen=True)
class Difference:
    """From version `before` to version `after`."""

    before: int
    after: int
    rows_before: int
    rows_after: int
    added: dict[str, dict[str, int]]
    """New rows by source and label."""
    removed: dict[str, dict[str, int]]
    """Rows that are gone, by source and label."""
    relabelled: dict[str, int]
    """Rows with another label than before, by `old to new`."""
    moved: dict[str, int]
    """Rows in another split than before, by `old to new`. Must be empty, always."""
    shares_before: dict[str, float]
    """Share of each class."""
    shares_after: dict[str, float]
    chi_square: float | None
    """Of the labels of the added rows against those of version `before` (two samples without a row in common); None where there
    is nothing to compare."""
    p_value: float | None
    """How often labels drawn alike would differ as much."""
    examples: dict[str, tuple[dict[str, Any], ...]]
    """Some rows of each kind of change: id, text, source, and what changed. Those with the lowest ids, which are hashes."""

    @property
    def n_added(self) -> int:
        """New rows."""
        return _total(self.added)

    @property
    def n_removed(self) -> int:
        """Rows that are gone."""
        return _total(self.removed)


def difference(home: Home, before: int, after: int, examples: int = 3) -> Difference:
    """Compare two versions of the table `tweets`; `examples` rows of each kind of change are shown.

    Raises:
        InputError: no such version.
    """
    old, new = (tables.read(home, "tweets", version=version, columns=_COLUMNS) for version in (before, after))
    kinds = changes(old, new)
    chi_square, p_value = label_shift(old, kinds["added"])
    return Difference(
        before=before,
        after=after,
        rows_before=old.num_rows,
        rows_after=new.num_rows,
        added=_by_source(kinds["added"], ""),
        removed=_by_source(kinds["removed"], _OLD),
        relabelled=_by_change(kinds["relabelled"], "label"),
        moved=_by_change(kinds["moved"], "split"),
        shares_before=_shares(old),
        shares_after=_shares(new),
        chi_square=chi_square,
        p_value=p_value,
        examples={kind: _examples(home, rows, before if kind == "removed" else after, examples) for kind, rows in kinds.items()},
    )


def changes(old: pa.Table, new: pa.Table) -> dict[str, pa.Table]:
    """Rows added, removed, relabelled and moved between splits. A row may be in two of them.

    Both tables have id, label, source and split; the found ones have each of these (null where the row is not in `new`), and
    the old values beside them with `_before` (null where it is not in `old`).
    """
    joined = new.join(
        old.rename_columns([name if name == "id" else name + _OLD for name in _COLUMNS]), "id", join_type="full outer"
    )
    here, there = pc.is_valid(joined["label"]), pc.is_valid(joined["label" + _OLD])
    # a comparison with null is null, and a filter leaves such rows out
    return {
        "added": joined.filter(pc.invert(there)),
        "removed": joined.filter(pc.invert(here)),
        "relabelled": joined.filter(pc.not_equal(joined["label"], joined["label" + _OLD])),
        "moved": joined.filter(pc.not_equal(joined["split"], joined["split" + _OLD])),
    }


def label_shift(old: pa.Table, added: pa.Table) -> tuple[float | None, float | None]:
    """Chi-square test (Pearson, no correction) of the labels of `added` against those of `old`: statistic and p-value."""
    from scipy.stats import chi2_contingency

    counts = np.array([[_label_counts(table)[label] for label in LABELS] for table in (old, added)])
    counts = counts[:, counts.sum(axis=0) > 0]
    if not counts.sum(axis=1).all() or counts.shape[1] < 2:
        return None, None
    found = chi2_contingency(counts, correction=False)
    return float(found.statistic), float(found.pvalue)


def _label_counts(table: pa.Table) -> dict[str, int]:
    counted = {item["values"]: item["counts"] for item in pc.value_counts(table["label"]).to_pylist()}
    return {label: int(counted.get(label, 0)) for label in LABELS}


def _shares(table: pa.Table) -> dict[str, float]:
    return {label: n / max(table.num_rows, 1) for label, n in _label_counts(table).items()}


def _by_source(rows: pa.Table, suffix: str) -> dict[str, dict[str, int]]:
    keys = ["source" + suffix, "label" + suffix]
    found: dict[str, dict[str, int]] = {}
    for source, label, n in sorted(_counted(rows, keys)):
        found.setdefault(source, dict.fromkeys(LABELS, 0))[label] = n
    return found


def _by_change(rows: pa.Table, column: str) -> dict[str, int]:
    return {f"{old} to {new}": n for old, new, n in sorted(_counted(rows, [column + _OLD, column]))}


def _counted(rows: pa.Table, keys: list[str]) -> Iterable[tuple[Any, ...]]:
    counted = rows.group_by(keys).aggregate([([], "count_all")])
    return zip(*(counted[key].to_pylist() for key in (*keys, "count_all")), strict=True)


def _examples(home: Home, rows: pa.Table, version: int, limit: int) -> tuple[dict[str, Any], ...]:
    if not rows.num_rows or not limit:
        return ()
    chosen = rows.sort_by("id").slice(0, limit).to_pylist()
    ids = [row["id"] for row in chosen]
    read = tables.read(home, "tweets", version=version, columns=["id", "text"], filters=[("id", "in", ids)])
    texts = dict(zip(read["id"].to_pylist(), read["text"].to_pylist(), strict=True))
    return tuple({**{key: value for key, value in row.items() if value is not None}, "text": texts[row["id"]]} for row in chosen)


def _total(table: dict[str, dict[str, int]]) -> int:
    return sum(sum(by_label.values()) for by_label in table.values())
