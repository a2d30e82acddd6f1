"""Cleans texts before they are stored: undoes byte literals, escapes written out and mojibake, and masks handles.

Mojibake is UTF-8 decoded with a Western single-byte encoding (`â€¦` for an ellipsis). ftfy detects it (Speer 2019,
doi:10.5281/zenodo.2591652); a repair is accepted only if it is lossless, which is checked here by damaging the result again.
"""

import ast
import json
import re
from typing import Final, Literal, NamedTuple

from finsent.data.validation.row_validation import Rejection, check_text
from finsent.text import URL, normalise

EncodingFlag = Literal["mojibake repaired", "mojibake", "replacement character"]
"""State of a text's encoding: repaired; left as it is, since a repair would be a guess; not repairable (U+FFFD)."""

FLAG_SEPARATOR: Final = ", "
BYTE_LITERAL: Final = "byte literal"
"""Text in the form of Python bytes, `b'...'`, left as it is: it is cut short or no UTF-8."""
BYTE_LITERAL_UNDONE: Final = "byte literal undone"
ESCAPES_UNDONE: Final = "escapes undone"
"""`\\n`, `\\"` or `\\u2019` written out, as JSON writes them."""
CONTROL_CHARACTERS: Final = "control characters"
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # not tab and line ends

_TELLING: Final = re.compile(r"""\\[nu"']|:\\/\\/""")
"""Escapes that show how a text was written. Others alone do not: people write `w\\/`, and LaTeX has `\\to`."""
_OTHER_WRITING: Final = re.compile(r"\b[A-Za-z]:\\|\\\\\w|\\[bf]")
"""A Windows path, or what no tweet has as an escape."""
_SINGLE_QUOTE: Final = re.compile(r"(?<!\\)\\'")
_UNICODE_ESCAPE: Final = re.compile(r"\\u[0-9A-Fa-f]{4}")

_WRONG_CODECS: Final = frozenset({"latin-1", "windows-1252", "sloppy-windows-1252"})
"""Codecs whose misuse is repaired. The repair is unique: what two of them can encode, they encode to the same bytes."""


class RepairedText(NamedTuple):
    """A text after `repair_mojibake`, and the flag of its row."""

    text: str
    flag: EncodingFlag | None


class RepairedForm(NamedTuple):
    """A text after `undo_escapes`, and the flag of its row."""

    text: str
    flag: str | None


def text_flags(text: str, *noticed: str | None) -> str | None:
    """What is noticed about a text, as its row is flagged: its form, its encoding, and control characters, which stay in it."""
    found = [flag for flag in (*noticed, CONTROL_CHARACTERS if _CONTROL.search(text) else None) if flag is not None]
    return FLAG_SEPARATOR.join(found) or None


def undo_escapes(text: str) -> RepairedForm:
    """Undo the writing of a text as a Python bytes literal or with JSON's escapes, if writing it so again gives the same text.

    A text with any backslash that is no such escape stays as it is, and so does a Windows path.
    """
    if text.startswith(("b'", 'b"')):
        plain = _undo_byte_literal(text)
        return RepairedForm(text, BYTE_LITERAL) if plain is None else RepairedForm(plain, BYTE_LITERAL_UNDONE)
    if "\\" not in text or not _TELLING.search(text) or _OTHER_WRITING.search(text):
        return RepairedForm(text, None)
    as_written = _SINGLE_QUOTE.sub("'", text)
    try:
        plain = json.loads(f'"{as_written}"', strict=False)
        plain.encode()
    except (ValueError, RecursionError):
        return RepairedForm(text, None)
    return (
        RepairedForm(plain, ESCAPES_UNDONE) if plain.strip() and _escaped_again(as_written, plain) else RepairedForm(text, None)
    )


def _undo_byte_literal(text: str) -> str | None:
    try:
        data = ast.literal_eval(text)
        plain = data.decode() if isinstance(data, bytes) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return plain if plain and plain.strip() and repr(data) == text else None


def _escaped_again(written: str, plain: str) -> bool:
    """Whether each escape in `written` is how JSON writes its character, capital hex digits aside."""
    again = [json.dumps(plain, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)]
    same = _UNICODE_ESCAPE.sub(lambda found: found[0].lower(), written)
    return same in again or same in [text.replace("/", "\\/") for text in again]  # PHP escapes every slash


def repair_mojibake(text: str) -> RepairedText:
    """Repair mojibake if that is lossless: repeating the wrong decoding must give the same text, to the character.

    The whole text is repaired, or nothing: with characters that no wrong decoding makes (such as an emoji), or with lost bytes,
    the text stays as it is and is flagged. Nested mojibake is repaired in full.
    """
    if text.isascii():
        return RepairedText(text, None)
    from ftfy.badness import is_bad

    if "\ufffd" in text:
        return RepairedText(text, "replacement character")
    if not is_bad(text):
        return RepairedText(text, None)
    repaired = _reverse_wrong_decoding(text)
    return RepairedText(text, "mojibake") if repaired is None else RepairedText(repaired, "mojibake repaired")


def _reverse_wrong_decoding(text: str) -> str | None:
    """The text before the wrong decoding, or None where that is not certain."""
    from ftfy import TextFixerConfig, fix_encoding_and_explain

    # without the steps that guess lost bytes
    config = TextFixerConfig(
        restore_byte_a0=False, replace_lossy_sequences=False, decode_inconsistent_utf8=False, fix_c1_controls=False
    )
    repaired, steps = fix_encoding_and_explain(text, config)
    names = [step.parameter for step in steps or ()]
    again = repaired
    for wrong, right in reversed(list(zip(names[::2], names[1::2], strict=True))):
        if wrong not in _WRONG_CODECS:
            return None
        try:
            again = again.encode(right).decode(wrong)
        except UnicodeError:
            return None
    return repaired if repaired != text and again == text else None


def model_text(value: object, max_characters: int, *, masked: bool) -> str | Rejection:
    """The text that a model is given for a row, or why the row is rejected: the same in tables, commands and serving.

    Args:
        value: The row's text as it came.
        max_characters: `data.max_characters`.
        masked: Handles are given as `@user` (`data.mask_handles`).
    """
    checked = check_text(value, max_characters)
    return mask_handles(checked) if masked and isinstance(checked, str) else checked


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
