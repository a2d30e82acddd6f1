"""Times of writing: one reading for a whole column, or the choices."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.data.validation.dates import FIRST_TWEET, check_form, parse_time, read_column
from finsent.errors import InputError

NOW = datetime(2026, 11, 30, tzinfo=UTC)
MOMENT = datetime(2021, 1, 14, 23, 10, 54, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2021-01-14 23:10:54 UTC",
        "2021-01-14 23:10:54 +0000",
        "2021-01-14 23:10:54Z",
        "2021-01-14T23:10:54.0000000Z",
        "2021-01-14 23:10:54,000",
        "2021-01-15 00:10:54 CET",
        "2021-01-15T01:10:54 UTC+2",
        "2021-01-14 11:10:54 PM",
        "2021-01-14 11:10:54 PM UTC",
        "2021-01-14-23.10.54.000000",
        "20210114T231054Z",
        "Jan 14, 2021 - 23:10:54",
        "2021/01/14 23:10:54",
        "Thu Jan 14 23:10:54 +0000 2021",
        "Thu Jan 14 23:10:54 UTC 2021",
        "Thu Jan 14 23:10:54 2021",
        "Thu, 14 Jan 2021 23:10:54 GMT",
        "Thu, 14 Jan 2021 18:10:54 -0500",
        "Thu, 14 Jan 2021 18:10:54 EST",
        "Thu Jan 14 2021 23:10:54 GMT+0000 (Coordinated Universal Time)",
        "Thursday, January 14th, 2021 11:10:54 p.m.",
        "11:10:54 PM · Jan 14, 2021",
        "14 January 2021, 23:10:54",
        "14/Jan/2021:23:10:54 +0000",
        "14-JAN-21 11.10.54.000000 PM",
        "14JAN2021:23:10:54",
        "20210114231054",
        20210114231054,
        "1610665854",
        "1610665854.0",
        "1610665854,0",
        1610665854,
        1.610665854e9,
        "1.610665854e+09",
        "1610665854000",
        1610665854000000,
        "1610665854000000000",
        Decimal(1610665854),
        "/Date(1610665854000)/",
        {"$date": "2021-01-14T23:10:54Z"},
    ],
)
def test_a_value_that_says_itself_what_it_means_is_read(value: object) -> None:
    assert parse_time(value) == MOMENT
    assert read_column([value], NOW).unreadable == 0


def test_days_without_a_clock() -> None:
    day = datetime(2021, 1, 14, tzinfo=UTC)
    assert {parse_time(value) for value in ("20210114", 20210114, "2021.01.14", "Jan 14, 2021", "2021-1-14")} == {day}
    assert parse_time("202101142310") == day.replace(hour=23, minute=10)


@pytest.mark.parametrize(
    "value",
    [
        *("1970-01-01", 0, "0", 0.0, "2006-03-20", "44237.65", 44237, "14/01/2021", "2021", "Jan-21", "1.61E+09", "23:10", True),
        *("13 PM", "2021-01-14 23:10:54 IST", "2021-02-30", "2021-01-14 13:10 PM", "at 5", [2021], {"a": 1}, b"2021-01-14"),
        *("1" * 5000, 10**400),
    ],
)
def test_what_is_no_time_of_a_tweet_by_itself_is_not_read(value: object) -> None:
    assert parse_time(value) is None


@pytest.mark.parametrize(
    ("values", "form", "expected"),
    [
        (["05/01/2021", "13/01/2021"], "day-first", "2021-01-05"),
        (["5.1.2021 9.15", "31.1.2021 23.10"], "day-first", "2021-01-05 09:15"),
        (["05/01/2021, 01:00:00", "14/01/2021, 23:10:54"], "day-first", "2021-01-05 01:00"),
        (["05-01-2021", "25-01-2021"], "day-first", "2021-01-05"),
        (["05.01.2021 um 9:15 Uhr", "25.01.2021 um 10:15 Uhr"], "day-first", "2021-01-05 09:15"),
        (["1/5/2021 3:00:00 PM", "1/25/2021 3:00:00 AM"], "month-first", "2021-01-05 15:00"),
        (["1/5/21 3:00", "1/14/21 23:10"], "month-first", "2021-01-05 03:00"),
        (["Tuesday, 01/05/2021", "Monday, 01/25/2021"], "month-first", "2021-01-05"),
        (["10.02.21", "13.02.21", "15.02.21"], "day-first", "2021-02-10"),
        (["21-01-14", "21-01-15", "21-01-16"], "year-first", "2021-01-14"),
        (["05/05/2021", "06/06/2021"], "day-first", "2021-05-05"),  # the same in any order
        (["04/12/2026", "01/11/2026"], "month-first", "2026-04-12"),  # the fourth of December is still to come
        (["05/01/2021"] * 100 + ["13/01/2021"] * 99 + ["01/13/2021"], "day-first", "2021-01-05"),
    ],
)
def test_other_values_of_the_column_decide(values: list[str], form: str, expected: str) -> None:
    found = read_column(values, NOW)
    assert (found.form, found.choices) == (form, ())
    assert found.examples[0] == (repr(values[0]), datetime.fromisoformat(expected).replace(tzinfo=UTC))
    assert found.dates == len(values)


def test_an_order_that_no_value_decides_is_left_to_who_asks() -> None:
    found = read_column(["05/01/2021 10:00", "06/01/2021 11:00"], NOW)
    january, may = (datetime(2021, month, day, 10, tzinfo=UTC) for month, day in ((1, 5), (5, 1)))
    shown = "'05/01/2021 10:00'"
    assert found.choices == (("day-first", shown, january), ("month-first", shown, may))
    told = read_column(["01/01/2021", "03/03/2021", "02/06/2021"], NOW)
    assert {(form, value, moment.month) for form, value, moment in told.choices} == {
        ("day-first", "'02/06/2021'", 6),
        ("month-first", "'02/06/2021'", 2),
    }
    mixed = read_column(["13/01/2021", "01/25/2021", "02/03/2021"], NOW)
    assert [(form, value) for form, value, _ in mixed.choices] == [("day-first", "'13/01/2021'"), ("month-first", "'01/25/2021'")]
    assert {form for form, *_ in read_column(["21-01-14", "21-01-15"], NOW).choices} == {"day-first", "year-first"}


@pytest.mark.parametrize("values", [["44237.65", "44238.2493518"], [44237.65, 44239], ["44237,65"], ["2021-02-10", "44237.65"]])
def test_a_spreadsheets_days_are_only_read_where_told(values: list[object]) -> None:
    (choice,) = read_column(values, NOW).choices
    assert choice == ("excel", repr(values[-1 if len(values) == 2 and values[0] == "2021-02-10" else 0]), choice[2])
    assert choice[2] == datetime(2021, 2, 10, 15, 36, tzinfo=UTC)
    told = read_column(values, NOW, "excel")
    assert (told.form, told.unreadable, told.choices) == ("excel", 0, ())


def test_a_form_that_is_given_overrules() -> None:
    assert parse_time("05.01.2021 10:00", "%d.%m.%Y %H:%M") == datetime(2021, 1, 5, 10, tzinfo=UTC)
    assert parse_time("2021-05-01", "%Y-%d-%m") == datetime(2021, 1, 5, tzinfo=UTC)
    assert parse_time("1610665854000", "ms") == MOMENT == parse_time(1610665854, "s")
    assert parse_time("1610665854000", "s") is None
    assert parse_time("44210.965902777778", "excel") == MOMENT
    for form in ("%d.%m.%Y", "%c", "day-first", "month-first", "year-first", "excel", "s", "ms", "us", "ns"):
        check_form(form)
    for form in ("%H:%M", "dd.mm.yyyy", "%m/%Y", "Excel", "%Q"):
        with pytest.raises(InputError, match="is no form of a whole date"):
            check_form(form)


def test_a_column_without_dates_has_no_reading_to_choose() -> None:
    assert read_column(["", None, "nan"], NOW).dates == 0
    bad = read_column(["1970-01-01", "lately", "2021-01-14"], NOW)
    assert (bad.dates, bad.unreadable, bad.bad, bad.choices) == (3, 2, "'1970-01-01'", ())
    assert read_column([NOW + timedelta(days=2)], NOW).unreadable == 1


@given(
    st.datetimes(FIRST_TWEET.replace(tzinfo=None), NOW.replace(tzinfo=None)),
    st.sampled_from(["%d/%m/%Y %H:%M", "%m-%d-%Y %I:%M %p"]),
)
def test_a_day_is_read_as_it_was_written_or_not_at_all(moment: datetime, form: str) -> None:
    written = moment.strftime(form)
    found = read_column([written], NOW)
    expected = moment.replace(second=0, microsecond=0, tzinfo=UTC)
    if found.choices:
        assert expected in {read for *_, read in found.choices}
    else:
        assert parse_time(written, found.form) == expected or moment.date() >= NOW.date()


def test_long_gaps_take_no_time() -> None:
    assert parse_time("10:00" + " " * 90 + "x") is None
    assert parse_time("14 Jan 2021" + " " * 60 + "\t10:00") == datetime(2021, 1, 14, 10, tzinfo=UTC)
