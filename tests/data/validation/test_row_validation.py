"""Row validation: what is accepted, and why the rest is rejected."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.data.validation.dates import CLOCK_SKEW
from finsent.data.validation.label_mapping import check_label, label_key
from finsent.data.validation.row_validation import Rejection, check_id, check_text, check_time, reject_json
from finsent.errors import quoted, shorten
from finsent.labels import LABELS

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(1, 9).map(lambda digit: digit * 10**5000)
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs", "Nd", "Zs", "Cc"]), max_size=12)
    | st.text("0123456789.+-:TZ ", max_size=30)
    | st.binary(max_size=30)
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.decimals()
    | st.complex_numbers()
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3))


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
def test_valid_texts_are_unchanged(text: str) -> None:
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
        "2025-05-20 09:30:00 UTC",
        "2025-05-20 09:30:00.000000 GMT",
        "2025-05-20T09:30 utc",
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
    for missing in ("  ", "nan", " NaN", "NaT", "None", "null", "NULL", "<NA>", float("nan")):
        assert check_time(missing, NOW) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1600000000000000101, "1600000000000000101"),
        (" 1600000000000000101 ", "1600000000000000101"),
        (7.0, "7"),
        ("7.0", "7"),
        ("-7.0", "-7"),
        ("7.", "7."),
        ("7.00", "7.00"),
        (2.0**53 - 1, "9007199254740991"),
        ("9007199254740991.0", "9007199254740991"),
        (1.5, "1.5"),
        ("12e4", "12e4"),
        ("a.0", "a.0"),
        (None, None),
        (float("nan"), None),
        ("nan", None),
    ],
)
def test_ids_that_are_what_they_were(value: object, expected: str | None) -> None:
    assert check_id(value) == expected


@pytest.mark.parametrize(
    "value",
    [1.6e18, 2.0**53, float("inf"), "1.6e+18", "1,54266E+18", "1.6E18", "1e+18", "1600000000000000256.0", "9" * 5000 + ".0"],
)
def test_a_rounded_id_is_none(value: object) -> None:
    checked = check_id(value)
    assert isinstance(checked, Rejection)
    assert checked.reason == "rounded id"
    assert "Write the column as text" in checked.detail


@pytest.mark.parametrize(
    "value",
    ["yesterday-ish", "20/05/2025", "UTC", 1e300, [2025], "9" * 30, 0, "1970-01-01", "44237.65", "0001-01-01T00:00:00+05:00"],
)
def test_unreadable_times(value: object) -> None:
    checked = check_time(value, NOW)
    assert isinstance(checked, Rejection)
    assert checked.reason == "unreadable date"


def test_future_dates_start_after_the_clock_skew() -> None:
    assert check_time(NOW + CLOCK_SKEW, NOW) == NOW + CLOCK_SKEW
    checked = check_time(NOW + CLOCK_SKEW + timedelta(seconds=1), NOW)
    assert isinstance(checked, Rejection)
    assert checked.reason == "future date"


def test_shorten() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"


@given(anything)
def test_any_value_is_valid_or_has_a_reason(value: object) -> None:
    text = check_text(value, 100)
    assert (text is value and isinstance(text, str)) or isinstance(text, Rejection)
    label = check_label(value, {"1": "Bullish"})
    assert label in LABELS or isinstance(label, Rejection)
    moment = check_time(value, NOW)
    assert moment is None or isinstance(moment, Rejection) or (moment.tzinfo is UTC and moment <= NOW + CLOCK_SKEW)
    assert label_key(value) == label_key(value).strip()
    for checked in (text, label, moment):
        if isinstance(checked, Rejection):
            assert checked.detail.encode()  # a table can hold it


def test_values_too_large_to_show_are_named_by_their_type() -> None:
    endless: list[object] = []
    for _ in range(100_000):
        endless = [endless]
    assert quoted(10**5000) == "<int too large to show>"
    assert quoted(endless) == "<list too large to show>"
    assert label_key(10**5000) == "<int too large to show>"
    assert isinstance(check_text(endless, 100), Rejection)
    assert isinstance(check_label(endless, None), Rejection)
    assert isinstance(check_time(endless, NOW), Rejection)
    while endless:  # taken apart one by one: Python's own way down is a recursion too
        endless = endless.pop()  # type: ignore[assignment]


def test_a_json_object_is_no_tweet() -> None:
    found = reject_json('{"text": "gold up", "label": "Bullish"}')
    assert found is not None
    assert "fromjson" in found.detail
    assert [reject_json(text) for text in ("{braces} up", '{"a" up}', "gold up", None, 7)] == [None] * 5
