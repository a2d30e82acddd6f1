"""The report shows what was measured, says what was not, and loads nothing from elsewhere."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from finsent.evaluation.evidence import Evidence
from finsent.evaluation.plots import reliability_plot
from finsent.evaluation.report import write_report

INTERVAL = {"low": 0.871, "high": 0.902, "level": 0.95}
METRICS = {
    "n": 300,
    "accuracy": 0.887,
    "macro_f1": 0.861,
    "mcc": 0.8,
    "per_class": {
        label: {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 100} for label in ("Neutral", "Bullish", "Bearish")
    },
    "confusion": [[90, 5, 5], [5, 90, 5], [5, 5, 90]],
}
TEST = {"only_a": 31, "only_b": 12, "p_one_sided": 0.00271, "p_two_sided": 0.0054}


@pytest.fixture
def evidence():
    return Evidence(
        model_name="finsent <script>",
        model_version="4",
        data_version=7,
        data_fingerprint="abc",
        n_test=300,
        metrics=METRICS,
        intervals={"accuracy": INTERVAL, "macro_f1": INTERVAL},
        per_source={"pyfin": {"n": 300, "accuracy": 0.887, "macro_f1": 0.861, "baseline_accuracy": 0.8}},
        ece=0.021,
        temperature=1.3,
        leaks=0,
        baseline={"accuracy": 0.8, "macro_f1": 0.7, "mcnemar": TEST},
        naive_split={
            "claimed_accuracy": 0.9,
            "held_out_accuracy": 0.887,
            "training_accuracy": 0.952,
            "n_training": 500,
            "leak": 0.2,
        },
        champion_version="3",
        champion_compared=True,
        champion={
            "metrics": {**METRICS, "accuracy": 0.842},
            "mcnemar": TEST,
            "paired_bootstrap": {"macro_f1_difference": INTERVAL, "class_f1_difference": {"Bearish": INTERVAL}},
        },
    )


class Balance(HTMLParser):
    """Fails on tags that are not closed in order, and collects what is referred to."""

    def __init__(self):
        super().__init__()
        self.open, self.references = [], []

    def handle_starttag(self, tag, attrs):
        self.references += [value for key, value in attrs if key in {"src", "href"}]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_one_page_with_everything_in_it(evidence, tmp_path):
    plot = tmp_path / "reliability.png"
    reliability_plot(np.full((5, 3), 1 / 3), np.array([0, 1, 2, 0, 1]), plot)
    write_report(evidence, {"Reliability": plot}, tmp_path / "reports" / "report.html")
    page = (tmp_path / "reports" / "report.html").read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.references) == 1
    assert parser.references[0].startswith("data:image/png;base64,")
    assert not re.search(r"https?://|@import|url\(", page)
    assert "<script" not in page
    for shown in ("0.887", "0.871 to 0.902 (95%)", "0.842", "champion 3", "31 times", "p = 0.00271", "+0.871 to +0.902"):
        assert shown in page
    assert "A naive random split would have claimed 0.900 where held-out rows say 0.887." in page
    assert "0.800 x 0.887 (held-out accuracy) + 0.200 x 0.952" in page


def test_what_was_not_measured_is_said_to_be_missing(tmp_path):
    write_report(Evidence(model_name="finsent", model_version="1"), {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("not measured") >= 8
    assert "There was no champion." in page
    assert "nan" not in page
