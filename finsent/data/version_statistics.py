"""Profile of a data version (counts by split, source and label, lengths, groups, times, flags), and the diff of two versions."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finsent.data import tables
from finsent.data.leakage import group_sizes
from finsent.data.splits import SPLIT_CODES
from finsent.labels import LABELS
from finsent.workspace import Workspace

LONGEST: Final = 60
"""Texts of this many words or more share the last bin of the histogram."""
SAMPLED: Final = 2000
"""Texts in the sample."""
_DIFFED: Final = ["id", "label", "source", "split"]
_OLD: Final = "_before"


@dataclass(frozen=True)
class DataProfile:
    """What is stored in one version of the table `tweets`."""

    version: int
    rows: int
    splits: tuple[str, ...]
    """Splits with rows, in the order train, validation, test, others."""
    sources: tuple[str, ...]
    """Sources with rows, by name."""
    counts: NDArray[np.int64]
    """Rows [splits, sources, classes], classes in label-id order."""
    words: NDArray[np.int64]
    """Rows [splits, LONGEST + 1] by length in words (between white space); the last bin holds all longer ones."""
    group_sizes: dict[str, int]
    """Stored rows by the size of their near-duplicate group, copies not counted."""
    first: datetime | None
    """Earliest time of writing."""
    last: datetime | None
    """Latest time of writing."""
    undated: int
    """Rows without a time of writing."""
    by_day: dict[date, dict[str, int]]
    """Dated rows by day of writing (UTC) and split."""
    flags: dict[str, int]
    """Rows by flag, the most frequent first."""
    sample: tuple[str, ...]
    """Texts of the rows with the lowest ids, up to SAMPLED: a random sample, since ids are hashes, and always the same."""

    def by_split(self) -> dict[str, dict[str, int]]:
        """Rows by split and label."""
        found = self.counts.sum(axis=1).tolist()
        return {split: dict(zip(LABELS, row, strict=True)) for split, row in zip(self.splits, found, strict=True)}

    def of_split(self, split: str) -> NDArray[np.int64]:
        """Rows [sources, classes] of a split; zeros when it has none."""
        return self.counts[self.splits.index(split)] if split in self.splits else np.zeros_like(self.counts.sum(axis=0))

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON; without texts."""
        sources = self.counts.sum(axis=0).tolist()
        return {
            "version": self.version,
            "rows": self.rows,
            "splits": self.by_split(),
            "sources": {name: dict(zip(LABELS, row, strict=True)) for name, row in zip(self.sources, sources, strict=True)},
            "words": {split: row.tolist() for split, row in zip(self.splits, self.words, strict=True)},
            "group_sizes": self.group_sizes,
            "first": self.first.isoformat() if self.first else None,
            "last": self.last.isoformat() if self.last else None,
            "undated": self.undated,
            "flags": self.flags,
        }


def summarise(home: Workspace, version: int) -> DataProfile:
    """Profile a version in one pass; memory holds one batch of its texts.

    Raises:
        InputError: no such version.
    """
    cells: Counter[tuple[str, str, str]] = Counter()
    lengths: Counter[tuple[str, int]] = Counter()
    days: Counter[tuple[date | None, str]] = Counter()
    flags: Counter[str] = Counter()
    times: list[datetime] = []
    sample = pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    columns = ["id", "text", "label", "source", "created_at", "split", "flags"]
    for read in tables.batches(home, "tweets", columns, version=version):
        batch = pa.Table.from_batches([read])
        cells += _count(batch, "split", "source", "label")
        lengths += _count(batch.append_column("words", _words(batch["text"])), "split", "words")
        day = pc.cast(pc.floor_temporal(batch["created_at"], unit="day"), pa.date32())
        days += _count(batch.append_column("day", day), "day", "split")
        ends = pc.min_max(batch["created_at"]).as_py()
        times += [moment for moment in ends.values() if moment is not None]
        flags += _flags(batch["flags"])
        sample = _lowest(pa.concat_tables([sample, batch.select(["id", "text"])]))
    found = {split for split, _, _ in cells}
    groups = tables.read(home, "tweets", version=version, columns=["group"])["group"].combine_chunks().dictionary_encode()
    splits = (*(name for name in SPLIT_CODES if name in found), *sorted(found - set(SPLIT_CODES)))
    sources = tuple(sorted({source for _, source, _ in cells}))
    return DataProfile(
        version=version,
        rows=cells.total(),
        splits=splits,
        sources=sources,
        counts=_tabulate(cells, splits, sources, LABELS),
        words=_tabulate(lengths, splits, range(LONGEST + 1)),
        group_sizes=group_sizes(groups.indices.to_numpy(zero_copy_only=False).astype(np.int64)),
        first=min(times, default=None),
        last=max(times, default=None),
        undated=sum(n for (day, _), n in days.items() if day is None),
        by_day=_by_day(days),
        flags=dict(flags.most_common()),
        sample=tuple(sample.sort_by("id")["text"].to_pylist()),
    )


