"""Mojibake: UTF-8 that someone decoded with a Western single-byte encoding (`â€¦` for an ellipsis). Undone only without loss.

Detection is ftfy's (Speer 2019, doi:10.5281/zenodo.2591652); whether a repair stands is checked here, by damaging it again.
"""

from dataclasses import dataclass
from typing import Final, Literal

Flag = Literal["mojibake repaired", "mojibake", "replacement character"]
"""What a text's encoding went through: undone; left as it is, since undoing it would be a guess; past undoing (U+FFFD)."""

_WRONG: Final = frozenset({"latin-1", "windows-1252", "sloppy-windows-1252"})
"""Codecs whose misuse is undone. Between them no text has two readings: what they both can encode, they encode alike."""
_REPLACEMENT: Final = "\ufffd"


@dataclass(frozen=True, slots=True)
class Repair:
    """A text after `repair`, and what its row is flagged with."""

    text: str
    flag: Flag | None


def repair(text: str) -> Repair:
    """The text with mojibake undone where that is lossless: repeating the wrong decoding gives what was there, to the character.

    All of the text is repaired, or nothing: where mojibake stands beside characters that no wrong decoding can have made (an
    emoji, say), or bytes were lost, the text stays as it is and is flagged. Mojibake of mojibake is undone to the ground.
    """
    if text.isascii():
        return Repair(text, None)
    from ftfy.badness import is_bad

    if _REPLACEMENT in text:
        return Repair(text, "replacement character")
    if not is_bad(text):
        return Repair(text, None)
    mended = _undo(text)
    return Repair(text, "mojibake") if mended is None else Repair(mended, "mojibake repaired")


def _undo(text: str) -> str | None:
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
        if wrong not in _WRONG:
            return None
        try:
            again = again.encode(right).decode(wrong)
        except UnicodeError:
            return None
    return mended if mended != text and again == text else None
