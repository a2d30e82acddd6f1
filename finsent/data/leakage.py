"""Leakage between splits: the leak audit of the data, the leak of a naive random split, and what is known of a trained model."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from finsent.config import Config, DataConfig
from finsent.data import tables
from finsent.data.dataset import DataVersion, data_version, split_template
from finsent.data.dedup.near_duplicates import Active, TemplateLookup, near_duplicate_pairs
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import Signatures, make_signatures
from finsent.data.splits import SPLIT_CODES, SPLITS, SplitCodes
from finsent.errors import InputError
from finsent.logging_setup import track
from finsent.text import TEMPLATE, Forms, forms
from finsent.workspace import Workspace

INDEPENDENT_SEED: Final = 2
"""Seed of the full audit's permutations: other ones than those of the stored signatures, so that it can find what those miss."""
GROUP_SIZES: Final = (("1", 1), ("2", 2), ("3-5", 5), ("6-10", 10), ("11-100", 100))
_NAIVE_TEST_SHARE: Final = 0.15
_NAIVE_SEEDS: Final = 10


@dataclass(frozen=True)
class LeakAudit:
    """Pairs of rows across splits whose texts are the same or near duplicates; excluded rows do not count."""

    exact: dict[str, int]
    """Pairs with the same text but for what near-duplicate forms leave out, by pair of splits such as "train-test"."""
    near: dict[str, int]
    """Pairs with near-duplicate texts, by pair of splits."""

    @property
    def leaks(self) -> int:
        """All pairs; must be 0."""
        return sum(self.exact.values()) + sum(self.near.values())

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def audit_splits(
    nodes: Int64,
    splits: SplitCodes,
    signatures: Signatures,
    texts_of: TemplateLookup,
    config: DataConfig,
    *,
    active: Active | None = None,
) -> LeakAudit:
    """Count duplicate pairs across splits.

    Args:
        nodes: Node of each row [R]; a node is a distinct template.
        splits: Split of each row [R].
        signatures: Of the nodes.
        texts_of: Templates of the nodes.
        config: Threshold and shingle size.
        active: Nodes that got a row, or all by default; pairs of two others were audited before.
    """
    table = np.zeros((len(signatures), len(SPLIT_CODES)), np.int64)
    np.add.at(table, (nodes, splits), 1)
    table = table[:, : len(SPLITS)]
    there = np.flatnonzero(table.sum(axis=1))
    table = table[there]
    several = (table > 0).sum(axis=1) > 1
    # a text with rows in several splits is compared with all others
    side = np.where(several, len(SPLITS) + np.arange(len(table)), table.argmax(axis=1)) if len(table) else np.zeros(0, np.int64)
    pairs = near_duplicate_pairs(
        signatures.take(there),
        lambda some: texts_of(there[some]),
        config,
        side.astype(np.int64),
        active=None if active is None else active[there],
    )
    low, high = table[pairs[:, 0]], table[pairs[:, 1]]
    exact, near = {}, {}
    for one, other in combinations(range(len(SPLITS)), 2):
        name = f"{SPLITS[one]}-{SPLITS[other]}"
        exact[name] = int((table[:, one] * table[:, other]).sum())
        near[name] = int((low[:, one] * high[:, other] + low[:, other] * high[:, one]).sum())
    return LeakAudit(exact, near)


def audit_texts(texts: Sequence[Forms], splits: SplitCodes, config: DataConfig) -> LeakAudit:
    """Audit texts without the stored signatures, with permutations of its own."""
    node_of: dict[str, int] = {}
    nodes = np.fromiter((node_of.setdefault(text.template, len(node_of)) for text in texts), np.int64, len(texts))
    cut: Mapping[str, bool] = {text.template: text.truncated for text in sorted(texts, key=lambda text: text.truncated)}
    templates = list(node_of)
    signatures = make_signatures([Forms("", template, cut[template]) for template in templates], config, INDEPENDENT_SEED)
    return audit_splits(nodes, splits, signatures, lambda some: [templates[row] for row in some], config)


@dataclass(frozen=True)
class NaiveSplit:
    """Estimated leak of a plain random 85/15 split of all rows read so far."""

    leak: float | None
    """Share of test rows with a near duplicate in train; None for too few rows."""
    rows: int
    """Number of those rows, copies included."""


def naive_split(components: Int64, is_new: npt.NDArray[np.bool_], before: NaiveSplit | None) -> NaiveSplit:
    """The estimate after an ingestion: measured for its new rows; for earlier rows the measured or the recorded one, the higher.

    Copies are not stored, so that those of rows read earlier count only in `before`.

    Args:
        components: Near-duplicate group of each existing and each new row, copies included.
        is_new: Which rows are new.
        before: The estimate for the rows read until then.
    """
    count = int(is_new.sum())
    if before is None or before.leak is None or not count:
        return before if before is not None and not count else NaiveSplit(naive_leak(components), len(components))
    old, new = naive_leak(components, ~is_new), naive_leak(components, is_new)
    rows = before.rows + count
    return NaiveSplit((before.rows * max(before.leak, old or 0.0) + count * (new or 0.0)) / rows, rows)


