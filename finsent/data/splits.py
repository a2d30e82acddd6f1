"""Split rules: the split of a near-duplicate group, from properties that never change, so that no row ever moves.

`group` hashes the group's id. `time` and `source` request a split for each row by its time or source; the group takes that of its
first row, and rows that request another one are stored as `excluded`, since a near duplicate on the other side would be a leak.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finsent.config import DataConfig
from finsent.text import NORMALISATION, TEMPLATE

SplitName = Literal["train", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "test")
EXCLUDED: Final = "excluded"
"""Rows that are stored and not used: near duplicates across the sides of a split by time or source, and rows in the embargo
before a cut-off."""
SPLIT_CODES: Final = (*SPLITS, EXCLUDED)
"""Names by code, as arrays hold them."""
TRAIN, VALIDATION, TEST, EXCLUDED_CODE = range(len(SPLIT_CODES))

SplitCodes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class SplitRule:
    """All parameters of a split. Rows split by another rule must not share a table."""

    split: str
    split_salt: str
    validation_fraction: float
    test_fraction: float
    near_duplicate_jaccard: float
    shingle_size: int
    truncation_min_characters: int
    normalisation: str
    template: str
    validation_from: str | None = None
    test_from: str | None = None
    embargo_hours: float | None = None
    validation_sources: tuple[str, ...] = ()
    test_sources: tuple[str, ...] = ()

    def describe(self) -> dict[str, str | float | int | list[str]]:
        """The rule as plain values, for reports and manifests; without unused parameters."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in plain.items() if value is not None and value != []}


def split_rule(config: DataConfig) -> SplitRule:
    """The rule of a configuration."""
    by_time, by_source = config.split == "time", config.split == "source"
    return SplitRule(
        split=config.split,
        split_salt=config.split_salt,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        near_duplicate_jaccard=config.near_duplicate_jaccard,
        shingle_size=config.shingle_size,
        truncation_min_characters=config.truncation_min_characters,
        normalisation=NORMALISATION,
        template=TEMPLATE,
        validation_from=config.validation_from.isoformat() if by_time and config.validation_from else None,
        test_from=config.test_from.isoformat() if by_time and config.test_from else None,
        embargo_hours=config.embargo_hours if by_time else None,
        validation_sources=tuple(sorted(config.validation_sources)) if by_source else (),
        test_sources=tuple(sorted(config.test_sources)) if by_source else (),
    )


def describe_split(rule: Mapping[str, Any]) -> str:
    """A rule's plain values, see `SplitRule.describe`, as a phrase."""
    if rule.get("split") == "time":
        embargo = f", embargo {rule['embargo_hours']:g} h" if rule.get("embargo_hours") else ""
        return f"by time, validation from {rule.get('validation_from')}, test from {rule.get('test_from')}{embargo}"
    if rule.get("split") == "source":
        held_out = (", ".join(rule.get(f"{split}_sources", ())) or "none" for split in ("validation", "test"))
        return "by source, validation: {}, test: {}".format(*held_out)
    return f"by hash of the near-duplicate group, salt {rule.get('split_salt')!r}"


def split_of_group(group: str, rule: SplitRule) -> int:
    """Code of a group's split: a hash of salt and group is a number in [0, 1), test below `test_fraction`, then validation."""
    digest = hashlib.blake2b(f"{rule.split_salt}:{group}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest) / 2**64
    if position < rule.test_fraction:
        return TEST
    return VALIDATION if position < rule.test_fraction + rule.validation_fraction else TRAIN


def requested_splits(times: npt.NDArray[np.int64], sources: pa.DictionaryArray, rule: SplitRule) -> SplitCodes | None:
    """The split requested by each row [N] under a rule by time or source; None under a rule by group.

    Args:
        times: Microseconds since 1970 [N].
        sources: Name of the source [N].
        rule: Cut-offs or held-out sources.
    """
    if rule.split == "source":
        held_out = dict.fromkeys(rule.validation_sources, VALIDATION) | dict.fromkeys(rule.test_sources, TEST)
        codes = np.array([held_out.get(source, TRAIN) for source in sources.dictionary.to_pylist()], np.int8)
        by_source: SplitCodes = codes[sources.indices.to_numpy()]
        return by_source
    if rule.split != "time":
        return None
    validation_from, test_from = (datetime.fromisoformat(str(moment)) for moment in (rule.validation_from, rule.test_from))
    embargo = timedelta(hours=rule.embargo_hours or 0.0)
    requested = np.full(len(times), TRAIN, np.int8)
    for start, code in (
        (validation_from - embargo, EXCLUDED_CODE),
        (validation_from, VALIDATION),
        (max(test_from - embargo, validation_from), EXCLUDED_CODE),
        (test_from, TEST),
    ):
        requested[times >= round(start.timestamp() * 1_000_000)] = code
    return requested
