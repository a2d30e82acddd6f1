"""Tells what a local file is by its first bytes, where its name does not tell or tells something else."""

import re
import zipfile
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from finsent.data.sources.decode import is_member
from finsent.data.sources.records import FORMATS
from finsent.errors import InputError

_HEAD: Final = 4096
_CONVERSIONS: Final = {
    b"SQLite format 3": ("an SQLite database", "give its URL: sqlite:///FILE --query 'SELECT text, label FROM tweets'"),
    b"\x80\x03": ("a pickle", _PANDAS := "python -c \"import pandas; pandas.read_{kind}('FILE').to_parquet('FILE.parquet')\""),
    b"\x80\x04": ("a pickle", _PANDAS),
    b"\x80\x05": ("a pickle", _PANDAS),
    b"ARROW1": ("a Feather (Arrow) file", _PANDAS),
    b"ORC": ("an ORC file", _PANDAS),
    b"<?xml": ("XML", _PANDAS),
    b"<": ("HTML or XML", "python -c \"import pandas; pandas.read_html('FILE')[0].to_csv('FILE.csv')\""),
    b"Obj\x01": ("an Avro file", "fastavro FILE > FILE.jsonl"),
}
_KINDS: Final = {"a pickle": "pickle", "a Feather (Arrow) file": "feather", "an ORC file": "orc", "XML": "xml"}


class Content(NamedTuple):
    """What the first bytes tell; None where they tell nothing."""

    format: str | None = None
    compression: str | None = None


_CONTENTS: Final = {
    b"PAR1": Content("parquet"),
    b"\xd0\xcf\x11\xe0": Content("excel"),
    b"\x1f\x8b": Content(None, "gzip"),
    b"\x28\xb5\x2f\xfd": Content(None, "zstd"),
    b"BZh91AY&SY": Content(None, "bz2"),
    b"\xfd7zXZ\x00": Content(None, "xz"),
}


def sniff(path: str) -> Content:
    """What a file is by its first bytes.

    Raises:
        InputError: it is of a kind that is not read; the message says how to convert it.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return Content()  # the reader says what is wrong
    if head.startswith(b"PK\x03\x04"):
        return _sniff_archive(path)
    for magic, content in _CONTENTS.items():
        if head.startswith(magic):
            return content
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, (kind, advice) in _CONVERSIONS.items():
        # a file of text may begin with these letters: ORCL is a ticker, and a column
        if text.startswith(magic) and (magic != b"ORC" or b"\x00" in head):
            command = advice.format(kind=_KINDS.get(kind, "")).replace("FILE", PurePath(path).name)
            raise InputError(f"{path!r} is {kind} (it begins with {head[:16]!r}), which is not read. Convert it: {command}")
    if re.match(rb"\[\s*[\[{\]]|\{\s*[\"}]|window\.YTD\.", text):
        return Content("json")
    first = text.partition(b"\n")[0]
    return Content("text" if b"\x00" not in first and any(mark in first for mark in (b",", b"\t", b";", b"|")) else None)


def _sniff_archive(path: str) -> Content:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return Content()
    if any(name.startswith("xl/") or name == "content.xml" for name in names):
        return Content("excel")
    suffixes = {PurePath(name).suffix.lower() for name in names if is_member(name)}
    return Content(FORMATS.get(suffixes.pop(), "csv") if len(suffixes) == 1 else None, "zip")