def count_languages(texts: Iterable[str], detect: Callable[[str], str | None]) -> dict[str, int]:
    """Texts by language, the most frequent first; `not clear` where `detect` cannot tell."""
    return dict(Counter(detect(text) or "not clear" for text in texts).most_common())


def _count(batch: pa.Table, *keys: str) -> Counter[Any]:
    """Rows by the values of `keys`."""
    found = batch.group_by(list(keys)).aggregate([([], "count_all")])
    columns = [found[key].to_pylist() for key in (*keys, "count_all")]
    return Counter({key: n for *key_values, n in zip(*columns, strict=True) if (key := tuple(key_values))})


def _lowest(rows: pa.Table) -> pa.Table:
    """The rows with the lowest ids, up to SAMPLED of them."""
    return rows.take(pc.select_k_unstable(rows.select(["id"]), SAMPLED, [("id", "ascending")]))


def _words(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Words of each text, at most LONGEST."""
    trimmed = pc.utf8_trim_whitespace(text)
    words = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    some = pc.if_else(pc.equal(trimmed, ""), 0, words)  # nothing splits into one empty word
    return pc.min_element_wise(some, pa.scalar(LONGEST, pa.int32()))


def _flags(column: pa.ChunkedArray) -> Counter[str]:
    named = pc.drop_null(column)
    if not len(named):
        return Counter()
    values = pc.value_counts(pc.utf8_trim_whitespace(pc.list_flatten(pc.split_pattern(named, ","))))
    return Counter({item["values"]: item["counts"] for item in values.to_pylist() if item["values"]})


def _tabulate(counts: Counter[Any], *axes: Sequence[Any]) -> NDArray[np.int64]:
    """The counts as an array with one axis for each part of their keys."""
    table = np.zeros([len(axis) for axis in axes], np.int64)
    for key, n in counts.items():
        table[tuple(axis.index(part) for axis, part in zip(axes, key, strict=True))] = n
    return table


def _by_day(days: Counter[tuple[date | None, str]]) -> dict[date, dict[str, int]]:
    table: dict[date, dict[str, int]] = {}
    for (day, split), n in sorted((item for item in days.items() if item[0][0] is not None), key=lambda item: str(item[0])):
        if day is not None:
            table.setdefault(day, {})[split] = n
    return table


@dataclass(frozen=True)
class VersionDiff:
    """What changed from version `before` to version `after`."""

    before: int
    after: int
    rows_before: int
    rows_after: int
    added: dict[str, dict[str, int]]
    """New rows by source and label."""
    removed: dict[str, dict[str, int]]
    """Removed rows by source and label."""
    relabelled: dict[str, int]
    """Rows whose label changed, by `old to new`."""
    moved: dict[str, int]
    """Rows whose split changed, by `old to new`. Must be empty."""
    shares_before: dict[str, float]
    """Share of each class."""
    shares_after: dict[str, float]
    chi_square: float | None
    """Test of homogeneity: labels of the added rows against those of version `before`; None where there is nothing to compare."""
    p_value: float | None
    examples: dict[str, tuple[dict[str, Any], ...]]
    """Some rows of each kind of change: id, text, source, and what changed. Those with the lowest ids, which are hashes."""

    @property
    def n_added(self) -> int:
        """Number of new rows."""
        return sum(sum(by_label.values()) for by_label in self.added.values())

    @property
    def n_removed(self) -> int:
        """Number of removed rows."""
        return sum(sum(by_label.values()) for by_label in self.removed.values())


def diff_versions(home: Workspace, before: int, after: int, examples: int = 3) -> VersionDiff:
    """Compare two versions of the table `tweets`; `examples` rows of each kind of change are shown.

    Raises:
        InputError: no such version.
    """
    old, new = (tables.read(home, "tweets", version=version, columns=_DIFFED) for version in (before, after))
    kinds = changes(old, new)
    chi_square, p_value = label_shift(old, kinds["added"])
    return VersionDiff(
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
    """Rows added, removed, relabelled and moved between splits; a row can be in two of them. One join on the ids.

    Args:
        old: id, label, source and split of each row.
        new: The same columns.

    Returns:
        The columns of `new` (null where a row is only in `old`), and those of `old` with the suffix `_before` (or null).
    """
    joined = new.join(
        old.rename_columns([name if name == "id" else name + _OLD for name in _DIFFED]), "id", join_type="full outer"
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


def _examples(home: Workspace, rows: pa.Table, version: int, limit: int) -> tuple[dict[str, Any], ...]:
    if not rows.num_rows or not limit:
        return ()
    chosen = rows.sort_by("id").slice(0, limit).to_pylist()
    ids = [row["id"] for row in chosen]
    read = tables.read(home, "tweets", version=version, columns=["id", "text"], filters=[("id", "in", ids)])
    texts = dict(zip(read["id"].to_pylist(), read["text"].to_pylist(), strict=True))
    return tuple({**{key: value for key, value in row.items() if value is not None}, "text": texts[row["id"]]} for row in chosen)
