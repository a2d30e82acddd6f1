"""Words and signs of direction in market talk, and the exchange of each for its opposite."""

import functools
import re
from typing import Final

PAIRS: Final = """
up/down upside/downside uptrend/downtrend upwards/downwards higher/lower highs/lows
bullish/bearish bull/bear rise/fall rises/falls rising/falling rose/fell gain/loss gains/losses gained/lost growing/shrinking
rally/plunge rallies/plunges rallying/plunging rallied/plunged surge/slump surges/slumps surging/slumping surged/slumped
soar/tumble soars/tumbles soaring/tumbling soared/tumbled jump/drop jumps/drops jumping/dropping jumped/dropped
climb/slide climbs/slides climbing/sliding climbed/slid advance/decline advances/declines boom/crash booming/crashing
beats/misses beat/missed upgrade/downgrade upgrades/downgrades upgraded/downgraded upgrading/downgrading
raise/cut raises/cuts raising/cutting raised/lowered raised_guidance/cut_guidance holds/loses
outperform/underperform outperforms/underperforms overweight/underweight undervalued/overvalued oversold/overbought
breakout/breakdown breakouts/breakdowns breaking_out/breaking_down strong/weak stronger/weaker strength/weakness
good/bad great/terrible better/worse best/worst positive/negative optimistic/pessimistic green/red
to_the_moon/to_zero love/hate
buy/sell buys/sells buying/selling bought/sold pump/dump pumps/dumps pumping/dumping pumped/dumped long/short longing/shorting
buyer/seller calls/puts call_options/put_options call_spreads/put_spreads call_option/put_option call_spread/put_spread
bulls/bears longs/shorts buyers/sellers dip_buyers/short_sellers
📈/📉 🚀/🔻 🐂/🐻 🟢/🔴 ⬆/⬇ ↗/↘ 👍/👎 🔼/🔽
"""
"""Opposites, one word for one word, so that swapping twice gives the text back; `_` stands for a space."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TRADES: Final = _words(
    "buy sell buys sells buying selling bought sold pump dump pumps dumps pumping dumping pumped dumped long short love hate "
    "longing shorting"
)
_OPTIONS: Final = frozenset(
    ("calls", "puts", *(f"{side} {form}" for side in ("call", "put") for form in ("options", "spreads", "option", "spread")))
)
_CAMPS: Final = frozenset(("bulls", "bears", "longs", "shorts", "buyers", "sellers", "dip buyers", "short sellers"))
_CONTRAST: Final = re.compile(r"\b(?:but|despite|although|though|however|yet|unlike|except|vs|versus)\b", re.IGNORECASE)

_PHRASAL: Final = _words(
    "set sets setting pick picks picking end ends sign signed show shows what's whats follow wake give gives back shut catch "
    "look looks looking made make makes heads hurry settle calm break broke shake double slow turn come comes wrap warm speed "
    "hang hold load loading loaded stock line fill start started team close opens clean mess fed build builds step steps write "
    "sit lock bring keep ramp scale"
)
_BEFORE: Final = {
    **dict.fromkeys(("up", "down"), _PHRASAL),
    **dict.fromkeys(("long", "short"), _words("how too so as all very in that this fall falls fell day year cut")),
    **dict.fromkeys(("calls", "puts"), _words("earnings conference phone he she who ceo it analyst which")),
}
"""Behind these words the word is no direction: "set up", "how long", "earnings calls"."""
_AFTER: Final = {
    **dict.fromkeys(
        ("long", "short"),
        _words("term time run way day days ago as lived list enough weekend story haul covering notice"),
    ),
    **dict.fromkeys(("up", "down"), _words("to for with next there here and")),
    **dict.fromkeys(("good", "bad", "great", "terrible"), _words("luck morning evening night day friday weekend job afternoon")),
    **dict.fromkeys(("calls", "puts"), _words("for it him her me out")),
}
"""Before these words the word is no direction: "long term", "up to"."""
_LAST_WORD: Final = re.compile(r"([\w'’]+)\s*$")
_NEXT_WORD: Final = re.compile(r"\s*([\w'’]+)")


def opposite(text: str, fixed: re.Pattern[str]) -> str | None:
    """Every word and sign of direction swapped for its opposite, its case kept; what `fixed` matches stays as it is.

    None where there is none, or where the swap would not surely turn the meaning round: a text that sets one thing against
    another ("missed on revenue but ..."), or that has bulls or bears win or lose in words of direction. Of "bought calls" only
    the calls are swapped: to swap both would leave the meaning.
    """
    masked = mask(text, fixed)
    found = find_directions(masked)
    words = {match[0].lower() for match in found}
    in_camps = words & _CAMPS
    if not found or _CONTRAST.search(masked) or (in_camps and words - _CAMPS):
        return None
    if words & _OPTIONS:
        found = [match for match in found if match[0].lower() not in _TRADES]
    return _swapped(text, found)


def find_directions(masked: str) -> list[re.Match[str]]:
    """Words and signs of direction in a text, those left out that mean something else where they stand."""
    return [match for match in _pattern().finditer(masked) if not _idiom(match, masked)]


def last_word(text: str, end: int) -> str:
    """The word before `end` in lower case, or nothing; looked for in 64 characters, so that no text makes it slow."""
    found = _LAST_WORD.search(text[max(0, end - 64) : end])
    return found[1].lower() if found else ""


def mask(text: str, fixed: re.Pattern[str]) -> str:
    """The text with `_` for every character that `fixed` matches, so that positions stay and no word is found there."""
    return fixed.sub(lambda match: "_" * len(match[0]), text)


def like(word: str, model: str) -> str:
    """`word` (in lower case) in the case of `model`: lower, Capitalised or UPPER."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if model[:1].isupper() else word


def _swapped(text: str, found: list[re.Match[str]]) -> str | None:
    opposites, parts, end = _opposites(), [], 0
    for match in found:
        parts += [text[end : match.start()], opposites[match[0]]]
        end = match.end()
    changed = "".join([*parts, text[end:]])
    return changed if changed != text else None


def _idiom(match: re.Match[str], masked: str) -> bool:
    word = match[0].lower()
    if word in {"calls", "puts"} and masked[match.end() : match.end() + 2] == " _":  # "the desk calls $JPM a bargain"
        return True
    before, after = last_word(masked, match.start()), _NEXT_WORD.match(masked, match.end())
    return bool((before in _BEFORE.get(word, ())) or (after and after[1].lower() in _AFTER.get(word, ())))


@functools.cache
def _opposites() -> dict[str, str]:
    """Opposite of each word as written: in lower case, Capitalised and UPPER."""
    table = {}
    for pair in PAIRS.split():
        first, second = pair.replace("_", " ").split("/")
        for style in (str.lower, str.capitalize, str.upper):
            table[style(first)], table[style(second)] = style(second), style(first)
    return table


@functools.cache
def _pattern() -> re.Pattern[str]:
    words = sorted(_opposites(), key=len, reverse=True)  # the longest first: "call options" before "calls"
    letters = "|".join(re.escape(word) for word in words if word[0].isalpha())
    signs = "|".join(re.escape(word) for word in words if not word[0].isalpha())
    return re.compile(rf"(?<![\w'’\-]|[$@])(?:{letters})(?![\w'’\-])|{signs}")
