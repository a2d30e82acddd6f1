"""Where rows come from: files, folders, globs, object stores, databases and datasets of the Hub.

Resolved and checked before anything is written.
"""

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Final

from finsent.config import Source
from finsent.data import database, objects, unpacking
from finsent.data.contract import Rejection
from finsent.data.suggest import listed, nearest
from finsent.errors import InputError

_log = logging.getLogger(__name__)

FORMATS: Final = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
HUB: Final = "hf://"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as its source has it. `number` counts data rows from 1; `fault` says why a row could not be read."""

    number: int
    text: object = None
    label: object = None
    created_at: object = None
    id: object = None
    fault: Rejection | None = None


@dataclass(frozen=True)
class Wanted:
    """Columns asked for: what a row's `text`, `label`, `created_at` and `id` are called in the source."""

    required: dict[str, str]
    """Missing ones are an error."""
    optional: dict[str, str] = field(default_factory=dict)
    """Read where the source has them."""
    met: list[str] = field(default_factory=list, compare=False, repr=False)
    """All columns that were met while reading, each once."""

    def choose(self, found: Sequence[str], where: str) -> dict[str, str]:
        """Role to column, of those that are there.

        Raises:
            InputError: a required column is missing, or one that is read occurs twice.
        """
        known = set(self.met)  # files of 20,000 columns exist
        self.met.extend(column for column in dict.fromkeys(found) if column not in known)
        for role, column in self.required.items():
            if column not in found:
                raise InputError(
                    f"{where}: there is no column {column!r} for the {_ROLES[role]}. "
                    f"Columns: {listed(found)}.{nearest(column, found) or _other_delimiter(found)}"
                )
        chosen = self.required | {role: column for role, column in self.optional.items() if column in found}
        for column in chosen.values():
            if list(found).count(column) > 1:
                raise InputError(f"{where}: the column {column!r} occurs {list(found).count(column)} times. Rename all but one.")
        return chosen


def _other_delimiter(columns: Sequence[str]) -> str:
    """A word on a header that is one column because it is separated by something else."""
    if len(columns) == 1 and any(mark in columns[0] for mark in ";|"):
        return " Is it separated by something else than commas? Write it with commas, or with tabs as .tsv."
    return ""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, or one split of a Hub dataset."""

    name: str
    """Name of the source in reports and in the column `source`."""
    label: str
    """Name in the quarantine, which says the file too where a source has several."""
    uri: str
    """Path, `s3://bucket/key`, `hf://owner/name`, or a database's URL with its password masked."""
    format: str
    """csv, tsv, jsonl, parquet, hub or sql."""
    compression: str | None = None
    """gzip, zstd or None."""
    source: Source | None = None
    """The source as configured, where the format needs it (Hub datasets and databases)."""
    seen: dict[str, str | int] = field(default_factory=dict, compare=False, repr=False)
    """What reading found out about it, for `fingerprint_file`: filled in when it has been read to its end."""


_ROLES: Final = {"text": "tweet", "label": "label", "created_at": "time of writing", "id": "id"}


def labelled(source: Source) -> Wanted:
    """Columns of a labelled source; `created_at` is read where it is there, and required where it was named."""
    required = {"text": source.text, "label": source.label}
    if source.created_at is not None:
        return Wanted(required | {"created_at": source.created_at})
    return Wanted(required, {"created_at": "created_at"})


def resolve(source: Source) -> tuple[SourceFile, ...]:
    """Files of a source, in order of their paths.

    Raises:
        InputError: no address, an empty name, nothing there, nothing of a known format, no access, or a kind of address that is
            not understood.
    """
    if not source.uri.strip():
        raise InputError(f"{source.uri!r} is no address, and the folder that this runs in is not read unasked. Give '.' for it.")
    if source.name is not None and not source.name.strip():
        raise InputError(f"{source.uri!r}: the name {source.name!r} (--name) says nothing. Give another, or leave it out.")
    is_database = "://" in source.uri and not source.uri.startswith((HUB, objects.S3))
    if source.query is not None and not is_database:
        raise InputError(
            f"{source.uri!r} is no database's URL, and a query was given. Leave `query` (--query) out, or give a URL such as "
            "sqlite:///desk.db or postgresql+psycopg2://reader@host/desk."
        )
    if source.uri.startswith(HUB):
        name = source.name or source.uri.removeprefix(HUB).rstrip("/").rsplit("/", 1)[-1]
        return (SourceFile(name, name, source.uri, "hub", source=_pin(source)),)
    if is_database:
        database_name = database.check(source)
        name = source.name or database_name
        return (SourceFile(name, name, source.uri, "sql", source=source),)
    addresses = objects.find(source.uri, FORMATS) if source.uri.startswith(objects.S3) else _paths(source.uri)
    files = []
    for address in addresses:
        path = PurePath(address)
        stem, file_format, compression = _kind(address, source.format)
        name = source.name or _storable(stem)
        label = f"{name}:{_storable(path.name)}" if len(addresses) > 1 and source.name else name
        files.append(SourceFile(name, label, address, file_format, compression))
    return tuple(files)


