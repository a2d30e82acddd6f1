"""Columns of ids, and what only looks like one."""

import pytest

from finsent.data.validation.ids import find_id_column, find_id_fault, is_good_part, likely_id_columns

SNOWFLAKE = 1_347_210_559_923_109_888


def test_columns_called_as_ids_are_the_likeliest_first() -> None:
    columns = ["text", "ID", "conversation_id", "user_id", "Tweet Id", "id_str", "author.id", "status_id", "Unnamed: 0", "tweet"]
    assert likely_id_columns(columns) == ["Tweet Id", "id_str", "status_id", "ID"]


@pytest.mark.parametrize(
    ("ids", "rounded", "expected"),
    [
        (range(8), (), "number the rows from 0"),
        (range(1, 9), (), "number the rows from 1"),
        ([3, 1, 2, 0, 4, 6, 5, 7], (), "number the rows from 0"),
        ([1, 2, 3], (), None),
        ([2, 5, 11, 17, 23, 31, 40], (), None),
        ([1, 1, 2, 3, 4, 5, 6], (), None),
        ([SNOWFLAKE + 7001 * k for k in range(9)], (), None),
        ([(SNOWFLAKE + 7_001_000 * k) // 10_000 * 10_000 for k in range(9)], (), "end as rounded numbers do"),
        ([int(float(SNOWFLAKE + 7001 * k)) for k in range(9)], (), "end as rounded numbers do"),
        (["9" * (5000 + k) for k in range(9)], (), None),
        ([SNOWFLAKE + k for k in range(9)], ["1.35E+18"], None),
        ([SNOWFLAKE + k for k in range(9)], ["1.35E+18"] * 3, "rounded number, such as '1.35E+18'"),
        ([], ["1350000000000000000.0"] * 2, "rounded number"),
        ([f"tag:{k}" for k in range(9)], (), None),
        ([], (), None),
    ],
)
def test_what_shows_that_a_column_holds_no_ids(ids: list[object], rounded: list[str], expected: str | None) -> None:
    names = [str(name) for name in ids]
    found = find_id_fault(names, rounded, len(names) + len(rounded))
    assert (found is None) if expected is None else (found is not None and expected in found)


def test_keys_of_a_table_may_be_numbered() -> None:
    names = [str(number) for number in range(1, 9)]
    assert find_id_fault(names, (), 8, may_be_numbers=True) is None
    assert find_id_fault(names, (), 80) is None, "most rows have none"


def test_a_good_part_is_not_a_few_rows() -> None:
    assert [is_good_part(count, rows) for count, rows in [(2, 2), (3, 3), (3, 14), (300, 1000)]] == [True] * 4
    assert not any(is_good_part(count, rows) for count, rows in [(0, 0), (1, 1), (1, 2), (2, 4), (3, 15), (200, 1000)])


def test_the_column_of_ids_is_found_and_why() -> None:
    snowflakes = [SNOWFLAKE + 7001 * k for k in range(9)]
    column, why = find_id_column({"id": list(range(9)), "tweet_id": snowflakes, "text": ["up"] * 9})
    assert column == "tweet_id"
    assert "9 different values in 9 rows" in why
    assert find_id_column({"id": snowflakes, "tweet_id": snowflakes})[0] == "id", "it is read unless told otherwise"
    assert find_id_column({"text": ["up"]})[0] is None
    assert "values repeat" in find_id_column({"status_id": ["a", "a", "b"]})[1]
    assert "rounded" in find_id_column({"id_str": ["1.35E+18"] * 4})[1]
    assert "it is empty" in find_id_column({"ID": [None, ""]})[1]
