"""A card as a page, for those who look at it in MLflow."""

import re
from typing import Final

from finsent.evaluation import html

_HEADER: Final = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)


def card_page(markdown: str) -> str:
    """A card's Markdown as a self-contained HTML page; HTML in it is shown and not obeyed, its metadata is folded away."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    header = _HEADER.match(markdown)
    body = markdown[header.end() :] if header else markdown
    found = re.search(r"^# (.+)$", body, re.MULTILINE)
    title = found[1].replace("`", "") if found else "Model card"
    sections = [parser.render(body)]
    if header:
        sections.append(html.folded("Metadata of the card", f"<pre>{html.markup(header[1])}</pre>"))
    return html.page(title, sections)
