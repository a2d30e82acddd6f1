"""Changes of a tweet's text whose effect on its sentiment is known: none (invariance), or another label (direction).

After CheckList (Ribeiro et al., ACL 2020, arXiv:2005.04118): invariance and directional expectation tests on real texts. Every
change is a function (text, rng) -> changed text, or None where it does not apply or would not surely do what it claims.
Links, handles and cashtags are never touched but by the changes made for them.
"""

import re
import string
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from finsent.evaluation.robustness.antonyms import mask, opposite
from finsent.evaluation.robustness.negation import negated

Change = Callable[[str, Random], str | None]

_LINK: Final = re.compile(r"(?:https?://|www\.|\bpic\.twitter\.com/|\bt\.co/)\S*", re.IGNORECASE)
_HANDLE: Final = re.compile(r"(?<![\w@])@\w+")
_CASHTAG: Final = re.compile(r"(?<![\w$])\$([A-Za-z][A-Za-z0-9]{0,9}(?:[._\-][A-Za-z0-9]+)?)(?!\w)")
_FIXED: Final = re.compile(rf"{_LINK.pattern}|{_HANDLE.pattern}|{_CASHTAG.pattern}|#\w+|&#?\w+;", re.IGNORECASE)
"""What no change of spelling touches: links, handles, cashtags, hashtags, HTML entities."""
_NO_WORDS: Final = re.compile(rf"{_LINK.pattern}|{_HANDLE.pattern}|{_CASHTAG.pattern}|&#?\w+;", re.IGNORECASE)
_LONGER_WORD: Final = re.compile(r"(?<![\w'’])[A-Za-z]?[a-z]{4,}(?![\w'’])")  # not in capitals, which may be a ticker

TICKERS: Final = (
    *("AAPL", "MSFT", "NVDA", "AMZN", "GOOG", "META", "TSLA", "AMD", "NFLX", "INTC", "DIS", "BA", "JPM", "XOM", "UBER", "COIN"),
    *("PLTR", "SOFI", "NIO", "F", "GME", "SPY", "QQQ", "KO", "PEP", "WMT", "COST", "CRM", "ORCL", "SBUX", "NKE", "V", "BAC"),
    *("SHOP", "ROKU", "CVX", "T", "GE", "PFE", "MRNA"),
)
"""Well-known names to put in place of another."""
INVERSE: Final = frozenset(
    (
        *("SQQQ", "SPXS", "SPXU", "SDS", "SH", "SDOW", "PSQ", "DOG", "TZA", "SOXS", "UVXY", "UVIX", "VXX"),
        *("VIXY", "VIX", "TVIX", "LABD", "JDST", "DUST", "FAZ", "YANG", "KOLD", "BITI", "DXY", "USD"),
    )
)
"""What rises when the market falls: another name in its place turns the sentiment round."""
SIDELESS: Final = frozenset(
    "👀🤔📊☕🧵📰🗞📅🗓📆⏰⏱⏳⌛📌📍📣📢🔔📝✍🎙🎧📺📷📸🔍🔎🔗👇👉👆👈▶⏩💬🗣📚📖📄📋💼🏢🏦🏭🏠🌍🌎🌏☀🌙🌧🍿🖥💻📱🤷♂♀"
)
"""Emoji that say nothing of up or down. Others may be all that tells the sentiment: to remove them may rightly change it."""
_JOINED: Final = "\ufe0e\ufe0f\u200d\U0001f3fb-\U0001f3ff"  # variation selectors, joiner, skin tones
_SIDELESS_RUN: Final = re.compile(rf"[ ]?[{''.join(sorted(SIDELESS))}][{_JOINED}{''.join(sorted(SIDELESS))}]*")


def cashtag_swap(text: str, rng: Random) -> str | None:
    """Every cashtag becomes another name, the same one wherever it stands; not in texts that name an inverse fund or index."""
    found = list(dict.fromkeys(match[1].upper() for match in _cashtags(text)))
    if not found or not INVERSE.isdisjoint(found):
        return None
    others = [ticker for ticker in TICKERS if ticker not in found]
    if len(found) > len(others):
        return None
    names = dict(zip(found, rng.sample(others, len(found)), strict=True))

    def renamed(match: re.Match[str]) -> str:
        if match[1] is None:  # a link or a handle
            return match[0]
        name = names[match[1].upper()]
        return f"${name.lower() if match[1].islower() else name}"

    return _FIXED.sub(renamed, text)


def url_and_handle_change(text: str, rng: Random) -> str | None:
    """Every link leads elsewhere and every handle is another user's, the same one wherever it stands."""
    handles: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        old = match[0]
        if _LINK.fullmatch(old):
            return f"https://t.co/{_random_word(rng, string.ascii_letters + string.digits, 10)}"
        if old.startswith("@"):
            return handles.setdefault(old.lower(), f"@{_random_word(rng, string.ascii_lowercase, rng.randint(5, 12))}")
        return old

    changed = _FIXED.sub(other, text)
    return changed if changed != text else None


