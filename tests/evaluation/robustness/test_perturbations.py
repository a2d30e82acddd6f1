"""Changes of text: what they change, what they leave, and what they refuse."""

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.evaluation.robustness.antonyms import PAIRS
from finsent.evaluation.robustness.negation import TEMPLATES
from finsent.evaluation.robustness.perturbations import (
    DIRECTION,
    INVARIANCE,
    TICKERS,
    case,
    cashtag_swap,
    emoji_removal,
    link_change,
    negation,
    typos,
    up_down_swap,
    url_and_handle_change,
    whitespace_and_punctuation,
)
from finsent.labels import LABEL2ID

CHANGES = {**INVARIANCE, **DIRECTION}
FIXED = re.compile(r"https://\S+|@\w+|\$[A-Za-z]\w*|#\w+|&\w+;")
PIECES = [
    *(
        "$AAPL",
        "$tsla",
        "$BRK.B",
        "@trader_1",
        "https://t.co/abcDEF123",
        "#bullish",
        "&amp;",
        "12.5%",
        "🚀",
        "📉",
        "👀",
        "🤷‍♂️",
        "😭",
    ),
    *("bullish", "Not", "is", "up", "DOWN", "buying", "sold", "calls", "puts", "long", "term", "short", "sellers", "dip buyers"),
    *(
        "no doubt",
        "to the moon",
        "earnings",
        "beats",
        "and",
        "but",
        "test_set_uses",
        "strong",
        "?",
        ".",
        "Rallies",
        "uP",
        "\n",
        "  ",
        "İ",
    ),
]
tweets = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map(" ".join) | st.text(max_size=40)


@given(st.sampled_from(sorted(CHANGES)), tweets, st.integers(0, 5))
def test_every_change_changes_something_by_its_seed_alone_and_leaves_a_text(name, text, seed):
    changed = CHANGES[name](text, Random(seed))
    assert changed == CHANGES[name](text, Random(seed))
    assert changed is None or (changed != text and changed.strip())


@given(tweets)
def test_swapping_twice_gives_the_text_back(text):
    changed = up_down_swap(text, Random(0))
    assert changed is None or up_down_swap(changed, Random(0)) == text


@given(st.sampled_from(["typos", "whitespace_and_punctuation", "up_down_swap", "negation"]), tweets, st.integers(0, 5))
def test_links_handles_and_tickers_are_left_alone(name, text, seed):
    changed = CHANGES[name](text, Random(seed))
    kept = re.compile(FIXED.pattern.replace(r"|#\w+", "")) if name in DIRECTION else FIXED  # "#bullish" says what "bullish" does
    assert changed is None or kept.findall(changed) == kept.findall(text)


@given(tweets, st.integers(0, 5))
def test_typos_swap_neighbours_within_long_words(text, seed):
    changed = typos(text, Random(seed))
    if changed is None:
        return
    assert Counter(changed) == Counter(text)
    altered = [at for at in range(len(text)) if text[at] != changed[at]]
    assert len(altered) in {2, 4}
    assert all(text[at].isalpha() and text[at + 1] == changed[at] for at in altered[::2])
    assert all(text[at - 1].isalpha() and text[at + 1].isalpha() for at in altered)  # first and last letters stay


@given(st.sampled_from(sorted(INVARIANCE)), tweets, st.integers(0, 3))
def test_invariance_leaves_the_words_of_direction(name, text, seed):
    changed = INVARIANCE[name](text, Random(seed))
    if changed is None or name == "typos":
        return
    words = re.compile(r"(?<![\w/@$])(?:bullish|up|down|buying|calls|puts|🚀|📉|😭)(?!\w)")
    assert words.findall(changed.lower()) == words.findall(text.lower())


def test_a_name_becomes_the_same_other_name_wherever_it_stands():
    changed = cashtag_swap("$AAPL over $tsla, $aapl! not https://x.io/$AAPL or $12", Random(3))
    found = re.fullmatch(r"\$([A-Z]+) over \$([a-z]+), \$([a-z]+)! not https://x.io/\$AAPL or \$12", changed)
    assert found[1].lower() == found[3]
    assert found[1] != found[2].upper()
    assert {found[1], found[2].upper()} <= set(TICKERS) - {"AAPL", "TSLA"}
    assert cashtag_swap("$SQQQ and $AAPL", Random(0)) is None  # rises when the market falls
    assert cashtag_swap("AAPL at $12", Random(0)) is None


def test_links_and_handles_become_others():
    text = "RT @a: see https://t.co/x and @A or @b"
    changed = url_and_handle_change(text, Random(1))
    found = re.fullmatch(r"RT @(\w+): see https://t\.co/(\w{10}) and @(\w+) or @(\w+)", changed)
    assert found[1] == found[3]
    assert found[1] not in {"a", "b", found[4]}
    assert url_and_handle_change("nothing of the kind", Random(1)) is None
    assert re.fullmatch(r"up we go https://t\.co/\w{10}", link_change("up we go", Random(1)))
    assert link_change("up https://t.co/x we go", Random(1)) == "up we go"
    assert link_change("https://t.co/x", Random(1)) is None


