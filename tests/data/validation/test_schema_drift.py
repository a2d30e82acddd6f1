"""Schema drift: what stops, what is only told, and how it reads."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.data.validation.schema_drift import (
    MAX_LABELS,
    TRUNCATED,
    SourceSchema,
    compare_schemas,
    format_drift,
    schema_from_dict,
    schema_to_dict,
    source_schema,
)
from finsent.errors import InputError

ROLES = {"text": "text", "label": "label"}
BEFORE = source_schema("desk", ("text", "label", "user"), ["0", "1", "2"], ROLES)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(str.strip).filter(bool)
schemas = st.builds(
    source_schema,
    names,
    st.lists(names, max_size=6, unique=True),
    st.lists(names, max_size=6),
    st.dictionaries(st.sampled_from(["text", "label", "created_at", "id"]), names),
    st.dictionaries(names, st.sampled_from(["Neutral", "Bullish", "Bearish"]), max_size=4),
)


def test_the_same_source_has_not_drifted() -> None:
    again = source_schema("desk", ("text", "label", "user"), ["2", "1", "0", "0", ""], ROLES)
    assert compare_schemas(BEFORE, again) is None


def test_a_renamed_column_stops() -> None:
    drift = compare_schemas(BEFORE, source_schema("desk", ("tweet", "label", "user"), ["0", "1", "2"], ROLES | {"text": "tweet"}))
    assert drift is not None
    assert drift.blocks
    assert (drift.removed, drift.added, drift.renamed) == (("text",), ("tweet",), {"text": "tweet"})
    assert format_drift(drift).splitlines() == [
        "source 'desk': not as it was the last time.",
        "columns",
        "  - text",
        "  + tweet    ('text' renamed?)",
        "read from",
        "  text: 'text' -> 'tweet'",
        (
            "Nothing was written. Look at the source, then name the new columns in the source's `text`, `label` or `created_at` "
            "where those were renamed; for one run, --set data.check_schema=false accepts it as it is now."
        ),
    ]


def test_renames_are_told_by_likeness() -> None:
    now = source_schema("desk", ("Full_Text", "Labels", "lang", "user"), ["0", "1", "2"], ROLES)
    drift = compare_schemas(BEFORE, now)
    assert drift is not None
    assert drift.renamed == {"text": "Full_Text", "label": "Labels"}


def test_a_new_label_value_stops() -> None:
    drift = compare_schemas(BEFORE, source_schema("desk", BEFORE.columns, ["0", "1", "2", "3"], ROLES))
    assert drift is not None
    assert drift.blocks
    assert drift.new_labels == ("3",)
    assert "  + 3    (not known)" in format_drift(drift)
    assert "--label-map" in format_drift(drift)


def test_added_columns_and_absent_labels_are_only_told() -> None:
    drift = compare_schemas(BEFORE, source_schema("desk", (*BEFORE.columns, "lang"), ["0", "1"], ROLES))
    assert drift is not None
    assert not drift.blocks
    assert (drift.added, drift.missing_labels) == (("lang",), ("2",))
    assert "  + lang" in format_drift(drift)
    assert "did not come this time" in format_drift(drift)
    assert "check_schema" not in format_drift(drift)


def test_many_label_values_are_cut_and_then_not_compared() -> None:
    many = source_schema("desk", BEFORE.columns, [f"{number:04}" for number in range(MAX_LABELS + 1)], ROLES)
    assert len(many.labels) == MAX_LABELS + 1
    assert many.labels[-1] == TRUNCATED
    few = source_schema("desk", BEFORE.columns, ["0000", "new"], ROLES)
    drift = compare_schemas(many, few)
    assert drift is not None
    assert not drift.blocks  # "new" may have been among those that were cut
    drift = compare_schemas(few, many)
    assert drift is not None
    assert "0001" in drift.new_labels
    assert TRUNCATED not in drift.new_labels


def test_a_value_that_is_to_mean_something_else_stops() -> None:
    before = source_schema("desk", BEFORE.columns, ["0", "1", "2"], ROLES, {"0": "Bearish", "1": "Bullish", "2": "Neutral"})
    drift = compare_schemas(before, source_schema("desk", BEFORE.columns, ["0", "2"], ROLES, {"0": "Neutral", "1": "Bearish"}))
    assert drift is not None
    assert drift.blocks
    assert "read as\n  0: Bearish -> Neutral\n  1: Bullish -> Bearish\n  2: Neutral -> not understood" in format_drift(drift)
    assert "set its `labels` (--label-map) back" in format_drift(drift)


def test_a_schema_stored_without_meanings_says_nothing_of_them() -> None:
    stored = {key: value for key, value in schema_to_dict(BEFORE).items() if key != "meanings"}
    assert (
        compare_schemas(schema_from_dict(stored), source_schema("desk", BEFORE.columns, ["0", "1", "2"], ROLES, {"0": "Neutral"}))
        is None
    )
    with pytest.raises(InputError, match="not of the form"):
        schema_from_dict(stored | {"meanings": {"0": 1}})


@given(schemas)
def test_schemas_are_stored_as_json(schema: SourceSchema) -> None:
    assert schema_from_dict(json.loads(json.dumps(schema_to_dict(schema)))) == schema


@given(schemas, schemas)
def test_drift_is_complete(before: SourceSchema, now: SourceSchema) -> None:
    drift = compare_schemas(before, now)
    assert compare_schemas(now, now) is None
    if drift is None:
        assert set(before.columns) == set(now.columns)
        assert before.labels == now.labels
        return
    assert set(before.columns) - set(drift.removed) | set(drift.added) == set(now.columns)
    assert set(before.labels) - set(drift.missing_labels) | set(drift.new_labels) == set(now.labels)
    assert drift.blocks == (bool(drift.removed) or bool(drift.new_labels) or bool(drift.remapped_labels))
    for value, meant in before.label_mapping.items():
        same = now.label_mapping.get(value) == meant or (value not in now.label_mapping and value not in now.labels)
        assert same == (value not in drift.remapped_labels)
    assert all(f"  + {column}" in format_drift(drift) for column in drift.added)


@pytest.mark.parametrize(
    "stored", [{}, {"name": "x", "columns": [1], "labels": [], "roles": {}}, {"name": "x", "columns": "text"}]
)
def test_a_stored_schema_of_another_form_is_an_error(stored: dict[str, object]) -> None:
    with pytest.raises(InputError, match="not of the form name, columns, labels, roles"):
        schema_from_dict(stored)


def test_half_a_surrogate_pair_can_be_stored() -> None:
    schema = source_schema("desk", ("te\udcffxt",), ["\ud83d"], {})
    assert json.dumps(schema_to_dict(schema), ensure_ascii=False).encode()
