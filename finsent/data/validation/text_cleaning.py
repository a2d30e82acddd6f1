"""Cleans texts before they are stored or given to a model: what `text_repair` undoes, and masked handles."""

import re
from typing import Final, NamedTuple

from finsent.data.validation.row_validation import Rejection, check_text
from finsent.data.validation.text_repair import MOJIBAKE, MOJIBAKE_REPAIRED, repair_mojibake, repair_text
from finsent.text import URL, normalise

WHOLE_TAKEN: Final = "whole text taken"
"""The text was cut short, and stood whole beside it."""


class CleanText(NamedTuple):
    """A text as it is stored but for handles, and the flags of its row."""

    text: str
    flags: tuple[str, ...]


def clean_text(value: object, max_characters: int, *, repaired: bool, whole: str | None = None) -> CleanText | Rejection:
    """The text of a row, repaired, or what is wrong with it: one rule for labelled tweets, the inbox, evaluation and serving.

    Args:
        value: The row's text as it came.
        max_characters: `data.max_characters`.
        repaired: Undo what can be undone without loss (`data.repair_mojibake`); else mojibake is flagged only.
        whole: The whole of a text that was cut short; left aside where it is no text that a row may have.
    """
    given = check_text(value, max_characters)
    if isinstance(given, Rejection):
        return given
    text, flags = given, tuple[str, ...]()
    if whole is not None and isinstance(check_text(whole, max_characters), str):
        text, flags = whole, (WHOLE_TAKEN,)
    if not repaired:
        flag = repair_mojibake(text).flag
        return CleanText(text, flags if flag is None else (*flags, MOJIBAKE if flag == MOJIBAKE_REPAIRED else flag))
    plain, undone = repair_text(text)
    checked = plain if plain == text else check_text(plain, max_characters)  # of a literal, b'https://...', nothing may be left
    return checked if isinstance(checked, Rejection) else CleanText(checked, flags + undone)


def model_text(value: object, max_characters: int, *, repaired: bool, masked: bool) -> str | Rejection:
    """The text that a model is given for a row, or why the row is rejected: the same in tables, commands and serving.

    Args:
        value: The row's text as it came.
        max_characters: `data.max_characters`.
        repaired: See `clean_text`.
        masked: Handles are given as `@user` (`data.mask_handles`).
    """
    clean = clean_text(value, max_characters, repaired=repaired)
    if isinstance(clean, Rejection):
        return clean
    return mask_handles(clean.text) if masked else clean.text


MASK: Final = "@user"

_LINK: Final = re.compile(URL.pattern, re.IGNORECASE)  # URL itself is for text in lower case
_AT: Final = r"(?:[@＠﹫]|&(?:amp;)*(?:#0*64|#[xX]0*40|commat);)"
# the at sign in any width or as an entity; inside, invisible marks that `normalise` drops
_HANDLE: Final = re.compile(rf"(?<![\w@＠﹫]){_AT}\w+(?:[\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]+\w+)*")
_ESCAPE: Final = r"\\+(?:x[0-9a-f]{2}|u[0-9a-f]{4})"
_RAW_HANDLE: Final = re.compile(
    rf"(?:{_AT}|(?<!\\)\\+u0040)(?:\w|{_ESCAPE})(?:[\w\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]|{_ESCAPE})*", re.IGNORECASE
)


_MOST_CHECKS: Final = 24
"""Of one word: a crafted word of a thousand handles that are none is left as it is."""


def mask_handles(text: str) -> str:
    """Replace each handle by `@user`; the text's identity (`text_id`) stays the same.

    A handle is what `normalise` takes for one: links are left whole, and an e-mail address is kept, since it is part of the
    identity. `RT @x:` becomes `RT @user:`.
    """
    if text.isascii() and "@" not in text and "&" not in text:
        return text
    spans = _handle_spans(text)
    masked = _mask(text, spans)
    # only entities and Unicode folding can turn text into a handle, or a handle into text
    if not spans or (text.isascii() and "&" not in text) or normalise(masked) == normalise(text):
        return masked
    return _mask_word_by_word(text)


def mask_raw_handles(text: str) -> str:
    """Replace handles in text that is only displayed: raw lines, bytes and quoted values, with escapes around handles.

    Anything after an at sign is masked, in links and addresses too: there is no identity to preserve.
    """
    return _RAW_HANDLE.sub(MASK, text)


def _handle_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each handle outside links."""
    spans, start = [], 0
    for begin, end in [*(link.span() for link in _LINK.finditer(text)), (len(text), len(text))]:
        spans += [(start + found.start(), start + found.end()) for found in _HANDLE.finditer(text[start:begin])]
        start = end
    return spans


def _mask(text: str, spans: list[tuple[int, int]]) -> str:
    parts, start = [], 0
    for begin, end in spans:
        parts += [text[start:begin], MASK]
        start = end
    return "".join([*parts, text[start:]])


def _mask_word_by_word(text: str) -> str:
    """Mask those that are still handles after folding: `Apple™@x` is `appletm@x`, which is none.

    Neither handles nor links reach over white space, so a word is judged by itself: the work is linear in the text.
    """
    masked = "".join(_mask_word(word) for word in re.split(r"(\s+)", text))
    return masked if normalise(masked) == normalise(text) else text


def _mask_word(word: str) -> str:
    spans = _handle_spans(word)
    if not spans:
        return word
    identity, waiting, checks = normalise(word), [spans], 0
    while waiting and checks < _MOST_CHECKS:
        some, checks = waiting.pop(), checks + 1  # from right to left: what lies before keeps its place
        masked = _mask(word, some)
        if normalise(masked) == identity:
            word = masked
        elif len(some) > 1:
            waiting += [some[: len(some) // 2], some[len(some) // 2 :]]
    return word