def test_case_leaves_links():
    found = {case("Up $AAPL https://t.co/aB", Random(seed)) for seed in range(20)}
    assert found == {"UP $AAPL https://t.co/aB", "up $aapl https://t.co/aB"}
    assert {case("UP", Random(seed)) for seed in range(20)} == {"up"}
    assert case("12 % 🚀", Random(0)) is None


def test_only_emoji_that_take_no_side_go():
    assert emoji_removal("👀 watch $AAPL 🤷‍♂️ 🚀📉😭", Random(0)) == "watch $AAPL 🚀📉😭"
    assert emoji_removal("one 👇🏿👇🏿\ntwo", Random(0)) == "one\ntwo"  # skin tones go with them, line breaks stay
    assert emoji_removal("🚀📉", Random(0)) is None
    assert emoji_removal("👀", Random(0)) is None


def test_a_full_stop_or_a_space_is_changed():
    found = {whitespace_and_punctuation("going up.", Random(seed)) for seed in range(20)}
    assert found == {"going up", "going  up."}
    assert whitespace_and_punctuation("https://t.co/x", Random(0)) is None
    assert whitespace_and_punctuation("wait...", Random(0)) is None


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("$AAPL is bullish", "$AAPL is not bullish"),
        ("Very bullish on $AAPL", "Not very bullish on $AAPL"),
        ("STILL BULLISH", "STILL NOT BULLISH"),
        ("Long $TSLA here", "Not long $TSLA here"),
        ("buying the dip", "not buying the dip"),
        ("Buy $AAPL now", "Do not buy $AAPL now"),
        ("$AAPL will rally", "$AAPL will not rally"),
        ("it is going to crash", "it is not going to crash"),
        ("we bought $AAPL calls", "we did not buy $AAPL calls"),
        ("$AAPL beats on revenue", "$AAPL does not beat on revenue"),
        ("$AAPL stock soars", "$AAPL stock does not soar"),
        ("550 puts bought", None),
        ("$AAPL looks weak", "$AAPL looks not weak"),
        ("No doubt $AAPL holds 150", "No way $AAPL holds 150"),
        ("zero chance $AAPL holds", "every chance $AAPL holds"),
        ("bullish, buying more", "not bullish, not buying more"),
        ("is $AAPL bullish?", None),
        ("not bullish", None),
        ("I don't see it going up", None),
        ("if it holds I am bullish", None),
        ("bullish but selling", None),
        ("bullish 🚀", None),  # the sign would still say it
        ("bullish on tech. Up 5%", None),
        ("shares slip on bearish coverage", None),
        ("earnings on Tuesday", None),
        ("#bullish", None),
    ],
)
def test_negation(text, changed):
    assert negation(text, Random(0)) == changed


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("$AAPL up 5%, Bullish", "$AAPL down 5%, Bearish"),
        ("RALLIES to new highs 📈", "PLUNGES to new lows 📉"),
        ("to the moon 🚀", "to zero 🔻"),
        ("bought my $AAPL calls", "bought my $AAPL puts"),  # to swap both would leave the meaning
        ("bought $AAPL calls, sold the puts", "bought $AAPL puts, sold the calls"),
        ("bought $AAPL", "sold $AAPL"),
        ("the bulls are getting crushed", "the bears are getting crushed"),
        ("short sellers are trapped", "dip buyers are trapped"),
        ("flipped from bearish to bullish", "flipped from bullish to bearish"),
        ("#bullish", "#bearish"),
        ("$UP and @down https://t.co/up", None),
        ("long term hold", None),
        ("set up a call", None),
        ("what's up", None),
        ("good luck", None),
        ("missed on revenue but raised guidance", None),
        ("bulls up, bears down", None),
        ("uP", None),
    ],
)
def test_up_down_swap(text, changed):
    assert up_down_swap(text, Random(0)) == changed


def test_each_word_has_one_opposite():
    words = [word for pair in PAIRS.split() for word in pair.split("/")]
    assert [word for word, times in Counter(words).items() if times > 1] == []


def test_templates_are_denied_and_of_both_sides():
    assert Counter(label for _, _, label in TEMPLATES) == {"Bullish": 15, "Bearish": 15}
    assert all(re.search(r"\b(?:not|never|no longer)\b|n't", denied, re.IGNORECASE) for _, denied, _ in TEMPLATES)
    assert not any(re.search(r"\bnot\b|n't", plain) for plain, _, _ in TEMPLATES)
    assert {label for _, _, label in TEMPLATES} <= set(LABEL2ID)
