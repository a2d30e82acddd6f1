"""Which language a tweet is written in, so far as that can be told: quarantined is only what is clearly foreign.

The model is py3langid's (Barbaresi 2026; after Lui and Baldwin, ACL 2012), restricted to the languages that have a two-letter
code, so that what it takes for a creole or a dialect counts for the language it comes from.
"""

import functools
import re
from typing import Any, Final

from finsent.data.validation.row_validation import Rejection
from finsent.errors import ConfigError

MIN_PROBABILITY: Final = 0.8
"""Probability from which a language counts as known. Of 53,959 real labelled tweets one English one is then taken for another
language, and all others that are rejected are foreign by eye; at 0.6 some ten English ones are ("max pain on puts")."""

_NOT_WORDS: Final = re.compile(
    r"(?:https?://|www\.|\bpic\.twitter\.com/|\bt\.co/)\S*|&#?\w+;|[\w.+-]*(?<!@)@\w[\w.-]*|[$#]\w[\w.]*", re.IGNORECASE
)
_LETTERS: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_NO_LANGUAGE: Final = "zxx"
_MIN_LATIN_LETTERS: Final = 8
"""Letters of a Latin alphabet under which nothing is told; other scripts tell more by each character."""
_MIN_OTHER_LETTERS: Final = 3
_LAST_LATIN: Final = "\u024f"


def detect_language(text: str) -> str | None:
    """Two-letter code (ISO 639-1) of the language, None where it cannot be told: few letters, or no language likely enough.

    Links, handles, hashtags, cashtags, numbers and emoji say nothing of a language and are left out.
    """
    told = _classify(text)
    return told[0] if told else None


def check_language(text: str, languages: tuple[str, ...]) -> Rejection | None:
    """Why a text is not taken where only `languages` are (none named: all are), or None. What cannot be told is taken.

    Raises:
        ConfigError: a language that is not known, which would quarantine every row.
    """
    if not languages:
        return None
    _check_known(languages)
    told = _classify(text)
    if told is None or told[0] in languages:
        return None
    language, probability = told
    return Rejection(
        "other language", f"{language!r} with probability {probability:.2f}; taken: {', '.join(languages)} (data.languages)"
    )


def _classify(text: str) -> tuple[str, float] | None:
    words = " ".join(_LETTERS.findall(_NOT_WORDS.sub(" ", text)))
    letters = len(words) - words.count(" ")
    if letters < (_MIN_OTHER_LETTERS if max(words, default="") > _LAST_LATIN else _MIN_LATIN_LETTERS):
        return None
    language, probability = _load_model().classify(words)
    if language == _NO_LANGUAGE or probability < MIN_PROBABILITY:
        return None
    return str(language), float(probability)


@functools.cache
def _load_model() -> Any:
    """The model, loaded on first use (0.8 s, 120 MB)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in identifier.labels if len(code) == 2 or code == _NO_LANGUAGE])
    return identifier


@functools.cache
def _check_known(languages: tuple[str, ...]) -> None:
    known = sorted(set(_load_model().labels) - {_NO_LANGUAGE})
    for language in languages:
        if language not in known:
            raise ConfigError(f"data.languages: {language!r} is no known language. Two-letter codes: {', '.join(known)}.")
