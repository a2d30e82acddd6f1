"""Finds the files that a source stands for: paths, folders, globs, S3, Hub datasets and databases."""

import fnmatch
import glob
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Final

from finsent.config import Source
from finsent.data.sources import database, s3
from finsent.data.sources.line_forms import how_to_read_lines
from finsent.data.sources.records import COMPRESSIONS, FORMATS, TEXT_SUFFIX, SourceFile, format_suffix
from finsent.data.sources.sniffing import Content, sniff
from finsent.environ import absolute_path, is_url
from finsent.errors import InputError, did_you_mean, escape_invalid, format_names, shorten

_log = logging.getLogger(__name__)

HUB: Final = "hf://"
_SAME: Final = {("json", ".jsonl"), ("json", ".ndjson")}
"""Content and suffix that one reader reads."""


def resolve(source: Source) -> tuple[SourceFile, ...]:
    """Files of a source, in order of their paths.

    Raises:
        InputError: a blank address or name, nothing found, access denied, or an unknown kind of address or file.
    """
    if not holds_files(source):
        return (_resolve_whole(source),)
    left_out: list[str] = []
    if source.uri.startswith(s3.S3):
        paths = s3.find_objects(source.uri, left_out)
    else:
        paths = find_paths(source.uri, left_out, read_suffixes(source))
    if left_out:
        _log.warning(
            "%r: %d files are left out, whose endings are not read: %s", source.uri, len(left_out), format_names(left_out)
        )
    first, *others = (file_of(source, path, several=len(paths) > 1) for path in paths)
    return replace(first, left_out=tuple(map(escape_invalid, left_out))), *others


def require_one_class(files: Iterable[SourceFile]) -> None:
    """Check that no file is read as one class here and as another there (`label_value`).

    Raises:
        InputError: one is.
    """
    classes: dict[str, str] = {}
    for file in files:
        label = file.source.label_value
        if label is not None and classes.setdefault(os.path.realpath(file.uri), label) != label:
            other = classes[os.path.realpath(file.uri)]
            raise InputError(f"{file.uri!r} is given as {label} and as {other}. Each file has one class: check the patterns.")


def holds_files(source: Source) -> bool:
    """Whether the address stands for files, and not for a database's query or a dataset of the Hub.

    Raises:
        InputError: a blank address or name, or a query to what is no database.
    """
    uri = source.uri
    if not uri.strip():
        raise InputError(f"{uri!r} is not an address. Give a file, a folder, a glob or a URL; '.' reads the working folder.")
    if source.name is not None and not source.name.strip():
        raise InputError(f"{uri!r}: the name {source.name!r} (--name) is blank. Give another, or leave it out.")
    if source.name is not None and escape_invalid(source.name) != source.name:
        raise InputError(f"{uri!r}: the name {source.name!r} (--name) is not UTF-8. Give another, or leave it out.")
    is_database = is_url(uri) and not uri.startswith((HUB, s3.S3))
    if source.query is not None and not is_database:
        raise InputError(
            f"{uri!r} is not a database URL, and a query was given. Leave `query` (--query) out, or give a URL such as "
            "sqlite:///desk.db or postgresql+psycopg2://reader@host/desk."
        )
    return not is_database and not uri.startswith(HUB)


def _resolve_whole(source: Source) -> SourceFile:
    """The database's query or the Hub dataset."""
    if source.uri.startswith(HUB):
        name, source = source.uri.removeprefix(HUB).rstrip("/").rsplit("/", 1)[-1], _pin_revision(source)
    else:
        name = database.check_source(source)
    name = source.name or name
    return SourceFile(name, name, source.uri, "hub" if source.uri.startswith(HUB) else "sql", source)


def file_of(source: Source, path: str, *, several: bool) -> SourceFile:
    """One file of a source; `several`: it has others too.

    Raises:
        InputError: its ending is not understood.
    """
    told = source.format != "auto" or FORMATS.get(format_suffix(path)) == "parquet"
    told = told or (several and format_suffix(path) not in FORMATS)  # of many files, those of another kind are passed over
    content = Content() if told else sniff(path)
    stem, file_format, compression = _split_name(path, source.format, content)
    name = source.name or escape_invalid(stem)
    label = f"{name}:{escape_invalid(PurePath(path).name)}" if several and source.name else name
    return SourceFile(name, label, path, file_format, source, compression)


def read_suffixes(source: Source) -> Collection[str]:
    """Endings of the files of a folder that are read."""
    return (TEXT_SUFFIX,) if source.format == "text" else FORMATS


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


def find_paths(uri: str, left_out: list[str] | None = None, suffixes: Collection[str] = FORMATS) -> list[str]:
    """Paths of the files that a path, a folder or a glob stands for; `left_out` receives those of a folder that are not read.

    Of a folder files with these `suffixes` are.

    Raises:
        InputError: there is none, one is a broken link, or access is denied.
    """
    path = absolute_path(uri, "source") if uri.startswith(("~", "file:")) else Path(uri)
    try:
        if path.is_file():
            return [str(path)]
        if path.is_dir():
            return _files_below(path, uri, left_out, suffixes)
        if path.is_symlink():
            raise InputError(f"{uri!r} is a link to {str(path.readlink())!r}, which does not exist. Repair the link.")
        if glob.has_magic(uri):
            matches = [match for match in glob_paths(path, _fail) if _is_file(Path(match))]
            if not matches:
                raise InputError(f"no file matches {uri!r}. Check the pattern and the working folder.")
            return matches
        if path.exists():
            raise InputError(f"{uri!r} is not a file but a device, pipe or socket. Give a file.")
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"there is no file {uri!r}. Check the path.{did_you_mean(path.name, siblings)}")
    except OSError as error:
        raise InputError(
            f"{uri!r} cannot be accessed: {error.strerror} ({str(error.filename)!r}). Check path and permissions."
        ) from error


