"""Tells what a file is by its first bytes, where its name does not tell or tells something else."""

import codecs
import re
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

from finsent.data.sources import s3
from finsent.data.sources.archive import chosen_members, member_names
from finsent.data.sources.conversions import how_to_convert
from finsent.data.sources.line_forms import is_table, is_tweets
from finsent.data.sources.records import FORMATS, format_suffix
from finsent.errors import InputError

_HEAD: Final = 4096


class Content(NamedTuple):
    """What the first bytes tell; None where they tell nothing."""

    format: str | None = None
    """A format; `csv` of a table in text, `text` of one tweet a line."""
    compression: str | None = None
    lines: tuple[str, ...] = ()
    """The first ones of a text whose form they do not tell."""


_CONTENTS: Final = {
    b"PAR1": Content("parquet"),
    b"\xd0\xcf\x11\xe0": Content("excel"),
    b"\x1f\x8b": Content(None, "gzip"),
    b"\x28\xb5\x2f\xfd": Content(None, "zstd"),
    b"BZh91AY&SY": Content(None, "bz2"),
    b"\xfd7zXZ\x00": Content(None, "xz"),
}


def sniff(path: str) -> Content:
    """What a file is by its first bytes; of an object in a store nothing but what a ZIP archive holds.

    Raises:
        InputError: it is of a kind that is not read; the message says how to convert it.
    """
    if path.startswith(s3.S3):
        return _sniff_archive(path) if path.lower().endswith(".zip") else Content()
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return Content()  # the reader says what is wrong
    if head.startswith(b"PK\x03\x04"):
        return _sniff_archive(path)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not head.startswith(codecs.BOM_UTF32_LE):
        head = head.decode("utf-16", "ignore").encode("utf-8", "ignore")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if (found := how_to_convert(path, text)) is not None:
        kind, advice = found
        raise InputError(f"{path!r} is {kind} (it begins with {head[:16]!r}), which is not read. {advice}")
    return next((content for magic, content in _CONTENTS.items() if head.startswith(magic)), None) or _sniff_text(text)


def _sniff_text(text: bytes) -> Content:
    first = text.partition(b"\n")[0]
    if re.match(rb"\[\s*[\[{\]]|\{\s*[\"}]|window\.YTD\.", text):
        return Content("json")
    if b"\x00" in first:
        return Content()
    whole = text if len(text) < _HEAD // 2 or b"\n" not in text else text.rpartition(b"\n")[0]  # the last line may be cut
    lines = tuple(line for line in whole.decode("utf-8", "replace").splitlines() if line.strip())
    if is_table(lines):
        return Content("csv")
    return Content("text" if is_tweets(lines) else None, lines=lines)


def _sniff_archive(path: str) -> Content:
    import pyarrow as pa

    try:
        names = member_names(path)
    except (zipfile.BadZipFile, OSError, pa.ArrowException):
        return Content()
    if any(name.startswith("xl/") or name == "content.xml" for name in names):
        return Content("excel")
    chosen = chosen_members(names)
    return Content(FORMATS.get(format_suffix(chosen[0]), "csv") if chosen else "csv", "zip")
