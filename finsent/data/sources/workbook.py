"""Reads sheets of workbooks (xlsx, xls, xlsb, ods) by calamine."""

from collections.abc import Iterator, MutableMapping
from typing import Any

from finsent.data.sources.records import SourceFile
from finsent.errors import InputError, UnclearSourceError, format_names, one_line


def read_sheet(file: SourceFile, layout: MutableMapping[str, str]) -> Iterator[list[Any]]:
    """Rows of the sheet that is named, or of the only one that has any; rows that are empty are left out.

    The sheet's name is put into `layout`.

    Raises:
        InputError: no workbook, no such sheet, or several with rows.
    """
    import python_calamine as calamine

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
    for row in book.get_sheet_by_name(name).to_python(skip_empty_area=True):
        if any(value not in ("", None) for value in row):
            yield [None if value == "" else value for value in row]
