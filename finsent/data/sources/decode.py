"""Opens a source file as text: decompressed, hashed, decoded by its byte order mark, and split into bounded lines.

The bytes are hashed while they are read, so that the recorded hash is that of the bytes the rows came from.
"""

import bz2
import codecs
import gzip
import hashlib
import io
import itertools
import logging
import lzma
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, AnyStr, BinaryIO, Final, cast

from finsent.data.sources import s3
from finsent.data.sources.archive import open_member
from finsent.data.sources.records import SourceFile
from finsent.errors import FinsentError, InputError, one_line

_log = logging.getLogger(__name__)

MAX_LINE_CHARS: Final = 16 * 1024 * 1024
"""Characters of a line, and of a record over several lines. Bounds the memory that a file without line breaks takes."""
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
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, which it starts with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
_CONTROL: Final = bytes(code for code in range(32) if code not in b"\x01\t\n\r\f\x1b")  # \x01 is what Hive separates by


class _HashingReader(io.RawIOBase):
    """Bytes of `inner`, hashed as they are read."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.digest = hashlib.sha256()
        self.size = 0
        self.at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        n = int(self._inner.readinto(view))
        self.digest.update(view[:n])
        self.size += n
        self.at_end = self.at_end or (n == 0 and len(view) > 0)
        return n


@contextmanager
def open_text(file: SourceFile) -> "Iterator[tuple[io.BufferedReader[Any], str]]":
    """The file's bytes, decompressed and after the byte order mark, and their encoding.

    Size, SHA-256 and encoding are stored in `file.seen` if the file was read to its end.

    Raises:
        InputError: empty, not text, damaged, cut short, or access denied.
        ServiceError: a store that does not answer.
    """
    import pyarrow as pa

    file.seen.clear()
    try:
        with _open_hashed(file) as plain, _decompress(plain, file) as stream:
            encoding, mark = _detect_encoding(stream.peek(_HEAD)[:4])
            if file.source.encoding is not None:
                encoding = _given_encoding(file, encoding if mark else None)
            _require_text(stream.peek(_HEAD)[:_HEAD], encoding, file.uri)
            stream.read(mark)
            if mark and encoding != "utf-8":
                _log.warning("%r is not UTF-8 but %s by its byte order mark: read as that", file.uri, encoding)
            yield stream, encoding
            if plain.at_end:
                file.seen.update(bytes=plain.size, sha256=plain.digest.hexdigest(), encoding=encoding)
    except UnicodeDecodeError as error:
        why = "its byte order mark" if file.source.encoding is None else "--encoding"
        raise InputError(
            f"{file.uri!r} is {error.encoding} by {why}, and has bytes that are not ({error.reason}). It is "
            "damaged or cut short. Get the file again, or save it as UTF-8."
        ) from error
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError, pa.ArrowException) as error:
        raise read_error(file.uri, error) from error


def read_error(uri: str, error: Exception, otherwise: str | None = None) -> FinsentError:
    """The error to raise for one of the operating system, the store or a codec; `otherwise` describes any but access errors."""
    if uri.startswith(s3.S3) and ("AWS Error" in str(error) or isinstance(error, FileNotFoundError)):
        return s3.store_error(uri, error)
    if isinstance(error, FileNotFoundError):
        return InputError(f"{uri!r} is gone since it was looked up. Check the path, then run this again.")
    if isinstance(error, PermissionError):
        return InputError(f"{uri!r} may not be read: permission denied. Check the rights of the file and of its folders.")
    otherwise = otherwise or f"is damaged or cut short, or not what its name says: {one_line(error)}. Get the file again."
    return InputError(f"{uri!r} {otherwise}")


def fingerprint(file: SourceFile) -> dict[str, str | int]:
    """Size and SHA-256: of the bytes that were read, or, for a file not read as a stream (Parquet), of those there now.

    Raises:
        InputError: it cannot be read, or an object was replaced since it was read.
    """
    if "sha256" in file.seen:
        return dict(file.seen)
    etag = file.seen.get("etag")
    try:
        with _open_hashed(file) as plain:
            while plain.read(1 << 20):
                pass
            if etag is not None and etag != file.seen["etag"]:
                raise s3.ReplacedWhileRead(f"{file.uri!r} was replaced while it was read. Nothing was written; ingest it again.")
            return {**file.seen, "bytes": plain.size, "sha256": plain.digest.hexdigest()}
    except OSError as error:
        raise read_error(file.uri, error) from error


@contextmanager
def _open_hashed(file: SourceFile) -> Iterator[_HashingReader]:
    if not file.uri.startswith(s3.S3):
        with Path(file.uri).open("rb", buffering=0) as raw:
            yield _HashingReader(raw)
        return
    stream, etag = s3.open_object(file.uri, random_access=False)
    with stream:
        file.seen["etag"] = etag
        hashed = _HashingReader(stream)
        yield hashed
        if hashed.at_end:
            s3.check_unchanged(file.uri, etag)


@contextmanager
def _decompress(plain: io.RawIOBase, file: SourceFile) -> "Iterator[io.BufferedReader[Any]]":
    import pyarrow as pa

    compression = file.compression
    packed: io.BufferedReader[Any] = io.BufferedReader(plain, _CHUNK)
    if compression is None:
        yield packed
        return
    source: Any
    if compression == "zstd":
        source = pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")
    elif compression == "zip":
        source = open_member(file.uri)
    else:
        openers: dict[str, Callable[[Any], Any]] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
        source = openers[compression](packed)
    with io.BufferedReader(cast("io.RawIOBase", source), _CHUNK) as stream:
        yield stream


def _given_encoding(file: SourceFile, marked: str | None) -> str:
    """The encoding that was given, or the one by the byte order mark where it is of the same kind.

    Raises:
        InputError: the mark says another, or there is no such encoding.
    """
    given = _find_codec(str(file.source.encoding), file.uri)
    if marked is None and given in ("utf-16", "utf-32"):
        raise InputError(f"{file.uri!r} has no byte order mark. Say which {given} it is: --encoding {given}-le or {given}-be.")
    if marked is None:
        return given
    if not given.startswith(marked.removesuffix("-le").removesuffix("-be")):
        raise InputError(
            f"{file.uri!r} is {marked} by its byte order mark, and not {file.source.encoding!r}. Leave --encoding out."
        )
    return marked


def _find_codec(name: str, uri: str) -> str:
    """Python's name of the encoding that was given.

    Raises:
        InputError: there is none of that name.
    """
    try:
        # refuses codecs that are not of text, such as base64 and idna; empty bytes are not looked at
        bytes(4).decode(name, "surrogateescape")
    except (LookupError, ValueError) as error:
        raise InputError(f"{uri!r}: {name!r} (--encoding) is no encoding of text. Give one such as cp1252.") from error
    return codecs.lookup(name).name


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
        raise InputError(f"{uri!r} is not a text file but {kind or 'binary'}.{_about_nul(head, uri)}")


def _about_nul(head: bytes, uri: str) -> str:
    """What to do about a file that is no text, by the NUL bytes in it."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if 2 * max(even, odd) > len(head) // 2 and min(even, odd) <= max(even, odd) // 10:
        return f" It looks like UTF-16 without a byte order mark: --encoding utf-16-{'le' if odd > even else 'be'}."
    text = head.translate(None, b"\0")
    if len(text) < len(head) and len(text.translate(None, _CONTROL)) == len(text) and not head.startswith(b"\0"):
        name = shlex.quote(uri)
        return (
            f" It is text with NUL bytes, as where it was cut short: get it again, or take them out: tr -d '\\000' < {name} > "
            f"{shlex.quote(f'{uri}.csv')}"
        )
    return " Give UTF-8 text (UTF-16 and UTF-32 with a byte order mark), or a file whose name tells its format."


