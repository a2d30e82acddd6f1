"""Text cleaning: mojibake is repaired without loss or flagged; handles are masked, identity and other words stay."""

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finsent.data.validation.text_cleaning import mask_handles, mask_raw_handles, repair_mojibake, text_flags, undo_escapes
from finsent.text import text_id

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


PIECES = (
    *(
        "@",
        "＠",
        "&#64;",
        "&#x40;",
        "&amp;",
        "&amp;#64;",
        "&commat;",
        "a",
        "b_1",
        "Bob",
        "é",
        "e\u0301",
        "\u200b",
        "\u00ad",
        "™",
        " ",
        "\n",
        ":",
        "RT ",
        "rt @x: ",
    ),
    *("https://", "HTTPS://t.co/", "www.", "t.co/", "https...", "…", ".", "-", "/", "user", "日本", "😀", "ß", "$AAPL", "#", "¨"),
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("@elon buys, says @reuters.", "@user buys, says @user."),
        ("RT @x: to the moon", "RT @user: to the moon"),
        ("RT @x_1 to the moon", "RT @user to the moon"),
        ("(@A) “@b” .@c_d", "(@user) “@user” .@user"),
        ("＠wide and @日本", "@user and @user"),
        ("@jo\u200bhn is hidden", "@user is hidden"),
        ("&#64;bob, &amp;commat;bob and a&#64;bob", "@user, @user and a&#64;bob"),
        ("@user stays", "@user stays"),
        ("mail ir@acme.com", "mail ir@acme.com"),
        ("see https://medium.com/@bob/post @bob", "see https://medium.com/@bob/post @user"),
        ("HTTPS://T.CO/@x é @x", "HTTPS://T.CO/@x é @user"),
        ("Apple™@bob and @bob", "Apple™@bob and @user"),
        ("10 @ $5, @@ twice@", "10 @ $5, @@ twice@"),
        ("no handle at all, $AAPL 🚀", "no handle at all, $AAPL 🚀"),
    ],
)
def test_handles(text: str, masked: str) -> None:
    assert mask_handles(text) == masked
    assert text_id(masked) == text_id(text)


@given(st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=14).map("".join))
@example("&#64;@0")
@example("e\u0301@bob")
def test_masking_keeps_the_identity(text: str) -> None:
    masked = mask_handles(text)
    assert text_id(masked) == text_id(text)
    assert mask_handles(masked) == masked


@given(st.lists(st.sampled_from(["@bob", "buy", "$F", "RT", "🚀", "x@y.z", "ok:"]), max_size=10))
def test_all_words_but_handles_are_kept(words: list[str]) -> None:
    assert mask_handles(" ".join(words)).split() == ["@user" if word == "@bob" else word for word in words]


@pytest.mark.parametrize(
    "shown",
    [
        r"b'hey @J\xc3\xbcrgenKlopp, x'",
        r"b'a\xe9@JrgenKlopp x'",
        r"'RT\udce9@Jürgen_Klopp'",
        r'{"text": "so\n@Klopp x"}',
        r'{"text": "J\\u00fc@J\\u00fcrgenKlopp\\u2019s"}',
        r"\u0040Klopp",
        r"@\xfcKlopp",
        "see x.com/@Klopp",
        "＠Kl\u200bopp",
    ],
)
def test_raw_text_has_no_handle_left(shown: str) -> None:
    assert "opp" not in mask_raw_handles(shown)
    assert "@user" in mask_raw_handles(shown)
    assert mask_raw_handles(mask_raw_handles(shown)) == mask_raw_handles(shown)


def test_control_characters_are_flagged_beside_the_encoding() -> None:
    assert [text_flags(f"up {character}", None) for character in "\x00\x07\x1b\x7f\x9b"] == ["control characters"] * 5
    assert text_flags("tab\tand\r\nline ends", None) is None
    assert text_flags("up\x07", "mojibake") == "mojibake, control characters"


@given(st.text(min_size=1).filter(str.strip))
def test_a_byte_literal_is_undone_to_the_character(text: str) -> None:
    assert undo_escapes(repr(text.encode())) == (text, "byte literal undone")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (r"they call it \"growth\"", 'they call it "growth"'),
        (r"it\'s up\n\tnow", "it's up\n\tnow"),
        (r"it\u2019s \uD83D\uDE80", "it’s 🚀"),
        (r"see https:\/\/t.co\/a", "see https://t.co/a"),
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
        'say "x" \\n',
        r"\ud83d cut",
        r"\n",
        r"up w\/ $A",
        r"/\/\n",
        r"D^0 \to K",
        r"G(\f;",
        "plain",
        "b is up",
    ],
)
def test_what_is_not_written_with_escapes_stays(text: str) -> None:
    assert undo_escapes(text) == (text, None)


@pytest.mark.parametrize("text", [r"b'cut \xf0\x9f", r"b'no utf-8 \xff'", "b'a' + b'b'"])
def test_a_damaged_byte_literal_is_flagged(text: str) -> None:
    assert undo_escapes(text) == (text, "byte literal")
