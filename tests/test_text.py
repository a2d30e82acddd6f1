"""Forms of a text: what counts as the same, and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.text import Marks, forms, is_blank, marks, normalise, text_hash, text_id, wording

TWEETS = st.lists(
    st.sampled_from(
        [
            "RT @someone: ",
            "rt @a_b ",
            "@you",
            "$AAPL",
            "$brk.b",
            "https://t.co/x1?a=b&c",
            "www.site.io/x",
            "&amp;",
            "&amp;lt;",
            "&#39;",
            "…",
            "...",
            "ＡＢＣ",
            "ﬁne",
            "İ",
            "ẞ",
            "🚀🚀🚀",
            "💎🙌",
            "é",
            "e\u0301",
            "\u200b",
            "\ufe0f",
            "“so”",
            " \t\n",
            "to the moon",
            "!!!!",
        ]
    )
    | st.text(max_size=8),
    max_size=8,
).map("".join)


@given(TWEETS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(TWEETS)
def test_identity_survives_what_platforms_do_to_a_text(text: str) -> None:
    assert text_id(f"  {text}  ") == text_id(text)
    assert text_id(normalise(text)) == text_id(text)


@given(TWEETS)
def test_forms_hold_the_identity(text: str) -> None:
    assert forms(text).id == text_id(text)
    assert len(forms(text).id) == 32


@pytest.mark.parametrize(
    "other",
    [
        "RT @someone: Buying $AAPL calls, it's cheap & good!",
        "rt @a: RT @b Buying $AAPL calls, it's cheap & good!",
        "Buying $AAPL calls, it's cheap &amp; good! https://t.co/Abc123",
        "Buying $AAPL calls, it&#39;s cheap &amp;amp; good! http…",
        "  BUYING\n$aapl  calls, it’s cheap ＆ good!",
        "Buying $AAPL calls,\u200b it's cheap & good! pic.twitter.com/xyz",
    ],
)
def test_same_identity(other: str) -> None:
    assert text_id(other) == text_id("Buying $AAPL calls, it's cheap & good!")


@pytest.mark.parametrize("other", ["Buying $TSLA calls", "Buying $AAPL puts", "Buying $AAPL calls 🚀", "Buying AAPL calls"])
def test_other_identity(other: str) -> None:
    assert text_id(other) != text_id("Buying $AAPL calls")


def test_handles_are_masked_and_links_dropped() -> None:
    assert normalise("Thanks @Some_One! see https://t.co/x mail me@home.io") == "thanks @user! see mail me@home.io"


def test_template_leaves_out_cashtags_but_no_amounts() -> None:
    assert forms("$AAPL and $BRK.B, $NIO. cost $5, $1.2m and US$ 7").template == "andcost5 1.2mandus7"


def test_template_shortens_runs_of_marks_and_cuts_the_ellipsis() -> None:
    assert forms("wow!!!!! soooo good to go… 🚀🚀").template == "wowsoooogoodtogo"
    assert forms("good to go…").truncated
    assert not forms("good to go.").truncated


CUT = (
    ("…", "..."),
    ("", " ", " https", " https://t.co/a", " http://site.io/a-b", " www.site.io/x", " t.co/", " pic.twitter.com/x", " ht"),
    ("", '"', "”", ")", "]", " https://t.co/x1", " (via @some_one)", " via @a", " 🚀", "” https://t.co/x1 🚀"),
)


@given(
    st.lists(st.sampled_from(["the", "Fed", "$AAPL", "@you", "fell", "5%", "wow!!!!", "🚀", "“so”"]), min_size=1, max_size=9),
    st.tuples(*map(st.sampled_from, CUT)),
    st.text(max_size=20),
)
def test_a_cut_text_is_known_for_one_and_begins_as_the_whole_did(words: list[str], cut: tuple[str, str, str], more: str) -> None:
    ellipsis, link, behind = cut
    start = f"Markets rally {' '.join(words)}"
    short = forms(f"{start}{link}{ellipsis}{behind}")
    assert short.truncated
    whole = forms(f"{start}{link if link in ('', ' ') else f'{link}://tps'} {more} which means").template
    assert whole.startswith(short.template.removesuffix(" ht"))


@pytest.mark.parametrize(
    "text",
    [
        "rally… and go",
        "see https://site.io/a...b now",
        "https://t.co/a… is down",
        "rally (via @x)",
        "rally …5",
        "via @x",
        "a .. (via @x)",
    ],
)
def test_an_ellipsis_before_more_words_cuts_nothing(text: str) -> None:
    assert not forms(text).truncated


def test_what_stands_around_a_cut_text_is_not_part_of_its_template() -> None:
    for cut in ("fell…", "“fell…”", "fell… (via @x)", "fell [...]", "fell https://t.co/ab… via @x", "'fell https…'", "fell (…)"):
        assert forms(cut)[1:] == ("fell", True)
    assert forms('he said "it fell…"').template == "hesaiditfell"
    assert forms("rally… https://site.io/a...b").truncated


def test_long_runs_of_marks_cost_no_square() -> None:
    for run in ("." * 20_000, '"' * 20_000, "(" * 20_000, " via @x" * 3000, " t.co/…" * 3000):
        assert not forms(f"{run} fell … {run} go").truncated


def test_text_hash_sees_every_character() -> None:
    assert text_hash("a") != text_hash("A")
    assert text_hash("a") == text_hash("a")


def test_lone_surrogates_do_not_break_the_forms() -> None:
    assert len(text_id("bad \udc80 byte")) == 32


@given(st.text())
def test_blank_is_what_normalises_to_nothing(text: str) -> None:
    assert is_blank(text) == (not normalise(text))


@pytest.mark.parametrize("text", ["RT @a: https://t.co/x", "rt", "RT", "www.x.com", " \n", "rt @user", "a", "RT @x hello"])
def test_blank_where_links_and_retweets_are_all_there_is(text: str) -> None:
    assert is_blank(text) == (not normalise(text))


def test_emoji_do_not_tell_twins_apart() -> None:
    plain = forms("$AAPL to the moon")
    assert forms("🚀🚀 $TSLA to the moon 👩🏽‍💻🇺🇸 1️⃣").template.startswith(plain.template)
    assert forms("$AAPL 🚀 to the ❤️ moon ✅").template == plain.template
    assert forms("$AAPL 🚀 to the moon").id != plain.id
    assert forms("🚀🚀").template == "🚀🚀"
    assert forms("$AAPL 🚀 @you 150").template == "$aapl🚀@user150"
    assert forms("$AAPL 🚀").template != forms("$TSLA 🚀").template
    assert forms("$AAPL nice 🚀").template == forms("$TSLA nice").template
    assert forms("café €5 日本、 half ½").template == "café€5日本half1 2"


@pytest.mark.parametrize(
    "other",
    [
        '"$TSLA it\'s an ALL-time high" - 1,500 now!',
        "$TSLA its an alltime high; 1500 now",
        "$TSLA \u2066its\u2069 an alltime high \u202e1500 now",
        "@you $TSLA, it’s an all time high… $1500 now…",
        "its an all_time high (1500) now $TSLA $NIO",
    ],
)
def test_punctuation_spaces_and_case_do_not_tell_twins_apart(other: str) -> None:
    assert forms(other).template == forms("$TSLA it's an all-time high: 1,500 now").template


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("up 1.5 today", "up 15 today"),
        ("up 1,5 today", "up 15 today"),
        ("up +5% today", "up -5% today"),
        ("in 2-3 days", "in 23 days"),
        ("10 20 calls", "1020 calls"),
        ("$GYST 🔥", "$TTCM 🔥"),
        ("🚀", "📉"),
    ],
)
def test_numbers_and_texts_without_words_stay_apart(one: str, other: str) -> None:
    assert forms(one).template != forms(other).template
    assert wording(one) != wording(other)


def test_a_wording_is_what_is_left_without_form() -> None:
    said = wording("$AAPL it's up: +1,500 🚀🚀🚀")
    for same in ("RT @x: $AAPL its UP, +1500! 🚀 https://t.co/a", "@you “$aapl it’s up” +1500 🚀🚀…", "$AAPL it's up  +1500 🚀."):
        assert wording(same) == said
    for other in (
        "$TSLA it's up: +1,500 🚀",
        "$AAPL it's up: +1,500",
        "$AAPL it's up: -1,500 🚀",
        "$AAPL it's not up: +1,500 🚀",
    ):
        assert wording(other) != said
    assert wording("rip :)") != wording("rip :(")
    assert wording("?!") == "?!"


@given(TWEETS)
def test_texts_of_one_identity_have_one_wording(text: str) -> None:
    assert wording(normalise(text)) == wording(text)


def test_marks_are_found_by_the_rules_of_the_forms():
    assert marks("RT @desk: $AAPL, $aapl and $TSLA 🚀") == Marks(retweet=True, cashtags=2, emoji=True)
    assert marks(" rt  @a @b up") == Marks(retweet=True, cashtags=0, emoji=False)
    assert marks("as @desk said, RT @desk: $12 https://t.co/$AAPL") == Marks(retweet=False, cashtags=0, emoji=False)
    assert marks("&#128640; &#36;AAPL") == Marks(retweet=False, cashtags=1, emoji=True)


@given(TWEETS)
def test_a_retweet_is_what_the_identity_form_shortens(parts):
    text = "".join(parts)
    assert marks("RT @x: " + text).retweet
    assert not marks("word " + text).retweet
