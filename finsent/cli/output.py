"""How results look: one JSON object for scripts; tables and sections by rich on a terminal, as plain aligned text in a pipe."""

import dataclasses
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click
from pydantic import BaseModel

from finsent.errors import escape_control

if TYPE_CHECKING:  # rich is imported where it is used: `finsent --help` does without it
    from rich.console import RenderableType

    Renderable: TypeAlias = RenderableType
else:
    Renderable = Any

# rows of a rich.box.Box, of which only the rule below the header shows; ASCII, so that no encoding can mangle it
_HEADER_RULE: Final = "    \n    \n -  \n" + "    \n" * 5
_UNCUT: Final = 1 << 16  # columns of a pipe: no line is wrapped or cut there


def show(value: Renderable) -> None:
    """Print to stdout: with bold and colour, wrapped to the width, on a terminal (NO_COLOR and TERM=dumb hold); else plain.

    What comes from outside is escaped here and in the parts below: a tweet must not set the window's title or hide a line.
    """
    if isinstance(value, str) or not sys.stdout.isatty():
        click.echo(as_text(value))
        return
    from rich.console import Console

    # texts hold any character: nothing in them is markup. crop=False: the terminal itself breaks commands and paths,
    # so that they can be copied in one piece
    Console(markup=False, emoji=False, highlight=False).print(value, crop=False)


def note(text: str) -> None:
    """Tell on stderr what goes on; stdout is for the result."""
    click.echo(escape_control(text), err=True)


def as_text(value: Renderable) -> str:
    """The same without escape codes and of any width; no line ends in spaces."""
    if isinstance(value, str):
        return escape_control(value)
    from rich.console import Console

    target = io.StringIO()
    console = Console(
        file=target, width=_UNCUT, color_system=None, force_terminal=False, markup=False, emoji=False, highlight=False
    )
    console.print(value)
    return "\n".join(escape_control(line.rstrip()) for line in target.getvalue().removesuffix("\n").split("\n"))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, indent: int = 2) -> Renderable:
    """Aligned columns, numbers to the right. On a narrow terminal texts are folded within their column."""
    from rich.box import Box
    from rich.padding import Padding
    from rich.table import Table

    cells = [[_cell(value) for value in row] for row in rows]
    built = Table(box=Box(_HEADER_RULE, ascii=True), show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, header in enumerate(headers):
        column = [str(row[index]) for row in cells]
        numeric = bool(column) and all(_is_number(cell) for cell in column if cell != "-")
        built.add_column(escape_control(header), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in cells:
        built.add_row(*row)
    return Padding(built, (0, 0, 0, indent), expand=False)


def key_values(pairs: Iterable[tuple[str, object]], *, indent: int = 2) -> Renderable:
    """`name  value` lines with the values in one column, each left whole, so that it can be copied."""
    from rich.cells import cell_len, set_cell_size

    items = [(escape_control(name), _cell_line(value)) for name, value in pairs]
    width = max((cell_len(name) for name, _ in items), default=0)
    return lines(*(f"{' ' * indent}{set_cell_size(name, width)}  {value}" for name, value in items))


def section(title: str, *bodies: Renderable) -> Renderable:
    """A bold title and what stands below it."""
    from rich.text import Text

    return lines(Text(escape_control(title), style="bold", no_wrap=True, overflow="ignore"), *bodies)


def lines(*parts: Renderable) -> Renderable:
    """Parts below one another; empty strings are left out."""
    from rich.console import Group

    return Group(*_parts(parts))


def stack(*blocks: Renderable) -> Renderable:
    """Blocks with an empty line between them; empty strings are left out."""
    from rich.console import Group

    parts = _parts(blocks)
    return Group(*(part for index, block in enumerate(parts) for part in (("", block) if index else (block,))))


def status_word(word: str) -> Renderable:
    """`ok`, `warn` or `fail` in its colour."""
    from rich.text import Text

    return Text(word, style={"ok": "green", "warn": "yellow", "missing": "yellow", "fail": "red"}.get(word, ""))


def paragraph(text: str) -> Renderable:
    """Prose, broken between words on a terminal. Other strings are left whole, so that commands and paths can be copied."""
    from rich.text import Text

    return Text(escape_control(text))


def to_json(value: Any) -> str:
    """One line of JSON in ASCII: exact, fit for any encoding, and without a character that acts on a terminal."""
    return json.dumps(plain(value)).replace("\x7f", "\\u007f")


def _parts(items: Iterable[Renderable]) -> list[Renderable]:
    from rich.text import Text

    return [
        Text(escape_control(item), no_wrap=True, overflow="ignore") if isinstance(item, str) else item
        for item in items
        if item != ""
    ]


def _cell(value: object) -> Any:
    from rich.text import Text

    return value if isinstance(value, Text) else Text(_cell_line(value))


def _cell_line(value: object) -> str:
    """A value's text on one line: one with line breaks could pass for several rows."""
    return escape_control(cell_text(value).replace("\n", "\\n"))


def plain(value: Any) -> Any:
    """Any result of a step in JSON's types. NaN and infinities become null: JSON has none.

    Raises:
        TypeError: a type without an obvious JSON form.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return _plain_container(value)


def _plain_container(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def cell_text(value: object) -> str:
    """One value as text: thousands separators, 4 decimals, yes or no, `-` for None and NaN."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def shorten(text: str, width: int = 90) -> str:
    """One line of at most `width` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def with_interval(value: float, interval: object) -> str:
    """`0.8123 [0.79, 0.83]`, or the bare value without an interval."""
    if not isinstance(interval, Mapping):
        return f"{value:.4f}"
    return f"{value:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True
