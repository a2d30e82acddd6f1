"""Label values: a vocabulary that is partly understood stops, and the map to give is offered in the file's own values."""

from collections import Counter

import pytest

from finsent.config import Source
from finsent.data.sources.records import labelled_columns
from finsent.data.validation.label_mapping import label_key, parse_label
from finsent.data.validation.label_values import check_label_values
from finsent.data.validation.label_vocabulary import are_scores, offered_classes, usual_class
from finsent.errors import InputError


def source(**settings: object) -> Source:
    return Source.model_validate({"uri": "day.csv", **settings})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("positive negative neutral", "--label-map positive=Bullish,negative=Bearish,neutral=Neutral"),
        ("POS NEG Neutral", "--label-map POS=Bullish,NEG=Bearish,Neutral=Neutral"),
        ("buy sell hold", "--label-map buy=Bullish,sell=Bearish,hold=Neutral"),
        ("bull bear neutral", "--label-map bull=Bullish,bear=Bearish,neutral=Neutral"),
        ("-1 0 1", "--label-map=-1=Bearish,0=Neutral,1=Bullish"),
        ("0 1", "Numbers are never guessed"),
        ("happy Neutral", "happy=CLASS,Neutral=Neutral"),
        ("haussier baissier neutre", "--label-map haussier=Bullish,baissier=Bearish,neutre=Neutral"),
        ("positive negative weird", "--label-map positive=Bullish,negative=Bearish,weird=CLASS"),
    ],
)
def test_the_map_is_offered_and_never_guessed(values: str, expected: str) -> None:
    with pytest.raises(InputError) as error:
        check_label_values(source(), Counter(dict.fromkeys(values.split(), 5)))
    assert expected in str(error.value).replace("'", "")


def test_rare_values_stop_nothing() -> None:
    assert check_label_values(source(), Counter(Bullish=600, positiv=6)) == []
    with pytest.raises(InputError, match="7 of 607 rows"):
        check_label_values(source(), Counter(Bullish=600, positiv=7))
    assert check_label_values(source(), Counter(Bullish=5, positive=5), check=False) == []


def test_a_key_that_occurs_nowhere_is_told() -> None:
    given = {"postive": "Bullish", "negative": "Bearish"}
    with pytest.raises(InputError, match=r"'positive' \(3 rows\).*'postive' occurs nowhere"):
        check_label_values(source(labels=given), Counter(positive=3, negative=8, neutral=10))
    assert "'postive' occurs nowhere" in check_label_values(source(labels=given), Counter(negative=8, neutral=10))[0]


def test_scores_need_bins() -> None:
    scores = Counter({"0.4": 1, "-0.31": 2, "0": 5, "0.05": 1, "-0.8": 3})
    assert are_scores(scores)
    with pytest.raises(InputError, match=r"These are scores, from -0\.8 to 0\.4.*--label-bins"):
        check_label_values(source(labels={"0": "Neutral"}), scores)
    assert check_label_values(source(label_bins=(-0.1, 0.1)), scores) == []
    found = [parse_label(value, None, (-0.1, 0.1)) for value in ("-0.31", "0.1", "-0.1", "0.4", "nan", "x")]
    assert found == ["Bearish", "Neutral", "Neutral", "Bullish", None, None]


def test_a_class_of_every_row_needs_no_column() -> None:
    assert set(labelled_columns(source(label_value="Bullish")).required) == {"text"}


@pytest.mark.parametrize(
    ("value", "key"),
    [(" 1.0 ", "1"), (["up"], "up"), ([], "[]"), ("'up'", "up"), ('"Bullish" ', "Bullish"), (2.0, "2"), (True, "True")],
)
def test_keys_are_trimmed(value: object, key: str) -> None:
    assert label_key(value) == key


def test_an_offer_keeps_what_was_given() -> None:
    assert offered_classes({"up": 1, "down": 1}, {"up": "Neutral"}) == {"up": "Neutral", "down": "Bearish"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Positive (1)", "Bullish"),
        ("Somewhat-Bearish", "Bearish"),
        ("LABEL_NEUTRAL", "Neutral"),
        ("2 stars", "Bearish"),
        ("not positive", None),
        ("positive and negative", None),
        ("long-term", None),
        ("😐\ufe0f", "Neutral"),
        ("🐻", "Bearish"),
    ],
)
def test_usual_meanings_beside_other_words(value: str, expected: str | None) -> None:
    assert usual_class(value) == expected


def test_a_key_in_another_letter_case_is_told() -> None:
    given = {"Positive": "Bullish", "negative": "Bearish"}
    with pytest.raises(InputError, match=r"'Positive' \('positive' does, and letter case counts\).*positive=Bullish,negative="):
        check_label_values(source(labels=given), Counter(positive=30, negative=80))
    with pytest.raises(InputError, match=r"the map says otherwise.*'bullish' \('BULLISH' does, and"):
        check_label_values(source(labels={"bullish": "Bearish"}), Counter(BULLISH=30, Neutral=80))
    assert check_label_values(source(labels={"bullish": "Bullish"}), Counter(BULLISH=30, Neutral=80))


def test_scores_with_a_decimal_comma() -> None:
    with pytest.raises(InputError, match=r"These are scores, from -0\.6 to 0\.82"):
        check_label_values(source(), Counter({"0,82": 6, "-0,6": 6, "0,01": 3, "0,1": 3}))
    assert parse_label("-0,6", None, (-0.1, 0.1)) == "Bearish"


def test_many_keys_and_values_take_no_time_and_no_room() -> None:
    given = {f"x{n}": "Bullish" for n in range(400)}
    with pytest.raises(InputError, match="'x11', and 388 more occur nowhere") as caught:
        check_label_values(source(labels=given), Counter({f"value {n}": 1 for n in range(20_000)}))
    assert len(str(caught.value)) < 3000
