"""Tells columns that hold the ids of tweets from those that only look so: row numbers, and ids that were rounded. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from finsent.data.validation.row_validation import Rejection, check_id
from finsent.errors import quoted

_NAMES: Final = ("tweetid", "idstr", "statusid", "tweetidstr", "messageid", "postid", "id")
"""Names of id columns without case and signs, the best first; an id of a conversation or an author is another thing."""
FEWEST_NUMBERS: Final = 5
"""Rows that show whether a column numbers them: of fewer, 1, 2 and 3 may well be ids."""
_FEWEST: Final = 3
_GOOD_PART: Final = 0.2
_NEARLY_ALL: Final = 0.9
_UNIQUE: Final = 0.98  # a file may hold a tweet twice
_AS_TEXT: Final = "write the column as text where the file is made"
_LONGEST: Final = 20
_LONG: Final = 18  # digits; a spreadsheet keeps 15 of them, JavaScript 16 or 17, and writes zeros for the rest


def likely_id_columns(columns: Sequence[str]) -> list[str]:
    """Columns that are called as those of tweets' ids are, the likeliest first."""
    plain = {column: re.sub(r"[^a-z0-9]", "", column.casefold()) for column in columns}
    return sorted((column for column, name in plain.items() if name in _NAMES), key=lambda column: _NAMES.index(plain[column]))


def is_good_part(count: int, rows: int) -> bool:
    """Whether so many of these rows show a fault of the column, and not of a few rows."""
    return count > _GOOD_PART * rows if count >= _FEWEST else count == rows > 1


def find_id_fault(ids: Sequence[str], rounded: Sequence[str], rows: int, *, may_be_numbers: bool = False) -> str | None:
    """What shows that a column of a file holds no ids of tweets; None if nothing does.

    Args:
        ids: Its ids, one for each row that has one.
        rounded: Those that were rejected since they are rounded.
        rows: Rows of the file.
        may_be_numbers: Accept 1, 2, 3 ...: the keys of a table are numbered like its rows.
    """
    if rounded and is_good_part(len(rounded), len(ids) + len(rounded)):
        return f"{len(rounded):,} of its {rows:,} rows have a rounded number, such as {quoted(rounded[0])}; {_AS_TEXT}"
    if len(ids) < FEWEST_NUMBERS:
        return None
    if len(ids[0]) >= _LONG or len(ids[-1]) >= _LONG:
        lost = [name for name in ids if _holds_a_float(name)]
        if len(lost) >= _NEARLY_ALL * len(ids):
            return f"nearly all end as rounded numbers do, such as {quoted(lost[0])}: their last digits are lost; {_AS_TEXT}"
    elif not may_be_numbers and len(ids) >= _NEARLY_ALL * rows and _are_row_numbers(ids, rows):
        return f"they number the rows from {min(ids, key=int)}, and the next file would have the same"
    return None


def find_id_column(columns: Mapping[str, Sequence[object]]) -> tuple[str | None, str]:
    """The column that looks like the ids of tweets, going by sample values of each, and why; None and why not.

    Values that repeat rule a column out: for all rows of a file that is what makes an id, for a sample it is a good sign.
    """
    why = "no column is called as ids are (id, tweet_id, id_str, status_id)"
    for column in sorted(likely_id_columns(list(columns)), key=lambda column: column != "id"):  # `id` is read unless told
        checked = [check_id(value) for value in columns[column]]
        ids = [found for found in checked if isinstance(found, str)]
        rounded = [str(value) for value, found in zip(columns[column], checked, strict=True) if isinstance(found, Rejection)]
        fault = find_id_fault(ids, rounded, len(checked))
        if ids and fault is None and len(set(ids)) >= _UNIQUE * len(ids):
            return column, f"{column!r}: its name, and {len(set(ids))} different values in {len(ids)} rows"
        why = f"{column!r} holds no ids: {fault or 'values repeat' if ids or rounded else 'it is empty'}"
    return None, why


def _holds_a_float(name: str) -> bool:
    """Whether a long whole number ends in zeros, or is what a float holds, as one in some 200 of tweets' ids is."""
    return _LONG <= len(name) <= _LONGEST and name.isdecimal() and (name.endswith("00") or int(float(name)) == int(name))


def _are_row_numbers(ids: Sequence[str], rows: int) -> bool:
    """Whether these are distinct whole numbers from 0 or 1 to the number of rows, in any order."""
    longest = len(str(rows))
    if any(len(name) > longest or not name.isdecimal() for name in ids):
        return False
    numbers = set(map(int, ids))
    return len(numbers) == len(ids) and min(numbers) <= 1 and max(numbers) <= rows
