"""Undoes what programs did to a text on its way: doubled quotes, byte literals, escapes, HTML entities and mojibake.

Each is undone only where that is lossless: doing it again gives the text as it came, to the character. Otherwise the text stays,
and is flagged where a reader should know.

Mojibake is UTF-8 decoded with a Western single-byte encoding (`â€¦` for an ellipsis). ftfy detects it (Speer 2019,
doi:10.5281/zenodo.2591652); a repair is accepted only if damaging the result again gives the text.
"""

import ast
import html
import json
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from finsent.text import normalise

FLAG_SEPARATOR: Final = ", "
QUOTES_UNDONE: Final = "doubled quotes undone"
BYTE_LITERAL: Final = "byte literal"
"""Text in the form of Python bytes, `b'...'` or without that, left as it is: it is cut short or no UTF-8."""
BYTE_LITERAL_UNDONE: Final = "byte literal undone"
ESCAPES_UNDONE: Final = "escapes undone"
"""`\\n`, `\\"` or `\\u2019` written out, as JSON writes them."""
ENTITIES_UNDONE: Final = "HTML entities undone"
ENTITIES: Final = "HTML entities"
"""Left as they are: a character is written in two ways, or the nesting is deeper than any writer's."""
MOJIBAKE_REPAIRED: Final = "mojibake repaired"
MOJIBAKE: Final = "mojibake"
"""Left as it is, since a repair would be a guess."""
REPLACED: Final = "replacement character"
"""U+FFFD: what stood there is lost."""
CONTROL_CHARACTERS: Final = "control characters"
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # not tab and line ends

_TELLING: Final = re.compile(r"""\\[nu"']|:\\/\\/|\\x[0-9a-f]{2}""")
"""Escapes that show how a text was written. Others alone do not: people write `w\\/`, and LaTeX has `\\to`."""
_OTHER_WRITING: Final = re.compile(r"\b[A-Za-z]:\\|\\\\\w|\\[bf]")
"""A Windows path, or what no tweet has as an escape."""
_SINGLE_QUOTE: Final = re.compile(r"(?<!\\)\\'")
_BYTES: Final = re.compile(r"\\x[c-f][0-9a-f]\\x[89ab][0-9a-f]")  # a character of UTF-8
_OF_BYTES: Final = re.compile(r"""\\(?:[\\'"nrt]|x[0-9a-f]{2})""")
_OF_STRINGS: Final = re.compile(r"""\\(?:([\\'"nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}))""")
_CHARACTERS: Final = {"n": "\n", "r": "\r", "t": "\t"}
_UNICODE_ESCAPE: Final = re.compile(r"\\u[0-9A-Fa-f]{4}")

_WRONG_CODECS: Final = frozenset({"latin-1", "windows-1252", "sloppy-windows-1252"})
"""Codecs whose misuse is repaired. The repair is unique: what two of them can encode, they encode to the same bytes."""


_DOUBLED: Final = re.compile(r'(?<!\w)""(?=\S)[^"]+(?<=\S)""(?!\w)')
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MOST_LAYERS: Final = 3
"""Of entities within entities, `&amp;amp;`. A text with more was crafted, and stays."""


class RepairedText(NamedTuple):
    """A text after one of the repairs, and the flag of its row."""

    text: str
    flag: str | None


class RepairedForm(NamedTuple):
    """A text after all repairs, and the flags of its row."""

    text: str
    flags: tuple[str, ...]


def repair_text(text: str) -> RepairedForm:
    """Undo what was done to a text, the last step first: a CSV writer's, a program's, a web page's, a decoder's."""
    flags = []
    for undo in (undo_doubled_quotes, undo_escapes, undo_entities, repair_mojibake):
        text, flag = undo(text)
        if flag is not None:
            flags.append(flag)
    return RepairedForm(text, tuple(flags))


def text_flags(text: str, *noticed: str | None) -> str | None:
    """What is noticed about a text, as its row is flagged: its form, its encoding, and control characters, which stay in it."""
    found = [flag for flag in (*noticed, CONTROL_CHARACTERS if _CONTROL.search(text) else None) if flag is not None]
    return FLAG_SEPARATOR.join(found) or None


def format_flags(flags: Mapping[str, int]) -> str:
    """Rows by flag, on one line."""
    return "noted about texts: " + ", ".join(f"{flag} ({n:,})" for flag, n in flags.items())


