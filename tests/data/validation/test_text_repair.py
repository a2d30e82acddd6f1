"""Text repair: what programs did to a text is undone without loss, or flagged."""

import csv
import gzip
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.data.validation.text_repair import (
    repair_mojibake,
    repair_text,
    text_flags,
    undo_doubled_quotes,
    undo_entities,
    undo_escapes,
)
from finsent.text import forms, text_id

SHARED = Path(__file__).parents[4] / "shared" / "data"
ORDINARY = (
    "buy the dip",
    "🚀🚀 $GME to the moon 💎🙌",
    "日経平均は上昇 📈 $NI225",
    "El Niño façade — naïve Zürich señor",
    "“curly” ‘quotes’ — and … an ellipsis",
    "S&amp;P &#39;500&#39; £5 €10 50¢ ½ 20°",
    "👩‍💻 family 👨‍👩‍👧 flag 🇺🇸 ❤️",
    "Deutsche Börse, Itaú, Générale, Føroyar",
    "Торговый план, η αγορά, 작전주, السعر الحالي",
    "ÜBER ÉLITE",
)


def damage(text: str, codec: str = "cp1252") -> str:
    return text.encode().decode(codec)


@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
@pytest.mark.parametrize(
    "text", ["Apple’s profits rise… more", "Deutsche Börse – LSE", "£90m deal", "“Fish” & chips", "Itaú", "€5", "moon 🚀"]
)
def test_mojibake_is_repaired(text: str, codec: str) -> None:
    if codec == "cp1252" and "”" in text:
        codec = "sloppy-windows-1252"  # one byte of the quote has no character in cp1252; browsers show it all the same
        import ftfy  # noqa: F401 - it brings the codec
    repaired = repair_mojibake(damage(text, codec))
    assert repaired.text == text
    assert repaired.flag == "mojibake repaired"


def test_nested_mojibake_is_repaired() -> None:
    assert repair_mojibake(damage(damage("Tesla’s car"))).text == "Tesla’s car"


@pytest.mark.parametrize(
    "text",
    [
        "Itâ€™s going to the moon 🚀",  # beside an emoji that is right
        "The end is near â€",  # its last byte is lost
        'says it "is possible"\x9d to recover',  # what is left of a closing quote
    ],
)
def test_uncertain_repairs_are_only_flagged(text: str) -> None:
    repaired = repair_mojibake(text)
    assert repaired.text == text
    assert repaired.flag == "mojibake"


def test_a_replacement_character_is_not_repairable() -> None:
    assert repair_mojibake("Apple\ufffds profit").flag == "replacement character"
    assert repair_mojibake("Apple\ufffds profitâ€¦").text == "Apple\ufffds profitâ€¦"


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert repair_mojibake(text).text == text
    assert repair_mojibake(text).flag is None


@given(st.lists(st.sampled_from(" ".join(ORDINARY).split()), max_size=12).map(" ".join))
def test_ordinary_words_in_any_order_are_unchanged(text: str) -> None:
    assert repair_mojibake(text).text == text
    assert repair_mojibake(text).flag is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_damage_is_repaired_or_left(text: str) -> None:
    try:
        damaged = damage(text)
    except UnicodeDecodeError:  # five bytes have no character in this encoding
        return
    repaired = repair_mojibake(damaged)
    assert repaired.text in {damaged, text, repair_mojibake(text).text}  # the last where the text was mojibake before
    assert (repaired.text != damaged) == (repaired.flag == "mojibake repaired")


@given(st.lists(st.sampled_from(" ".join(ORDINARY).split()), max_size=12).map(" ".join))
def test_damaged_tweets_are_repaired(text: str) -> None:
    repaired = repair_mojibake(damage(text, "latin-1"))
    assert repaired.text == text
    assert repaired.flag == (None if text.isascii() else "mojibake repaired")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_a_repair_is_reversible(text: str) -> None:
    repaired = repair_mojibake(text)
    if repaired.flag != "mojibake repaired":
        assert repaired.text == text
    else:
        assert repair_mojibake(repaired.text).text == repaired.text


@pytest.mark.skipif(not SHARED.is_dir(), reason="real tweets are not here")
@pytest.mark.parametrize(("name", "repaired", "kept"), [("yash612", 338, 0), ("fiqa", 17, 0), ("zeroshot_sent_train", 15, 30)])
def test_real_files(name: str, repaired: int, kept: int) -> None:
    with gzip.open(SHARED / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        flags = Counter(repair_mojibake(row["text"]).flag for row in csv.DictReader(stream))
    assert flags["mojibake repaired"] == repaired
    assert flags["mojibake"] == kept


def test_control_characters_are_flagged_beside_the_encoding() -> None:
    assert [text_flags(f"up {character}", None) for character in "\x00\x07\x1b\x7f\x9b"] == ["control characters"] * 5
    assert text_flags("tab\tand\r\nline ends", None) is None
    assert text_flags("up\x07", "mojibake") == "mojibake, control characters"


@given(st.text(min_size=1).filter(str.strip))
def test_a_byte_literal_is_undone_to_the_character(text: str) -> None:
    assert undo_escapes(repr(text.encode())) == (text, "byte literal undone")


@given(
    st.lists(st.sampled_from(["up", " ", "\n", "’", "é", "🚀", "'", '"', "\\", "https://t.co/a", "\x07"]), max_size=12).map(
        "".join
    )
)
def test_escapes_are_undone_to_the_character_or_stay(text: str) -> None:
    for written in (json.dumps(text), json.dumps(text, ensure_ascii=False), repr(text), ascii(text), repr(text.encode())[1:]):
        plain, flag = undo_escapes(written[1:-1])
        assert plain == (text if flag else written[1:-1])


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (r"they call it \"growth\"", 'they call it "growth"'),
        (r"it\'s up\n\tnow", "it's up\n\tnow"),
        (r"it\u2019s \uD83D\uDE80", "it’s 🚀"),
        (r"see https:\/\/t.co\/a", "see https://t.co/a"),
        (r'why "blue" \u2026 \U0001f680', 'why "blue" … 🚀'),
        (r'say "up" \n caf\xe9', 'say "up" \n café'),
        (r"Apple\xe2\x80\x99s caf\xc3\xa9", "Apple’s café"),
        (r'it\'s "up" \xe2\x80\xa6', 'it\'s "up" …'),
    ],
)
def test_escapes_written_out_are_undone(written: str, plain: str) -> None:
    assert undo_escapes(written) == (plain, "escapes undone")


