"""Which texts a serving request asks about, whichever form it has."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.errors import InputError
from finsent.models.serving_request import read_request, request_texts

ANSWERED: dict[str, tuple[Any, list[object]]] = {
    "a list": ({"inputs": ["a", None, 1, "\ud83d"]}, ["a", None, 1, "\ud83d"]),
    "one text": ({"inputs": "a"}, ["a"]),
    "an empty text": ({"instances": ""}, [""]),
    "an empty list": ({"inputs": []}, []),
    "parameters beside it": ({"inputs": ["a"], "params": {"top_k": 1}}, ["a"]),
    "columns": ({"inputs": {"id": ["7", "8"], "text": ["a", None]}}, ["a", None]),
    "one row": ({"inputs": {"id": "7", "text": "a"}}, ["a"]),
    "a lone column": ({"inputs": {"tweet": ["a", "b"]}}, ["a", "b"]),
    "rows": ({"instances": [{"text": "a"}, {"id": "8"}]}, ["a", None]),
    "records": ({"dataframe_records": [{"id": 7, "text": ["a"]}, {"id": 8, "text": {"b": 1}}]}, [["a"], {"b": 1}]),
    "rows without names": ({"inputs": [["a"], ["b"]]}, ["a", "b"]),
    "a list among texts": ({"inputs": ["a", ["b"]]}, ["a", ["b"]]),
    "split": ({"dataframe_split": {"index": [5, 9], "columns": ["id", "text"], "data": [["7", "a"], ["8", None]]}}, ["a", None]),
    "split without names": ({"dataframe_split": {"data": [["a"], ["b"]]}}, ["a", "b"]),
    "split without rows": ({"dataframe_split": {"columns": ["text"], "data": []}}, []),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "null": ({"inputs": None}, "inputs is null, not a text"),
    "a number": ({"instances": 5}, "instances is a number, not a text"),
    "several columns": (
        {"inputs": {"id": ["7"], "tweet": ["a"]}},
        "the columns 'id', 'tweet'; the one with the texts must be named 'text'",
    ),
    "several values": ({"inputs": [["7", "a"]]}, "several without names"),
    "no columns": ({"inputs": {}}, "inputs has no column"),
    "two forms": ({"inputs": ["a"], "instances": ["a"]}, "this one has 'inputs', 'instances'"),
    "no form": ({"messages": [{"role": "user", "content": "a"}]}, "this one has 'messages'"),
    "nothing": ({}, "this one has none"),
    "not an object": (["a"], "the request is a list, not an object"),
    "records that are none": ({"dataframe_records": {"text": "a"}}, "`dataframe_records` is of the type dict, not a list"),
    "split that is none": ({"dataframe_split": ["a"]}, "`dataframe_split` has no list of rows"),
    "split twice named": ({"dataframe_split": {"columns": ["text", "text"], "data": [["a", "b"]]}}, "names a column twice"),
    "split ragged": ({"dataframe_split": {"columns": ["text"], "data": [["a", "b"]]}}, "more or fewer values than columns"),
    "split of odd names": ({"dataframe_split": {"columns": "text", "data": [["a"]]}}, "no list of names"),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_each_form_gives_its_values_row_for_row(name: str) -> None:
    request, values = ANSWERED[name]
    assert read_request(json.dumps(request)) == values


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused_with_the_reason(name: str) -> None:
    request, reason = REFUSED[name]
    with pytest.raises(InputError) as refused:
        read_request(json.dumps(request))
    assert reason in str(refused.value)


@pytest.mark.parametrize("body", [b"", b'{"inputs": [', b'{"inputs": ["\xff"]}', b"[" * 100_000])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InputError, match="the request is no JSON"):
        read_request(body)


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda part: st.lists(part) | st.dictionaries(st.text(), part)
    )
)
def test_whatever_is_sent_is_answered_or_refused(value: Any) -> None:
    for form in ("inputs", "instances", "dataframe_split", "dataframe_records"):
        try:
            found = read_request(json.dumps({form: value}))
        except InputError:
            continue
        assert repr(request_texts({"text": found})) == repr(found), "what the server hands on is not read as another form"
