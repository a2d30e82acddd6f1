"""Rows accepted earlier, and staged rows grouped with them: what an ingestion decides from, and checks of its settings."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finsent.config import DataConfig
from finsent.data import tables
from finsent.data.corrections import ReviewDecision, load_decisions
from finsent.data.dataset import EMPTY_FINGERPRINT, fingerprint_table, read_audit, split_template
from finsent.data.dedup.assignment import ExistingRows, GroupedRows, Mask, RowArrays
from finsent.data.dedup.grouping import build_graph, is_in
from finsent.data.dedup.near_duplicates import TemplateLookup
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signature_index import load_signatures, stored_templates, texts_by_id
from finsent.data.dedup.signatures import empty_signatures
from finsent.data.quarantine import earlier_conflicts
from finsent.data.sources.reading import ReadSummary
from finsent.data.sources.records import COMPRESSIONS, FORMATS
from finsent.data.splits import SPLIT_CODES, SplitRule
from finsent.data.staging import StagedRows, concat_staged
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import ConfigError, did_you_mean, format_names
from finsent.labels import LABELS
from finsent.text import TEMPLATE, wording
from finsent.workspace import Workspace

MASKED_KEY: Final = "masked"
"""Commit metadata of `tweets`: whether its handles are masked, JSON."""
_TEMPLATE_KEY: Final = "template"
_SUFFIXES: Final = FORMATS.keys() | COMPRESSIONS.keys()

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TweetsSnapshot:
    """The table `tweets` at one version."""

    version: int | None
    rows: ExistingRows
    fingerprint: str
    audited: bool
    """Whether a leak audit of exactly these rows, by today's near-duplicate form, is on record, with no leak."""


@dataclass(frozen=True)
class ReadRows:
    """Rows that were read, in the staging area, and what reading found out about their sources."""

    reading: ReadSummary
    staged: StagedRows
    started: float
    """`time.monotonic()` at the start of the ingestion."""


@dataclass(frozen=True)
class Grouping:
    """Rows that were read, grouped with the rows of the table at one position."""

    read: ReadRows
    position: tables.Position
    existing: TweetsSnapshot
    rows: GroupedRows


def concat_reads(parts: Sequence[ReadRows], config: DataConfig) -> ReadRows:
    """What was read of several sources, in order; at least one is needed."""
    total = ReadSummary()
    for part in parts:
        for name, value in vars(part.reading).items():
            into = getattr(total, name)
            into.extend(value) if isinstance(into, list) else into.update(value)  # counters add up
    return ReadRows(total, concat_staged([part.staged for part in parts], config), parts[0].started)


def group_with_existing(
    home: Workspace, config: DataConfig, rule: SplitRule, read: ReadRows, position: tables.Position
) -> Grouping:
    """Group the rows read with those that the table has at `position`.

    Everything is read at that one version: a review on another machine may remove rows from a later one.

    Raises:
        ConfigError: the table was written with other settings.
        InputError: a label or a split in the table is unknown.
    """
    _require_same_settings(home, config, rule)
    decisions, staged = load_decisions(home), read.staged
    existing = load_snapshot(home, config, position.version if position.version >= 0 else None)
    new, confirmed, dropped = _apply_decisions(staged, decisions)
    graph, templates = build_graph(new, existing.rows, _template_lookup(home, existing, staged), config)
    conflicting = is_in(new.ids, pa.array(sorted(earlier_conflicts(home) - decisions.keys()), pa.string()))
    wordings = _wording_lookup(home, existing, staged)
    rows = GroupedRows(new, existing.rows, graph, templates, wordings, confirmed, dropped, conflicting)
    return Grouping(read, position, existing, rows)


def load_snapshot(home: Workspace, config: DataConfig, version: int | None) -> TweetsSnapshot:
    """All that new rows are compared with except the texts; `version` None stands for a table that does not exist yet.

    Raises:
        InputError: a label or a split in the table is unknown.
    """
    columns = ("id", "label", "group", "split")
    schema = pa.schema([SCHEMAS["tweets"].field(name) for name in columns])
    rows = schema.empty_table() if version is None else tables.read(home, "tweets", version=version, columns=columns)
    fingerprint = EMPTY_FINGERPRINT if version is None else fingerprint_table(home, version)
    ids = _combined(rows["id"])
    whole = version is None or not len(ids) or read_audit(home, version, fingerprint).leaks == 0
    groups = _combined(rows["group"]).dictionary_encode()
    signatures = load_signatures(home, ids, config, version, rebuild=not whole) if len(ids) else empty_signatures(config)
    audited = whole and (version is None or split_template(home) == TEMPLATE)
    existing = ExistingRows(
        rows=RowArrays(ids, _codes(rows["label"], LABELS), signatures),
        groups=groups.indices.to_numpy().astype(np.int64),
        names=groups.dictionary,
        splits=_codes(rows["split"], SPLIT_CODES),
    )
    return TweetsSnapshot(version, existing, fingerprint, audited)


