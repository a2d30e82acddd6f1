"""What scoring takes on the machine at hand, and what a million tweets would cost on it."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from finsent.errors import InputError
from finsent.evaluation.evidence import SpeedRecord

MILLION: Final = 1_000_000
_WARM_UP: Final = 3  # first calls compile, allocate and fill caches; they are no latency that a user would meet twice


def measure_speed(
    predict: Callable[[Sequence[str]], Any],
    texts: Sequence[str],
    *,
    rows: int,
    seconds: float,
    texts_one_by_one: int,
    device: str,
    price_per_hour: float | None = None,
    currency: str = "USD",
) -> SpeedRecord:
    """Speed of a batch that took `seconds` for `rows` rows, and latency of up to `texts_one_by_one` of `texts`, one at a time.

    The texts are taken at even distances, so that they are as long as texts are; `predict` must return when its work is done.

    Raises:
        InputError: nothing to measure, or a price that is none.
    """
    if not texts or texts_one_by_one < 1:
        raise InputError(f"latency cannot be measured on {min(len(texts), texts_one_by_one)} texts: give at least one.")
    if rows < 1 or not seconds > 0:
        raise InputError(f"{rows} rows in {seconds} s give no speed: give the rows of a batch and the time that it took.")
    if price_per_hour is not None and not price_per_hour > 0:
        raise InputError(f"a price of {price_per_hour} an hour is none: leave evaluation.price_per_hour out, or set it above 0.")
    chosen = np.linspace(0, len(texts) - 1, min(texts_one_by_one, len(texts))).astype(int).tolist()
    for row in chosen[:_WARM_UP]:
        predict([texts[row]])
    milliseconds = []
    for row in chosen:
        started = time.perf_counter()
        predict([texts[row]])
        milliseconds.append(1000 * (time.perf_counter() - started))
    median, high = np.quantile(milliseconds, [0.5, 0.95])
    hours = seconds / rows * MILLION / 3600
    return SpeedRecord(
        device=device,
        rows_per_second=rows / seconds,
        latency_ms_p50=float(median),
        latency_ms_p95=float(high),
        hours_per_million=hours,
        cost_per_million=None if price_per_hour is None else hours * price_per_hour,
        latency_texts=len(chosen),
        currency=currency,
    )
