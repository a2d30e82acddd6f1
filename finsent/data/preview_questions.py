"""The questions of a preview: which columns hold what, what labels and dates mean, and what of it somebody has to say."""

import itertools
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from finsent.config import DataConfig, Source
from finsent.data.preview_sample import FileSample
from finsent.data.preview_trial import RoleValues, read_roles
from finsent.data.sources.records import MAX_COLUMNS, NO_COLUMN, SourceFile
from finsent.data.validation.column_roles import (
    Columns,
    class_columns,
    id_column,
    label_candidates,
    label_columns,
    marks,
    nested_labels,
    text_columns,
    time_columns,
    varies,
)
from finsent.data.validation.dates import ColumnTimes, is_missing, read_column
from finsent.data.validation.label_choices import CLASS, Choice, LabelChoices, label_choices
from finsent.data.validation.label_mapping import parse_label
from finsent.data.validation.label_vocabulary import usual_class
from finsent.errors import escape_invalid, format_names
from finsent.labels import LABELS

_MAX_CHOICES: Final = 12
_FEWEST_SAME: Final = 5
_OF_VALUES: Final = frozenset({"labels", "label_bins"})
_SETTLED: Final = LabelChoices((Choice({}),))


class Roles(NamedTuple):
    """Columns by what they may hold."""

    texts: list[str]
    labels: list[str]
    time: str | None
    id: str | None
    id_reason: str
    other_times: tuple[str, ...] = ()
    """Further columns of times, which may be those of the file, and not of the tweets."""


