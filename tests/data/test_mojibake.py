"""Mojibake: undone without loss, or flagged and left; ordinary text is never touched."""

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.data.mojibake import repair

SHARED = Path(__file__).parents[3] / "shared" / "data"
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
def test_mojibake_is_undone(text: str, codec: str) -> None:
    if codec == "cp1252" and "”" in text:
        codec = "sloppy-windows-1252"  # one byte of the quote has no character in cp1252; browsers show it all the same
        import ftfy  # noqa: F401 - it brings the codec
    repaired = repair(damage(text, codec))
    assert repaired.text == text
    assert repaired.flag == "mojibake repaired"


def test_mojibake_of_mojibake_is_undone_to_the_ground() -> None:
    assert repair(damage(damage("Tesla’s car"))).text == "Tesla’s car"


@pytest.mark.parametrize(
    "text",
    [
        "Itâ€™s going to the moon 🚀",  # beside an emoji that is right
        "The end is near â€",  # its last byte is lost
        'says it "is possible"\x9d to recover',  # what is left of a closing quote
    ],
)
def test_what_cannot_be_undone_for_certain_stays_and_is_flagged(text: str) -> None:
    repaired = repair(text)
    assert repaired.text == text
    assert repaired.flag == "mojibake"


def test_a_replacement_character_is_past_repair() -> None:
    assert repair("Apple\ufffds profit").flag == "replacement character"
    assert repair("Apple\ufffds profitâ€¦").text == "Apple\ufffds profitâ€¦"


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert repair(text).text == text
    assert repair(text).flag is None


@given(st.lists(st.sampled_from(" ".join(ORDINARY).split()), max_size=12).map(" ".join))
def test_ordinary_words_in_any_order_are_left_alone(text: str) -> None:
    assert repair(text).text == text
    assert repair(text).flag is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_damage_is_undone_or_left_and_never_makes_a_third_text(text: str) -> None:
    try:
        damaged = damage(text)
    except UnicodeDecodeError:  # five bytes have no character in this encoding
        return
    repaired = repair(damaged)
    assert repaired.text in {damaged, text, repair(text).text}  # the last where the text was mojibake before
    assert (repaired.text != damaged) == (repaired.flag == "mojibake repaired")


@given(st.lists(st.sampled_from(" ".join(ORDINARY).split()), max_size=12).map(" ".join))
def test_damaged_tweets_are_repaired(text: str) -> None:
    repaired = repair(damage(text, "latin-1"))
    assert repaired.text == text
    assert repaired.flag == (None if text.isascii() else "mojibake repaired")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_a_repair_can_be_taken_back(text: str) -> None:
    repaired = repair(text)
    if repaired.flag != "mojibake repaired":
        assert repaired.text == text
    else:
        assert repair(repaired.text).text == repaired.text


@pytest.mark.skipif(not SHARED.is_dir(), reason="real tweets are not here")
@pytest.mark.parametrize(("name", "repaired", "kept"), [("yash612", 338, 0), ("fiqa", 17, 0), ("zeroshot_sent_train", 15, 30)])
def test_real_files(name: str, repaired: int, kept: int) -> None:
    with gzip.open(SHARED / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        flags = Counter(repair(row["text"]).flag for row in csv.DictReader(stream))
    assert flags["mojibake repaired"] == repaired
    assert flags["mojibake"] == kept
