"""Finds the files that a source stands for: paths, folders, globs, S3, Hub datasets and databases."""

import glob
import logging
import os
from pathlib import Path, PurePath
from typing import Final

from finsent.config import Source
from finsent.data.sources import database, s3
from finsent.data.sources.records import COMPRESSIONS, FORMATS, SourceFile, format_suffix
from finsent.environ import absolute_path, is_url
from finsent.errors import InputError, did_you_mean, escape_invalid, format_names

_log = logging.getLogger(__name__)

HUB: Final = "hf://"


def resolve(source: Source) -> tuple[SourceFile, ...]:
    """Files of a source, in order of their paths.

    Raises:
        InputError: a blank address or name, nothing found, access denied, or an unknown kind of address or file.
    """
    uri = source.uri
    if not uri.strip():
        raise InputError(f"{uri!r} is not an address. Give a file, a folder, a glob or a URL; '.' reads the working folder.")
    if source.name is not None and not source.name.strip():
        raise InputError(f"{uri!r}: the name {source.name!r} (--name) is blank. Give another, or leave it out.")
    is_database = is_url(uri) and not uri.startswith((HUB, s3.S3))
    if source.query is not None and not is_database:
        raise InputError(
            f"{uri!r} is not a database URL, and a query was given. Leave `query` (--query) out, or give a URL such as "
            "sqlite:///desk.db or postgresql+psycopg2://reader@host/desk."
        )
    if uri.startswith(HUB):
        name = source.name or uri.removeprefix(HUB).rstrip("/").rsplit("/", 1)[-1]
        return (SourceFile(name, name, uri, "hub", _pin_revision(source)),)
    if is_database:
        database_name = database.check_source(source)
        name = source.name or database_name
        return (SourceFile(name, name, uri, "sql", source),)
    paths = s3.find_objects(uri) if uri.startswith(s3.S3) else _find_paths(uri)
    files = []
    for path in paths:
        stem, file_format, compression = _split_name(path, source.format)
        name = source.name or escape_invalid(stem)
        label = f"{name}:{escape_invalid(PurePath(path).name)}" if len(paths) > 1 and source.name else name
        files.append(SourceFile(name, label, path, file_format, source, compression))
    return tuple(files)


def _pin_revision(source: Source) -> Source:
    """The Hub dataset at the commit that its revision resolves to now, so that the recorded revision is the one read.

    Unchanged for a local folder, or where the Hub cannot be reached (the dataset may still be in the cache).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # re-exported from the Hub's HTTP client

    address = source.uri.removeprefix(HUB)
    if Path(address).is_dir():
        return source
    try:
        commit = HfApi().dataset_info(address, revision=source.revision).sha
    except (OSError, ValueError, HTTPError) as error:
        _log.warning("cannot resolve the commit of %r on the Hub (%s): recorded as configured", source.uri, type(error).__name__)
        return source
    return source.model_copy(update={"revision": commit or source.revision})


def _find_paths(uri: str) -> list[str]:
    path = absolute_path(uri, "source") if uri.startswith(("~", "file:")) else Path(uri)
    try:
        if path.is_file():
            return [str(path)]
        if path.is_dir():
            return _files_below(path, uri)
        if path.is_symlink():
            raise InputError(f"{uri!r} is a link to {str(path.readlink())!r}, which does not exist. Repair the link.")
        if glob.has_magic(uri):
            found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - pathlib's own takes no absolute pattern
            matches = sorted(Path(match) for match in found if _is_file(Path(match)))
            if not matches:
                raise InputError(f"no file matches {uri!r}. Check the pattern and the working folder.")
            return [str(match) for match in matches]
        if path.exists():
            raise InputError(f"{uri!r} is not a file but a device, pipe or socket. Give a file.")
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"there is no file {uri!r}. Check the path.{did_you_mean(path.name, siblings)}")
    except OSError as error:
        raise InputError(
            f"{uri!r} cannot be accessed: {error.strerror} ({str(error.filename)!r}). Check path and permissions."
        ) from error


def _files_below(folder: Path, uri: str) -> list[str]:
    """Files of a known format below a folder; hidden files and folders are skipped."""

    def fail(error: OSError) -> None:  # os.walk skips what it may not read, and rows would be missing without notice
        raise error

    found = [Path(root) / name for root, _, names in os.walk(folder, onerror=fail) for name in names]
    visible = (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    paths = sorted(path for path in visible if format_suffix(path) in FORMATS and _is_file(path))
    if not paths:
        raise InputError(f"folder {uri!r} holds no file that ends in {format_names(list(FORMATS))} (or .gz, .zst after it).")
    return [str(path) for path in paths]


def _is_file(path: Path) -> bool:
    """Whether this is a file; a broken link is an error."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{str(path)!r} is a link to {str(path.readlink())!r}, which does not exist. Repair or remove the link.")
    return path.is_file()


def _split_name(address: str, requested: str) -> tuple[str, str, str | None]:
    """Name without suffixes, format and compression; `requested` is the source's `format`."""
    path = PurePath(address)
    compression = COMPRESSIONS.get(path.suffix.lower())
    plain = PurePath(path.stem if compression else path.name)
    if requested != "auto":
        return plain.stem, requested, compression
    suffix = plain.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"{address!r}: the ending {suffix or path.suffix!r} is not understood. Files end in {format_names(list(FORMATS))}, "
            "with .gz or .zst after it where compressed; or name the format in the source's `format`."
        )
    if FORMATS[suffix] == "parquet" and compression:
        raise InputError(f"{address!r}: Parquet compresses inside. Unpack the file and give the plain .parquet.")
    return plain.stem, FORMATS[suffix], compression
