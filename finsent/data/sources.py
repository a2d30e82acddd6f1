"""Where rows come from: files, folders, globs and datasets of the Hub, resolved and checked before anything is written."""

import difflib
import glob
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from finsent.config import Source
from finsent.data.contract import Rejection
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

    def choose(self, found: Sequence[str], where: str) -> dict[str, str]:
        """Role to column, of those that are there.

        Raises:
            InputError: a required column is missing, or one that is read occurs twice.
        """
        for role, column in self.required.items():
            if column not in found:
                raise InputError(
                    f"{where}: there is no column {column!r} for the {_ROLES[role]}. "
                    f"Columns: {_listed(found)}.{_nearest(column, found)}"
                )
        chosen = self.required | {role: column for role, column in self.optional.items() if column in found}
        for column in chosen.values():
            if list(found).count(column) > 1:
                raise InputError(f"{where}: the column {column!r} occurs {list(found).count(column)} times. Rename all but one.")
        return chosen


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, or one split of a Hub dataset."""

    name: str
    """Name of the source in reports and in the column `source`."""
    label: str
    """Name in the quarantine, which says the file too where a source has several."""
    uri: str
    """Path, or `hf://owner/name`."""
    format: str
    """csv, tsv, jsonl, parquet or hub."""
    compression: str | None = None
    """gzip, zstd or None."""
    source: Source | None = None
    """The source as configured, where the format needs it (Hub datasets)."""


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
        InputError: nothing there, nothing of a known format, or a kind of address that is not understood.
    """
    if source.uri.startswith(HUB):
        name = source.name or source.uri.removeprefix(HUB).rstrip("/").rsplit("/", 1)[-1]
        return (SourceFile(name, name, source.uri, "hub", source=_pin(source)),)
    if "://" in source.uri:
        raise InputError(
            f"{source.uri!r}: this kind of address is not understood. Give a file, a folder, a glob or {HUB}owner/name."
        )
    paths = _paths(source.uri)
    files = []
    for path in paths:
        stem, file_format, compression = _kind(path, source.format)
        name = source.name or stem
        files.append(
            SourceFile(
                name, f"{name}:{path.name}" if len(paths) > 1 and source.name else name, str(path), file_format, compression
            )
        )
    return tuple(files)


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


def _paths(uri: str) -> list[Path]:
    path = Path(uri).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(item for item in path.rglob("*") if item.is_file() and _ending(item) in FORMATS)
        if not inside:
            raise InputError(f"folder {uri!r} holds no file that ends in {_listed(list(FORMATS))} (or .gz, .zst after it).")
        return inside
    if glob.has_magic(uri):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - pathlib's own takes no absolute pattern
        matches = sorted(Path(match) for match in found if Path(match).is_file())
        if not matches:
            raise InputError(f"no file matches {uri!r}. Check the pattern and the working folder.")
        return matches
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    raise InputError(f"there is no file {uri!r}. Check the path.{_nearest(path.name, siblings)}")


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _kind(path: Path, asked: str) -> tuple[str, str, str | None]:
    """Name without endings, format, compression."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    plain = Path(path.stem if compression else path.name)
    ending = plain.suffix.lower()
    if asked != "auto":
        return plain.stem, asked, compression
    if ending not in FORMATS:
        raise InputError(
            f"{str(path)!r}: the ending {ending or path.suffix!r} is not understood. Files end in {_listed(list(FORMATS))}, "
            "with .gz or .zst after it where compressed; or name the format in the source's `format`."
        )
    if FORMATS[ending] == "parquet" and compression:
        raise InputError(f"{str(path)!r}: Parquet compresses inside. Unpack the file and give the plain .parquet.")
    return plain.stem, FORMATS[ending], compression


def fingerprint_file(file: SourceFile) -> dict[str, str | int]:
    """What was read, for the record: address, size and SHA-256 of a file; the commit of a Hub dataset (see `_pin`)."""
    if file.format == "hub":
        return {"name": file.name, "uri": file.uri, "revision": (file.source.revision if file.source else None) or "not known"}
    path = Path(file.uri)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": file.name, "uri": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"


def _nearest(name: str, candidates: Sequence[str]) -> str:
    lowered = {candidate.casefold(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.casefold(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""
