"""Parts of a self-contained page: everything inline, nothing loaded from elsewhere, every text escaped."""

import base64
import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2430; background: #fff; max-width: 62rem; margin: 2rem auto;
padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.quiet { color: #5d636e; } figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; }
img { width: 29rem; max-width: 100%; height: auto; } table { border-collapse: collapse; margin: .6rem 0; }
.wide { overflow-x: auto; } th, td { padding: .25rem .8rem; border-bottom: 1px solid #dfe2e7; text-align: right; }
th:first-child, td:first-child, th.text, td.text { text-align: left; } th { font-weight: 600; color: #5d636e; }
td { font-variant-numeric: tabular-nums; vertical-align: top; } td.text p { margin: 0 0 .3rem; }
.long { overflow-wrap: anywhere; } .lead { font-size: 1.05rem; } .bad { color: #b42318; font-weight: 600; }
.verdict { border: 1px solid #dfe2e7; border-left: .5rem solid #8a8f98; padding: .4rem 1rem; margin: 1rem 0;
background: #f7f8fa; }
.verdict h2 { margin: .3rem 0; font-size: 1.25rem; } .verdict ul { margin: .3rem 0 .6rem; padding-left: 1.2rem; }
.verdict.yes { border-left-color: #1a7f4b; } .verdict.no { border-left-color: #b42318; }
.pass, .fail, .missing { font-weight: 600; white-space: nowrap; } .pass { color: #1a7f4b; } .fail { color: #b42318; }
.missing { color: #8a5a00; } details { margin: .6rem 0; } summary { cursor: pointer; color: #2b6cb0; }
figure.broad { display: block; } figure.broad img { width: 58rem; }
pre { overflow-x: auto; background: #f7f8fa; padding: .6rem .8rem; font-size: .85rem; line-height: 1.4; }
@media (max-width: 600px) { body { margin: 1rem auto; padding: 0 .6rem; } table { font-size: .8rem; line-height: 1.35; }
th, td { padding: .2rem .35rem; } td.text { min-width: 5.5rem; } td.text:last-child { min-width: 9rem; }
.rules tr { display: flex; flex-wrap: wrap; border-bottom: 1px solid #dfe2e7; } .rules td { border: 0; }
.rules tr:first-child { display: none; } .rules td.text:last-child { flex-basis: 100%; } }
"""

# without it a telephone lays the page out as wide as a desk's and shrinks it
_VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
_SIGNS = {"pass": "✓ pass", "fail": "✗ FAIL", "missing": "? MISSING"}


class Markup(str):
    """HTML that is put into a page as it is; every other text is escaped."""

    __slots__ = ()


def page(title: str, sections: Iterable[str]) -> str:
    """The whole document; `sections` are HTML."""
    head = f'<meta charset="utf-8">{_VIEWPORT}<title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(sections)}</body></html>\n'


def write(path: Path, document: str) -> None:
    """Write a page; a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(document, encoding="utf-8")
    part.replace(path)


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def status(of: str) -> Markup:
    """A rule's outcome (`pass`, `fail`, `missing`): told by sign and word, the colour repeats it."""
    return Markup(f'<span class="{escape(of)}">{escape(_SIGNS.get(of, of))}</span>')


def listing(items: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{markup(item)}</li>" for item in items) + "</ul>"


def folded(summary: str, *parts: str) -> str:
    """What is shown on a click; `parts` are HTML."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, plain or of a kind: `quiet`, `lead`, `bad`."""
    return f'<p class="{kind}">{markup(text)}</p>' if kind else f"<p>{markup(text)}</p>"


def markup(text: str) -> str:
    """The text as HTML; what stands between backticks is code."""
    return text if isinstance(text, Markup) else re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, text: Collection[int] = (), empty: str = "Not measured."
) -> str:
    """A table whose first column and columns `text` (from 0) are set to the left, all others to the right."""
    if not rows:
        return paragraph(empty)

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = (' class="text"' if column in text else "" for column in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{kind}>{markup(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)) + "</tr>"

    return f'<div class="wide"><table>{line("th", heads)}{"".join(line("td", row) for row in rows)}</table></div>'


def figure(caption: str, file: Path, *, broad: bool = False) -> str:
    """A PNG file as part of the page; a broad one takes the whole width."""
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    opening = '<figure class="broad">' if broad else "<figure>"
    return f'{opening}{image}<figcaption class="quiet">{escape(caption)}</figcaption></figure>'


def quote(text: str, length: int = 160) -> Markup:
    """A tweet on one line, shortened; its writing direction ends with it."""
    flat = " ".join(text.split())
    shown = flat if len(flat) <= length else flat[: length - 1] + "…"
    return Markup(f'<bdi class="long">{escape(shown)}</bdi>')


def name(text: str) -> Markup:
    """A dotted name, broken between its parts."""
    return Markup(f"<code>{escape(text).replace('.', '.<wbr>').replace('_', '_<wbr>').replace('=', '=<wbr>')}</code>")


def code(text: str) -> Markup:
    """An address or a hash, broken anywhere rather than too wide."""
    return Markup(f'<code class="long">{escape(text)}</code>')