def glob_paths(pattern: Path, failed: Callable[[OSError], None]) -> list[str]:
    """What matches, in order. `**` enters no folder by a link, as Python's own does: two that lead back would take for ever.

    `failed` is told of folders below a `**` that cannot be listed.
    """
    parts = pattern.parts
    if "**" not in parts:
        return sorted(glob.glob(str(pattern)))  # noqa: PTH207 - pathlib's own takes no absolute pattern
    first = parts.index("**")
    above = Path(*parts[:first])
    tops = glob.glob(str(above)) if first else ["."]  # noqa: PTH207
    found = []
    for top in filter(os.path.isdir, tops):
        for root, folders, names in os.walk(top, onerror=failed):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(root).relative_to(top).parts
            found += [str(Path(root, name)) for name in names if _matches((*below, name), parts[first:])]
    return sorted(found)


def _matches(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    if not patterns or not parts:
        return not parts and all(pattern == "**" for pattern in patterns)
    hidden = parts[0].startswith(".") and not patterns[0].startswith(".")
    if patterns[0] == "**":
        return _matches(parts, patterns[1:]) or (not hidden and _matches(parts[1:], patterns))
    return not hidden and fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def _fail(error: OSError) -> None:  # os.walk skips what it may not read, and rows would be missing without notice
    raise error


def _files_below(folder: Path, uri: str, left_out: list[str] | None, suffixes: Collection[str]) -> list[str]:
    """Files of a known format below a folder; hidden files and folders are skipped."""
    found = [Path(root) / name for root, _, names in os.walk(folder, onerror=_fail) for name in names]
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    paths = sorted(path for path in visible if format_suffix(path) in suffixes and _is_file(path))
    if not paths:
        others = (
            f" It holds {format_names(sorted(str(path.relative_to(folder)) for path in visible), shown=5)}." if visible else ""
        )
        if TEXT_SUFFIX not in suffixes and any(format_suffix(path) == TEXT_SUFFIX for path in visible):
            others += " Files of one tweet a line: --format text, with --label CLASS=FOLDER for each class."
        raise InputError(
            f"folder {uri!r} holds no file that ends in {format_names(list(suffixes))} (or .gz, .zst after it).{others}"
        )
    if left_out is not None:
        left_out += sorted(str(path.relative_to(folder)) for path in set(visible) - set(paths))
    return [str(path) for path in paths]


def _is_file(path: Path) -> bool:
    """Whether this is a file; a broken link is an error."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{str(path)!r} is a link to {str(path.readlink())!r}, which does not exist. Repair or remove the link.")
    return path.is_file()


def plain_stem(path: PurePath) -> str:
    """The name without the suffixes of format and compression."""
    plain = PurePath(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    return plain.stem


def _split_name(address: str, requested: str, content: Content) -> tuple[str, str, str | None]:
    """Name without suffixes, format and compression; `requested` is the source's `format`, `content` what its bytes tell."""
    path = PurePath(address)
    compression = COMPRESSIONS.get(path.suffix.lower())
    if content.compression is not None and content.compression != compression:
        _log.warning("%r is compressed by %s: read as that", address, content.compression)
        return plain_stem(path), FORMATS.get(format_suffix(path), content.format or "csv"), content.compression
    plain = PurePath(path.stem if compression else path.name)
    if requested != "auto":
        return plain.stem, requested, compression
    suffix = plain.suffix.lower()
    held = _held(content, suffix)
    if held in ("parquet", "excel") and content.compression is None:
        compression = None  # a name that ends in .gz lies
    if held in ("parquet", "excel") and compression:
        raise InputError(
            f"{address!r} holds a file of the kind {held}, which is read unpacked only. Unpack it, and give that file."
        )
    if held is not None and held != FORMATS.get(suffix) and (held, suffix) not in _SAME:
        if held == "text":
            _log.warning("%r is read as one tweet a line (--format text)", address)
        elif suffix in FORMATS or held == "csv":
            _log.warning("%r is read as %s, by what it holds (--format)", address, held)
        return plain.stem, held, compression
    if suffix not in FORMATS:
        raise InputError(_ending_error(address, suffix or path.suffix, content.lines))
    if FORMATS[suffix] == "parquet" and compression:
        raise InputError(f"{address!r}: Parquet compresses inside. Unpack the file and give the plain .parquet.")
    return plain.stem, FORMATS[suffix], compression


def _held(content: Content, suffix: str) -> str | None:
    """The format by what a file holds; that of text counts only where the ending does not say another."""
    if content.format == "csv" and suffix not in ("", TEXT_SUFFIX, ".dat") and FORMATS.get(suffix) != "excel":
        return None
    return None if content.format == "text" and suffix != TEXT_SUFFIX else content.format


def _ending_error(address: str, suffix: str, lines: Sequence[str]) -> str:
    if lines:
        shown = shorten(lines[0], 80)
        told = f"{address!r}: the ending {suffix!r} is not understood, and its lines, such as {shown!r}, are no table. "
        return told + how_to_read_lines(address, lines)
    return (
        f"{address!r}: the ending {suffix!r} is not understood. Files end in {format_names(list(FORMATS))}, with .gz or .zst "
        "after it where compressed. Name the format with --format."
    )
