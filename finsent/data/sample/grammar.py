"""Grammar of the sample's tweets: word order, negation and roles decide the label, not single words.

A frame is a sentence with slots. A slot of `SIDES` has a bullish (+) and a bearish (-) side; the label is the product of the
sides of the slots that a frame names, so `{trade} .. {option}` is bullish for "bought .. calls" and "sold .. puts" alike:

    {name}    counts towards the label          {-name}   the other side of the same slot, does not count
    {~name}   a random side, does not count     {name}    of `PLAIN`: has no side

A frame that starts with `! ` negates its product (the roles are swapped).
"""

from typing import Final

SIDES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "trade": (("bought", "grabbed", "added"), ("sold", "dumped", "wrote")),
    "option": (("calls", "call spreads", "call options"), ("puts", "put spreads", "put options")),
    "camp": (("bulls", "longs", "dip buyers"), ("bears", "shorts", "short sellers")),
    "fate": (("winning", "laughing", "getting paid"), ("trapped", "sweating", "getting crushed")),
    "kpi": (("revenue", "margins", "orders"), ("costs", "churn", "debt")),
    "move": (("rising", "growing", "climbing"), ("falling", "shrinking", "sliding")),
    "belief": (("no doubt", "pretty sure", "every chance"), ("no way", "not a chance", "zero chance")),
    "act": (("holds", "clears", "reclaims"), ("loses", "dips below", "gives up")),
    "event": (
        ("beat on revenue", "raised guidance", "new contract win"),
        ("missed on revenue", "cut guidance", "lost a key contract"),
    ),
    "view": (("bullish", "long", "a buyer"), ("bearish", "short", "a seller")),
    "claim": (("great management", "a real bargain", "easy double"), ("terrible management", "a real scam", "easy zero")),
    "tone": (("no joke", "i mean it", "seriously"), ("yeah right", "/s", "🙄")),
    "mood": (
        ("to the moon", "breaking out", "looks primed to rip", "screaming buy"),
        ("heading to zero", "breaking down", "ready to roll over", "screaming sell"),
    ),
    "say": (
        ("love this setup", "so undervalued", "accumulating every dip", "huge upside"),
        ("hate this setup", "so overvalued", "fading every rip", "huge downside"),
    ),
    "glyph": (("🚀", "📈", "🐂", "🔥", "💎🙌"), ("📉", "🐻", "💩", "🔻", "😭")),
}

PLAIN: Final[dict[str, tuple[str, ...]]] = {
    "adj": ("weekly", "big", "small", "cheap", "june", "old", "usual", "{n} strike"),
    "when": ("this morning", "at the open", "into the close", "today", "on friday", "yesterday", "premarket", "all week"),
    "filler": ("honestly", "again", "quietly", "finally", "for once", "as usual", "once more", "apparently"),
    "month": ("january", "march", "april", "june", "august", "october"),
    "sector": ("chips", "banks", "software", "retail", "biotech", "energy", "airlines", "miners"),
    "who": ("the desk", "my cousin", "management", "the street", "a friend", "my broker", "half my feed"),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday"),
    "firm": ("Norwick", "Halden & Co", "Birchlane", "Osterman", "Tarn Capital", "Quayside"),
    "city": ("Austin", "Oslo", "Osaka", "Dublin", "Toronto", "Lyon", "Denver", "Pune"),
    "role": ("CFO", "CEO", "chief scientist", "chair", "general counsel"),
    "thing": ("a plant", "a data centre", "a new office", "a research lab", "a warehouse"),
    "n": (
        *("5", "10", "12", "15", "20", "25", "30", "40", "50", "60"),
        *("75", "80", "100", "120", "150", "180", "200", "250", "300", "400"),
    ),
}

TWO_SIDED: Final[tuple[str, ...]] = (
    "{trade} my {adj} {tag} {option} {when}",
    "{when} i {trade} {tag} {adj} {option}, {filler}",
    "{filler} {trade} the {adj} {option} on {tag}",
    "we {trade} {n} {tag} {option} {when}",
    "{trade} {filler} some {adj} {option} in {tag}",
    "{who} {trade} {tag} {adj} {option} {when}",
    "{trade} my {tag} {option} and {-trade} the {-option}",
    "{trade} {adj} {tag} {option} {when}, {-trade} {-option} against it",
    "{tag} {camp} are {filler} {fate} {when}",
    "{camp} in {tag} are {fate} {when}",
    "look at the {tag} {camp}, {filler} {fate}",
    "{when} the {adj} {tag} {camp} are {fate}",
    "{who} says {tag} {camp} are {fate} {filler}",
    "{camp} {fate} {when} in {tag}",
    "{tag} {kpi} {filler} {move} {when}",
    "{kpi} at {tag} keep {move}, {n} percent {when}",
    "{tag}: {kpi} {move} {filler}, {-kpi} {-move}",
    "{who} sees {tag} {kpi} {move} in {month}",
    "{kpi} {filler} {move} at {tag} since {month}",
    "{belief} {tag} {act} {n} {when}",
    "{belief} this {adj} {tag} range {act} {n}",
    "{belief} {tag} {filler} {act} {n}",
    "{filler} {belief} {tag} {act} the {n} level in {month}",
    "{tag} {claim} {filler}, {tone}",
    "{who} calls {tag} {claim} {tone}",
    "{claim} at {tag} {when} {tone}",
)
"""The product of two sides decides; either word alone says nothing."""

