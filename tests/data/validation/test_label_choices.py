"""Label values are offered in every way that they may be meant, and settled only where they say it themselves."""

from collections import Counter

import pytest

from finsent.data.validation.label_check import PolarityStats
from finsent.data.validation.label_choices import CLASS, label_choices


def settings_of(seen: dict[str, int]) -> list[dict[str, object]]:
    return [choice.settings for choice in label_choices(Counter(seen), PolarityStats()).choices]


def test_what_says_itself_what_it_means_is_settled() -> None:
    assert settings_of({"bullish": 5, "BEARISH": 5, "typo": 1}) == [{}]
    found = label_choices(Counter({"pos": 5, "neg": 5}), PolarityStats())
    assert (found.problem, [choice.settings for choice in found.choices]) == (
        "",
        [{"labels": {"pos": "Bullish", "neg": "Bearish"}}],
    )


@pytest.mark.parametrize(
    ("seen", "count", "one"),
    [
        ({"0": 5, "1": 5, "2": 5}, 6, {"labels": {"0": "Bearish", "1": "Bullish", "2": "Neutral"}}),
        ({"LABEL_1": 5, "LABEL_0": 5}, 6, {"labels": {"LABEL_0": "Bearish", "LABEL_1": "Bullish"}}),
        ({"-0.4": 5, "0.5": 5, "0.1": 5}, 2, {"label_bins": (-0.1, 0.1)}),
        ({"0.2": 5, "0.9": 5, "0.50": 1, "0.5": 1}, 2, {"label_bins": (0.45, 0.55)}),
        ({"1": 5, "2": 5, "3": 5, "4": 5, "5": 5}, 1, {"label_bins": (2.5, 3.5)}),
        ({"-2": 5, "-1": 5, "0": 5, "1": 5, "2": 5}, 1, {"label_bins": (-0.5, 0.5)}),
        (
            {"positive": 5, "negative": 5, "spam": 5},
            2,
            {"labels": {"positive": "Bullish", "negative": "Bearish", "spam": "Neutral"}},
        ),
        ({"joy": 5, "fear": 5}, 1, {"labels": {"joy": CLASS, "fear": CLASS}}),
    ],
)
def test_what_does_not_is_open(seen: dict[str, int], count: int, one: dict[str, object]) -> None:
    found = label_choices(Counter(seen), PolarityStats())
    assert found.problem
    assert len(found.choices) == count
    assert one in [choice.settings for choice in found.choices]


def test_the_order_of_numbers_that_fits_the_words_comes_first() -> None:
    polarity = PolarityStats()
    for value, words in (("0", "buying calls, bullish"), ("1", "selling puts, bearish")):
        polarity.add((value, f"{words} {number}") for number in range(40))
    found = label_choices(Counter({"0": 40, "1": 40}), polarity)
    assert found.choices[0].settings == {"labels": {"0": "Bullish", "1": "Bearish"}}
    assert "fits the words" in found.choices[0].why


def test_values_that_are_no_classes_have_no_choice() -> None:
    assert settings_of({f"value {number}": 1 for number in range(40)}) == []
    assert settings_of({"a, b": 5, "b": 5}) == []
