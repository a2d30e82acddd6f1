"""Shows how a file would be read, and proposes the settings to read it with. Writes nothing.

The first rows are read by the reader of ingestion, with all their columns; which hold tweet, label, time and id is proposed by
their values and names. What is open is not guessed: there is one choice of settings for each way to read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from finsent.config import DataConfig, Source
from finsent.data.preview_questions import (
    Look,
    Proposal,
    Roles,
    ask_for_dates,
    ask_for_labels,
    ask_for_place,
    ask_without_labels,
    fillable,
    find_roles,
    further_columns,
    name_columns,
    note_times,
)
from finsent.data.preview_sample import FileSample, other_encoding, read_sample
from finsent.data.preview_trial import RoleValues, Trial, read_roles, try_inbox, try_labelled
from finsent.data.sources.resolve import resolve
from finsent.data.validation.column_roles import (
    Columns,
    value_type,
)
from finsent.data.validation.dates import ColumnTimes, check_form, is_missing
from finsent.data.validation.label_check import check_label_polarity, format_label_mismatch
from finsent.data.validation.label_choices import Choice
from finsent.data.validation.label_mapping import label_key
from finsent.errors import format_names, quoted

MAX_ROWS: Final = 10_000
"""Rows looked at."""
_MAX_LABELS: Final = 20
_EXAMPLES: Final = 3


@dataclass(frozen=True)
class PreviewColumn:
    """A column of the file."""

    name: str
    type: str
    filled: float
    """Share of the rows that have a value."""
    examples: tuple[str, ...]
    """Distinct values, up to three."""
    role: str | None
    """text, label, created_at or id, where it would be read as that; `text?` where several could be."""


@dataclass(frozen=True)
class PreviewLabel:
    """A value of the label column."""

    value: str
    rows: int
    label: str | None
    """The class that it would be read as; None where that is open."""
    example: str | None


@dataclass(frozen=True)
class Preview:
    """How a file would be read."""

    uri: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    """Files beside them in the folder, whose endings are not read."""
    format: str
    compression: str | None
    layout: dict[str, str]
    header: bool
    rows: int
    """Rows looked at."""
    bounded: bool
    """Whether there may be more."""
    inbox: bool
    """Whether it would be read as unlabelled tweets."""
    columns: tuple[PreviewColumn, ...]
    labels: tuple[PreviewLabel, ...]
    n_labels: int
    """Different values; `labels` are the most frequent."""
    unlabelled: int
    dates: ColumnTimes | None
    date_column: str | None
    id_column: str | None
    id_reason: str
    trial: Trial
    given: dict[str, Any]
    """What was said of the file."""
    choices: tuple[Choice, ...]
    """Settings to read it with, beside those given; several where something is open, none where nothing can be offered."""
    more_choices: int = 0
    """Combinations of choices that are left out."""
    open: tuple[str, ...] = ()
    """What is open."""
    notes: tuple[str, ...] = ()


def preview_source(source: Source, config: DataConfig, *, inbox: bool = False, limit: int = MAX_ROWS) -> Preview:
    """How the files of a source would be read.

    Args:
        source: Address, and what is known of the files.
        config: Rules for rows.
        inbox: Read as unlabelled tweets.
        limit: Rows to look at.

    Raises:
        InputError: a file cannot be read, whatever is said of it.
    """
    given = {name: getattr(source, name) for name in source.model_fields_set if name not in ("uri", "connection")}
    if source.date_format is not None:
        check_form(source.date_format)
    look = Look(source, resolve(source), config, datetime.now(UTC), limit, given)
    sample = read_sample(look.files[0], limit, look.now)
    proposal = Proposal(dict(sample.settings))
    if sample.repeated:
        proposal.notes.append(f"Names that several columns have: {format_names(sample.repeated)}. Rename all but one to read it.")
    is_open = ask_for_place(sample, proposal)
    roles = find_roles(sample.columns, look, inbox=inbox)
    roles, columns = name_columns(roles, sample, look, proposal)
    no_labels = not inbox and not roles.labels and "label_value" not in given
    if not roles.texts and not is_open:
        proposal.ask("No column holds sentences. Name the one of the tweets: --text COLUMN.", [])
        proposal.notes += [f"{n:,} rows cannot be read: {reason}, {first}" for reason, (n, first) in sample.faults.items()]
    if not roles.texts or is_open:
        return _preview(look, sample, columns, roles, proposal, None, Trial(), inbox=inbox or no_labels)
    several = f"Several columns may hold the tweet: {format_names(roles.texts)}." if len(roles.texts) > 1 else ""
    proposal.ask(several, [Choice({} if name == "text" else {"text": name}) for name in roles.texts])
    proposal.settings |= further_columns(roles, columns, given, inbox=inbox)
    note_times(roles, columns, proposal)
    if no_labels:
        ask_without_labels(look, roles, columns, proposal)
    elif not inbox:
        ask_for_labels(look, roles.labels, proposal)
    as_inbox = (inbox or no_labels) and "label_value" not in proposal.first() and not proposal.classes()
    first = fillable(look, proposal)
    named = first if proposal.classes() else look.with_settings(proposal.first())
    values = read_roles(look.files, named, limit, inbox=as_inbox)
    dates = ask_for_dates(look, values, first, proposal)
    _note_unused_keys(look, values, proposal)
    trial = _try(look, values, proposal, inbox=as_inbox)
    n_undecoded = trial.rejected.get("bad encoding", 0)
    if n_undecoded and "encoding" not in given and (encoding := other_encoding(sample)) is not None:
        proposal.notes.append(
            f"Rows that are not UTF-8 ({n_undecoded:,}) may be in {encoding}: --encoding {encoding} reads them."
        )
    return _preview(look, sample, columns, roles, proposal, (values, dates), trial, inbox=inbox or no_labels)


def _try(look: Look, values: RoleValues, proposal: Proposal, *, inbox: bool) -> Trial:
    """Read with the first choices, and check the labels where they are settled."""
    source = fillable(look, proposal)
    if inbox:
        return try_inbox(look.files, source, look.config, look.now, look.limit)
    trial = try_labelled(look.files, source, look.config, look.now, look.limit, proposal.classes())
    if proposal.is_open("labels", "label_bins"):
        raw = {row.number: row.label for row in reversed(values.rows)}
        known = {value: proposal.class_of(value, source) for value in values.seen}
        keys = {row.number: label_key(raw.get(row.number)) for row in trial.rows}
        trial.rows = [replace(row, label=known.get(keys[row.number]) or f"{keys[row.number]} ?") for row in trial.rows]
    elif (mismatch := check_label_polarity(trial.polarity, source.labels)) is not None:
        proposal.notes.append(format_label_mismatch(mismatch, look.files[0].name))
    return trial


def _note_unused_keys(look: Look, values: RoleValues, proposal: Proposal) -> None:
    unused = [key for key in look.given.get("labels") or {} if key.strip() not in values.seen]
    if unused and values.seen:
        proposal.notes.append(f"Of the map that was given, {format_names(unused)} occur{'s' * (len(unused) == 1)} nowhere.")


def _preview(
    look: Look,
    sample: FileSample,
    columns: Columns,
    roles: Roles,
    proposal: Proposal,
    read: tuple[RoleValues, ColumnTimes | None] | None,
    trial: Trial,
    *,
    inbox: bool,
) -> Preview:
    source = look.with_settings(proposal.first())
    values, dates = read if read is not None else (None, None)
    choices, more = proposal.choices()
    by_role: dict[str, str] = {}
    for role, names in (("text", roles.texts), ("label", roles.labels), ("created_at", [roles.time]), ("id", [roles.id])):
        by_role |= {name: role if len(names) == 1 else f"{role}?" for name in names if name is not None}
    bounded = sample.bounded or trial.read >= look.limit
    further = "Rows further down may hold other labels and dates: ingestion checks all of them before it writes."
    notes = [*proposal.notes, *([further] if bounded else [])]
    shown = values.seen.most_common(_MAX_LABELS) if values is not None and not inbox else []
    examples = values.examples if values is not None else {}
    labels = [PreviewLabel(value, n, proposal.class_of(value, source), examples.get(value)) for value, n in shown]
    return Preview(
        uri=look.source.uri,
        files=tuple(file.uri for file in look.files),
        left_out=look.files[0].left_out,
        format=sample.file.format,
        compression=sample.file.compression,
        layout=sample.layout,
        header=source.header,
        rows=max(sample.rows, trial.read),
        bounded=bounded,
        inbox=inbox,
        columns=tuple(_column(name, found, by_role.get(name)) for name, found in columns.items()),
        labels=tuple(labels),
        n_labels=len(values.seen) if values is not None else 0,
        unlabelled=values.blank if values is not None else 0,
        dates=dates,
        date_column=roles.time,
        id_column=roles.id,
        id_reason=roles.id_reason,
        trial=trial,
        given=look.given,
        choices=tuple(choices),
        more_choices=more,
        open=tuple(proposal.open),
        notes=tuple(notes),
    )


def _column(name: str, values: Sequence[object], role: str | None) -> PreviewColumn:
    there = [value for value in values if not is_missing(value)]
    examples: dict[str, None] = {}
    for value in there:
        examples[str(value) if isinstance(value, str | int | float) else quoted(value)] = None
        if len(examples) == _EXAMPLES:
            break
    return PreviewColumn(name, value_type(values), len(there) / max(1, len(values)), tuple(examples), role)