@pytest.mark.parametrize(
    "text",
    [
        r"C:\new\table",
        r"¯\_(ツ)_/¯",
        r"a \ b",
        r"\ud83d cut",
        r"\n",
        r"up w\/ $A",
        r"/\/\n",
        r"D^0 \to K",
        r'say "\ud83d"',
        r'a "b" \n \_',
        r"rest \u2026 and “more”",
        r"G(\f;",
        "plain",
        "b is up",
    ],
)
def test_what_is_not_written_with_escapes_stays(text: str) -> None:
    assert undo_escapes(text) == (text, None)


@pytest.mark.parametrize("text", [r"Apple\xe2\x80\x99s cut \xe2\x80", r"b'cut \xf0\x9f", r"b'no utf-8 \xff'", "b'a' + b'b'"])
def test_a_damaged_byte_literal_is_flagged(text: str) -> None:
    assert undo_escapes(text) == (text, "byte literal")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("S&amp;P &gt; 4200, &lt;3", "S&P > 4200, <3"),
        ("S&P isn&#39;t &quot;up&quot;", 'S&P isn\'t "up"'),  # its writer left the ampersand
        ("AT&amp;amp;T &amp;lt; 5", "AT&T < 5"),
        ("it&#8217;s up&hellip; &#x1F680;", "it’s up… 🚀"),
        ("&amp;ampere", "&ampere"),
    ],
)
def test_entities_are_undone_and_the_identity_stays(written: str, plain: str) -> None:
    assert undo_entities(written) == (plain, "HTML entities undone")
    assert text_id(plain) == text_id(written)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("AT&T &amp; Verizon", "HTML entities"),  # the first ampersand would have been one, too
        ("it&#39;s and it&#039;s", "HTML entities"),
        ("R&D; S&P500; a & b; x&amp", None),
        ("&#27;[31m &#0; &NotEqualTilde; &#xD83D;", None),
        ("&" + "amp;" * 1250, "HTML entities"),
    ],
)
def test_entities_that_are_no_certain_ones_stay(text: str, flag: str | None) -> None:
    assert undo_entities(text) == (text, flag)


@given(
    st.lists(
        st.sampled_from([*"&;#@<>\"' ax", "&amp;", "amp;", "lt;", "&#39;", "&nbsp;", "&#64;", "http://t.co/", "ok"]), max_size=12
    )
)
def test_undoing_entities_keeps_the_identity_and_is_done_once(pieces: list[str]) -> None:
    text = "".join(pieces)
    plain, flag = undo_entities(text)
    assert (plain != text) == (flag == "HTML entities undone")
    assert text_id(plain) == text_id(text)
    assert undo_entities(plain).text == plain


@pytest.mark.parametrize("crafted", ["&amp;" * 1000, "&" + "amp;" * 1250, "&a" * 2500, "&#39;" * 1000, '"' * 5000, '""a' * 1600])
def test_crafted_texts_cost_little(crafted: str) -> None:
    started = time.process_time()
    repair_text(crafted)
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ('He said ""buy"" now', 'He said "buy" now'),
        ('""Buy the dip""', '"Buy the dip"'),
        ('"He said ""buy"" now"', 'He said "buy" now'),
        ('"""Buy"" he said"', '"Buy" he said'),
    ],
)
def test_quotes_doubled_once_too_often_are_undone(written: str, plain: str) -> None:
    assert undo_doubled_quotes(written) == (plain, "doubled quotes undone")


@pytest.mark.parametrize(
    "text",
    [
        'a ""',
        'Mini4"" was like: ""Hey',
        'sales exceed target""',
        '"Watch "RE$T "MOTIVATION"" on',
        'say ""a"" or "b"',
        '"Buy" and "sell"',
        '""""',
        '"up"',
    ],
)
def test_quotes_that_are_not_all_doubled_stay(text: str) -> None:
    assert undo_doubled_quotes(text) == (text, None)


@given(st.lists(st.sampled_from(['"', "buy", " ", "$A", "’"]), max_size=12))
def test_what_is_written_with_doubled_quotes_comes_back(pieces: list[str]) -> None:
    text = "".join(pieces)
    field = '"' + text.replace('"', '""') + '"'
    plain, flag = undo_doubled_quotes(field)
    assert plain == (text if flag else field)


@pytest.mark.parametrize(
    "twin",
    [
        """b'Apple isn\\'t "up" \\xe2\\x80\\xa6 S&P to 4,500'""",
        r"Apple isn\'t \"up\" … S&P to 4,500",
        "Apple isn&#39;t &quot;up&quot; … S&amp;P to 4,500",
        "Apple isn&#39;t &quot;up&quot; &hellip; S&amp;amp;P to 4,500",
        '"Apple isn\'t ""up"" … S&P to 4,500"',
        'Apple isn\'t "up" â€¦ S&P to 4,500',
    ],
)
def test_twins_of_repaired_texts_are_duplicates(twin: str) -> None:
    assert forms(repair_text(twin).text) == forms('Apple isn\'t "up" … S&P to 4,500')
