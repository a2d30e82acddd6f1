"""Mojibake: UTF-8 that someone decoded with a Western single-byte encoding (`â€¦` for an ellipsis). Undone only without loss.

Detection is ftfy's (Speer 2019, doi:10.5281/zenodo.2591652); whether a repair stands is checked here, by damaging it again.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from finsent.text import URL, normalise

EncodingFlag = Literal["mojibake repaired", "mojibake", "replacement character"]
"""What a text's encoding went through: undone; left as it is, since undoing it would be a guess; past undoing (U+FFFD)."""

_WRONG_CODECS: Final = frozenset({"latin-1", "windows-1252", "sloppy-windows-1252"})
"""Codecs whose misuse is undone. Between them no text has two readings: what they both can encode, they encode alike."""
_REPLACEMENT: Final = "\ufffd"


@dataclass(frozen=True, slots=True)
class RepairedText:
    """A text after `repair`, and what its row is flagged with."""

    text: str
    flag: EncodingFlag | None


def repair_mojibake(text: str) -> RepairedText:
    """The text with mojibake undone where that is lossless: repeating the wrong decoding gives what was there, to the character.

    All of the text is repaired, or nothing: where mojibake stands beside characters that no wrong decoding can have made (an
    emoji, say), or bytes were lost, the text stays as it is and is flagged. Mojibake of mojibake is undone to the ground.
    """
    if text.isascii():
        return RepairedText(text, None)
    from ftfy.badness import is_bad

    if _REPLACEMENT in text:
        return RepairedText(text, "replacement character")
    if not is_bad(text):
        return RepairedText(text, None)
    mended = _reverse_wrong_decoding(text)
    return RepairedText(text, "mojibake") if mended is None else RepairedText(mended, "mojibake repaired")


def _reverse_wrong_decoding(text: str) -> str | None:
    """What the text was before the wrong decoding, or None where that cannot be told for certain."""
    from ftfy import TextFixerConfig, fix_encoding_and_explain

    # without the steps that make up for lost bytes by guessing
    config = TextFixerConfig(
        restore_byte_a0=False, replace_lossy_sequences=False, decode_inconsistent_utf8=False, fix_c1_controls=False
    )
    mended, steps = fix_encoding_and_explain(text, config)
    names = [step.parameter for step in steps or ()]
    again = mended
    for wrong, right in reversed(list(zip(names[::2], names[1::2], strict=True))):
        if wrong not in _WRONG_CODECS:
            return None
        try:
            again = again.encode(right).decode(wrong)
        except UnicodeError:
            return None
    return mended if mended != text and again == text else None


# merged from finsent.data.validation.text_cleaning: Handles out of sight: `@user` in place of each, where `data.mask_handles` asks for it.

MASK: Final = "@user"

_LINK: Final = re.compile(URL.pattern, re.IGNORECASE)  # there the text is folded already
_AT: Final = r"(?:[@＠﹫]|&(?:amp;)*(?:#0*64|#[xX]0*40|commat);)"
# a handle as people write it: the at sign in any width or as an entity, invisible marks inside that the identity form drops
_HANDLE: Final = re.compile(rf"(?<![\w@＠﹫]){_AT}\w+(?:[\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]+\w+)*")
_ESCAPE: Final = r"\\+(?:x[0-9a-f]{2}|u[0-9a-f]{4})"
_RAW_HANDLE: Final = re.compile(
    rf"(?:{_AT}|\\+u0040)(?:\w|{_ESCAPE})(?:[\w\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]|{_ESCAPE})*", re.IGNORECASE
)


def mask_handles(text: str) -> str:
    """The text with `@user` in place of each handle, everything else as it was; its identity (`text_id`) stays the same.

    A handle is what the identity form takes for one, and nothing besides: links are left whole, whatever they hold, and an
    e-mail address is kept, since it is part of a tweet's identity. `RT @x:` becomes `RT @user:`.
    """
    if text.isascii() and "@" not in text and "&" not in text:
        return text
    spans = _handle_spans(text)
    masked = _mask(text, spans)
    # only entities and what Unicode folds can make a handle of what is none, or the other way round
    if not spans or (text.isascii() and "&" not in text) or normalise(masked) == normalise(text):
        return masked
    return _mask_one_by_one(text, spans)


def mask_raw_handles(text: str) -> str:
    """The same for what is only shown to people: raw lines, bytes and values in quotes, where escapes stand around handles.

    Whatever follows an at sign is masked, in links and addresses too: there is no identity to keep.
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