@dataclass
class Proposal:
    """The settings found, and the questions that are left open."""

    settings: dict[str, Any]
    questions: list[list[Choice]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complete: bool = True
    """Whether a choice can be offered for every question."""

    def ask(self, problem: str, choices: Sequence[Choice]) -> None:
        """Settle what has one answer; keep the question where somebody has to choose."""
        if problem:
            self.open.append(problem)
        if not choices:
            self.complete = False
        elif len(choices) == 1 and not problem:
            self.settings |= choices[0].settings
        else:
            self.questions.append(list(choices))

    def first(self) -> dict[str, Any]:
        """The settings with the first choice of each question."""
        return self.settings | {key: value for choices in self.questions for key, value in choices[0].settings.items()}

    def classes(self) -> dict[str, str]:
        """The class of every row of each file, where the first choices say it so."""
        return {uri: label for choices in self.questions for uri, label in choices[0].by_file.items()}

    def class_of(self, value: str, source: Source) -> str | None:
        """The class that a label value has, whichever of the choices is made; None where that depends on it, or on somebody."""
        open_maps = [
            choice.settings for choices in self.questions for choice in choices if not _OF_VALUES.isdisjoint(choice.settings)
        ]
        read = [source.model_copy(update=settings) for settings in open_maps] or [source]
        found = {parse_label(value, one.labels, one.label_bins) for one in read}
        return found.pop() if len(found) == 1 and CLASS not in found else None

    def is_open(self, *settings: str) -> bool:
        """Whether somebody has to say one of these settings."""
        return any(not choice.settings.keys().isdisjoint(settings) for choices in self.questions for choice in choices)

    def choices(self) -> tuple[list[Choice], int]:
        """The ways to read the file, and how many more there are."""
        if not self.complete:
            return [], 0
        total = math.prod(len(choices) for choices in self.questions)
        found = [
            Choice(
                self.settings | {key: value for choice in combined for key, value in choice.settings.items()},
                "; ".join(choice.why for choice in combined if choice.why),
                look_again=any(choice.look_again for choice in combined),
                by_file={uri: label for choice in combined for uri, label in choice.by_file.items()},
                leaves_out=any(choice.leaves_out for choice in combined),
            )
            for combined in itertools.islice(itertools.product(*self.questions), _MAX_CHOICES)
        ]
        return found, total - len(found)


@dataclass(frozen=True)
class Look:
    """What is looked at."""

    source: Source
    files: tuple[SourceFile, ...]
    config: DataConfig
    now: datetime
    limit: int
    given: dict[str, Any]
    """Settings that were given."""

    def with_settings(self, settings: Mapping[str, Any]) -> Source:
        """The source, read so."""
        return self.source.model_copy(update=dict(settings))


def ask_for_place(sample: FileSample, proposal: Proposal) -> bool:
    """Ask for the list of rows, or the sheet, where several may hold tweets; True where all else depends on it."""
    if sample.choices:
        what = next(iter(sample.choices[0]))
        del proposal.settings[what]
        places = "lists of rows" if what == "records" else "sheets"
        choices = [Choice(dict(choice), look_again=not sample.alike) for choice in sample.choices]
        proposal.ask(f"Several {places} may hold the tweets; what is shown is of the first.", choices)
    return bool(sample.choices) and not sample.alike


def find_roles(columns: Columns, look: Look, *, inbox: bool) -> Roles:
    """The columns that were named, and for the others those that look like it."""
    given = look.given
    named = {role: given[role] for role in ("text", "label", "created_at", "id") if given.get(role) not in (None, NO_COLUMN)}
    free = {name: values for name, values in columns.items() if name not in named.values()}
    texts = [named["text"]] if "text" in named else text_columns(free, look.now)
    labels = [named["label"]] if "label" in named else label_columns(free, texts, look.now)
    if inbox or "label_value" in given:
        labels = []
    others = {name: values for name, values in free.items() if name not in (*texts, *labels)}
    times = [given["created_at"]] if given.get("created_at") else time_columns(others, look.now, texts[0] if texts else "")
    found, why = id_column({name: values for name, values in others.items() if name not in times[:1]})
    why = f"column {given['id']!r}, as given" if "id" in named else "none, as given" if given.get("id") else why
    return Roles(texts, labels, next(iter(times), None), given.get("id") or found, why, tuple(times[1:]))


def name_columns(roles: Roles, sample: FileSample, look: Look, proposal: Proposal) -> tuple[Roles, dict[str, list[object]]]:
    """Of a file without a header: name the columns by what they hold, where that is clear."""
    settled = len(roles.texts) == 1 and len(roles.labels) < 2
    if proposal.settings.get("header", True) or look.given.get("columns") or not settled or len(sample.columns) >= MAX_COLUMNS:
        return roles, sample.columns
    wanted = {roles.texts[0]: "text"} | dict.fromkeys(roles.labels, "label")
    wanted |= {name: role for name, role in ((roles.time, "created_at"), (roles.id, "id")) if name in sample.columns}
    wanted |= {name: name for name in look.given.values() if isinstance(name, str) and name in wanted}  # as it was given
    columns = {wanted.get(name, name): values for name, values in sample.columns.items()}
    proposal.settings["columns"] = tuple(columns)
    time, name = (None if column is None else wanted.get(column, column) for column in (roles.time, roles.id))
    why = roles.id_reason.replace(f"{roles.id!r}", f"{name!r}", 1)
    texts, labels = ([wanted[column] for column in names] for names in (roles.texts, roles.labels))
    return roles._replace(texts=texts, labels=labels, time=time, id=name, id_reason=why), columns


def further_columns(roles: Roles, columns: Columns, given: Mapping[str, Any], *, inbox: bool) -> dict[str, Any]:
    """The settings for the columns of times and ids."""
    settings: dict[str, Any] = {}
    if roles.time not in (None, "created_at") and "created_at" not in given:
        settings["created_at"] = roles.time
    if "id" in given:
        return settings
    if roles.id is not None and not (inbox and roles.id == "id"):
        settings["id"] = roles.id
    elif inbox and roles.id is None and "id" in columns:
        settings["id"] = NO_COLUMN
    return settings


def note_times(roles: Roles, columns: Columns, proposal: Proposal) -> None:
    """Say where times are the same in all rows: they are those of an export or of labelling."""
    if roles.time is None or roles.time not in columns:
        return
    same = [name for name in roles.other_times if name in columns and not varies(columns[name])]
    if same and varies(columns[roles.time]):
        proposal.notes.append(
            f"{format_names(same)}: the same time in every row, as of an export or of labelling; {roles.time!r} is proposed, "
            "which varies."
        )
    there = [value for value in columns[roles.time] if not is_missing(value)]
    if len(there) >= _FEWEST_SAME and not varies(there):
        proposal.notes.append(
            f"{roles.time!r} has the same time in every row. Where it is that of an export or of labelling, and not of the "
            f"tweets, leave it out: --created-at {NO_COLUMN}."
        )


def ask_without_labels(look: Look, roles: Roles, columns: Columns, proposal: Proposal) -> None:
    """Ask what a file is, of which no column is called as labels are: a column to look at, unlabelled, or all of one class.

    The class that files are called after comes first. One for all rows is nothing to offer where columns may hold that of each.
    """
    others = (*roles.texts, roles.time, *roles.other_times, roles.id)
    candidates, by_class = label_candidates(columns, others, look.now), class_columns(columns)
    if by_class:
        yes = sorted({mark for name in by_class for mark in marks(columns[name])})
        proposal.notes.append(
            f"Columns {format_names(by_class)} look like one for each class. Make one of them first, in pandas: "
            f"df['label'] = df[{by_class!r}]{f'.isin({yes!r})' if yes else ''}.idxmax(axis=1)"
        )
    if nested := nested_labels(columns):
        proposal.notes.append(
            f"{format_names(nested)} holds lists of objects, which may have the labels, and are not read as such. Export a "
            "column of one label a row: Label Studio's JSON-MIN or CSV."
        )
    no_id = {"id": NO_COLUMN} if roles.id is None and "id" in columns and "id" not in look.given else {}
    unlabelled = Choice(no_id, "if the tweets are to be scored")
    more = (
        ""
        if candidates
        else f" Where one holds them, name it: finsent data preview {shlex.quote(look.source.uri)} --label COLUMN."
    )
    proposal.ask(f"No column of labels is found.{more}", _kinds_of_file(look.files, unlabelled, candidates, [*by_class, *nested]))


def _kinds_of_file(
    files: Sequence[SourceFile], unlabelled: Choice, candidates: Sequence[str], labelled_otherwise: Sequence[str]
) -> list[Choice]:
    named = {file.uri: label for file in files if (label := _class_in_name(file.uri)) is not None}
    if len(named) == len(files) > 1:
        return [Choice({}, "if each file holds the class that it is called after", by_file=named), unlabelled]
    if candidates or labelled_otherwise:
        look = [Choice({"label": name}, f"if {name!r} holds the labels", look_again=True) for name in candidates]
        return [*look, unlabelled]
    labels = list(named.values()) if len(files) == 1 else []
    choices = [Choice({"label_value": label}, f"if all tweets are {label}") for label in (labels or LABELS)]
    return [*choices, unlabelled] if labels else [unlabelled, *choices]


def _class_in_name(uri: str) -> str | None:
    words = re.findall(r"[a-z]+", PurePath(uri).name.lower())
    return next((label for word in words if (label := usual_class(word)) is not None), None)


def ask_for_labels(look: Look, names: Sequence[str], proposal: Proposal) -> None:
    """Ask which column holds the labels, and what their values mean."""
    if not names:
        return
    choices: list[Choice] = []
    problems = [f"Several columns may hold the label: {format_names(names)}."] if len(names) > 1 else []
    for name in names:
        source = look.with_settings(proposal.first() | {"label": name})
        values = read_roles(look.files, source, look.limit, inbox=False)
        found = label_choices(values.seen, values.polarity, source.labels) if source.label_bins is None else _SETTLED
        own = {} if name == "label" or "label" in look.given else {"label": name}
        choices += [replace(choice, settings=own | choice.settings) for choice in found.choices]
        problems += [found.problem] if found.problem and found.problem not in problems else []
    proposal.ask(" ".join(problems), choices)
    if not problems and any("labels" in choice.settings for choice in choices):
        proposal.notes.append(
            "The label map is what these values usually mean: check it with the description of the file's source."
        )


def fillable(look: Look, proposal: Proposal) -> Source:
    """The source with the first choices, and some class where one is to be filled in, or the file says it."""
    source = look.with_settings(proposal.first())
    if proposal.classes():
        return source.model_copy(update={"label_value": LABELS[0]})
    given: Mapping[str, str] = source.labels or {}  # a choice may hold CLASS
    labels = {value: LABELS[0] if label == CLASS else label for value, label in given.items()}
    return source.model_copy(update={"labels": labels or None})


def ask_for_dates(look: Look, values: RoleValues, source: Source, proposal: Proposal) -> ColumnTimes | None:
    """How the dates are read, and the question where there is more than one way; None without dates."""
    times = [raw.created_at for raw in values.rows]
    if all(is_missing(value) for value in times):
        return None
    found = read_column(times, look.now, source.date_format)
    choices = [
        Choice({"date_format": form}, f"{escape_invalid(value)} is {moment:%d %B %Y %H:%M}")
        for form, value, moment in found.choices
    ]
    if choices:
        proposal.ask("The dates can be read in more than one way." if len(choices) > 1 else "", choices)
    return found