def _error_handler(encoding: str) -> str:
    """Invalid bytes become lone surrogates; in the wide encodings lone surrogates are what is invalid."""
    return "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"


def text_lines(stream: BinaryIO, encoding: str, uri: str) -> Iterator[str]:
    """Lines with their ends (newline, carriage return or both); bytes invalid in the encoding become lone surrogates.

    Raises:
        InputError: a line of more than `MAX_LINE_CHARS` characters.
    """
    text = io.TextIOWrapper(stream, encoding=encoding, errors=_error_handler(encoding), newline="")
    yield from _bounded_lines(text.readline, uri)


def byte_lines(stream: BinaryIO, encoding: str, uri: str) -> Iterator[bytes]:
    """Lines, ended by a newline, as UTF-8; lone surrogates of other encodings stay, and are invalid in it.

    Raises:
        InputError: a line of more than `MAX_LINE_CHARS` bytes.
    """
    if encoding == "utf-8":
        yield from _bounded_lines(stream.readline, uri)
        return
    wide = io.TextIOWrapper(stream, encoding=encoding, errors=_error_handler(encoding), newline="\n")
    yield from _bounded_lines(lambda size: wide.readline(size).encode("utf-8", "surrogatepass"), uri)


def _bounded_lines(readline: Callable[[int], AnyStr], uri: str) -> Iterator[AnyStr]:
    for number in itertools.count(1):
        line = readline(MAX_LINE_CHARS + 1)
        if not line:
            return
        if len(line) > MAX_LINE_CHARS:
            raise InputError(
                f"{uri!r}, line {number}: more than {MAX_LINE_CHARS >> 20} Mi characters without a line break. Give one tweet a "
                "line; convert a JSON array to JSON Lines."
            )
        yield line
