"""The bundled sample: reproducible, varied, and neither solved by single words nor beyond learning."""

import gzip
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from finsent.data import sample
from finsent.data.sample.generate import compose, fill, write_sample
from finsent.data.sample.grammar import NEUTRAL, ORDERED, PLAINSPOKEN, TICKERS, TWO_SIDED
from finsent.data.sources.resolve import labelled_columns, resolve


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    for made in write_sample(tmp_path):
        shipped = Path(sample.__file__).parent / made.name
        assert gzip.decompress(made.read_bytes()) == gzip.decompress(shipped.read_bytes()), f"{made.name} is not the generator's"


def test_sources_read_as_configured() -> None:
    read_rows = Counter()
    for day in (1, 2):
        for source in sample.sample_sources(day):
            for file in resolve(source):
                read_rows[file.name] += sum(len(batch) for batch in read_rows(file, labelled_columns(source)))
    assert set(read_rows) == {"desk", "street", "archive", "arrivals"}
    assert sum(read_rows[name] for name in ("desk", "street", "archive")) > 6000
    assert read_rows["arrivals"] > 1400
    assert all(path.exists() for day in (1, 2) for path in sample.inbox_files(day))


@pytest.mark.parametrize("day", [0, 3])
def test_there_are_two_days(day: int) -> None:
    with pytest.raises(ValueError, match="days 1 and 2"):
        sample.sample_sources(day)
    with pytest.raises(ValueError, match="days 1 and 2"):
        sample.inbox_files(day)


@pytest.mark.parametrize("frame", [*TWO_SIDED, *ORDERED, *PLAINSPOKEN, *NEUTRAL])
def test_every_frame_can_be_filled_both_ways(frame: str) -> None:
    rng = Random(0)
    made = [fill(frame, rng, TICKERS, agree=frame in PLAINSPOKEN) for _ in range(60)]
    assert not any("{" in text or "}" in text for text, _ in made)
    if frame not in NEUTRAL:
        assert {sign for _, sign in made} == {-1, 1}
    assert len({text for text, _ in made}) > 10


def test_the_label_is_the_product_of_the_sides() -> None:
    rng = Random(1)
    signs = {
        ("bought" in text or "grabbed" in text or "added" in text, "call" in text): sign
        for text, sign in (fill("we {trade} {n} {tag} {option}", rng, TICKERS) for _ in range(100))
    }
    assert signs == {(True, True): 1, (False, False): 1, (True, False): -1, (False, True): -1}


def test_classes_are_balanced_enough() -> None:
    rng = Random(2)
    counts = Counter(compose(rng, TICKERS)[1] for _ in range(3000))
    assert all(600 < counts[label] < 1400 for label in ("Neutral", "Bullish", "Bearish"))
