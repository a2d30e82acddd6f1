"""From grammar to tweet: pick a frame, fill its slots, dress it up. The label is known from the sides that were picked."""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from finsent.data.sample.grammar import (
    HASHTAGS,
    LATE_TICKERS,
    NEUTRAL,
    NEUTRAL_GLYPHS,
    OPENERS,
    ORDERED,
    PLAIN,
    PLAINSPOKEN,
    SIDES,
    TAILS,
    TICKERS,
    TWO_SIDED,
)
from finsent.labels import LABELS

T = TypeVar("T")

SLOT: Final = re.compile(r"\{([-~]?)(\w+)\}")
BULLISH_SHARE: Final = 0.6
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
    return decorate(clause, label, rng, tickers), label


def fill(frame: str, rng: Random, tickers: Sequence[str], *, agree: bool = False) -> tuple[str, int]:
    """A frame with its slots filled, and the product of the sides that count (1 or -1); `agree`: all slots take one side."""
    chosen: dict[str, int] = {}
    sign = -1 if frame.startswith("! ") else 1
    text = frame.removeprefix("! ")
    shared = 1 if rng.random() < 0.5 else -1
    for mark, name in SLOT.findall(text):
        if name in SIDES and mark != "~" and name not in chosen:
            chosen[name] = shared if agree else 1 if rng.random() < BULLISH_SHARE else -1
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


def decorate(clause: str, label: str, rng: Random, tickers: Sequence[str]) -> str:
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
        text = swap_letters(text, rng)
    return text[0].upper() + text[1:] if rng.random() < 0.4 else text


def handle(rng: Random) -> str:
    """An invented user name."""
    return (
        f"{pick(rng, ('trader', 'mkt', 'alpha', 'theta', 'candle', 'tape', 'macro'))}_{pick(rng, LETTERS)}{number(rng, 10, 999)}"
    )


def link(rng: Random) -> str:
    """An invented short link."""
    return "https://t.co/" + "".join(pick(rng, LETTERS) for _ in range(10))


