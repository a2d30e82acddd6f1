"""The texts of a serving request, whichever form it has. Pure, and without MLflow: it goes with every registered version."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from finsent.errors import InputError, format_names, shorten

TEXT: Final = "text"
"""Column that holds the texts, where there are several."""
_FORMS: Final = ("inputs", "instances", "dataframe_split", "dataframe_records")
_EXAMPLE: Final = 'Send {"inputs": ["...", "..."]}.'


def read_request(body: bytes | str) -> list[object]:
    """What is to be answered of a JSON request in one of MLflow's forms, one value to each answer, in their order.

    Raises:
        InputError: it is no such request, or it is not clear where its texts are.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8 are a ValueError
        raise InputError(f"the request is no JSON ({shorten(str(error), 100)}). {_EXAMPLE}") from error
    if not isinstance(request, dict):
        raise InputError(f"the request is {_kind(request)}, not an object with one of {', '.join(_FORMS)}. {_EXAMPLE}")
    found = [form for form in _FORMS if form in request]
    if len(found) != 1:
        there = format_names(found or sorted(request)) or "nothing"
        raise InputError(f"a request has one of {', '.join(_FORMS)}, and this one has {there}. {_EXAMPLE}")
    (form,) = found
    content = _split_columns(request[form]) if form == "dataframe_split" else request[form]
    if form == "dataframe_records" and not isinstance(content, list):
        raise InputError(f"`dataframe_records` is {_kind(content)}, not a list of objects such as {{{TEXT!r}: '...'}}.")
    return request_texts(content, form)


def request_texts(given: object, form: str = "the input") -> list[object]:
    """The values to be answered: of one text, a list of texts, columns by name, or rows as objects or as lists of one value.

    What is no text among them is for each row's own reason to say.

    Args:
        given: Plain lists, dictionaries and values, without arrays or frames.
        form: What the messages call it.

    Raises:
        InputError: there is no text, or it is not clear which column holds them.
    """
    if isinstance(given, str):
        return [given]
    if isinstance(given, Mapping):
        values = given[_text_column(list(given), form)]
        return list(values) if isinstance(values, list | tuple) else [values]
    if not isinstance(given, list | tuple):
        raise InputError(f"{form} is {_kind(given)}, not a text, a list of texts, or rows with a column {TEXT!r}. {_EXAMPLE}")
    if given and all(isinstance(row, Mapping) for row in given):
        name = _text_column(list(dict.fromkeys(key for row in given for key in row)), form)
        return [row.get(name) for row in given]
    if given and all(isinstance(row, list | tuple) for row in given):
        if any(len(row) != 1 for row in given):
            raise InputError(
                f"the rows of {form} have no value, or several without names, so none is known to be the text. {_EXAMPLE}"
            )
        return [row[0] for row in given]
    return list(given)


def _text_column(names: Sequence[Any], form: str) -> Any:
    """The column of that name, or the only one there is."""
    if TEXT in names:
        return TEXT
    if len(names) == 1:
        return names[0]
    there = f"the columns {format_names([str(name) for name in names])}" if names else "no column"
    raise InputError(f"{form} has {there}; the one with the texts must be named {TEXT!r}.")


def _split_columns(content: Any) -> Mapping[Any, list[object]] | list[object]:
    """Columns by name; rows where the columns have no names."""
    rows, names = (content.get("data"), content.get("columns")) if isinstance(content, dict) else (None, None)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise InputError(f"`dataframe_split` has no list of rows: send {{'columns': [{TEXT!r}], 'data': [['...'], ['...']]}}.")
    if names is None:
        return rows
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise InputError("`dataframe_split` has `columns` that are no list of names.")
    if len(set(names)) < len(names) or any(len(row) != len(names) for row in rows):
        raise InputError("`dataframe_split` names a column twice, or has rows of more or fewer values than columns.")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _kind(value: object) -> str:
    known = {
        "NoneType": "null",
        "int": "a number",
        "float": "a number",
        "bool": "true or false",
        "str": "a text",
        "list": "a list",
    }
    return known.get(type(value).__name__, f"of the type {type(value).__name__}")
