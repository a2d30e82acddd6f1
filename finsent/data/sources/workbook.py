"""Reads sheets of workbooks (xlsx, xls, xlsb, ods) by calamine."""

import re
import zipfile
import zlib
from collections.abc import Iterator, MutableMapping
from typing import Any, Final

from finsent.data.sources.records import SourceFile
from finsent.errors import InputError, UnclearSourceError, format_names, one_line

_MAX_CELLS: Final = 64 * 1024 * 1024
"""Of a sheet: calamine holds all between the first and the last filled one, some 32 bytes each, and ends the process without
memory."""
_MAX_UNPACKED: Final = 4 * 1024**3
_CHUNK: Final = 1 << 20
_REFERENCE: Final = re.compile(rb' r="([A-Z]{1,3})([0-9]{1,7})"')


def read_sheet(file: SourceFile, layout: MutableMapping[str, str]) -> Iterator[list[Any]]:
    """Rows of the sheet that is named, or of the only one that has any; rows that are empty are left out.

    The sheet's name is put into `layout`.

    Raises:
        InputError: no workbook, no such sheet, or several with rows.
    """
    import python_calamine as calamine

    _require_bounded(file.uri)
    try:
        book = calamine.CalamineWorkbook.from_path(file.uri)
    except (calamine.CalamineError, OSError, ValueError) as error:
        raise InputError(f"{file.uri!r} cannot be read as a workbook: {one_line(error)}. Save it as .xlsx or CSV.") from error
    name = file.source.sheet
    if name is None:
        filled = [sheet for sheet in book.sheet_names if book.get_sheet_by_name(sheet).total_height]
        if len(filled) > 1:
            raise UnclearSourceError(
                f"{file.uri!r} has several sheets with rows: {format_names(filled)}. Say which with --sheet NAME.",
                [{"sheet": sheet} for sheet in filled],
            )
        name = (filled or book.sheet_names)[0]
    if name not in book.sheet_names:
        raise InputError(f"{file.uri!r} has no sheet {name!r}. It has {format_names(book.sheet_names)}.")
    layout["sheet"] = name
    sheet = book.get_sheet_by_name(name)
    above = max(0, file.source.skip_rows - sheet.start[0]) if sheet.start else 0  # calamine leaves out empty rows at the top
    for row in sheet.to_python(skip_empty_area=True)[above:]:
        if any(value not in ("", None) for value in row):
            yield [None if value == "" else value for value in row]


def _require_bounded(uri: str) -> None:
    """Look at the cells of an .xlsx before calamine does, which takes memory for each cell of the rectangle that they span.

    Raises:
        InputError: its sheets are too large, mostly for a cell far from all others.
    """
    try:
        with zipfile.ZipFile(uri) as archive:
            if (unpacked := sum(item.file_size for item in archive.infolist())) > _MAX_UNPACKED:
                raise InputError(f"{uri!r} unpacks to {unpacked / 2**30:.0f} GiB, more than a workbook may. Save it as CSV.")
            for item in archive.infolist():
                if item.filename.startswith("xl/worksheets/") and item.filename.endswith(".xml"):
                    _require_small(archive, item, uri)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError):
        return  # calamine says what is wrong, or reads it: .xls is no archive


def _require_small(archive: zipfile.ZipFile, item: zipfile.ZipInfo, uri: str) -> None:
    width, height, kept = b"", 0, b""
    with archive.open(item) as sheet:
        while chunk := sheet.read(_CHUNK):
            cells = _REFERENCE.findall(kept + chunk)
            width = max((width, *(column for column, _ in cells)), key=lambda name: (len(name), name))
            height = max((height, *(int(row) for _, row in cells)))
            kept = chunk[-16:]
    columns = 0
    for letter in width:
        columns = 26 * columns + letter - 64
    if columns * height > _MAX_CELLS:
        raise InputError(
            f"{uri!r}: a sheet reaches to column {width.decode()} and row {height:,}, {columns * height:,} cells, most of them "
            "empty perhaps. Delete the rows and columns after the table, or save the sheet as CSV."
        )
