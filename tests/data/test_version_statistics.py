"""What a version holds, counted batch by batch: against the rows themselves."""

from collections import Counter
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from finsent.data import tables
from finsent.data.version_statistics import LONGEST, SAMPLED, count_languages, summarise
from finsent.errors import InputError
from finsent.labels import LABELS
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from tests.conftest import Sampled


def test_counts_are_those_of_the_rows(sampled: "Sampled") -> None:
    home, version = sampled.home, sampled.first.version or 0
    found, rows = summarise(home, version), tables.read(home, "tweets", version=version).to_pylist()
    assert (found.rows, found.splits, found.sources) == (
        len(rows),
        ("train", "validation", "test"),
        ("archive", "desk", "street"),
    )
    cells = Counter((row["split"], row["source"], row["label"]) for row in rows)
    for (i, j, k), n in np.ndenumerate(found.counts):
        assert n == cells[found.splits[i], found.sources[j], LABELS[k]]
    lengths = Counter((row["split"], min(len(row["text"].split()), LONGEST)) for row in rows)
    for (i, words), n in np.ndenumerate(found.words):
        assert n == lengths[found.splits[i], words]
    sizes = Counter(row["group"] for row in rows)
    assert found.group_sizes["1"] == sum(1 for size in sizes.values() if size == 1)
    assert found.group_sizes["3-5"] == sum(size for size in sizes.values() if 3 <= size <= 5)
    assert sum(found.group_sizes.values()) == len(rows)
    times = [row["created_at"] for row in rows if row["created_at"] is not None]
    assert (found.first, found.last, found.undated) == (min(times), max(times), len(rows) - len(times))
    assert sum(sum(counts.values()) for counts in found.by_day.values()) == len(times)
    assert list(found.sample) == [row["text"] for row in sorted(rows, key=lambda row: row["id"])[:SAMPLED]]
    assert found.of_split("excluded").sum() == 0
    assert found.describe()["splits"] == found.by_split()


def test_flags_days_and_splits_that_are_seldom(home: Workspace) -> None:
    noon = datetime(2024, 2, 29, 12, tzinfo=UTC)
    rows = [
        {"text": "one two  three", "created_at": noon, "split": "excluded", "flags": "mojibake repaired, other"},
        {"text": "\u00a0wide\u3000space ", "created_at": None, "split": "train", "flags": "other"},
        {"text": "x " * 500, "created_at": None, "split": "train", "flags": None},
    ]
    full = [
        {**row, "id": str(n), "label": "Neutral", "source": "s", "group": "g", "ingested_at": noon} for n, row in enumerate(rows)
    ]
    for row in full:  # a commit each: several files, several batches
        tables.append(home, "tweets", pa.Table.from_pylist([row], schema=tables.SCHEMAS["tweets"]))
    found = summarise(home, tables.version(home, "tweets") or 0)
    assert found.splits == ("train", "excluded")
    assert found.flags == {"other": 2, "mojibake repaired": 1}
    assert found.by_day == {date(2024, 2, 29): {"excluded": 1}}
    assert found.undated == 2
    assert (found.words[1, 3], found.words[0, 2], found.words[0, LONGEST]) == (1, 1, 1)
    assert found.group_sizes["3-5"] == 3
    with pytest.raises(InputError, match="has no version 99"):
        summarise(home, 99)


def test_languages_are_counted_and_what_cannot_be_told_too() -> None:
    found = count_languages(["a", "b", "c", "$X"], lambda text: None if text == "$X" else "ja" if text == "a" else "en")
    assert list(found.items()) == [("en", 2), ("ja", 1), ("not clear", 1)]