def link_change(text: str, rng: Random) -> str | None:
    """A link is dropped where there is one, and put at the end where there is none."""
    if _LINK.search(text):
        return _unless_blank(re.sub(rf"\s*(?:{_LINK.pattern})", "", text, flags=re.IGNORECASE).strip())
    return f"{text.rstrip()} https://t.co/{_random_word(rng, string.ascii_letters + string.digits, 10)}" if text.strip() else None


def case(text: str, rng: Random) -> str | None:
    """All in lower case, or all in upper case, links and entities aside; the other one where that changes nothing."""
    ways = [str.lower, str.upper]
    rng.shuffle(ways)
    for way in ways:
        changed = _outside(re.compile(rf"{_LINK.pattern}|&#?\w+;", re.IGNORECASE), text, way)
        if changed != text:
            return changed
    return None


def emoji_removal(text: str, rng: Random) -> str | None:  # noqa: ARG001 - of the same form as the others
    """Without emoji that take no side; 🚀, 📉, 😭 and the like stay, for they carry the sentiment."""
    changed = _SIDELESS_RUN.sub("", text)
    return _unless_blank(changed.strip()) if changed != text else None


def typos(text: str, rng: Random) -> str | None:
    """Two neighbouring inner letters change places in a word of five letters or more, in two of a text of over 15 words."""
    masked, places = mask(text, _FIXED), []
    for word in _LONGER_WORD.finditer(text):
        if "_" in masked[word.start() : word.end()]:
            continue
        inner = [at for at in range(word.start() + 1, word.end() - 2) if text[at] != text[at + 1]]
        if inner:
            places.append(inner)
    if not places:
        return None
    letters = list(text)
    for inner in rng.sample(places, min(len(places), 1 + (len(text.split()) > 15))):
        at = rng.choice(inner)
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def whitespace_and_punctuation(text: str, rng: Random) -> str | None:
    """One space between words is doubled, or a final full stop is dropped or put."""
    body = text.rstrip()
    ways = [changed for changed in (_full_stop(body), _double_space(body, rng)) if changed is not None]
    return rng.choice(ways) if ways else None


def negation(text: str, rng: Random) -> str | None:  # noqa: ARG001 - of the same form as the others
    """What says the sentiment is denied: "is bullish" becomes "is not bullish", "no doubt" becomes "no way".

    Only where that is all there is to deny: not in questions, nor in texts that deny something already.
    """
    return negated(text, _NO_WORDS)


def up_down_swap(text: str, rng: Random) -> str | None:  # noqa: ARG001 - of the same form as the others
    """Every word and sign of direction changes places with its opposite: up and down, calls and puts, 📈 and 📉.

    Swapping twice gives the text back. Where someone buys or sells calls or puts, only those change: both would cancel out.
    """
    changed = opposite(text, _NO_WORDS)
    return changed if changed is not None and opposite(changed, _NO_WORDS) == text else None


INVARIANCE: Final[Mapping[str, Change]] = MappingProxyType(
    {
        "cashtag_swap": cashtag_swap,
        "url_and_handle_change": url_and_handle_change,
        "link_change": link_change,
        "case": case,
        "emoji_removal": emoji_removal,
        "typos": typos,
        "whitespace_and_punctuation": whitespace_and_punctuation,
    }
)
"""After these the label must stay."""
DIRECTION: Final[Mapping[str, Change]] = MappingProxyType({"negation": negation, "up_down_swap": up_down_swap})
"""After these a Bullish or Bearish label must not stay."""


def _cashtags(text: str) -> list[re.Match[str]]:
    return [match for match in _FIXED.finditer(text) if match[1] is not None]


def _full_stop(body: str) -> str | None:
    if body.endswith("."):
        return None if body.endswith("..") else _unless_blank(body[:-1])
    behind_a_link = any(match.end() == len(body) for match in _FIXED.finditer(body))  # it would become part of the link
    return f"{body}." if body and body[-1].isalnum() and not behind_a_link else None


def _double_space(body: str, rng: Random) -> str | None:
    spaces = [match.start() for match in re.finditer(r"(?<=\S) (?=\S)", body)]
    if not spaces:
        return None
    at = rng.choice(spaces)
    return f"{body[:at]} {body[at:]}"


def _outside(fixed: re.Pattern[str], text: str, way: Callable[[str], str]) -> str:
    """`way` applied to what lies between the matches of `fixed`."""
    parts, end = [], 0
    for match in fixed.finditer(text):
        parts += [way(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, way(text[end:])])


def _random_word(rng: Random, letters: str, length: int) -> str:
    return "".join(rng.choices(letters, k=length))


def _unless_blank(text: str) -> str | None:
    return text if text.strip() else None
