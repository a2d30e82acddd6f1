"""From a file to lines of text: unpacked, decoded by its byte order mark, and never more of it in memory than a line.

What was read is hashed on its way, so that the record names the bytes that the rows came from.
"""

import codecs
import gzip
import hashlib
import io
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from finsent.data.sources import s3
from finsent.errors import InputError

if TYPE_CHECKING:
    from finsent.data.sources.resolve import SourceFile

_log = logging.getLogger(__name__)

MAX_LINE_CHARS: Final = 16 * 1024 * 1024
"""Characters of a line, and of a record over several. A tweet has a few hundred; a file without line breaks has them all."""
_HEAD: Final = 8192
_CHUNK: Final = 1 << 16
_MAGIC_NUMBERS: Final = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "ZIP (or Excel)",
    b"\x89PNG": "PNG",
    b"%PDF": "PDF",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"SQLite format 3": "SQLite",
    b"ARROW1": "Arrow",
    b"\xd0\xcf\x11\xe0": "Excel",
}
_BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
_CONTROL: Final = bytes(code for code in range(32) if code not in b"\t\n\r\f\x1b")


class _HashingReader(io.RawIOBase):
    """Bytes of `inner`, hashed as they go by."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.digest = hashlib.sha256()
        self.size = 0
        self.whole = False
        """Whether the end was reached."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        n = int(self._inner.readinto(view))
        self.digest.update(view[:n])
        self.size += n
        self.whole = self.whole or (n == 0 and len(view) > 0)
        return n


@contextmanager
def open_text(file: "SourceFile") -> "Iterator[tuple[io.BufferedReader[Any], str]]":
    """The file's bytes, unpacked and behind the byte order mark, and their encoding.

    What the file was (size, SHA-256, encoding) is noted in `file.seen` if it was read to its end.

    Raises:
        InputError: empty, not text, damaged, cut short, not permitted, or a store that gives no answer.
    """
    import pyarrow as pa

    file.seen.clear()
    try:
        with _open_hashed(file) as plain, _decompress(plain, file.compression) as stream:
            encoding, mark = _detect_encoding(stream.peek(_HEAD)[:4])
            _require_text(stream.peek(_HEAD)[:_HEAD], encoding, file.uri)
            stream.read(mark)
            if encoding != "utf-8":
                _log.warning("%r is not UTF-8 but %s by its byte order mark: read as that", file.uri, encoding)
            yield stream, encoding
            if plain.whole:
                file.seen.update(bytes=plain.size, sha256=plain.digest.hexdigest(), encoding=encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file.uri!r} is {error.encoding} by its byte order mark, and has bytes that are not ({error.reason}). It is "
            "damaged or cut short. Get the file anew, or save it as UTF-8."
        ) from error
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        raise InputError(read_error(file.uri, error)) from error


def read_error(uri: str, error: Exception) -> str:
    if uri.startswith(s3.S3) and ("AWS Error" in str(error) or isinstance(error, FileNotFoundError)):
        return s3.describe_error(uri, error)
    if isinstance(error, PermissionError):
        return f"{uri!r} may not be read: permission denied. Check the rights of the file and of its folders."
    return f"{uri!r} is damaged or cut short, or not what its name says: {error}. Get the file anew."


def fingerprint(file: "SourceFile") -> dict[str, str | int]:
    """Size and SHA-256 of the bytes: those that were read, or, where it has not been read as a stream, those there now.

    Raises:
        InputError: it cannot be read, or an object was replaced since it was read.
    """
    if "sha256" in file.seen:
        return dict(file.seen)
    before = dict(file.seen)
    try:
        with _open_hashed(file) as plain:
            while plain.read(1 << 20):
                pass
            if "etag" in before and before["etag"] != file.seen["etag"]:
                raise InputError(f"{file.uri!r} was replaced while it was read. Nothing was written; ingest it again.")
            return {**file.seen, "bytes": plain.size, "sha256": plain.digest.hexdigest()}
    except OSError as error:
        raise InputError(read_error(file.uri, error)) from error


@contextmanager
def _open_hashed(file: "SourceFile") -> Iterator[_HashingReader]:
    if not file.uri.startswith(s3.S3):
        with Path(file.uri).open("rb", buffering=0) as raw:
            yield _HashingReader(raw)
        return
    stream, etag = s3.open_stream(file.uri)
    with stream:
        file.seen["etag"] = etag
        hashed = _HashingReader(stream)
        yield hashed
        if hashed.whole:
            s3.check_unchanged(file.uri, etag)


@contextmanager
def _decompress(plain: io.RawIOBase, compression: str | None) -> "Iterator[io.BufferedReader[Any]]":
    import pyarrow as pa

    packed: io.BufferedReader[Any] = io.BufferedReader(plain, _CHUNK)
    if compression == "gzip":
        with io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=packed)), _CHUNK) as stream:
            yield stream
    elif compression == "zstd":
        source = pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")
        with io.BufferedReader(cast("io.RawIOBase", source), _CHUNK) as stream:
            yield stream
    else:
        yield packed


def _detect_encoding(head: bytes) -> tuple[str, int]:
    """Encoding by the byte order mark, and the mark's length."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    return "utf-8", 0


def _require_text(head: bytes, encoding: str, uri: str) -> None:
    if not head:
        raise InputError(f"{uri!r} is empty. Give a file with column names and rows.")
    kind = next((name for magic, name in _MAGIC_NUMBERS.items() if head.startswith(magic)), None)
    if encoding != "utf-8":
        head = head.decode(encoding, "ignore").encode("utf-8", "ignore")
    control = len(head) - len(head.translate(None, _CONTROL))
    if kind or control > max(1, len(head) // 100):
        raise InputError(
            f"{uri!r} is not a text file but {kind or 'binary'}. Give UTF-8 text (UTF-16 and UTF-32 with a byte order mark), or "
            "a file whose name tells its format."
        )


def text_lines(stream: BinaryIO, encoding: str, uri: str) -> Iterator[str]:
    """Lines with their ends (newline, carriage return or both), bytes that are not of the encoding as lone surrogates.

    Raises:
        InputError: a line of more than `LONGEST_LINE` characters.
    """
    # where UTF-8 is expected, wrong bytes become lone surrogates; in the wide encodings lone surrogates are what is wrong
    errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
    text = io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")
    number = 0
    while line := text.readline(MAX_LINE_CHARS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARS:
            raise InputError(_too_long(uri, number))
        yield line


def byte_lines(stream: BinaryIO, encoding: str, uri: str) -> Iterator[bytes]:
    """Lines, ended by a newline, as UTF-8; lone surrogates of other encodings stay, and are not valid in it.

    Raises:
        InputError: a line of more than `LONGEST_LINE` bytes.
    """
    if encoding != "utf-8":
        wide = io.TextIOWrapper(stream, encoding=encoding, errors="surrogatepass", newline="\n")
        stream = cast("BinaryIO", _Utf8Lines(wide))
    number = 0
    while line := stream.readline(MAX_LINE_CHARS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARS:
            raise InputError(_too_long(uri, number))
        yield line


class _Utf8Lines:
    """Lines of text as UTF-8."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def readline(self, size: int) -> bytes:
        return self._text.readline(size).encode("utf-8", "surrogatepass")


def _too_long(uri: str, number: int) -> str:
    return (
        f"{uri!r}, line {number}: more than {MAX_LINE_CHARS >> 20} Mi characters without a line break. That is no file of tweets, "
        "one to a line. A JSON array, for one, has to become JSON lines."
    )
