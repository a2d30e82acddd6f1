"""Plots of a data version: something is drawn whatever the shape of the data. Whether it looks right, eyes have judged."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finsent.data.version_statistics import LONGEST, DataProfile
from finsent.reporting import data_report

BLUE = (43, 108, 176)


def summary(days: int) -> DataProfile:
    start = date(2024, 1, 1)
    return DataProfile(
        version=1,
        rows=30,
        splits=("train", "test"),
        sources=("desk",),
        counts=np.full((2, 1, 3), 5),
        words=np.ones((2, LONGEST + 1), np.int64),
        group_sizes={"1": 30},
        first=datetime(2024, 1, 1, tzinfo=UTC),
        last=datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=days),
        undated=0,
        by_day={start + timedelta(days=day): {"train": 3, "test": 1} for day in range(days)},
        flags={},
        sample=(),
    )


def coloured(path: Path, colour: tuple[int, int, int] = BLUE) -> float:
    """Share of the pixels that have exactly this colour."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return float((np.asarray(image.convert("RGB")) == colour).all(axis=2).mean())


@pytest.mark.parametrize("days", [1, 60, 400, 3000])
def test_bars_over_time_are_seen_at_every_scale(tmp_path: Path, days: int) -> None:
    data_report.time_plot(summary(days), tmp_path / "time.png")
    assert coloured(tmp_path / "time.png") > 0.05


def test_lengths(tmp_path: Path) -> None:
    data_report.length_plot(summary(1), tmp_path / "length.png")
    data_report.length_plot(replace(summary(1), words=np.zeros((2, LONGEST + 1), np.int64)), tmp_path / "empty.png")
    assert coloured(tmp_path / "length.png") > 0


def test_classes_of_few_and_of_many_sources(tmp_path: Path) -> None:
    few = {"desk": {"Neutral": 0, "Bullish": 5, "Bearish": 5}, "none": {"Neutral": 0, "Bullish": 0, "Bearish": 0}}
    many = {f"source {number}": {"Neutral": 1, "Bullish": 2, "Bearish": 3} for number in range(40)}
    heights = []
    for name, by_source in (("few", few), ("many", many)):
        data_report.class_balance_plot(by_source, tmp_path / f"{name}.png")
        assert coloured(tmp_path / f"{name}.png") > 0.03
        with Image.open(tmp_path / f"{name}.png") as image:
            heights.append(image.height)
    assert heights[0] < heights[1] < 1400


def test_group_sizes(tmp_path: Path) -> None:
    data_report.group_size_plot({"1": 900, "2": 80, ">100": 0}, "rows read", tmp_path / "groups.png")
    assert coloured(tmp_path / "groups.png") > 0.05