def _require_same_settings(home: Workspace, config: DataConfig, rule: SplitRule) -> None:
    """Compare the settings with those that the table was written with.

    Raises:
        ConfigError: the table was split by another rule, so a row could be on both sides of a split; or it stores handles
            masked, and `data.mask_handles` is off.
    """
    written = tables.last_metadata(home, "tweets", "split_rule")
    there, here = json.loads(written or "{}"), json.loads(json.dumps(rule.describe()))
    wrong = [
        f"{key} = {here.get(key)!r} (the data has {there.get(key)!r})"
        for key in dict.fromkeys([*here, *there])
        # rows that were split by another near-duplicate form stay where they are: they are audited whole by today's
        if here.get(key) != there.get(key) and key != _TEMPLATE_KEY
    ]
    if written and wrong:
        raise ConfigError(
            f"the data in this home was split by another rule: {'; '.join(wrong)}. Set it back under `data`, or use another "
            "FINSENT_HOME: a row must never move between splits."
        )
    if not config.mask_handles and tables.last_metadata(home, "tweets", MASKED_KEY) == "true":
        raise ConfigError(
            "this home stores handles masked, and data.mask_handles is false now. Set it to true (--set data.mask_handles=true, "
            "or in the file that FINSENT_CONFIG names), or use another FINSENT_HOME."
        )


def _apply_decisions(staged: StagedRows, decisions: Mapping[str, ReviewDecision]) -> tuple[RowArrays, Mask, Mask]:
    """The staged rows with the reviewers' labels; rows with a confirmed label [N]; dropped rows [N]."""
    labels, confirmed, dropped = staged.labels.copy(), np.zeros(len(staged), bool), np.zeros(len(staged), bool)
    rows = np.flatnonzero(is_in(staged.ids, pa.array(sorted(decisions), pa.string())))
    by_id: dict[str, list[int]] = {}
    for row, row_id in zip(rows.tolist(), staged.ids.take(pa.array(rows)).to_pylist(), strict=True):
        by_id.setdefault(row_id, []).append(row)
    for row_id, copies in by_id.items():
        decision = decisions[row_id]
        if decision.kind == "fix":
            labels[copies] = LABELS.index(str(decision.label))
        dropped[copies] = decision.kind == "drop"
        # copies with several labels: which one the reviewer found right is unknown
        confirmed[copies] = len(set(labels[copies].tolist())) == 1
    return RowArrays(staged.ids, labels, staged.signatures), confirmed, dropped


def _template_lookup(home: Workspace, existing: TweetsSnapshot, staged: StagedRows) -> TemplateLookup:
    """Templates by row number: of existing rows, then of staged ones. Each stored text is read once."""
    cache: dict[int, str] = {}
    known = len(existing.rows.rows)

    def templates_of(rows: Int64) -> list[str]:
        missing = [row for row in rows[rows < known].tolist() if row not in cache]
        if missing:
            ids = existing.rows.rows.ids.take(pa.array(missing)).to_pylist()
            found = stored_templates(home, ids, existing.version)
            cache.update((row, found[row_id]) for row, row_id in zip(missing, ids, strict=True))
        new = iter(staged.column("template", rows[rows >= known] - known))
        return [cache[row] if row < known else next(new) for row in rows.tolist()]

    return templates_of


def _wording_lookup(home: Workspace, existing: TweetsSnapshot, staged: StagedRows) -> TemplateLookup:
    """Wordings by row number: of existing rows, then of staged ones."""
    known = len(existing.rows.rows)

    def wordings_of(rows: Int64) -> list[str]:
        ids = existing.rows.rows.ids.take(pa.array(rows[rows < known]))
        found: dict[str, str] = {}
        for batch in texts_by_id(home, ids, existing.version) if len(ids) else ():
            found.update(zip(*batch.to_pydict().values(), strict=True))
        texts = [*(found[row_id] for row_id in ids.to_pylist()), *staged.column("text", rows[rows >= known] - known)]
        return [wording(text) for text in texts]

    return wordings_of


def _combined(values: pa.ChunkedArray) -> pa.StringArray:
    return pa.concat_arrays([pa.array([], pa.string()), *values.chunks])


def _codes(values: pa.ChunkedArray, names: tuple[str, ...]) -> npt.NDArray[np.int8]:
    return np.array(pc.index_in(values, value_set=pa.array(names, pa.string())).to_numpy(), np.int8)


def check_heldout_sources(rule: SplitRule, names: Iterable[str]) -> None:
    """Check the names that a split by source holds out against the known sources: a misspelled source would be trained on.

    An unknown name is only a warning, since its source may still come. It is an error where a source differs from it only by
    case, punctuation or a file suffix.

    Args:
        rule: How rows are split.
        names: Sources in the data and in this ingestion.

    Raises:
        ConfigError: a name is misspelled.
    """
    known = sorted(set(names))
    by_spelling = {_spelling_key(name): name for name in known}
    for setting, configured in (("data.validation_sources", rule.validation_sources), ("data.test_sources", rule.test_sources)):
        unknown = [name for name in configured if name not in known]
        for name in unknown:
            if (meant := by_spelling.get(_spelling_key(name))) and meant not in (*rule.validation_sources, *rule.test_sources):
                raise ConfigError(
                    f"{setting} names {name!r}, and the source is called {meant!r}: it would not be held out. Sources: "
                    f"{format_names(known)}. Correct the setting, or name the source (its `name`, --name) as the setting does. "
                    "Nothing was written."
                )
        if unknown:
            _log.warning(
                "%s: there is no source %s yet, so nothing is held out by that name. Sources: %s.%s",
                setting,
                format_names(unknown),
                format_names(known),
                did_you_mean(unknown[0], known),
            )


def _spelling_key(name: str) -> str:
    """The name in lower case without punctuation and file suffixes."""
    path = PurePath(name.strip())
    while path.suffix.lower() in _SUFFIXES:
        path = path.with_suffix("")
    return "".join(filter(str.isalnum, path.name.casefold())) or name
