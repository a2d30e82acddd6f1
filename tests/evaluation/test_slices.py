"""Slices of the test rows, and their scores."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.errors import InputError
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.slices import score_slices, slice_rows
from finsent.evaluation.statistics import accuracy_difference, accuracy_interval

DAY = datetime(2021, 3, 31, 23, 30, tzinfo=UTC)
TEXTS = [
    "RT @desk: $AAPL is going higher and higher 🚀",
    "$aapl $AAPL margins are falling again",
    "$AAPL and $TSLA " + "word " * 12,
    "Las acciones de Apple subieron mucho después de los resultados del trimestre " + "otra vez " * 10,
    "nothing to see https://t.co/$FAKE " + "word " * 40,
    "ok",
]
TIMES = [DAY, DAY + timedelta(hours=1), None, DAY, DAY, DAY]


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("one_group", [True, False])
def test_few_rows_of_one_class_have_no_score_that_is_no_number(rows, right, one_group):
    labels, groups = np.zeros(rows, np.int64), ["a"] * rows if one_group else [str(row) for row in range(rows)]
    own = labels if right else labels + 1
    scores = score_slices({"source": np.full(rows, "desk")}, labels, own, labels + 2, groups, own)
    stored = json.loads(json.dumps(scores, allow_nan=False))  # a ValueError where a score is NaN or infinite
    assert (stored["source"]["desk"]["n"], stored["source"]["desk"]["accuracy"]) == (rows, float(right))


def test_rows_are_told_apart_by_what_is_in_them():
    rows = slice_rows(TEXTS, list("aabbbb"), TIMES)
    assert {name: values.tolist() for name, values in rows.items() if name != "language"} == {
        "source": list("aabbbb"),
        "length": ["1 to 10 words"] * 2 + ["11 to 20 words", "over 30 words", "over 30 words", "1 to 10 words"],
        "emoji": ["with emoji"] + ["without emoji"] * 5,
        "cashtags": ["one cashtag", "one cashtag", "several cashtags", "no cashtag", "no cashtag", "no cashtag"],
        "retweet": ["retweet"] + ["not a retweet"] * 5,
        "time": ["2021 Q1", "2021 Q2", "unknown", "2021 Q1", "2021 Q1", "2021 Q1"],
    }
    assert rows["language"].tolist()[1::2] == ["English", "other", "not told"]
    assert "language" not in slice_rows(TEXTS, list("aabbbb"), TIMES, languages=False)


def test_a_dimension_without_two_values_is_left_out_except_the_source():
    rows = slice_rows(["up again", "down again"], ["only", "only"], [None, None])
    assert {name: values.tolist() for name, values in rows.items()} == {"source": ["only", "only"]}


def test_a_long_span_is_cut_by_year_and_times_count_in_utc():
    tokyo = timezone(timedelta(hours=9))
    times = [datetime(2016, 5, 1, tzinfo=UTC), datetime(2021, 1, 1, 3, tzinfo=tokyo), datetime(2020, 1, 1)]  # noqa: DTZ001
    assert slice_rows(["a"] * 3, ["s"] * 3, times)["time"].tolist() == ["2016", "2020", "2020"]
    near = [datetime(2020, 12, 31, 20, tzinfo=UTC), datetime(2021, 1, 1, 3, tzinfo=tokyo), datetime(2021, 1, 1, tzinfo=UTC)]
    assert slice_rows(["a"] * 3, ["s"] * 3, near)["time"].tolist() == ["2020 Q4", "2020 Q4", "2021 Q1"]


@given(st.lists(st.tuples(st.text(max_size=60), st.sampled_from("abc"), st.none() | st.datetimes()), min_size=1, max_size=20))
def test_each_dimension_parts_all_rows(rows):
    texts, sources, times = zip(*rows, strict=True)
    labels = np.arange(len(rows)) % 3
    dimensions = slice_rows(texts, sources, times, languages=False)
    scores = score_slices(dimensions, labels, labels, labels, list(sources))
    assert all(len(values) == len(rows) for values in dimensions.values())
    assert all(sum(score["n"] for score in values.values()) == len(rows) for values in scores.values())
    assert {name: Counter(values.tolist()) for name, values in dimensions.items()} == {
        name: {value: score["n"] for value, score in values.items()} for name, values in scores.items()
    }


def test_scores_are_those_of_the_slice_alone():
    from sklearn.metrics import f1_score, matthews_corrcoef

    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 400)
    own, baseline, champion = (np.where(rng.random(400) < share, labels, rng.integers(0, 3, 400)) for share in (0.8, 0.4, 0.7))
    groups = [str(group) for group in rng.integers(0, 300, 400)]
    values = np.where(np.arange(400) < 150, "first", "second")
    scores = score_slices({"half": values}, labels, own, baseline, groups, champion)
    first = scores["half"]["first"]
    assert first["n"] == 150
    assert first["accuracy"] == pytest.approx((own[:150] == labels[:150]).mean())
    assert first["macro_f1"] == pytest.approx(f1_score(labels[:150], own[:150], average="macro"))
    assert first["mcc"] == pytest.approx(matthews_corrcoef(labels[:150], own[:150]))
    assert first["baseline_accuracy"] == pytest.approx((baseline[:150] == labels[:150]).mean())
    assert first["champion_accuracy"] == pytest.approx((champion[:150] == labels[:150]).mean())
    interval = accuracy_interval(labels[:150], own[:150], groups[:150])
    assert (first["accuracy_interval"]["low"], first["accuracy_interval"]["high"]) == (interval["low"], interval["high"])
    difference = accuracy_difference(labels[:150], own[:150], champion[:150], groups[:150])
    assert first["accuracy_difference"]["standard_error"] == difference["standard_error"]
    kept = Evidence.model_validate({"model_name": "m", "model_version": "1", "slices": scores})
    assert Evidence.model_validate_json(kept.model_dump_json()).slices == scores


def test_a_slice_of_one_group_says_nothing_of_a_difference():
    labels = np.array([0, 1, 2, 1])
    values = np.array(["a", "a", "b", "b"])
    scores = score_slices({"d": values}, labels, labels, labels, ["g", "g", "h", "i"], labels)["d"]
    assert "accuracy_difference" not in scores["a"]
    assert scores["b"]["accuracy_difference"]["difference"] == 0
    assert scores["a"]["champion_accuracy"] == 1


def test_columns_of_unequal_length_are_refused():
    labels = np.array([0, 1])
    with pytest.raises(InputError, match="1 baseline predictions for 2 rows"):
        score_slices({"d": np.array(["a", "b"])}, labels, labels, labels[:1], ["g", "h"])
    with pytest.raises(InputError, match="1 d for 2 rows"):
        score_slices({"d": np.array(["a"])}, labels, labels, labels, ["g", "h"])
    with pytest.raises(InputError, match="0 texts"):
        slice_rows([], [], [])
    with pytest.raises(InputError, match="1 texts with 2 sources and 1 times"):
        slice_rows(["a"], ["s", "s"], [None])
