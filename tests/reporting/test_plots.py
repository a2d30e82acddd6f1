"""Plots are written, readable as images, and do not fall over rare shapes. Whether they look right, eyes have judged."""

import numpy as np
import pytest
from PIL import Image

from finsent.config import load_config
from finsent.evaluation.calibration import abstention_curve
from finsent.evaluation.evidence import Evidence
from finsent.models.predict import probabilities
from finsent.reporting.plots import abstention_plot, confusion_plot, draw_plots, reliability_plot, robustness_plot


def inked(path):
    """Share of pixels that are not white."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return float((np.asarray(image.convert("L")) < 250).mean())


@pytest.mark.parametrize("confusion", [[[900, 50, 50], [20, 1500, 80], [10, 40, 300]], [[0, 0, 0], [0, 3, 0], [0, 0, 0]]])
def test_confusion(tmp_path, confusion):
    metrics = {"n": sum(map(sum, confusion)), "accuracy": 0.9, "macro_f1": 0.8, "confusion": confusion}
    confusion_plot(metrics, tmp_path / "new folder" / "confusion.png")
    assert inked(tmp_path / "new folder" / "confusion.png") > 0.05
    confusion_plot(metrics, tmp_path / "both.png", metrics)
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "new folder" / "confusion.png") as one:
        assert both.width > 1.5 * one.width


@pytest.mark.parametrize("rows", [1, 2000])
def test_reliability(tmp_path, rows):
    rng = np.random.default_rng(0)
    reliability_plot(probabilities(rng.normal(size=(rows, 3)), 1.0), rng.integers(0, 3, rows), tmp_path / "reliability.png")
    assert inked(tmp_path / "reliability.png") > 0.02


def has(path, colour):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return bool((abs(pixels - colour).max(axis=2) <= 2).any())


ORANGE, RED = (221, 139, 58), (180, 35, 24)


def test_everything_is_drawn_and_the_champion_only_where_there_is_one(specimen, first_specimen, tmp_path):
    rules = load_config().gate
    both = draw_plots(specimen.evidence, specimen.scaled, specimen.labels, rules, tmp_path / "both")
    alone = draw_plots(first_specimen.evidence, first_specimen.scaled, first_specimen.labels, rules, tmp_path / "alone")
    assert list(both) == list(alone)
    assert len(set(both.values())) == 5
    assert all(inked(path) > 0.01 for path in (*both.values(), *alone.values()))
    for caption in ("Accuracy by slice", "Robustness to changed texts"):
        assert has(both[caption], ORANGE)
        assert not has(alone[caption], ORANGE)
    assert has(both["Accuracy by slice"], RED)  # the margin, which there is only against a champion
    assert not has(alone["Accuracy by slice"], RED)
    assert has(alone["Precision bought by abstaining"], ORANGE)  # the version's own threshold


def test_what_was_not_measured_is_not_drawn(specimen, tmp_path):
    bare = Evidence(model_name="finsent", model_version="1")
    drawn = draw_plots(bare, specimen.scaled, specimen.labels, load_config().gate, tmp_path)
    assert list(drawn) == ["Reliability after temperature scaling"]
    without = abstention_curve([0.9, 0.4], [True, False])
    abstention_plot(without, None, tmp_path / "abstention.png")
    assert not has(tmp_path / "abstention.png", ORANGE)


def test_a_check_over_its_limit_is_told_by_more_than_its_length(specimen, tmp_path):
    checks = specimen.evidence.robustness
    robustness_plot(checks, tmp_path / "strict.png", limits=dict.fromkeys(checks, 0.001))
    robustness_plot(checks, tmp_path / "lax.png", limits=dict.fromkeys(checks, 0.9))
    assert inked(tmp_path / "strict.png") != inked(tmp_path / "lax.png")
    assert not has(tmp_path / "lax.png", (198, 90, 82))
    assert has(tmp_path / "strict.png", (198, 90, 82))  # red at three quarters


def drawn_boxes(monkeypatch, draw):
    """Draws, and gives the figure's axes and a function from an artist to its box in pixels."""
    kept = []
    monkeypatch.setattr("finsent.reporting.plots.save_figure", lambda figure, _: kept.append(figure))
    draw()
    kept[0].draw_without_rendering()
    return kept[0].axes, lambda artist: artist.get_window_extent()


@pytest.mark.parametrize("precision", [0.30, 0.70, 0.905, 0.951, 0.999])
@pytest.mark.parametrize("target", [0.02, 0.9])
def test_the_target_is_named_where_no_tick_is(tmp_path, monkeypatch, precision, target):
    curve = [{"threshold": 0.5, "coverage": share, "precision": precision} for share in (1.0, 0.5, 0.1)]
    chosen = {"target_precision": target, "threshold": 0.5, "coverage": 1.0, "precision": precision}
    (axes,), box = drawn_boxes(monkeypatch, lambda: abstention_plot(curve, chosen, tmp_path / "a.png"))
    named = next(text for text in axes.texts if text.get_text().startswith("target"))
    assert axes.get_ylim()[0] <= target <= axes.get_ylim()[1]
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts):
        assert label is named or not box(named).overlaps(box(label)), label.get_text()


def test_limits_are_named_beside_all_bars_and_marked_where_they_are_passed(specimen, tmp_path, monkeypatch):
    checks = specimen.evidence.robustness
    limits = {name: load_config().gate.robustness_limit(name) for name in checks if name != "emoji_removal"}
    panels, box = drawn_boxes(monkeypatch, lambda: robustness_plot(checks, tmp_path / "r.png", limits=limits))
    said = [text.get_text() for axes in panels for text in axes.texts]
    assert len(said) == len(checks)
    assert [text for text in said if text.startswith("✗")] == ["✗ limit 20 %"]
    assert said.count("not judged") == 1
    for axes in panels:
        assert not any(box(text).overlaps(box(bar)) for text in axes.texts for bar in axes.patches)


def test_a_check_of_too_few_texts_is_not_held_to_a_limit(specimen, tmp_path):
    rules, checks = load_config().gate, specimen.evidence.robustness
    few = {name: {**check, "n": rules.min_check_texts - 1, "failure_rate": 0.9} for name, check in checks.items()}
    evidence = specimen.evidence.model_copy(update={"robustness": few})
    drawn = draw_plots(evidence, specimen.scaled, specimen.labels, rules, tmp_path)
    assert not has(drawn["Robustness to changed texts"], (198, 90, 82))
