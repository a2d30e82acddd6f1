"""What label values usually mean, by the vocabularies of published data sets: to be offered, never to be applied. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from finsent.data.validation.label_mapping import label_number, parse_label

_WORDS: Final = (
    dict.fromkeys(["positive", "pos", "bull", "bulls", "bullish", "buy", "optimistic", "outperform"], "Bullish")
    | dict.fromkeys(["negative", "neg", "bear", "bears", "bearish", "sell", "pessimistic", "underperform"], "Bearish")
    | dict.fromkeys(["neutral", "neu", "hold", "sideways"], "Neutral")
    | dict.fromkeys(["positiv", "positif", "positivo", "positiva", "positief", "haussier", "haussière", "alcista"], "Bullish")
    | dict.fromkeys(["negativ", "negatif", "negativo", "negativa", "negatief", "baissier", "baissière", "bajista"], "Bearish")
    | dict.fromkeys(["neutre", "neutro", "neutraal", "neutrale"], "Neutral")
    | dict.fromkeys(["rialzista", "steigend", "olumlu"], "Bullish")
    | dict.fromkeys(["ribassista", "fallend", "olumsuz"], "Bearish")
    | dict.fromkeys(["nötr", "tarafsız"], "Neutral")
)
"""Mean the same beside other words: `Somewhat-Bullish`, `Positive (1)`, `LABEL_NEGATIVE`."""
_WHOLE: Final = _WORDS | (
    dict.fromkeys(["long", "up", "1"], "Bullish")
    | dict.fromkeys(["short", "down", "-1"], "Bearish")
    | dict.fromkeys(["flat", "mixed", "0"], "Neutral")
    | dict.fromkeys("🐂🐮🐃📈🚀👍", "Bullish")
    | dict.fromkeys("🐻📉👎", "Bearish")
    | dict.fromkeys("😐😶", "Neutral")
)
_NEGATIONS: Final = frozenset({"not", "non", "no", "nicht", "kein", "pas", "ne"})
_MOST_WORDS: Final = 3
_STARS: Final = re.compile(r"([1-5])\s*(?:stars?|sterne?|étoiles?|★)", re.IGNORECASE)
_NUMBERS: Final = frozenset({"-1", "0", "1"})
_FEWEST_SCORES: Final = 2
_MOST_CLASSES: Final = 11  # whole numbers up to 10 may be grades


def usual_class(value: str) -> str | None:
    """The class that a value usually stands for; None where it has no usual meaning, or two."""
    plain = value.strip().strip("'\"\ufe0f").casefold()
    if plain in _WHOLE:
        return _WHOLE[plain]
    if stars := _STARS.fullmatch(plain):
        return ("Bearish", "Bearish", "Neutral", "Bullish", "Bullish")[int(stars[1]) - 1]
    words = re.findall(r"[^\W\d_]+", plain)
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 and len(words) <= _MOST_WORDS and _NEGATIONS.isdisjoint(words) else None


def offered_classes(seen: Mapping[str, int], given: Mapping[str, str] | None) -> dict[str, str]:
    """Values to the classes that they have by the map `given`, or usually mean; without those that have neither.

    Of numbers -1, 0 and 1 mean something, and only together: 0 and 1 alone are as often bearish and bullish as neutral and
    bullish. A map's key in another letter case counts, for an offer.
    """
    keys = {key.casefold(): label for key, label in (given or {}).items()}
    numbers = {value for value in seen if label_number(value) is not None}
    usual = not numbers or (numbers <= _NUMBERS and "-1" in numbers)
    found = {}
    for value in seen:
        label = parse_label(value, given) or keys.get(value.casefold())
        if label is None and (usual or value not in numbers):
            label = usual_class(value)
        if label is not None:
            found[value] = label
    return found


def are_scores(seen: Mapping[str, int]) -> bool:
    """Whether the values are scores, not classes: numbers of which some are no whole ones, or more of them than grades."""
    numbers = [number for value in seen if (number := label_number(value)) is not None]
    whole = all(number.is_integer() for number in numbers)
    return len(numbers) >= max(_FEWEST_SCORES, 0.9 * len(seen)) and (not whole or len(numbers) > _MOST_CLASSES)
