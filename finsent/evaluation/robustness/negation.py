"""Denials of what a tweet says: "is bullish" becomes "is not bullish"."""

import re
from bisect import bisect_left
from typing import Final

from finsent.evaluation.robustness.antonyms import find_directions, last_word, like, mask

_DENIES: Final = re.compile(
    r"\b(?:not|no|nor|never|none|nobody|nothing|without|hardly|barely|cannot|neither|if|unless|"
    r"(?:do|does|did|is|are|was|were|wo|ca|should|would|could|has|have|had|ai)n['’]?t)\b|\?|"
    r"\b(?:but|despite|although|though|until|instead|stop|stopped|avoid|fail|fails|failed)\b",
    re.IGNORECASE,
)
_BELIEFS: Final = {
    "no doubt": "no way",
    "no way": "no doubt",
    "pretty sure": "not a chance",
    "not a chance": "pretty sure",
    "every chance": "zero chance",
    "zero chance": "every chance",
}
_BELIEF: Final = re.compile(rf"\b(?:{'|'.join(_BELIEFS)})\b", re.IGNORECASE)

_DEGREE: Final = r"(?:(?:so|very|really|super|extremely|too|hyper|pretty|quite)\s+)?"
_STATES: Final = (
    "bullish|bearish|undervalued|overvalued|oversold|overbought|"
    "buying|selling|shorting|adding|accumulating|loading|rallying|ripping|mooning|pumping|dumping|crashing|tanking|rising|"
    "falling|climbing|dropping|surging|plunging|soaring|sinking|sliding|growing|shrinking|winning|losing|trapped|sweating|"
    "breaking out|breaking down|going up|going down|going higher|going lower|going to zero|going to the moon|getting paid|"
    "getting crushed|heading higher|heading lower|heading to zero|headed higher|headed lower|to the moon"
)
_QUALITIES: Final = (
    "strong|weak|cheap|expensive|positive|negative|green|red|good|bad|great|terrible|long|short|up|down|a buy|a sell"
)
_BE: Final = r"is|are|was|were|am|be|look|looks|feel|feels|seem|seems|stay|stays|remain|remains|\w+['’](?:s|re|m)"
_VERBS: Final = (
    "go|rise|run|rip|moon|fly|rally|climb|jump|pop|soar|surge|fall|drop|crash|tank|dump|plunge|sink|slide|hit|break|explode|squeeze|"
    "bounce|beat|miss|double|buy|sell|print|pump|skyrocket|collapse|outperform|underperform|win|lose"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _forms(text: str) -> dict[str, str]:
    """Base form of each verb form, from `form/base` pairs."""
    return dict(pair.split("/") for pair in text.split())


_PAST: Final = _forms(
    "bought/buy sold/sell added/add grabbed/grab dumped/dump rose/rise fell/fall jumped/jump climbed/climb surged/surge "
    "soared/soar plunged/plunge tumbled/tumble slumped/slump missed/miss rallied/rally crashed/crash dropped/drop"
)
_PRESENT: Final = _forms(
    "rises/rise falls/fall jumps/jump climbs/climb surges/surge soars/soar plunges/plunge tumbles/tumble slumps/slump "
    "beats/beat misses/miss holds/hold loses/lose reclaims/reclaim clears/clear"
)
_NOT_STATED: Final = _words(
    "the a an this that these his her its their your on of for amid in with by from after at into due despite started start "
    "starts keep keeps kept begin begins began aggressively"
)
"""Behind these a state is no statement: "on bearish coverage", "keeps climbing"."""
_NAMED_AFTER: Final = re.compile(
    r"\s+(?:opportunit|pressure|power|interest|spree|signal|reversal|engulfing|divergence|case)", re.IGNORECASE
)
_HELPED: Final = _words("is are was were be been being has have had get got gets getting")

_IMPERATIVE: Final = re.compile(r"^(?:buy|sell|load up)(?=\s)(?!-)", re.IGNORECASE)
_POSITION: Final = re.compile(r"(?:^|(?<=\bi am )|(?<=\bi'm )|(?<=\bam ))(?:long|short)(?=\s+_)", re.IGNORECASE)
_MODAL: Final = re.compile(rf"\b(?:will|should|would|could|can|going to|gonna)(?=\s+(?:{_VERBS})\b)", re.IGNORECASE)
_QUALITY: Final = re.compile(rf"(?:(?<=\s)|^)(?P<be>{_BE})\s+(?P<what>{_DEGREE}(?:{_QUALITIES}))\b(?!-)", re.IGNORECASE)
_STATE: Final = re.compile(rf"(?<![\w'’\-#@$]){_DEGREE}(?:{_STATES})(?![\w'’\-])", re.IGNORECASE)
_VERB: Final = re.compile(  # at the very end a past form is more likely a participle: "550 puts bought"
    rf"(?<![\w'’\-#@$])(?:(?:{'|'.join(_PAST)})(?=\s+\S)|(?:{'|'.join(_PRESENT)})(?![\w'’\-]))", re.IGNORECASE
)
_CLAUSE: Final = re.compile(r"[.!;,:\n]+(?:\s|$)|\band\b", re.IGNORECASE)

Edit = tuple[int, int, str]

TEMPLATES: Final = (
    ("I am bullish on $AAPL", "I am not bullish on $AAPL", "Bullish"),
    ("Very bullish on $TSLA here", "Not bullish on $TSLA here", "Bullish"),
    ("Still bullish on $NVDA", "No longer bullish on $NVDA", "Bullish"),
    ("I am buying $AMD today", "I am not buying $AMD today", "Bullish"),
    ("I would buy $MSFT at this price", "I would not buy $MSFT at this price", "Bullish"),
    ("$AMZN is a buy", "$AMZN is not a buy", "Bullish"),
    ("$META looks strong", "$META does not look strong", "Bullish"),
    ("$SPY is going higher", "$SPY is not going higher", "Bullish"),
    ("$GOOG will rally", "$GOOG will not rally", "Bullish"),
    ("$NFLX is undervalued", "$NFLX isn't undervalued", "Bullish"),
    ("$PLTR to the moon 🚀", "$PLTR is never going to the moon", "Bullish"),
    ("Adding more $SOFI calls", "Not adding more $SOFI calls", "Bullish"),
    ("$DIS breaking out", "$DIS is not breaking out", "Bullish"),
    ("$UBER beat on revenue", "$UBER did not beat on revenue", "Bullish"),
    ("I bought $COIN calls", "I didn't buy $COIN calls", "Bullish"),
    ("I am bearish on $TSLA", "I am not bearish on $TSLA", "Bearish"),
    ("Very bearish on $GME here", "Not bearish on $GME here", "Bearish"),
    ("Still bearish on $NIO", "No longer bearish on $NIO", "Bearish"),
    ("I am selling $BA today", "I am not selling $BA today", "Bearish"),
    ("I would sell $F at this price", "I would not sell $F at this price", "Bearish"),
    ("$INTC is a sell", "$INTC is not a sell", "Bearish"),
    ("$XOM looks weak", "$XOM does not look weak", "Bearish"),
    ("$SPY is going lower", "$SPY is not going lower", "Bearish"),
    ("$COIN will crash", "$COIN will not crash", "Bearish"),
    ("$NVDA is overvalued", "$NVDA isn't overvalued", "Bearish"),
    ("$PLTR is heading to zero 📉", "$PLTR is never heading to zero", "Bearish"),
    ("Adding more $SOFI puts", "Not adding more $SOFI puts", "Bearish"),
    ("$DIS breaking down", "$DIS is not breaking down", "Bearish"),
    ("$UBER missed on revenue", "$UBER did not miss on revenue", "Bearish"),
    ("I bought $COIN puts", "I didn't buy $COIN puts", "Bearish"),
)
"""Short tweets, what each says, and the same denied: there is something to ask even where the test rows have nothing to deny."""


def negated(text: str, fixed: re.Pattern[str]) -> str | None:
    """What says the sentiment denied, clause by clause; what `fixed` matches stays as it is.

    None where nothing can be denied or a denial might leave the meaning: questions and conditions, texts that deny something
    already, and texts where a word or sign of direction would be left standing in a clause of its own.
    """
    masked = mask(text, fixed)
    beliefs = list(_BELIEF.finditer(masked))
    if beliefs:
        if len(beliefs) > 1 or _DENIES.search(_BELIEF.sub(" ", masked)):
            return None
        return _edited(text, [(m.start(), m.end(), like(_BELIEFS[m[0].lower()], m[0])) for m in beliefs])
    if _DENIES.search(masked):
        return None
    edits = _edits(masked)
    return _edited(text, edits) if edits and not _left_over(masked, edits) else None


def _edits(masked: str) -> list[Edit]:
    """What to write instead, in order and without overlaps; at most one denial to a clause."""
    wanted: list[Edit] = [(m.start(), m.end(), f"{like('do not', m[0])} {_inside(m[0])}") for m in _IMPERATIVE.finditer(masked)]
    for match in _MODAL.finditer(masked):
        before = match[0].lower() in {"going to", "gonna"}
        wanted.append(
            (match.start(), match.end(), like(f"not {match[0].lower()}" if before else f"{match[0].lower()} not", match[0]))
        )
    wanted += [
        (m.start("what"), m.end("what"), f"{like('not', m['what'])} {_inside(m['what'])}") for m in _QUALITY.finditer(masked)
    ]
    for pattern in (_POSITION, _STATE):
        wanted += [
            (m.start(), m.end(), f"{like('not', m[0])} {_inside(m[0])}") for m in pattern.finditer(masked) if _stated(m, masked)
        ]
    for match in _VERB.finditer(masked):
        word, previous = match[0].lower(), last_word(masked, match.start())
        if previous in _HELPED or previous.endswith(("'s", "’s")):
            continue
        denial = f"did not {_PAST[word]}" if word in _PAST else f"does not {_PRESENT[word]}"
        wanted.append((match.start(), match.end(), like(denial, match[0])))
    borders = [match.start() for match in _CLAUSE.finditer(masked)]
    kept: dict[int, Edit] = {}
    for edit in wanted:  # the earlier rules are the surer ones
        kept.setdefault(bisect_left(borders, edit[0]), edit)
    return sorted(kept.values())


def _left_over(masked: str, edits: list[Edit]) -> bool:
    """Whether a sign, or a word in a clause without a denial, still says the direction."""
    borders = [match.start() for match in _CLAUSE.finditer(masked)]
    denied = {bisect_left(borders, start) for start, _, _ in edits}
    return any(
        not match[0][0].isalpha() or bisect_left(borders, match.start()) not in denied for match in find_directions(masked)
    )


def _stated(match: re.Match[str], masked: str) -> bool:
    behind = last_word(masked, match.start()) in _NOT_STATED and not match[0].lower().endswith("moon")
    return not behind and _NAMED_AFTER.match(masked, match.end()) is None


def _inside(words: str) -> str:
    """Words as they stand behind another: without the capital of a beginning."""
    return words if words.isupper() else words[0].lower() + words[1:]


def _edited(text: str, edits: list[Edit]) -> str:
    parts, end = [], 0
    for start, stop, instead in edits:
        parts += [text[end:start], instead]
        end = stop
    return "".join([*parts, text[end:]])
