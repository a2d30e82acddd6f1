"""Reads the file in a ZIP archive, on disk or in an object store."""

import logging
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from finsent.data.sources import s3
from finsent.data.sources.records import FORMATS, format_suffix
from finsent.errors import InputError, format_names, one_line

_log = logging.getLogger(__name__)


def is_member(name: str) -> bool:
    """Whether a name in an archive is that of a file for us: no folder, nothing hidden, no `__MACOSX`."""
    return not name.endswith("/") and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def member_names(uri: str) -> list[str]:
    """Names in an archive.

    Raises:
        BadZipFile, OSError, ArrowException: it is none, or cannot be read.
    """
    with _open_archive(uri) as archive:
        return archive.namelist()


def chosen_members(names: Sequence[str]) -> list[str]:
    """Those that could be read: the only file, or those whose endings say so, past a README and what systems put beside it."""
    members = [name for name in names if is_member(name)]
    return members if len(members) < 2 else [name for name in members if format_suffix(name) in FORMATS] or members


def open_member(uri: str) -> Any:
    """The file of an archive that is read.

    Raises:
        InputError: there are several, none, or it asks for a password.
        BadZipFile, OSError, ArrowException: it cannot be read.
    """
    archive = _open_archive(uri)  # its directory stands at its end, where a stream does not get first
    names = [name for name in archive.namelist() if is_member(name)]
    chosen = chosen_members(names)
    if len(chosen) != 1:
        packed = PurePath(uri).name if uri.startswith(s3.S3) else uri
        raise InputError(
            f"{uri!r} is a ZIP archive of {len(chosen)} files ({format_names(chosen)}), and one of a single file is read. Unpack "
            f"it and give the folder: python -m zipfile -e {shlex.quote(packed)} {shlex.quote(f'{packed}.d')}"
        )
    if others := [name for name in names if name != chosen[0]]:
        _log.warning("%r: of the archive %r is read, not %s", uri, chosen[0], format_names(others))
    try:
        return archive.open(chosen[0])
    except (RuntimeError, NotImplementedError) as error:  # RuntimeError: it asks for a password
        raise InputError(f"{uri!r} cannot be unpacked here: {one_line(error)}. Unpack it, and give the file.") from error


def _open_archive(uri: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(s3.open_object(uri, random_access=True)[0] if uri.startswith(s3.S3) else uri)
