"""Which errors are held against a file's content."""

import pytest

from finsent.config import Source
from finsent.data.sources.arrivals import is_about_content
from finsent.data.sources.decode import read_error
from finsent.errors import InputError

DENIED = "When reading information for key 'a.csv' in bucket 'desk': AWS Error ACCESS_DENIED during GetObject operation: denied"
EXPIRED = "AWS Error UNKNOWN (HTTP status 400) during GetObject operation: ExpiredToken"


@pytest.mark.parametrize(
    ("uri", "error", "expected"),
    [
        ("in/a.csv", EOFError("Compressed file ended before the end-of-stream marker was reached"), True),
        ("in/a.csv", ZeroDivisionError("a bug"), True),
        ("in/a.csv", OSError(5, "Input/output error"), False),
        ("in/a.csv", MemoryError(), False),
        ("s3://desk/a.csv", EOFError("Compressed file ended before the end-of-stream marker was reached"), True),
        ("s3://desk/a.csv", OSError(DENIED), False),
        ("s3://desk/a.csv", OSError(EXPIRED), False),
        ("s3://desk/a.csv", OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28"), False),
        ("hf://me/tweets", ValueError("Unknown split 'valid'"), False),
    ],
)
def test_what_is_held_against_the_content(uri: str, error: Exception, expected: bool) -> None:
    assert is_about_content(Source(uri=uri), error) is expected
    told = read_error(uri, error)
    told.__cause__ = error
    assert is_about_content(Source(uri=uri), told) is expected


def test_a_missing_column_is_the_contents_fault_everywhere() -> None:
    for uri in ("in/a.csv", "hf://me/tweets"):
        assert is_about_content(Source(uri=uri), InputError("there is no column 'text'"))
