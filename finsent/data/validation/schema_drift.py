"""Detects schema drift: a source that lost a column, or whose label values are new or mapped to another class than before."""

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from finsent.errors import InputError, escape_invalid

MAX_LABELS: Final = 100
"""Label values stored of a source."""
TRUNCATED: Final = " …"
"""Stands after them where there are more; no label value equals it, since they are trimmed."""

_ROLES: Final = ("text", "label", "created_at", "id")


@dataclass(frozen=True, slots=True)
class SourceSchema:
    """The schema of a source when it was read; `dataclasses.asdict` gives the form that `schema_from_dict` reads."""

    name: str
    """Name of the source."""
    columns: tuple[str, ...]
    """All its columns, in their order."""
    labels: tuple[str, ...]
    """Its label values as keys of a mapping (`row_validation.label_key`), sorted; `TRUNCATED` last where there are more."""
    roles: Mapping[str, str]
    """`text`, `label`, `created_at` and `id` to the column that holds it, of those that are read."""
    label_mapping: Mapping[str, str] = field(default_factory=dict)
    """Label value to the class that it was read as."""


@dataclass(frozen=True, slots=True)
class SchemaDrift:
    """What changed between two readings of a source."""

    name: str
    removed: tuple[str, ...]
    """Columns."""
    added: tuple[str, ...]
    """Columns."""
    renamed: Mapping[str, str]
    """Removed column to the added one that it likely became."""
    new_labels: tuple[str, ...]
    """Label values that were not there before."""
    missing_labels: tuple[str, ...]
    """Label values that were there before."""
    role_changes: Mapping[str, tuple[str | None, str | None]]
    """Role to its column before and now, where they differ."""
    remapped_labels: Mapping[str, tuple[str, str | None]]
    """Label value to its class before and now, where they differ; now None where no mapping covers it any more."""

    @property
    def blocks(self) -> bool:
        """Whether a person must decide before rows are written: something was lost, or has no agreed meaning."""
        return bool(self.removed or self.new_labels or self.remapped_labels)


def source_schema(
    name: str,
    columns: Sequence[str],
    labels: Iterable[str],
    roles: Mapping[str, str],
    label_mapping: Mapping[str, str] = MappingProxyType({}),
) -> SourceSchema:
    """The schema of a source from what was read of it. A missing label (`""`) is a fault of its row, not a value."""
    values = sorted({escape_invalid(label) for label in labels if label})
    stored = (*values[:MAX_LABELS], TRUNCATED) if len(values) > MAX_LABELS else tuple(values)
    mapping = {escape_invalid(value): label for value, label in label_mapping.items()}
    return SourceSchema(name, tuple(map(escape_invalid, columns)), stored, dict(roles), mapping)


def compare_schemas(before: SourceSchema, now: SourceSchema) -> SchemaDrift | None:
    """What changed, or None. Where label values were truncated, new ones cannot be told and are not reported."""
    removed = tuple(column for column in before.columns if column not in now.columns)
    added = tuple(column for column in now.columns if column not in before.columns)
    role_changes = {
        role: (before.roles.get(role), now.roles.get(role)) for role in _ROLES if before.roles.get(role) != now.roles.get(role)
    }
    remapped = {
        value: (label, now.label_mapping.get(value))
        for value, label in before.label_mapping.items()
        if (value in now.labels or value in now.label_mapping) and now.label_mapping.get(value) != label
    }
    new_labels, missing_labels = _absent_from(before, now.labels), _absent_from(now, before.labels)
    if not (removed or added or new_labels or missing_labels or role_changes or remapped):
        return None
    renamed = _likely_renames(removed, added)
    return SchemaDrift(now.name, removed, added, renamed, new_labels, missing_labels, role_changes, remapped)


def format_drift(drift: SchemaDrift, label_advice: str = "") -> str:
    """The change as a diff for people, and what to do about it; `label_advice` is the map to give for new label values."""
    lines = [f"source {drift.name!r}: its schema changed since it was last read."]
    if drift.removed or drift.added:
        lines.append("columns")
        lines += [f"  - {column}" for column in drift.removed]
        hints = {new: f"    ({old!r} renamed?)" for old, new in drift.renamed.items()}
        lines += [f"  + {column}{hints.get(column, '')}" for column in drift.added]
    if drift.role_changes:
        lines.append("read from")
        for role, pair in drift.role_changes.items():
            lines.append(f"  {role}: " + " -> ".join("nothing" if column is None else repr(column) for column in pair))
    if drift.new_labels or drift.missing_labels:
        lines.append("label values")
        lines += [f"  - {label}    (did not come this time)" for label in drift.missing_labels]
        lines += [f"  + {label}    (not known)" for label in drift.new_labels]
    if drift.remapped_labels:
        lines.append("read as")
        lines += [f"  {value}: {old} -> {new or 'not understood'}" for value, (old, new) in drift.remapped_labels.items()]
    return "\n".join([*lines, _advice(drift, label_advice)])


def schema_from_dict(stored: Mapping[str, Any]) -> SourceSchema:
    """The schema from the dictionary that `dataclasses.asdict` made of it.

    Raises:
        InputError: it is not of that form.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(SourceSchema).validate_python(dict(stored))
    except ValidationError as error:
        raise InputError(
            f"stored schema {dict(stored)!r} is not of the form name, columns, labels, roles. Read the source once with "
            "--set data.check_schema=false: that stores it again."
        ) from error


def _likely_renames(removed: Sequence[str], added: Sequence[str]) -> dict[str, str]:
    """Each removed column to the most similar added one, used once; a single removed and a single added one are a pair."""
    if len(removed) == len(added) == 1:
        return {removed[0]: added[0]}
    free = {column.casefold(): column for column in added}
    renamed = {}
    for column in removed:
        if close := difflib.get_close_matches(column.casefold(), list(free), n=1, cutoff=0.6):
            renamed[column] = free.pop(close[0])
    return renamed


def _absent_from(schema: SourceSchema, labels: Sequence[str]) -> tuple[str, ...]:
    """Those of `labels` that the schema lacks; none where it was truncated and may have had them."""
    if TRUNCATED in schema.labels:
        return ()
    return tuple(label for label in labels if label != TRUNCATED and label not in schema.labels)


def _advice(drift: SchemaDrift, label_advice: str) -> str:
    if not drift.blocks:
        return "No column was lost and every label is known: reading continues."
    steps = []
    if drift.removed:
        steps.append("name the new columns in the source's `text`, `label` or `created_at` where those were renamed")
    if drift.new_labels:
        steps.append("say what the new values mean in the source's `labels` (--label-map)")
    if drift.remapped_labels:
        steps.append("set its `labels` (--label-map) back, or correct the rows that were stored with the other class")
    return (
        f"Nothing was written. Check the source, then {' and '.join(steps)}; "
        "for one run, --set data.check_schema=false accepts it as it is now."
        + (f" {label_advice}" if drift.new_labels else "")
        + (f" {removal_hint(drift.name)}" if drift.new_labels or drift.remapped_labels else "")
    )


def removal_hint(source: str) -> str:
    """How to read a source anew, where what is stored of it was wrong."""
    return f"If the rows stored of it have wrong labels, remove them first: finsent data remove {shlex.quote(source)} --why TEXT."
