"""The leak audit of a data version from nothing but its texts, with permutations of its own: it trusts no index and no record."""

import json
import time
from dataclasses import dataclass

import numpy as np

from finsent.config import Config, DataConfig
from finsent.data import tables
from finsent.data.audit import audit_texts
from finsent.data.dataset import data_version
from finsent.data.splits import CODES
from finsent.home import Home
from finsent.progress import track
from finsent.text import Forms, forms


@dataclass(frozen=True)
class FullAudit:
    """What was found."""

    version: int
    rows: int
    leaks: int
    """Exact and near-duplicate pairs across splits."""
    exact: dict[str, int]
    """Pairs with the same text but for what near-duplicate forms leave out, by pair of splits."""
    near: dict[str, int]
    """Pairs with near-duplicate texts, by pair of splits."""
    seconds: float


def audit_data(config: Config, home: Home, version: int | None = None) -> FullAudit:
    """Audit the latest version of the data, or an earlier one; memory holds its texts.

    Raises:
        InputError: no data yet, no such version.
    """
    started = time.monotonic()
    version = data_version(home, version).version
    made: list[Forms] = []
    splits: list[str] = []
    batches = tables.batches(home, "tweets", ["text", "split"], version=version, rows=8192)
    for batch in track(batches, description="reading the table", unit="batch"):
        made += [forms(text)._replace(id="") for text in batch["text"].to_pylist()]
        splits += batch["split"].to_pylist()
    codes = {name: code for code, name in enumerate(CODES)}
    audit = audit_texts(made, np.array([codes[split] for split in splits], np.int8), _rule_of_the_data(config.data, home))
    return FullAudit(version, len(made), audit.leaks, audit.exact, audit.near, time.monotonic() - started)


def _rule_of_the_data(config: DataConfig, home: Home) -> DataConfig:
    """The configuration with what near duplicates were when the data was split, whatever it says of that itself."""
    written = json.loads(tables.last_metadata(home, "tweets", "split_rule") or "{}")
    names = ("near_duplicate_jaccard", "shingle_size", "truncation_min_characters")
    return config.model_copy(update={name: written[name] for name in names if name in written})