def undo_doubled_quotes(text: str) -> RepairedText:
    """Undo the writing of a text as a CSV field once too often: each quote doubled, with or without quotes around the field."""
    if '""' not in text:
        return RepairedText(text, None)
    fields = [text, text[1:-1]] if text.startswith('"') and text.endswith('"') else [text]
    for field in fields:
        plain = field.replace('""', '"')
        if _DOUBLED.search(field) and plain.count('"') % 2 == 0 and plain.replace('"', '""') == field:
            return RepairedText(plain, QUOTES_UNDONE)
    return RepairedText(text, None)


def undo_entities(text: str) -> RepairedText:
    """Replace HTML entities by their characters, if each character is written in one way all through the text.

    The identity of the text (`finsent.text.text_id`) stays the same, since it is taken with entities resolved.
    """
    if "&" not in text or not _ENTITY.search(text):
        return RepairedText(text, None)
    plain, layers = text, 0
    while layers <= _MOST_LAYERS:
        inner, is_lossless = _undo_layer(plain)
        if not is_lossless or inner == plain:
            break
        plain, layers = inner, layers + 1
    if not layers:
        return RepairedText(text, None if is_lossless else ENTITIES)
    # of nested ones the identity may depend on the order: a handle or a link is made of what an entity leaves
    is_nested = layers > 1 or ("&" in plain and html.unescape(plain) != plain)
    if layers > _MOST_LAYERS or (is_nested and normalise(plain) != normalise(text)):
        return RepairedText(text, ENTITIES)
    return RepairedText(plain, ENTITIES_UNDONE)


def _undo_layer(text: str) -> tuple[str, bool]:
    """The text with its entities replaced once, and whether writing them again gives the text."""
    characters = {entity: html.unescape(entity) for entity in dict.fromkeys(_ENTITY.findall(text))}
    characters = {
        entity: character
        for entity, character in characters.items()
        if len(character) == 1 and character != "\ufffd" and not _CONTROL.match(character)
    }
    plain = _ENTITY.sub(lambda found: characters.get(found[0], found[0]), text)
    again = plain.translate({ord(character): entity for entity, character in characters.items()})
    return plain, again == text


def undo_escapes(text: str) -> RepairedText:
    """Undo the writing of a text as a Python literal or with JSON's escapes, if writing it so again gives the same text.

    A text with any backslash that is no such escape stays as it is, and so does a Windows path.
    """
    if text.startswith(("b'", 'b"')):
        plain = _undo_byte_literal(text)
        return RepairedText(text, BYTE_LITERAL) if plain is None else RepairedText(plain, BYTE_LITERAL_UNDONE)
    if "\\" not in text or not _TELLING.search(text) or _OTHER_WRITING.search(text):
        return RepairedText(text, None)
    is_bytes = _BYTES.search(text) is not None  # `\xe2\x80\x99` is one character of UTF-8; as a string it would be mojibake
    plain = _undo_bytes(text) if is_bytes else _undo_json(text) or _undo_string(text)
    if is_bytes and plain is None:
        return RepairedText(text, BYTE_LITERAL)
    return RepairedText(plain, ESCAPES_UNDONE) if plain and plain.strip() and _is_text(plain) else RepairedText(text, None)


def _undo_byte_literal(text: str) -> str | None:
    if "\\" in _OF_BYTES.sub("", text):
        return None
    try:
        data = ast.literal_eval(text)
        plain = data.decode() if isinstance(data, bytes) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return plain if plain and plain.strip() and repr(data) == text else None


def _undo_bytes(text: str) -> str | None:
    """A byte literal that lost its `b'...'`."""
    return _undo_byte_literal(f"b'{text}'") or _undo_byte_literal(f'b"{text}"')


def _undo_json(text: str) -> str | None:
    written = _SINGLE_QUOTE.sub("'", text)
    try:
        plain: str = json.loads(f'"{written}"', strict=False)
    except (ValueError, RecursionError):
        return None
    return plain if _escaped_again(written, plain) else None


def _undo_string(text: str) -> str | None:
    """What Python writes of a string, without its quotes."""
    if "\\" in _OF_STRINGS.sub("", text):
        return None

    def character(found: re.Match[str]) -> str:
        return _CHARACTERS.get(found[1], found[1]) if found[1] else chr(int(found[2] or found[3] or found[4], 16))

    plain = _OF_STRINGS.sub(character, text)
    return plain if text in (repr(plain)[1:-1], ascii(plain)[1:-1]) else None


def _is_text(plain: str) -> bool:
    try:
        plain.encode()
    except UnicodeEncodeError:  # half an emoji
        return False
    return True


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
        return RepairedText(text, REPLACED)
    if not is_bad(text):
        return RepairedText(text, None)
    repaired = _reverse_wrong_decoding(text)
    return RepairedText(text, MOJIBAKE) if repaired is None else RepairedText(repaired, MOJIBAKE_REPAIRED)


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
