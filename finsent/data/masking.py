"""Handles out of sight: `@user` in place of each, where `data.mask_handles` asks for it."""

import re
from typing import Final

from finsent.text import URL, normalise

MASK: Final = "@user"

_LINK: Final = re.compile(URL.pattern, re.IGNORECASE)  # there the text is folded already
_AT: Final = r"(?:[@＠﹫]|&(?:amp;)*(?:#0*64|#[xX]0*40|commat);)"
# a handle as people write it: the at sign in any width or as an entity, invisible marks inside that the identity form drops
_WRITTEN: Final = re.compile(rf"(?<![\w@＠﹫]){_AT}\w+(?:[\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]+\w+)*")
_ESCAPE: Final = r"\\+(?:x[0-9a-f]{2}|u[0-9a-f]{4})"
_SHOWN: Final = re.compile(
    rf"(?:{_AT}|\\+u0040)(?:\w|{_ESCAPE})(?:[\w\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]|{_ESCAPE})*", re.IGNORECASE
)


def mask_handles(text: str) -> str:
    """The text with `@user` in place of each handle, everything else as it was; its identity (`text_id`) stays the same.

    A handle is what the identity form takes for one, and nothing besides: links are left whole, whatever they hold, and an
    e-mail address is kept, since it is part of a tweet's identity. `RT @x:` becomes `RT @user:`.
    """
    if text.isascii() and "@" not in text and "&" not in text:
        return text
    spans = _handles(text)
    masked = _mask(text, spans)
    # only entities and what Unicode folds can make a handle of what is none, or the other way round
    if not spans or (text.isascii() and "&" not in text) or normalise(masked) == normalise(text):
        return masked
    return _mask_one_by_one(text, spans)


def mask_shown(text: str) -> str:
    """The same for what is only shown to people: raw lines, bytes and values in quotes, where escapes stand around handles.

    Whatever follows an at sign is masked, in links and addresses too: there is no identity to keep.
    """
    return _SHOWN.sub(MASK, text)


def _handles(text: str) -> list[tuple[int, int]]:
    """Start and end of each handle outside links."""
    spans, start = [], 0
    for begin, end in [*(link.span() for link in _LINK.finditer(text)), (len(text), len(text))]:
        spans += [(start + found.start(), start + found.end()) for found in _WRITTEN.finditer(text[start:begin])]
        start = end
    return spans


def _mask(text: str, spans: list[tuple[int, int]]) -> str:
    for begin, end in reversed(spans):
        text = text[:begin] + MASK + text[end:]
    return text


def _mask_one_by_one(text: str, spans: list[tuple[int, int]]) -> str:
    """All but those that are no handle once the text is folded: `Apple™@x` is `appletm@x`."""
    identity = normalise(text)
    for span in reversed(spans):
        masked = _mask(text, [span])
        if normalise(masked) == identity:
            text = masked
    return text
