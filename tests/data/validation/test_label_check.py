"""Label plausibility: right labels pass, permuted ones are refused, few rows and faint differences say nothing."""

import csv
import gzip
import itertools
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.config import DataConfig
from finsent.data.sample import sample_sources
from finsent.data.sources.reading import read_validated
from finsent.data.sources.resolve import labelled_columns, resolve
from finsent.data.validation.label_check import (
    MAX_SAMPLED_ROWS,
    MIN_ROWS,
    PolarityStats,
    check_label_polarity,
    format_label_mismatch,
    mean_polarity,
    polarity,
)
from finsent.labels import LABELS

SHARED = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="real tweets are not here")
THREE = ("zeroshot_sent_train", "pyfin_moritz", "mattgilgo", "poojathakoor", "semeval17_microblog")
"""Real files with rows enough of all three classes."""
TWO = ("yash612", "fiqa", "surge_crypto", "surge_stock", "stocktwits_amoooma")
"""Real files without Neutral, or with next to none."""
TFNS = {"0": "Bearish", "1": "Bullish", "2": "Neutral"}
REFERENCE = {"0": "Neutral", "1": "Bullish", "2": "Bearish"}
SPOKEN = {"Bullish": "breakout, buying calls {}", "Neutral": "the fed meets on day {}", "Bearish": "weak, puts and a crash {}"}


def load(name: str) -> list[tuple[str, str]]:
    with gzip.open(SHARED / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        return [(row["label"].capitalize(), row["text"]) for row in csv.DictReader(stream)]


def gather(rows: list[tuple[str, str]], renamed: dict[str, str] | None = None) -> PolarityStats:
    gathered = PolarityStats()
    gathered.add(((renamed or {}).get(label, label), text) for label, text in rows)
    return gathered


def planted(rows: int) -> list[tuple[str, str]]:
    return [(label, spoken.format(number)) for label, spoken in SPOKEN.items() for number in range(rows)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Buying more CALLS 🚀", 1),
        ("puts, this will crash 📉", -1),
        ("sold my calls", 0),
        ("$MOON $BULL", 0),
        ("", 0),
        ("long long short", 1 / 3),
    ],
)
def test_polarity(text: str, expected: float) -> None:
    assert polarity(text) == pytest.approx(expected)


@given(st.text())
def test_polarity_is_bounded(text: str) -> None:
    assert -1 <= polarity(text) <= 1


def test_a_borrowed_mapping_is_refused_and_the_right_one_named() -> None:
    ids = {label: value for value, label in TFNS.items()}
    rows = [(REFERENCE[ids[label]], text) for label, text in planted(50)]
    found = check_label_polarity(gather(rows), REFERENCE)
    assert found is not None
    assert found.mapping == TFNS
    message = format_label_mismatch(found, "tfns")
    assert "source 'tfns'" in message
    assert "--label-map '0=Bearish,1=Bullish,2=Neutral'" in message
    assert "Neutral -1.00" in message
    assert "--set data.check_labels=false" in message


def test_without_a_mapping_the_classes_are_named() -> None:
    found = check_label_polarity(gather(planted(50), {"Bullish": "Bearish", "Bearish": "Bullish"}))
    assert found is not None
    assert found.mapping is None
    assert "Bullish is Bearish, Bearish is Bullish" in format_label_mismatch(found, "x")


def test_few_rows_say_nothing() -> None:
    swap = {"Bullish": "Bearish", "Bearish": "Bullish"}
    assert check_label_polarity(gather(planted(MIN_ROWS - 1), swap)) is None
    assert check_label_polarity(gather(planted(MIN_ROWS), swap)) is not None
    assert check_label_polarity(PolarityStats()) is None


def test_a_faint_reversal_says_nothing() -> None:
    rows = [("Bullish", f"calls or puts {number}") for number in range(1000)]
    rows += [("Bearish", f"{'calls' if number % 20 == 0 else 'the'} {number}") for number in range(1000)]
    found = mean_polarity(gather(rows))
    assert found["Bearish"].value - found["Bullish"].value == pytest.approx(0.05)
    assert check_label_polarity(gather(rows)) is None


def test_a_text_repeated_counts_once() -> None:
    rows = planted(50) + [("Neutral", "🚀 buy the breakout 🚀")] * 1000
    assert mean_polarity(gather(rows))["Neutral"].rows == 51
    assert check_label_polarity(gather(rows)) is None


def test_a_long_source_is_sampled_evenly() -> None:
    """Rows of the second half count as much as those of the first: half speak of calls, and then half of nothing."""
    rows = [("Bullish", f"{'calls' if number < 50_000 else 'nothing'} {number}") for number in range(100_000)]
    mean = mean_polarity(gather(rows))["Bullish"]
    assert MAX_SAMPLED_ROWS // 2 <= mean.rows < MAX_SAMPLED_ROWS
    assert mean.value == pytest.approx(0.5, abs=0.01)


def test_batches_make_no_difference() -> None:
    rows = planted(40)
    whole, by_parts = gather(rows), PolarityStats()
    for start in range(0, len(rows), 7):
        by_parts.add(rows[start : start + 7])
    assert mean_polarity(whole) == mean_polarity(by_parts)


def test_the_bundled_sample_passes() -> None:
    for day in (1, 2):
        for source in sample_sources(day):
            batches = (
                read_validated(file, source, DataConfig(), datetime.now(UTC), Counter(), labelled_columns(source))
                for file in resolve(source)
            )
            rows = [(row.label, row.text) for batch in batches for _, good, _ in batch for row in good]
            assert check_label_polarity(gather(rows), source.labels) is None
            assert check_label_polarity(gather(rows, {"Bullish": "Bearish", "Bearish": "Bullish"})) is not None


@real
@pytest.mark.parametrize("name", [*THREE, *TWO, "tk_crypto_small"])
def test_right_labels_of_real_sources_pass(name: str) -> None:
    assert check_label_polarity(gather(load(name))) is None


@real
@pytest.mark.parametrize("name", [*THREE, *TWO])
def test_bullish_for_bearish_is_caught_in_real_sources(name: str) -> None:
    found = check_label_polarity(gather(load(name), {"Bullish": "Bearish", "Bearish": "Bullish"}))
    assert found is not None
    assert found.fits["Bullish"] == "Bearish"
    assert found.fits["Bearish"] == "Bullish"


@real
@pytest.mark.parametrize("name", THREE)
def test_every_wrong_order_of_three_classes_is_caught(name: str) -> None:
    rows = load(name)
    for names in itertools.permutations(LABELS):
        renamed = dict(zip(LABELS, names, strict=True))
        found = check_label_polarity(gather(rows, renamed))
        if names == LABELS:
            assert found is None
        else:
            assert found is not None
            assert {found.fits[new]: new for new in found.fits} == renamed
            assert re.search("speak more bullish than", format_label_mismatch(found, name))