def swap_letters(text: str, rng: Random) -> str:
    """Swap two letters inside one long word."""
    words = text.split(" ")
    long_words = [index for index, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if long_words:
        index = pick(rng, long_words)
        at = number(rng, 1, len(words[index]) - 3)
        word = words[index]
        words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


# merged from finsent.data.sample.generate: Writes the sample's files: three labelled sources for day 1, one for day 2, an inbox for each day, with trouble planted.

SEED: Final = 20250602
LABEL_NOISE: Final = 0.02
DAY_ONE: Final = datetime(2025, 6, 2, tzinfo=UTC)
NUMERIC: Final = {"Bearish": 0, "Bullish": 1, "Neutral": 2}
"""Label ids of the `archive` source: another order than ours, as real datasets have it."""


@dataclass(frozen=True)
class Tweet:
    """One row to be written. `label` is None in the inbox, and anything at all in a broken row."""

    text: Any
    label: str | None
    created_at: datetime


def write_sample(folder: Path) -> tuple[Path, ...]:
    """Write all files into `folder`; the same bytes before compression every time."""
    folder.mkdir(parents=True, exist_ok=True)
    start, day = DAY_ONE - timedelta(days=60), timedelta(days=1)
    desk = _labelled(_rng(SEED), 2500, start, 60 * day, TICKERS)
    street = _labelled(_rng(SEED + 1), 2100, start, 60 * day, TICKERS)
    archive = _labelled(_rng(SEED + 2), 1150, start, 60 * day, TICKERS)
    arrivals = _labelled(_rng(SEED + 3), 1450, DAY_ONE, day, (*TICKERS, *LATE_TICKERS))
    contents: dict[str, bytes] = {
        "desk.csv.gz": _csv(desk, ("text", "label", "created_at"), lambda label: str(label).lower())
        + b'"Great quarter for $AMD \xff\xfe\x80, buying more calls","bullish","2025-05-20T09:30:00Z"\r\n'
        + b'"\xc3\x28 $F guidance cut","bearish","2025-05-21T09:30:00Z"\r\n'
        + b"Upgrade for $JPM, adding calls,bullish,2025-05-22T09:30:00Z\r\n",
        "street.jsonl.gz": _jsonl(street, "body", "sentiment")
        + b'{"body": "caf\xe9 chatter says $TSLA calls", "sentiment": "Bullish"}\n',
        "archive.csv.gz": _csv(archive, ("tweet", "y", "created_at"), lambda label: str(NUMERIC.get(str(label), 7))),
        "arrivals.csv.gz": _csv(arrivals, ("text", "label", "created_at"), str),
        "inbox-day1.csv.gz": _inbox_csv(_unlabelled(_rng(SEED + 4), 800, DAY_ONE, TICKERS)),
        "inbox-day2.jsonl.gz": _inbox_jsonl(_unlabelled(_rng(SEED + 5), 700, DAY_ONE + day, (*TICKERS[:12], *LATE_TICKERS))),
    }
    return tuple(_gzip(folder / name, data) for name, data in contents.items())


def _rng(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - to be repeatable is the point


def _labelled(rng: Random, rows: int, start: datetime, span: timedelta, tickers: Sequence[str]) -> list[Tweet]:
    tweets = []
    for _ in range(rows):
        text, label = compose(rng, tickers)
        if rng.random() < LABEL_NOISE:
            label = pick(rng, [other for other in LABELS if other != label])
        tweets.append(Tweet(text, label, start + span * rng.random()))
    copies = [_copy(rng, tweet) for tweet in tweets if rng.random() < 0.06]
    disputed = [
        replace(_copy(rng, tweet), label=pick(rng, [other for other in LABELS if other != tweet.label]))
        for tweet in tweets[:: rows // 15]
    ]
    broken = [
        Tweet("", "Bullish", start),
        Tweet("   ", "Neutral", start),
        Tweet("$SPY mixed feelings today", "mixed", start),
        Tweet("no label at all on this one about $QQQ", "", start),
        Tweet("$NVDA to the moon " * 400, "Bullish", start),
        Tweet("Posted by a time traveller: $AAPL beat on revenue", "Bullish", datetime(2199, 1, 1, tzinfo=UTC)),
    ]
    return sorted((*tweets, *copies, *disputed, *broken), key=lambda tweet: tweet.created_at)


def _unlabelled(rng: Random, rows: int, day: datetime, tickers: Sequence[str]) -> list[Tweet]:
    tweets = [Tweet(compose(rng, tickers)[0], None, day + timedelta(seconds=int(rng.random() * 86_400))) for _ in range(rows)]
    copies = [_copy(rng, tweet) for tweet in tweets if rng.random() < 0.06]
    broken = [Tweet("", None, day), Tweet("$BTC " * 1500, None, day)]
    return sorted((*tweets, *copies, *broken), key=lambda tweet: tweet.created_at)


def _copy(rng: Random, tweet: Tweet) -> Tweet:
    """A repeat as the wire has them: as is, retweeted, with another link, cut short, about another name, other case."""
    text, draw = tweet.text, rng.random()
    if draw < 0.35:
        text = f"RT @{handle(rng)}: {text}"
    elif draw < 0.50:
        text = f"{text.split(' https://')[0]} {link(rng)}"
    elif draw < 0.65:
        text = text[: max(int(len(text) * 0.9), 20)].rstrip() + "…"
    elif draw < 0.80:
        text = " ".join("$" + pick(rng, TICKERS) if word.startswith("$") else word for word in text.split(" "))
    elif draw < 0.90:
        text = text.lower()
    return Tweet(text, tweet.label, tweet.created_at + timedelta(minutes=number(rng, 1, 300)))


def _csv(tweets: Sequence[Tweet], columns: tuple[str, str, str], name_label: Callable[[str | None], str]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    writer.writerows((tweet.text, name_label(tweet.label) if tweet.label else "", _iso(tweet.created_at)) for tweet in tweets)
    return out.getvalue().encode()


def _jsonl(tweets: Sequence[Tweet], text: str, label: str) -> bytes:
    rows: list[dict[str, Any]] = [
        {text: tweet.text, label: tweet.label, "created_at": _iso(tweet.created_at)} for tweet in tweets
    ]
    rows += [{text: 42, label: "Bullish"}, {text: None, label: "Neutral"}, {text: ["$AMC", "calls"], label: "Bearish"}]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _inbox_csv(tweets: Sequence[Tweet]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(("id", "created_at", "text"))
    writer.writerows((f"t{10_000 + index}", _iso(tweet.created_at), tweet.text) for index, tweet in enumerate(tweets))
    return out.getvalue().encode()


def _inbox_jsonl(tweets: Sequence[Tweet]) -> bytes:
    rows: list[dict[str, Any]] = [
        {"id": f"t{20_000 + index}", "created_at": _iso(tweet.created_at), "text": tweet.text}
        for index, tweet in enumerate(tweets)
    ]
    rows += [
        {"id": "t29998", "created_at": _iso(DAY_ONE), "text": 7},
        {"id": "t29999", "created_at": "yesterday-ish", "text": "$GME again"},
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _gzip(path: Path, data: bytes) -> Path:
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as out:
        out.write(data)
    return path