ORDERED: Final[tuple[str, ...]] = (
    "{tag} {-event} but {event} {when}",
    "{tag} {-event} {when} but {filler} {event}",
    "{-event} at {tag} but {who} says {event}",
    "{tag} {event} {filler} despite {-event}",
    "flipped {tag} from {-view} to {view} {when}",
    "{who} went from {-view} to {filler} {view} on {tag}",
    "was {-view} on {tag} until {month}, {filler} {view} now",
    "now {view} on {tag}, was {-view} {when}",
)
"""Both sides are named; their order and the word between decide."""

PLAINSPOKEN: Final[tuple[str, ...]] = (
    "{tag} {mood} {when}",
    "{tag} {say} {glyph}",
    "{filler} {tag} {mood} {glyph}",
    "{who} on {tag}: {say}",
    "{say}, {tag} at {n} {when}",
    "{tag} {mood}, {say}",
    "{say} {tag} {glyph}{glyph}",
)
"""One side decides: the part that a bag of words gets right."""

NEUTRAL: Final[tuple[str, ...]] = (
    "anyone {~trade} {tag} {~option} {when}?",
    "are the {tag} {~camp} {~fate} or is it just me?",
    "what do you think, {tag} {~act} {n} {when}?",
    "is {tag} {~claim} or not, asking for {who}",
    "if {tag} {act} {n} i am {view}, if it {-act} {n} i am {-view}",
    "{who} asks whether {tag} {~event} in {month}",
    "what happens to {tag} when {~kpi} go {~move}?",
    "poll: are you {view} or {-view} on {tag} {when}?",
    "question for the {~camp}: which {tag} strike and why?",
    "{tag} reports {day} after the close, street looks for {n} cents",
    "{tag} to present at the {firm} {sector} conference in {city} {day}",
    "{firm} reiterates hold on {tag}, target stays {n}",
    "{tag} names new {role}, effective {month} {n}",
    "{tag} opens {thing} in {city}",
    "{tag} annual meeting set for {month} {n} in {city}",
    "{tag} files its quarterly report, {n} pages",
    "{firm} starts {tag} at neutral with a {n} target",
    "{tag} unchanged at {n} on average volume {when}",
    "{sector} mixed {when}, {tag} flat near {n}",
    "{tag} declares its regular dividend of {n} cents, payable in {month}",
    "{tag} and {tag2} extend their supply agreement to {month}",
    "{tag} moves its listing of {sector} bonds to {city}",
    "{role} of {tag} speaks in {city} on {day}",
    "reading {who}'s piece on {tag} and {sector} {when}",
    "{tag} option volume: {n}k calls, {n}k puts {when}",
    "watching {tag} {when}, no position, waiting for {n}",
    "{tag} trading halted {when}, news pending",
    "list for {day}: {tag} {tag2} and some {sector}",
    "{who} owns {tag} and {tag2}, shares held since {month}",
    "{tag} {camp} and {-camp} still arguing over {n} {when}",
)
"""Questions, conditions and plain news; many name sides and still take none."""

TAILS: Final = (
    "target {n}",
    "watching {sector} too",
    "not advice",
    "coffee first",
    "see you {day}",
    "stop at {n}",
    "chart in the next post",
    "{month} can wait",
    "more on {day}",
)
OPENERS: Final = ("ok so", "lol", "update:", "imo", "fyi", "well", "psa:", "hot take:")
NEUTRAL_GLYPHS: Final = ("👀", "🤔", "📊", "☕", "🧵", "🤷‍♂️")
HASHTAGS: Final = ("#stocks", "#trading", "#fintwit", "#options")
TICKERS: Final = (
    *("AAPL", "TSLA", "NVDA", "AMD", "MSFT", "AMZN", "GOOG", "META", "NFLX", "SPY", "BTC", "ETH", "PLTR", "SOFI", "NIO"),
    *("DIS", "BA", "F", "GME", "COIN", "UBER", "INTC", "JPM", "XOM"),
)
LATE_TICKERS: Final = ("ARKX", "VLTN", "QBIT", "NRGY", "HELI", "OCTA", "ZMBR", "KITE")
"""Names that appear on the second day only, so that monitoring has some drift to see."""