def _storable(name: str) -> str:
    """A file's name as text that a table can hold: names are bytes, and need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _pin(source: Source) -> Source:
    """The Hub dataset at the commit that its revision stands for now, so that what is recorded is what is read.

    As configured where the Hub cannot be asked: a local folder, or a dataset read from the cache without a network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # that of whichever client the Hub's library uses

    address = source.uri.removeprefix(HUB)
    if Path(address).is_dir():
        return source
    try:
        commit = HfApi().dataset_info(address, revision=source.revision).sha
    except (OSError, ValueError, HTTPError) as error:
        # whether it can be read all the same shows when it is
        _log.warning("the commit of %r cannot be asked of the Hub (%s): recorded as configured", source.uri, type(error).__name__)
        return source
    return source.model_copy(update={"revision": commit or source.revision})


def _paths(uri: str) -> list[str]:
    path = Path(uri).expanduser()
    try:
        return [str(found) for found in _found(path, uri)]
    except OSError as error:
        raise InputError(
            f"{uri!r} cannot be looked at: {error.strerror} ({str(error.filename)!r}). Check path and permissions."
        ) from error


def _found(path: Path, uri: str) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = _inside(path)
        if not inside:
            raise InputError(f"folder {uri!r} holds no file that ends in {listed(list(FORMATS))} (or .gz, .zst after it).")
        return inside
    if path.is_symlink():
        raise InputError(f"{uri!r} is a link to {str(path.readlink())!r}, which is not there. Mend the link.")
    if glob.has_magic(uri):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - pathlib's own takes no absolute pattern
        matches = sorted(Path(match) for match in found if _is_there(Path(match)))
        if not matches:
            raise InputError(f"no file matches {uri!r}. Check the pattern and the working folder.")
        return matches
    if path.exists():
        raise InputError(f"{uri!r} is not a file but a device, pipe or socket. Give a file.")
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    raise InputError(f"there is no file {uri!r}. Check the path.{nearest(path.name, siblings)}")


def _inside(folder: Path) -> list[Path]:
    """Files of a known format below a folder, none that is hidden or in a hidden folder.

    One that cannot be looked at is an error, or its rows would be missing unseen.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = [Path(root) / name for root, _, names in os.walk(folder, onerror=refuse) for name in names]
    shown = (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(path for path in shown if _ending(path) in FORMATS and _is_there(path))


def _is_there(path: Path) -> bool:
    """Whether this is a file; a link that leads nowhere is an error."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{str(path)!r} is a link to {str(path.readlink())!r}, which is not there. Mend or remove the link.")
    return path.is_file()


def _ending(path: PurePath) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _kind(address: str, asked: str) -> tuple[str, str, str | None]:
    """Name without endings, format, compression."""
    path = PurePath(address)
    compression = COMPRESSIONS.get(path.suffix.lower())
    plain = PurePath(path.stem if compression else path.name)
    ending = plain.suffix.lower()
    if asked != "auto":
        return plain.stem, asked, compression
    if ending not in FORMATS:
        raise InputError(
            f"{address!r}: the ending {ending or path.suffix!r} is not understood. Files end in {listed(list(FORMATS))}, "
            "with .gz or .zst after it where compressed; or name the format in the source's `format`."
        )
    if FORMATS[ending] == "parquet" and compression:
        raise InputError(f"{address!r}: Parquet compresses inside. Unpack the file and give the plain .parquet.")
    return plain.stem, FORMATS[ending], compression


def fingerprint_file(file: SourceFile) -> dict[str, str | int]:
    """What was read, for the record. Ask once the file has been read to its end.

    A file: name, size, SHA-256 and, of text, encoding; an object also its ETag; a Hub dataset: its commit (see `_pin`); a
    database: hash of the query, number of rows and a hash of them that does not depend on their order.

    Raises:
        InputError: it cannot be read (any more), or the query has not been read to its end.
    """
    if file.format == "hub":
        return {"name": file.name, "uri": file.uri, "revision": (file.source.revision if file.source else None) or "not known"}
    if file.format == "sql" and file.source is not None:
        if "sha256" not in file.seen:
            raise InputError(f"{file.uri!r}: the query has not been read to its end, so there is no saying what was read.")
        return {"name": file.name, "uri": file.uri, "query_sha256": database.query_hash(file.source), **file.seen}
    uri = file.uri if file.uri.startswith(objects.S3) else _storable(PurePath(file.uri).name)
    return {"name": file.name, "uri": uri, **unpacking.fingerprint(file)}
