"""Finds the whole of a tweet that was cut short, in what Twitter's APIs put beside it, nested or as columns of their own.

`text` of the streaming and search APIs ends in an ellipsis after 140 characters, with the whole in `full_text`,
`extended_tweet.full_text` or, of version 2, `note_tweet.text`. A retweet (`RT @user: ...`) is cut in every one of them, and whole
in the tweet that it repeats. It is taken only if the cut text is its beginning.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from finsent.data.sources.json_document import value_at

_OWN: Final = ("full_text", "extended_tweet.full_text", "note_tweet.text", "note_tweet.note_tweet_results.result.text")
_RETWEETED: Final = ("retweeted_status.", "retweeted_status_result.result.legacy.", "referenced_tweets.0.", "includes.tweets.0.")
_PATHS: Final = (*_OWN, *(f"{before}{path}" for before in _RETWEETED for path in (*_OWN, "text")))
_TRUNCATED: Final = "truncated"
_CUT: Final = re.compile(r"(?:…|\.{3})\s*(?:https?://\S*)?\s*$")
_PARTIAL: Final = re.compile(r"&#?\w{0,7}$")
"""An entity that the cut went through."""
_RETWEET: Final = re.compile(r"RT @\w{1,20}:?\s+")
_LEAST: Final = 20
"""Characters that must agree: an ellipsis alone is the beginning of any text."""
_LETTERS: Final = re.compile("[^a-z]+")
_BY_LETTERS: Final = {_LETTERS.sub("", path): path for path in (*_PATHS, _TRUNCATED)}


_NAMES: Final = frozenset(_PATHS) | {path.partition(".")[0] for path in _PATHS}
OBJECTS: Final = frozenset(path.partition(".")[0] for path in _PATHS if "." in path)
"""Keys of the objects that may hold it."""


def columns_beside(text: str, found: Iterable[str]) -> dict[str, str]:
    """Columns that may hold the whole of the column `text`: path in Twitter's objects to the column that is named after it.

    Such as `extended_tweet.full_text`, `extended_tweet_full_text` or `extendedTweet/fullText`.
    """
    parent = text[: text.rfind(".") + 1]
    inner = ((name, name.removeprefix(parent)) for name in found if name != text and name.startswith(parent))
    paths = ((_BY_LETTERS.get(_LETTERS.sub("", path.lower())), name) for name, path in inner)
    return {path: name for path, name in paths if path is not None}


def whole_text(text: str, beside: Iterable[Mapping[str, Any]]) -> str | None:
    """The whole of a text that was cut short; None if it was not, or no other one begins with it.

    A retweet keeps its `RT @user:`, as Twitter shows it.

    Args:
        text: As it came.
        beside: What may hold the whole: a tweet as a JSON object, or values by path.
    """
    tweets = [values for values in beside if not _NAMES.isdisjoint(values)]
    if not tweets:
        return None
    cut = _find_cut(text)
    if cut is None and not any(str(values.get(_TRUNCATED)).lower() in ("true", "1") for values in tweets):
        return None
    begun, given = _plain(_PARTIAL.sub("", text[: cut.start()] if cut else text)), _plain(text)
    prefix = retweet[0] if (retweet := _RETWEET.match(text)) else ""
    if len(begun) < _LEAST:
        return None
    wholes = []
    for other in _others(tweets):
        for whole in {other, prefix + other}:
            shown, other_cut = _plain(whole), _find_cut(whole)
            longer = len(shown if other_cut is None else _plain(whole[: other_cut.start()])) > len(begun)
            if longer and shown.startswith(begun) and shown != given:
                wholes.append((other_cut is None, len(whole), whole))
    return max(wholes)[2] if wholes else None


def _find_cut(text: str) -> re.Match[str] | None:
    return _CUT.search(text, max(0, len(text) - 200)) if "…" in text or "..." in text else None


def _others(beside: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for values in beside:
        for path in _PATHS:
            if isinstance(other := value_at(values, path), str):
                yield other


def _plain(text: str) -> str:
    return " ".join(html.unescape(text).split())
