"""Versions and quarantine, as ingestion left them."""

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from finsent.data.validation.row_validation import CONFLICT
from finsent.data.versions_view import (
    conflict_sides,
    latest_time,
    list_versions,
    previous_version,
    quarantine_examples,
    quarantine_view,
    version_numbers,
)
from finsent.errors import InputError
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from tests.conftest import Sampled


def test_versions_are_those_that_ingestion_made(sampled: "Sampled") -> None:
    home, first, second = sampled.home, sampled.first, sampled.second
    latest, earlier = list_versions(home)
    assert (latest.version, latest.fingerprint, latest.leaks) == (second.version, second.fingerprint, 0)
    assert (earlier.version, earlier.inputs) == (first.version, ("desk", "street", "archive"))
    assert latest.rows == earlier.rows + second.accepted
    assert latest.at > earlier.at
    assert version_numbers(home) == [second.version, first.version]
    assert previous_version(home, latest.version) == earlier.version
    assert previous_version(home, earlier.version) is None


def test_the_quarantine_can_be_asked(sampled: "Sampled") -> None:
    home, first, second = sampled.home, sampled.first, sampled.second
    everything = quarantine_view(home)
    assert everything.total == len(everything.rows) == first.quarantined + second.quarantined
    assert sum(everything.reasons.values()) == everything.total
    empty = quarantine_view(home, reason="empty", limit=2)
    assert (empty.total, len(empty.rows)) == (everything.reasons["empty"], 2)
    assert {row["reason"] for row in empty.rows} == {"empty"}
    assert {row["source"] for row in quarantine_view(home, source="desk").rows} == {"desk"}
    assert first.version is not None
    assert quarantine_view(home, until=latest_time(home, first.version)).total == first.quarantined
    with pytest.raises(InputError, match=r"no quarantined row has reason 'nonsense'\. There are: .*'empty'"):
        quarantine_view(home, reason="nonsense")


def test_both_sides_of_a_contradiction_are_told_apart(sampled: "Sampled") -> None:
    home = sampled.home
    sides = conflict_sides(quarantine_view(home, reason=CONFLICT).rows, 20)
    assert len(sides) == 20
    assert all(here.split(" in ")[0] != there.split(" in ")[0] for here, there in sides)
    assert len({frozenset(side) for side in sides}) == 20


def test_a_tweet_that_holds_the_dividing_word_is_not_divided() -> None:
    here, there = "Bullish in a row 1, 'I bet against Bearish $X'", "Bearish in b row 2, 'I bet against bearish $X'"
    detail = f"{here} against {there}; Neutral in c row 3, 'x'"
    other = f"{there} against {here}"
    rows = [{"reason": CONFLICT, "detail": detail}, {"reason": CONFLICT, "detail": other}, {"reason": "empty", "detail": "x"}]
    (found,) = conflict_sides(rows, 5)
    assert found == (here, f"{there}; Neutral in c row 3, 'x'")


def test_examples_come_from_every_source_and_no_more_than_asked_for(sampled: "Sampled") -> None:
    home, first, second = sampled.home, sampled.first, sampled.second
    found = quarantine_examples(home, None, 3, 20)
    assert found.reasons == quarantine_view(home).reasons == dict(Counter(first.reasons) + Counter(second.reasons))
    assert found.rows.keys() == found.reasons.keys()
    for reason, rows in found.rows.items():
        everything = quarantine_view(home, reason=reason)
        assert len(rows) == min(3, everything.total)
        assert len({row["source"] for row in rows}) == min(3, len({row["source"] for row in everything.rows}))
        assert all(row in everything.rows for row in rows)
        # the latest of each source
        latest = {
            source: max(row["ingested_at"] for row in everything.rows if row["source"] == source)
            for source in {row["source"] for row in rows}
        }
        assert rows[0]["ingested_at"] == latest[rows[0]["source"]]
    assert len(found.conflicts) == 20
    assert first.version is not None
    assert quarantine_examples(home, latest_time(home, first.version), 3, 20).reasons == first.reasons
    few = quarantine_view(home, limit=5)
    assert few.rows == quarantine_view(home, limit=10**20).rows[:5]


def test_nothing_is_there_yet(home: Workspace) -> None:
    assert list_versions(home) == []
    assert quarantine_view(home).total == 0
    assert quarantine_examples(home, None, 3, 20).rows == {}
    assert not home.root.exists()
