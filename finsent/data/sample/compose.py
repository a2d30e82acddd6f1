"""From grammar to tweet: pick a frame, fill its slots, dress it up. The label is known from the sides that were picked."""

import re
from collections.abc import Sequence
from random import Random
from typing import Final, TypeVar

from finsent.data.sample.grammar import (
    HASHTAGS,
    NEUTRAL,
    NEUTRAL_GLYPHS,
    OPENERS,
    ORDERED,
    PLAIN,
    PLAINSPOKEN,
    SIDES,
    TAILS,
    TWO_SIDED,
)

T = TypeVar("T")

SLOT: Final = re.compile(r"\{([-~]?)(\w+)\}")
PLUS: Final = 0.6
"""Chance of a slot's bullish side. Off one half, so that each word alone hints a little and only the pair settles it."""
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
SLANG: Final = {
    "you": "u",
    "are": "r",
    "about": "abt",
    "because": "bc",
    "going": "goin",
    "and": "&",
    "before": "b4",
    "with": "w/",
}


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of `options`, through `random()` alone, whose sequence every Python version keeps."""
    return options[int(rng.random() * len(options))]


def number(rng: Random, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    return low + int(rng.random() * (high - low + 1))


def compose(rng: Random, tickers: Sequence[str]) -> tuple[str, str]:
    """A tweet and its label, as the class name."""
    draw = rng.random()
    # the mix decides how far single words carry a linear model: measured, see tests/data/test_sample.py
    family: tuple[str, ...] = NEUTRAL if draw < 0.24 else TWO_SIDED if draw < 0.76 else ORDERED if draw < 0.92 else PLAINSPOKEN
    frame = pick(rng, family)
    bearish_wanted = rng.random() < 0.46
    while True:
        clause, sign = fill(frame, rng, tickers, agree=family is PLAINSPOKEN)
        if family is NEUTRAL or family is TWO_SIDED or (sign < 0) == bearish_wanted:
            break
    label = "Neutral" if family is NEUTRAL else "Bullish" if sign > 0 else "Bearish"
    return dress(clause, label, rng, tickers), label


def fill(frame: str, rng: Random, tickers: Sequence[str], *, agree: bool = False) -> tuple[str, int]:
    """A frame with its slots filled, and the product of the sides that count (1 or -1); `agree`: all slots take one side."""
    chosen: dict[str, int] = {}
    sign = -1 if frame.startswith("! ") else 1
    text = frame.removeprefix("! ")
    shared = 1 if rng.random() < 0.5 else -1
    for mark, name in SLOT.findall(text):
        if name in SIDES and mark != "~" and name not in chosen:
            chosen[name] = shared if agree else 1 if rng.random() < PLUS else -1
    for name in dict.fromkeys(name for mark, name in SLOT.findall(text) if name in chosen and mark == ""):
        sign *= chosen[name]
    sign = shared if agree else sign
    first = pick(rng, tickers)

    def slot(match: re.Match[str]) -> str:
        mark, name = match.groups()
        if name == "tag":
            return f"${first}"
        if name == "tag2":
            return f"${pick(rng, [ticker for ticker in tickers if ticker != first])}"
        if name in PLAIN:
            return SLOT.sub(slot, pick(rng, PLAIN[name]))
        side = {"": 1, "-": -1}.get(mark, 0) * chosen.get(name, 0) or (1 if rng.random() < 0.5 else -1)
        return pick(rng, SIDES[name][0 if side > 0 else 1])

    return SLOT.sub(slot, text), sign


def dress(clause: str, label: str, rng: Random, tickers: Sequence[str]) -> str:
    """Opener, tail, emoji, hashtag, handle, link, slang and the odd slip of the finger around a clause."""
    parts = [clause]
    if rng.random() < 0.2:
        parts.insert(0, fill(pick(rng, OPENERS), rng, tickers)[0])
    if rng.random() < 0.06:
        parts.insert(0, f"@{handle(rng)}")
    if rng.random() < 0.25:
        parts[-1] += pick(rng, (".", ",", "...", "!"))
        parts.append(fill(pick(rng, TAILS), rng, tickers)[0])
    if rng.random() < 0.12:
        side = {"Bullish": 0, "Bearish": 1}.get(label)
        honest = side is not None and rng.random() < 0.75
        parts.append(pick(rng, SIDES["glyph"][side]) if honest and side is not None else pick(rng, NEUTRAL_GLYPHS))
    if rng.random() < 0.08:
        parts.append(fill(pick(rng, HASHTAGS), rng, tickers)[0])
    if rng.random() < 0.08:
        parts.append(link(rng))
    text = " ".join(parts)
    if rng.random() < 0.08:
        text = " ".join(SLANG.get(word, word) for word in text.split(" "))
    if rng.random() < 0.04:
        text = slip(text, rng)
    return text[0].upper() + text[1:] if rng.random() < 0.4 else text


def handle(rng: Random) -> str:
    """An invented user name."""
    return (
        f"{pick(rng, ('trader', 'mkt', 'alpha', 'theta', 'candle', 'tape', 'macro'))}_{pick(rng, LETTERS)}{number(rng, 10, 999)}"
    )


def link(rng: Random) -> str:
    """An invented short link."""
    return "https://t.co/" + "".join(pick(rng, LETTERS) for _ in range(10))


def slip(text: str, rng: Random) -> str:
    """Swap two letters inside one long word."""
    words = text.split(" ")
    long_words = [index for index, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if long_words:
        index = pick(rng, long_words)
        at = number(rng, 1, len(words[index]) - 3)
        word = words[index]
        words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)