def naive_leak(groups: Int64, of: npt.NDArray[np.bool_] | None = None) -> float | None:
    """Share of test rows with a near duplicate in train under a plain random 85/15 split, mean of ten seeds.

    Args:
        groups: Near-duplicate group of each row, copies included.
        of: Test rows that count; all by default.
    """
    tested = round(len(groups) * _NAIVE_TEST_SHARE)
    if not tested:
        return None
    _, numbers = np.unique(groups, return_inverse=True)
    shares = []
    for seed in range(_NAIVE_SEEDS):
        order = np.random.default_rng(seed).permutation(len(numbers))
        in_train = np.bincount(numbers[order[tested:]], minlength=numbers.max() + 1) > 0
        rows = order[:tested] if of is None else order[:tested][of[order[:tested]]]
        if len(rows):
            shares.append(in_train[numbers[rows]].mean())
    return float(np.mean(shares)) if shares else None


def group_sizes(groups: Int64, of: npt.NDArray[np.bool_] | None = None) -> dict[str, int]:
    """Rows by the size of their near-duplicate group, copies included; only those in `of` where given."""
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    bins = np.searchsorted([largest for _, largest in GROUP_SIZES], sizes[numbers if of is None else numbers[of]])
    rows = np.bincount(bins, minlength=len(GROUP_SIZES) + 1)
    return dict(zip([*(name for name, _ in GROUP_SIZES), ">100"], rows.tolist(), strict=True))


@dataclass(frozen=True)
class FullAudit:
    """Leak audit of a data version, from its texts alone."""

    version: int
    rows: int
    leaks: int
    """Exact and near-duplicate pairs across splits."""
    exact: dict[str, int]
    """Exact pairs, see `LeakAudit`."""
    near: dict[str, int]
    """Near-duplicate pairs, see `LeakAudit`."""
    split_form: str
    """Near-duplicate form that the rows were split by, see `finsent.text.TEMPLATE`."""
    form: str
    """The one that they are compared by."""
    seconds: float

    @property
    def form_changed(self) -> bool:
        """Whether an earlier release split the rows, by another near-duplicate form."""
        return self.split_form != self.form


def audit_data(config: Config, home: Workspace, version: int | None = None) -> FullAudit:
    """Audit a version of the data, or the latest, from its texts alone: no index and no record is trusted. All texts in memory.

    The settings of near duplicates are those that the data was split with, whatever `config` says; their form is today's.

    Raises:
        InputError: no data yet, no such version.
    """
    started = time.monotonic()
    version = data_version(home, version).version
    found: list[Forms] = []
    splits: list[str] = []
    batches = tables.batches(home, "tweets", ["text", "split"], version=version, rows=8192)
    for batch in track(batches, description="reading the table", unit="batch"):
        found += [forms(text)._replace(id="") for text in batch["text"].to_pylist()]
        splits += batch["split"].to_pylist()
    written = json.loads(tables.last_metadata(home, "tweets", "split_rule") or "{}")
    names = ("near_duplicate_jaccard", "shingle_size", "truncation_min_characters")
    rule = config.data.model_copy(update={name: written[name] for name in names if name in written})
    audit = audit_texts(found, np.array([SPLIT_CODES.index(split) for split in splits], np.int8), rule)
    seconds = time.monotonic() - started
    return FullAudit(version, len(found), audit.leaks, audit.exact, audit.near, split_template(home, version), TEMPLATE, seconds)


class TrainedOn(Protocol):
    """The data that a model was trained on, as its manifest names it."""

    @property
    def data_version(self) -> int | None:
        """Version of the table `tweets`."""

    @property
    def data_fingerprint(self) -> str | None:
        """Fingerprint of that version."""


@dataclass(frozen=True)
class LeakageStatus:
    """What the leak audit of the data says for one model."""

    pairs: int | None
    """Exact and near-duplicate pairs between its training rows and the test rows, by the data's audit; None: unknown."""
    unknown_reason: str | None
    """Why it is unknown, a sentence."""


def leakage_status(home: Workspace, manifest: TrainedOn, facts: DataVersion, unverified: str | None = None) -> LeakageStatus:
    """Leaks of the test rows of `facts`, the data evaluated on, into the data that a model was trained on.

    The audit is of one table's splits. It applies to a model only if that was trained on this very table, at `facts.version` or
    earlier, since no row ever changes its split. `unverified` says why the manifest is not believed, if it is not.
    """
    reason = _unknown_reason(home, manifest, facts) or unverified
    if reason is not None:
        return LeakageStatus(None, f"It is not known whether it trained on these test rows: {reason}.")
    if facts.leaks is None:
        return LeakageStatus(None, f"No leak audit of data version {facts.version} is on record: run `finsent ingest` again.")
    return LeakageStatus(facts.leaks, None)


def _unknown_reason(home: Workspace, manifest: TrainedOn, facts: DataVersion) -> str | None:
    trained_on = manifest.data_version
    if trained_on is None or manifest.data_fingerprint is None:
        return "it was trained elsewhere, and its manifest names no data"
    if trained_on > facts.version:
        return f"its manifest names data version {trained_on}, and this home's data ends at version {facts.version}"
    try:
        here = facts.fingerprint if trained_on == facts.version else data_version(home, trained_on).fingerprint
    except InputError as error:
        return f"data version {trained_on}, which its manifest names, cannot be read here ({error})"
    if here != manifest.data_fingerprint:
        return f"it was trained on other data than version {trained_on} of this home's, or on another split of it"
    return None
