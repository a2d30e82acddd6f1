"""Schema drift: a source that lost a column, or whose labels are new or mean something else, is looked at before it is read."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from finsent.errors import InputError

MAX_LABELS: Final = 100
"""Label values remembered of a source."""
TRUNCATED: Final = " …"
"""Stands after them where there are more; keys are trimmed, so that none is like it."""

_ROLES: Final = ("text", "label", "created_at", "id")


@dataclass(frozen=True, slots=True)
class SourceSchema:
    """What a source looked like when it was read."""

    name: str
    """Name of the source."""
    columns: tuple[str, ...]
    """All its columns, in their order."""
    labels: tuple[str, ...]
    """Its label values as keys of a mapping (`contract.label_key`), sorted; `MORE` comes last where they are not all."""
    roles: Mapping[str, str]
    """`text`, `label`, `created_at` and `id` to the column that holds it, so far as they are read."""
    label_mapping: Mapping[str, str] = field(default_factory=dict)
    """Label value to the class that it was read as; empty in what was stored before these were kept."""


@dataclass(frozen=True, slots=True)
class SchemaDrift:
    """What changed between two readings of a source."""

    name: str
    removed: tuple[str, ...]
    """Columns that were there."""
    added: tuple[str, ...]
    """Columns that were not."""
    renamed: Mapping[str, str]
    """Column that is gone to the added one that it likely is now."""
    new_labels: tuple[str, ...]
    """Label values that are not known."""
    missing_labels: tuple[str, ...]
    """Label values that did not come this time."""
    role_changes: Mapping[str, tuple[str | None, str | None]]
    """Role to the column that held it and the one that holds it now, where they differ."""
    remapped_labels: Mapping[str, tuple[str, str | None]]
    """Label value to the class that it was read as and the one that it would be now, None where it is not understood any more."""

    @property
    def blocks(self) -> bool:
        """Whether somebody must look before rows are written: something was lost, or something has no agreed meaning."""
        return bool(self.removed or self.new_labels or self.remapped_labels)


def source_schema(
    name: str,
    columns: Sequence[str],
    labels: Iterable[str],
    roles: Mapping[str, str],
    meanings: Mapping[str, str] = MappingProxyType({}),
) -> SourceSchema:
    """The schema of a source from what was read of it. A missing label (`""`) is a row's fault, not a value."""
    values = sorted({_storable(label) for label in labels if label})
    kept = (*values[:MAX_LABELS], TRUNCATED) if len(values) > MAX_LABELS else tuple(values)
    known = {_storable(value): label for value, label in meanings.items()}
    return SourceSchema(name, tuple(_storable(column) for column in columns), kept, dict(roles), known)


def compare_schemas(before: SourceSchema, now: SourceSchema) -> SchemaDrift | None:
    """What changed, or None. Labels beyond those remembered are not compared: a value may have been among them."""
    gone = tuple(column for column in before.columns if column not in now.columns)
    added = tuple(column for column in now.columns if column not in before.columns)
    moved = {
        role: (before.roles.get(role), now.roles.get(role)) for role in _ROLES if before.roles.get(role) != now.roles.get(role)
    }
    remapped = {
        value: (meant, now.label_mapping.get(value))
        for value, meant in before.label_mapping.items()
        if (value in now.labels or value in now.label_mapping) and now.label_mapping.get(value) != meant
    }
    drift = SchemaDrift(
        now.name, gone, added, _likely_renames(gone, added), _new_values(now, before), _new_values(before, now), moved, remapped
    )
    changed = gone or added or drift.new_labels or drift.missing_labels or moved or remapped
    return drift if changed else None


def format_drift(drift: SchemaDrift) -> str:
    """The change as a diff that a person reads, and what to do about it."""
    lines = [f"source {drift.name!r}: not as it was the last time."]
    if drift.removed or drift.added:
        lines.append("columns")
        lines += [f"  - {column}" for column in drift.removed]
        was = {new: old for old, new in drift.renamed.items()}
        lines += [f"  + {column}" + (f"    ({was[column]!r} renamed?)" if column in was else "") for column in drift.added]
    if drift.role_changes:
        lines.append("read from")
        lines += [f"  {role}: {_shown(old)} -> {_shown(new)}" for role, (old, new) in drift.role_changes.items()]
    if drift.new_labels or drift.missing_labels:
        lines.append("label values")
        lines += [f"  - {label}    (did not come this time)" for label in drift.missing_labels]
        lines += [f"  + {label}    (not known)" for label in drift.new_labels]
    if drift.remapped_labels:
        lines.append("read as")
        lines += [f"  {value}: {old} -> {new or 'not understood'}" for value, (old, new) in drift.remapped_labels.items()]
    return "\n".join([*lines, _advice(drift)])


def schema_to_dict(schema: SourceSchema) -> dict[str, Any]:
    """The schema in plain JSON values."""
    return {
        "name": schema.name,
        "columns": list(schema.columns),
        "labels": list(schema.labels),
        "roles": dict(schema.roles),
        "meanings": dict(schema.label_mapping),
    }


def schema_from_dict(stored: Mapping[str, Any]) -> SourceSchema:
    """The schema that `as_dict` stored, with or without the meanings of its labels, which came later.

    Raises:
        InputError: it is not of that form.
    """
    match {"meanings": {}, **stored}:
        case {
            "name": str(name),
            "columns": [*columns],
            "labels": [*labels],
            "roles": Mapping() as roles,
            "meanings": Mapping() as meanings,
        } if all(isinstance(value, str) for value in (*columns, *labels, *roles, *roles.values(), *meanings, *meanings.values())):
            return SourceSchema(name, tuple(columns), tuple(labels), dict(roles), dict(meanings))
    raise InputError(
        f"stored schema {dict(stored)!r} is not of the form name, columns, labels, roles. Read the source once with "
        "--set data.check_schema=false: that stores it anew."
    )


def _likely_renames(gone: Sequence[str], added: Sequence[str]) -> dict[str, str]:
    """Each column that is gone to the most similar added one, any only once; one lost and one added are taken for a pair."""
    if len(gone) == len(added) == 1:
        return {gone[0]: added[0]}
    free = {column.casefold(): column for column in added}
    renamed = {}
    for column in gone:
        if close := difflib.get_close_matches(column.casefold(), list(free), n=1, cutoff=0.6):
            renamed[column] = free.pop(close[0])
    return renamed


def _new_values(here: SourceSchema, there: SourceSchema) -> tuple[str, ...]:
    if TRUNCATED in there.labels:
        return ()
    return tuple(label for label in here.labels if label != TRUNCATED and label not in there.labels)


def _advice(drift: SchemaDrift) -> str:
    if not drift.blocks:
        return "Nothing that was there is lost: reading goes on."
    steps = []
    if drift.removed:
        steps.append("name the new columns in the source's `text`, `label` or `created_at` where those were renamed")
    if drift.new_labels:
        steps.append("say what the new values mean in the source's `labels` (--label-map)")
    if drift.remapped_labels:
        steps.append("set its `labels` (--label-map) back, or correct the rows that were stored with the other meaning")
    return (
        f"Nothing was written. Look at the source, then {' and '.join(steps)}; "
        "for one run, --set data.check_schema=false accepts it as it is now."
    )


def _shown(column: str | None) -> str:
    return "nothing" if column is None else repr(column)


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
