"""Jinja environment of the pages and cards: templates, filters, embedded PNG files, atomic writes."""

import base64
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from finsent.errors import escape_control
from finsent.files import atomic_write
from finsent.labels import LABELS
from finsent.reporting import summaries

NOT_RECORDED: Final = "not recorded"


@cache
def environment() -> Environment:
    """Templates of finsent/reporting/templates. HTML is autoescaped, Markdown is not; an undefined value is an error."""
    env = Environment(
        loader=PackageLoader("finsent.reporting"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {
        "breakable": breakable,
        "cell": markdown_cell,
        "fmt": format,
        "interval": summaries.format_interval,
        "listed": listed,
        "number": number,
        "one_line": one_line,
        "p_value": summaries.format_p_value,
        "prose": prose,
        "score": summaries.format_score,
        "share": share,
    }
    env.globals |= {"LABELS": LABELS, "summaries": summaries}
    return env


def render(template: str, **values: Any) -> str:
    """The rendered template, runs of blank lines reduced to one.

    Control, bidi and invisible characters of tweets and names are shown as escapes: they would reorder the text around them.
    """
    return escape_control(re.sub(r"\n{3,}", "\n\n", environment().get_template(template).render(values)))


def write_page(path: Path, document: str) -> None:
    """Write a page atomically: readers see the old one or the new one."""
    atomic_write(path, document)


def embed_png(file: Path) -> str:
    """A PNG file as a data URI, so that the page loads nothing from elsewhere."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def prose(text: str) -> Markup:
    """Text as HTML; what stands between backticks is set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped above


def one_line(text: str, length: int = 160) -> str:
    """Text on one line, cut to `length` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


def breakable(name: str) -> Markup:
    """A dotted name that a narrow column may break after `.`, `_` and `=`."""
    return Markup(re.sub(r"([._=])", r"\1<wbr>", str(escape(name))))  # noqa: S704 - escaped above


def number(value: object) -> str:
    """A count with thousands separators, or that it was not recorded."""
    return f"{value:,}" if isinstance(value, int | float) else NOT_RECORDED


def share(value: float | None) -> str:
    """A share of 1 in per cent, or that it was not recorded."""
    return NOT_RECORDED if value is None else f"{value:.1%}"


def listed(values: Mapping[str, object] | Iterable[object] | None, most: int = 20) -> str:
    """The first values of a list or mapping, and how many more there are."""
    if values is None:
        return NOT_RECORDED
    items = (
        [f"{key}: {value}" for key, value in values.items()] if isinstance(values, Mapping) else [str(value) for value in values]
    )
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def markdown_cell(value: object) -> str:
    """A value as a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")
