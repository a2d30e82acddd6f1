"""Plots are written, readable as images, and do not fall over rare shapes. Whether they look right, eyes have judged."""

import numpy as np
import pytest
from PIL import Image

from finsent.evaluation.metrics import Metrics
from finsent.evaluation.plots import confusion_plot, per_source_plot, reliability_plot
from finsent.model.engine import probabilities


def inked(path):
    """Share of pixels that are not white."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return float((np.asarray(image.convert("L")) < 250).mean())


@pytest.mark.parametrize("confusion", [[[900, 50, 50], [20, 1500, 80], [10, 40, 300]], [[0, 0, 0], [0, 3, 0], [0, 0, 0]]])
def test_confusion(tmp_path, confusion):
    metrics = Metrics(n=sum(map(sum, confusion)), accuracy=0.9, macro_f1=0.8, mcc=0.7, per_class={}, confusion=confusion)
    confusion_plot(metrics, tmp_path / "new folder" / "confusion.png")
    assert inked(tmp_path / "new folder" / "confusion.png") > 0.05


@pytest.mark.parametrize("rows", [1, 2000])
def test_reliability(tmp_path, rows):
    rng = np.random.default_rng(0)
    reliability_plot(probabilities(rng.normal(size=(rows, 3)), 1.0), rng.integers(0, 3, rows), tmp_path / "reliability.png")
    assert inked(tmp_path / "reliability.png") > 0.02


def test_per_source_draws_the_champion_only_where_there_is_one(tmp_path):
    scores = {"n": 120, "accuracy": 0.8, "macro_f1": 0.7, "baseline_accuracy": 0.75}
    champion = {**scores, "n": 40, "champion_accuracy": 0.78}
    per_source_plot({"pyfin": scores, "a_source_with_a_long_name": scores}, tmp_path / "without.png")
    per_source_plot({"pyfin": scores, "a_source_with_a_long_name": champion}, tmp_path / "with.png")
    orange = (221, 139, 58)

    def has(path, colour):
        with Image.open(path) as image:
            return bool((np.asarray(image.convert("RGB")) == colour).all(axis=2).any())

    assert has(tmp_path / "with.png", orange)
    assert not has(tmp_path / "without.png", orange)
