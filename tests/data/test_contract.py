"""The row contract: what is accepted, and why the rest is not."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.data.contract import CLOCK_SKEW, Rejection, check_label, check_text, check_time, shorten

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        ("", "empty"),
        (" \n\t", "empty"),
        ("https://t.co/abc", "empty"),
        (42, "not a string"),
        (["$AMC"], "not a string"),
        ("x" * 101, "too long"),
        ("bad \udcff byte", "bad encoding"),
        ("half a pair \ud83d", "bad encoding"),
    ],
)
def test_bad_texts(value: object, reason: str) -> None:
    checked = check_text(value, 100)
    assert isinstance(checked, Rejection)
    assert checked.reason == reason
    assert checked.detail


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_good_texts_are_kept_as_they_are(text: str) -> None:
    checked = check_text("$SPY " + text, 200)
    assert checked == "$SPY " + text


@pytest.mark.parametrize("value", ["bullish", "Bullish", " BULLISH "])
def test_class_names_are_understood_in_any_case(value: str) -> None:
    assert check_label(value, None) == "Bullish"


@pytest.mark.parametrize("value", [0, 1, 2, "1", "up", "", None, True])
def test_nothing_else_is_guessed(value: object) -> None:
    checked = check_label(value, None)
    assert isinstance(checked, Rejection)
    assert checked.reason == "unknown label"
    assert "Neutral, Bullish, Bearish" in checked.detail


@pytest.mark.parametrize("value", [1, 1.0, "1", " 1 "])
def test_a_mapping_adds_its_keys_to_the_class_names(value: object) -> None:
    assert check_label(value, {"1": "Bearish"}) == "Bearish"
    assert check_label("BULLISH", {"1": "Bearish"}) == "Bullish"
    assert check_label("bullish", {"bullish": "Bearish"}) == "Bearish"  # what the mapping says comes first
    assert isinstance(check_label("2", {"1": "Bearish"}), Rejection)


@pytest.mark.parametrize(
    "value",
    [
        "2025-05-20T09:30:00Z",
        "2025-05-20 09:30:00",
        "2025-05-20T11:30:00+02:00",
        "Tue May 20 09:30:00 +0000 2025",
        "1747733400",
        1747733400,
        1747733400.0,
        1747733400000,
        datetime(2025, 5, 20, 9, 30, tzinfo=UTC),
        datetime(2025, 5, 20, 9, 30),  # noqa: DTZ001 - times without a zone are what is tested
        datetime(2025, 5, 20, 4, 30, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_times_become_utc(value: object) -> None:
    assert check_time(value, NOW) == datetime(2025, 5, 20, 9, 30, tzinfo=UTC)


def test_days_and_missing_times() -> None:
    assert check_time(date(2025, 5, 20), NOW) == datetime(2025, 5, 20, tzinfo=UTC)
    assert check_time(None, NOW) is None
    assert check_time("  ", NOW) is None


@pytest.mark.parametrize(
    "value", ["yesterday-ish", "20/05/2025", 1e300, float("nan"), [2025], "9" * 30, "0001-01-01T00:00:00+05:00"]
)
def test_unreadable_times(value: object) -> None:
    checked = check_time(value, NOW)
    assert isinstance(checked, Rejection)
    assert checked.reason == "unreadable date"


def test_the_future_begins_after_the_clock_skew() -> None:
    assert check_time(NOW + CLOCK_SKEW, NOW) == NOW + CLOCK_SKEW
    checked = check_time(NOW + CLOCK_SKEW + timedelta(seconds=1), NOW)
    assert isinstance(checked, Rejection)
    assert checked.reason == "future date"


def test_shorten() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
