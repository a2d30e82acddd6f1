"""Decisions on single texts: the latest holds, a rerun adds nothing, two people at once both get theirs on record."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from finsent.data import tables
from finsent.data.corrections import ReviewDecision, load_decisions, read_reviews, record_decisions
from finsent.errors import InputError
from finsent.text import text_id
from finsent.workspace import Workspace

NOW = datetime(2025, 6, 1, tzinfo=UTC)
A, B = text_id("$AAPL up"), text_id("$TSLA down")


def test_nothing_decided_is_no_decision(home: Workspace) -> None:
    assert load_decisions(home) == {}
    assert read_reviews(home) == []
    assert record_decisions(home, {}, "ada", "why not", NOW) == 0
    assert not home.root.exists()


def test_the_latest_decision_holds_and_earlier_ones_stay_on_record(home: Workspace) -> None:
    first = {A: ReviewDecision("fix", "Bearish"), B: ReviewDecision("drop")}
    assert record_decisions(home, first, "ada", "sarcasm", NOW, {A: "$AAPL up"}) == 2
    assert record_decisions(home, {A: ReviewDecision("accept")}, "bob", "no sarcasm", NOW + timedelta(hours=1)) == 1
    assert load_decisions(home) == {A: ReviewDecision("accept"), B: ReviewDecision("drop")}
    on_record = [(review.id, review.text, review.decision, review.why, review.who) for review in read_reviews(home)]
    assert sorted(on_record[:2]) == sorted(
        [(A, "$AAPL up", ReviewDecision("fix", "Bearish"), "sarcasm", "ada"), (B, None, ReviewDecision("drop"), "sarcasm", "ada")]
    )
    assert on_record[2:] == [(A, None, ReviewDecision("accept"), "no sarcasm", "bob")]


def test_a_clock_that_runs_behind_does_not_bring_an_old_decision_back(home: Workspace) -> None:
    record_decisions(home, {A: ReviewDecision("drop")}, "ada", "spam", NOW)
    record_decisions(home, {A: ReviewDecision("accept")}, "bob", "no spam", NOW - timedelta(days=1))
    assert load_decisions(home) == {A: ReviewDecision("accept")}
    assert [review.who for review in read_reviews(home)] == ["ada", "bob"]


def test_the_same_again_is_not_recorded_twice(home: Workspace) -> None:
    for expected in (1, 0):
        assert record_decisions(home, {A: ReviewDecision("drop")}, "ada", "spam", NOW) == expected
    assert record_decisions(home, {A: ReviewDecision("drop"), B: ReviewDecision("drop")}, "ada", {A: "spam", B: "ad"}, NOW) == 1
    assert record_decisions(home, {A: ReviewDecision("drop")}, "ada", "spam, and insulting", NOW) == 1
    assert [review.why for review in read_reviews(home)] == ["spam", "ad", "spam, and insulting"]


def test_decisions_that_say_too_little_or_too_much() -> None:
    with pytest.raises(InputError, match="no decision 'ban'"):
        ReviewDecision("ban")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one of Neutral, Bullish, Bearish, and 'up' is none"):
        ReviewDecision("fix", "up")
    with pytest.raises(InputError, match="and None is none"):
        ReviewDecision("fix")
    with pytest.raises(InputError, match="'Neutral' was given with drop"):
        ReviewDecision("drop", "Neutral")


@pytest.mark.parametrize(("who", "why", "said"), [(" ", "spam", "the name of who"), ("ada", " ", f"'{A}' has none")])
def test_every_decision_has_a_name_and_a_reason(home: Workspace, who: str, why: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        record_decisions(home, {A: ReviewDecision("drop")}, who, why, NOW)
    assert tables.version(home, "reviews") is None


@pytest.mark.integration
def test_people_deciding_at_once_all_get_it_on_record(home: Workspace) -> None:
    script = (
        "import sys; from datetime import UTC, datetime; from finsent.data.corrections import ReviewDecision, record_decisions; "
        "from finsent.workspace import resolve_workspace; home = resolve_workspace({'FINSENT_HOME': sys.argv[1]}); "
        "[record_decisions(home, {'f' * 32: ReviewDecision('fix', label)}, sys.argv[2], label, datetime.now(UTC)) "
        "for label in ('Neutral', 'Bullish', 'Bearish')]"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(home.root), who], stderr=subprocess.PIPE, text=True) for who in "ab"
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    reviews = read_reviews(home)
    for who in "ab":
        assert [review.why for review in reviews if review.who == who] == ["Neutral", "Bullish", "Bearish"]
    assert len({review.decided_at for review in reviews}) == len(reviews) == 6
    assert load_decisions(home) == {"f" * 32: reviews[-1].decision}
