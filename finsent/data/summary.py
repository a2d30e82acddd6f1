"""What a version of the data holds: counts by split, source and label, lengths, groups, times, flags; read batch by batch."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finsent.data import tables
from finsent.data.audit import group_sizes
from finsent.home import Home
from finsent.labels import LABEL2ID, LABELS

LONGEST: Final = 60
"""Lengths from here on share the last bin of the histogram."""
SAMPLED: Final = 2000
"""Texts looked at where looking at all would take too long."""
_ORDER: Final = ("train", "validation", "test", "excluded")


@dataclass(frozen=True)
class Summary:
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
    """Rows by what was noted of them, the most frequent first."""
    sample: tuple[str, ...]
    """Texts of the rows with the lowest ids, up to SAMPLED: ids are hashes, so that is a random sample, and always the same."""

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


def summarise(home: Home, version: int) -> Summary:
    """Look through a version once; no more than a batch of its texts is held at a time.

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
    splits = _in_order({split for split, _, _ in cells})
    sources = tuple(sorted({source for _, source, _ in cells}))
    return Summary(
        version=version,
        rows=cells.total(),
        splits=splits,
        sources=sources,
        counts=_cube(cells, splits, sources),
        words=_histogram(lengths, splits),
        group_sizes=_group_sizes(home, version),
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


def _in_order(splits: set[str]) -> tuple[str, ...]:
    return (*(name for name in _ORDER if name in splits), *sorted(splits - set(_ORDER)))


def _cube(cells: Counter[tuple[str, str, str]], splits: tuple[str, ...], sources: tuple[str, ...]) -> NDArray[np.int64]:
    cube = np.zeros((len(splits), len(sources), len(LABELS)), np.int64)
    for (split, source, label), n in cells.items():
        cube[splits.index(split), sources.index(source), LABEL2ID[label]] += n
    return cube


def _histogram(lengths: Counter[tuple[str, int]], splits: tuple[str, ...]) -> NDArray[np.int64]:
    table = np.zeros((len(splits), LONGEST + 1), np.int64)
    for (split, words), n in lengths.items():
        table[splits.index(split), words] += n
    return table


def _by_day(days: Counter[tuple[date | None, str]]) -> dict[date, dict[str, int]]:
    table: dict[date, dict[str, int]] = {}
    for (day, split), n in sorted((item for item in days.items() if item[0][0] is not None), key=lambda item: str(item[0])):
        if day is not None:
            table.setdefault(day, {})[split] = n
    return table


def _group_sizes(home: Home, version: int) -> dict[str, int]:
    column = tables.read(home, "tweets", version=version, columns=["group"])["group"]
    groups = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return group_sizes(groups.astype(np.int64))
