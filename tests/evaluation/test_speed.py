"""Speed and cost."""

import time

import pytest

from finsent.errors import InputError
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.speed import measure_speed
from finsent.reporting.summaries import format_speed

TEXTS = [f"$AAPL is going up, take {number}" for number in range(101)]


def test_speed_and_cost_follow_from_the_batch():
    speed = measure_speed(
        lambda _: None, TEXTS, rows=5000, seconds=10.0, texts_one_by_one=10, device="cpu", price_per_hour=1.8, currency="CZK"
    )
    assert speed["rows_per_second"] == 500
    assert speed["hours_per_million"] == pytest.approx(2000 / 3600)
    assert speed["cost_per_million"] == pytest.approx(1.0)
    assert speed["latency_texts"] == 10
    kept = Evidence.model_validate({"model_name": "m", "model_version": "1", "speed": speed})
    assert kept.speed == speed
    assert "and cost 1.00 CZK" in format_speed(kept)


def test_latency_is_that_of_one_text_after_a_warm_up():
    asked: list[list[str]] = []

    def predict(texts):
        asked.append(list(texts))
        # slow at first, and on one text in ten
        time.sleep(0.3 if len(asked) <= 3 else 0.02 if texts[0] in {TEXTS[0], TEXTS[100]} else 0.002)

    speed = measure_speed(predict, TEXTS, rows=1, seconds=1.0, texts_one_by_one=21, device="cpu")
    assert all(len(texts) == 1 for texts in asked)
    assert [texts[0] for texts in asked[3:]] == TEXTS[::5]
    assert 2 <= speed["latency_ms_p50"] < speed["latency_ms_p95"]
    assert 20 <= speed["latency_ms_p95"] < 250
    assert speed["cost_per_million"] is None


def test_fewer_texts_than_wanted_are_all_measured():
    assert measure_speed(len, TEXTS[:2], rows=1, seconds=1.0, texts_one_by_one=40, device="cpu")["latency_texts"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": []}, "on 0 texts"),
        ({"texts_one_by_one": 0}, "on 0 texts"),
        ({"rows": 0}, "0 rows in 1.0 s"),
        ({"seconds": 0.0}, "3 rows in 0.0 s"),
        ({"seconds": float("nan")}, "3 rows in nan s"),
        ({"price_per_hour": 0.0}, "price of 0.0"),
    ],
)
def test_nothing_to_measure_is_refused(change, message):
    arguments = {"texts": TEXTS, "rows": 3, "seconds": 1.0, "texts_one_by_one": 3, "device": "cpu"} | change
    with pytest.raises(InputError, match=message):
        measure_speed(len, **arguments)
