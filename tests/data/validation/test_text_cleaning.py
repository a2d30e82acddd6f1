"""Text cleaning: handles are masked, identity and other words stay."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finsent.data.validation.text_cleaning import mask_handles, mask_raw_handles
from finsent.text import text_id

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
