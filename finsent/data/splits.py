"""Which split a near-duplicate group belongs to: a pure function of the group's id, so that no row ever moves."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Final, Literal

from finsent.config import DataConfig
from finsent.text import NORMALISATION

SplitName = Literal["train", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitRule:
    """Everything that decides a row's split. Rows split by another rule must not share a table."""

    split_salt: str
    validation_fraction: float
    test_fraction: float
    near_duplicate_jaccard: float
    shingle_size: int
    normalisation: str

    def describe(self) -> dict[str, str | float | int]:
        """The rule as plain values, for reports and manifests."""
        return asdict(self)


def split_rule(config: DataConfig) -> SplitRule:
    """The rule that a configuration asks for."""
    return SplitRule(
        split_salt=config.split_salt,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        near_duplicate_jaccard=config.near_duplicate_jaccard,
        shingle_size=config.shingle_size,
        normalisation=NORMALISATION,
    )


def split_of(group: str, rule: SplitRule) -> SplitName:
    """Split of a group: a hash of salt and group as a number in [0, 1), test below `test_fraction`, then validation."""
    digest = hashlib.blake2b(f"{rule.split_salt}:{group}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest) / 2**64
    if position < rule.test_fraction:
        return "test"
    return "validation" if position < rule.test_fraction + rule.validation_fraction else "train"
