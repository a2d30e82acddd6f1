"""The audit of a table's splits counts for a version only if that was trained on this table."""

import dataclasses

import pytest

from finsent.config import Source, load_config
from finsent.data.dataset import data_version
from finsent.data.leakage import leakage_status
from finsent.models.manifest import verify_manifest
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.workspace import resolve_workspace

CONFIG = load_config()
UNKNOWN = "It is not known whether it trained on these test rows: "
LABELS = ("bullish", "bearish", "neutral")


def add(home, tmp_path, name, rows, config=CONFIG):
    path = tmp_path / f"{name}.csv"
    lines = (f"{name} {number * 7919} moves by {number} and closes {number * 31},{LABELS[number % 3]}" for number in range(rows))
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    ingest(make_context(config, home), [Source(uri=str(path))])
    return data_version(home)


@pytest.fixture
def trained_on(make_adapter):
    """`trained_on(facts)`: manifest of an adapter trained on that data version; `**changes` to it."""

    def make(facts, **changes):
        named = {"data_version": facts.version, "data_fingerprint": facts.fingerprint, **changes}
        return verify_manifest(make_adapter(0)).model_copy(update=named)

    return make


def test_trained_on_this_version_or_an_earlier_one_of_the_table_is_known(home, tmp_path, trained_on):
    first = add(home, tmp_path, "first", 60)
    manifest = trained_on(first)
    assert leakage_status(home, manifest, first) == leakage_status(home, manifest, data_version(home))
    assert leakage_status(home, manifest, first).pairs == 0
    second = add(home, tmp_path, "second", 60)
    assert second.version > first.version
    found = leakage_status(home, manifest, second)
    assert (found.pairs, found.unknown_reason) == (second.leaks, None)
    assert found.pairs == 0


def test_trained_elsewhere_is_not_known(home, tmp_path, trained_on):
    facts = add(home, tmp_path, "first", 60)
    for changes in ({"data_version": None}, {"data_fingerprint": None}, {"data_version": None, "data_fingerprint": None}):
        found = leakage_status(home, trained_on(facts, **changes), facts)
        assert found.pairs is None
        assert found.unknown_reason == f"{UNKNOWN}it was trained elsewhere, and its manifest names no data."


def test_trained_in_another_home_or_on_another_split_is_not_known(home, tmp_path, trained_on):
    facts = add(home, tmp_path, "first", 60)
    other = resolve_workspace({"FINSENT_HOME": str(tmp_path / "other")})
    salted = load_config(overrides=["data.split_salt=another"])
    manifest = trained_on(add(other, tmp_path, "first", 60, salted))
    assert manifest.data_version == facts.version
    found = leakage_status(home, manifest, facts)
    assert found.pairs is None
    assert f"{UNKNOWN}it was trained on other data than version {facts.version}" in found.unknown_reason
    later = add(home, tmp_path, "second", 60)  # an earlier version of this home's, by number, and still another table
    assert leakage_status(home, manifest, later).pairs is None
    ahead = trained_on(facts, data_version=later.version + 3)
    assert f"data ends at version {later.version}" in leakage_status(home, ahead, later).unknown_reason


def test_data_that_nobody_audited_has_no_known_leaks(home, tmp_path, trained_on):
    facts = dataclasses.replace(add(home, tmp_path, "first", 60), leaks=None)
    found = leakage_status(home, trained_on(facts), facts)
    assert found.pairs is None
    assert "No leak audit of data version" in found.unknown_reason
