"""How results look: one JSON object for machines, plain aligned text for people."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def plain(value: Any) -> Any:
    """Anything a pipeline returns, as JSON's types. NaN and infinities become null: JSON has no words for them.

    Raises:
        TypeError: a type that has no obvious JSON form.
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
    raise TypeError(f"cannot say {type(value).__name__} in JSON")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, indent: int = 2) -> str:
    """Columns two spaces apart, numbers to the right. Put free text last: it is never padded."""
    cells = [[cell_text(value) for value in row] for row in rows]
    numeric = [
        bool(cells) and all(_is_number(row[column]) for row in cells if row[column] != "-") for column in range(len(headers))
    ]
    widths = [max(len(str(header)), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return (" " * indent + "  ".join(padded)).rstrip()

    rule = ["-" * width for width in widths]
    rule[-1] = rule[-1][:60]  # free text may be long
    return "\n".join([line(list(headers)), line(rule), *(line(row) for row in cells)])


def key_values(pairs: Iterable[tuple[str, object]], *, indent: int = 2) -> str:
    """`name  value` lines with the values in one column."""
    items = [(name, cell_text(value)) for name, value in pairs]
    width = max((len(name) for name, _ in items), default=0)
    return "\n".join(f"{' ' * indent}{name.ljust(width)}  {value}".rstrip() for name, value in items)


def section(title: str, *bodies: str) -> str:
    """A titled block, blocks set apart by an empty line when joined."""
    return "\n".join([title, *(body for body in bodies if body)])


def cell_text(value: object) -> str:
    """One value as text: counts with thousands separators, shares with 4 digits, nothing as `-`."""
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
