"""Evidence as an evaluation leaves it, made from simulated logits; `tests/conftest.py` makes fixtures of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from finsent.config import load_config
from finsent.evaluation.baselines import naive_split_estimate
from finsent.evaluation.calibration import calibration, expected_calibration_error, fit_abstain_threshold, fit_temperature
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.metrics import compute_metrics
from finsent.evaluation.power import detectable_difference
from finsent.evaluation.statistics import accuracy_difference, accuracy_interval, bootstrap, mcnemar, paired_bootstrap
from finsent.models.predict import probabilities
from finsent.registry.gate import rules_digest

TEXTS = (
    "$AAPL to the moon 🚀 adding more calls before earnings",
    "selling all my $TSLA, guidance cut again & margins shrink",
    "Fed minutes are due on Wednesday, <b>futures flat</b>",
    "@marketwatcher $NVDA beats by 12%, raises outlook",
    "RT @desk: $XYZ halted, pending news https://example.test/a",
    "looks like a bull trap to me, careful up here",
)
SOURCES, LENGTHS = ("pyfin_moritz", "surge_crypto", "zeroshot", "fiqa"), ("1 to 8 words", "9 to 16 words", "17 words or more")


@dataclass(frozen=True)
class Specimen:
    """Test rows, two models' answers and the evidence that they make."""

    evidence: Evidence
    labels: Any
    scaled: Any
    champion: Any
    """The champion's predictions; None if there is none."""
    texts: list[str]
    groups: list[str]


def specimen(*, champion: bool, rows: int = 1600) -> Specimen:
    """A version somewhat better than its champion, on `rows` tweets, overconfident before scaling."""
    rng = np.random.default_rng(5)
    labels = rng.choice(3, rows, p=[0.3, 0.47, 0.23])
    groups = [f"g{i * 9 // 10}" for i in range(rows)]
    shared = rng.normal(size=(rows, 3))
    own = 4 * (1.9 * np.eye(3)[labels] + shared + 0.3 * rng.normal(size=(rows, 3)))
    other = (1.85 * np.eye(3)[labels] + shared + 0.35 * rng.normal(size=(rows, 3))).argmax(axis=1)
    rival = other if champion else None
    temperature = fit_temperature(own, labels)
    scaled = probabilities(own, temperature)
    guess = scaled.argmax(axis=1)
    threshold = fit_abstain_threshold(scaled, labels, 0.9, groups)
    calibrated, intervals = calibration(own, labels, groups, temperature, threshold, 0.9, 400)
    baseline = np.where(rng.random(rows) < 0.45, labels, rng.choice(3, rows))
    sections: dict[str, Any] = {
        "model_name": "finsent",
        "model_version": "4",
        "data_version": 7,
        "data_fingerprint": "5f2c" * 16,
        "test_fingerprint": "7e1d" * 16,
        "n_test": rows,
        "metrics": compute_metrics(labels, guess),
        "intervals": bootstrap(labels, guess, groups, 400) | intervals,
        "slices": _slices(rng, labels, guess, baseline, rival, groups),
        "ece": expected_calibration_error(scaled, labels),
        "temperature": temperature,
        "calibration": calibrated,
        "leaks": 0,
        "baselines": _baselines(rng, labels, guess, baseline, groups),
        "robustness": _robustness(rng, champion=champion),
        "champion_version": "3" if champion else None,
        "champion_compared": champion,
        "champion": _champion(labels, guess, rival, groups),
        "round_trip": {
            "max_logit_difference": 2.4e-7, "head_hash_equal": True, "labels_equal": True, "padding_equal": True,
            "max_padding_difference": 8.6e-7, "max_batch_difference": 9.5e-7,
        },
        "manifest_sha256": "9a31" * 16,
        "rules_sha256": rules_digest(load_config("nano").gate),
        "test_set_uses": {"at_these_rows": 2, "at_any_rows": 5},
        "speed": {
            "device": "cpu", "rows_per_second": 612.0, "latency_ms_p50": 6.1, "latency_ms_p95": 9.8,
            "hours_per_million": 0.454, "cost_per_million": 0.18,
        },
        "taken_at": "2026-11-25T04:10:00+00:00",
        "scored_with": "stock, bfloat16",
        "naive_split": naive_split_estimate(0.887, 0.952, 500, 0.2),
    }  # fmt: skip
    return Specimen(Evidence.model_validate(sections), labels, scaled, rival, [TEXTS[i % 6] for i in range(rows)], groups)


def _baselines(rng: Any, labels: Any, guess: Any, tfidf: Any, groups: list[str]) -> dict[str, Any]:
    found = {}
    by_source = np.where(rng.random(len(labels)) < 0.25, labels, 1)
    for name, baseline in {"majority": np.ones_like(labels), "source_majority": by_source, "tfidf": tfidf}.items():
        metrics = compute_metrics(labels, baseline)
        test = mcnemar(labels, guess, baseline, groups)
        found[name] = {"accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"], "mcnemar": test}
    return found


def _champion(labels: Any, guess: Any, rival: Any, groups: list[str]) -> dict[str, Any] | None:
    if rival is None:
        return None
    test = mcnemar(labels, guess, rival, groups)
    return {
        "metrics": compute_metrics(labels, rival),
        "mcnemar": test,
        "paired_bootstrap": paired_bootstrap(labels, guess, rival, groups, 400),
        "power": detectable_difference(len(set(groups)), test["only_a"] + test["only_b"], 0.05),
    }


def _slices(rng: Any, labels: Any, guess: Any, baseline: Any, rival: Any, groups: list[str]) -> dict[str, Any]:
    rows = len(labels)
    dimensions = {
        "source": np.array(SOURCES)[rng.choice(4, rows, p=[0.45, 0.3, 0.2, 0.05])],
        "length": np.array(LENGTHS)[rng.choice(3, rows, p=[0.2, 0.5, 0.3])],
        "emoji": np.where(rng.random(rows) < 0.15, "emoji", "no emoji"),
    }
    names = np.array(groups)
    return {
        dimension: {
            str(value): _slice(values == value, labels, guess, baseline, rival, names) for value in sorted(set(values.tolist()))
        }
        for dimension, values in dimensions.items()
    }


def _slice(chosen: Any, labels: Any, guess: Any, baseline: Any, rival: Any, groups: Any) -> dict[str, Any]:
    truth, own, names = labels[chosen], guess[chosen], groups[chosen].tolist()
    metrics = compute_metrics(truth, own)
    found: dict[str, Any] = {
        "n": metrics["n"],
        "accuracy": metrics["accuracy"],
        "accuracy_interval": accuracy_interval(truth, own, names),
        "macro_f1": metrics["macro_f1"],
        "mcc": metrics["mcc"],
        "baseline_accuracy": float((baseline[chosen] == truth).mean()),
    }
    if rival is not None:
        found["champion_accuracy"] = float((rival[chosen] == truth).mean())
        found["accuracy_difference"] = accuracy_difference(truth, own, rival[chosen], names)
    return found


def _robustness(rng: Any, *, champion: bool) -> dict[str, Any]:
    checks = {
        "cashtag_swap": ("invariance", 300, 0.06),
        "link_change": ("invariance", 140, 0.014),
        "case": ("invariance", 300, 0.24),
        "typos": ("invariance", 300, 0.11),
        "url_and_handle_change": ("invariance", 300, 0.01),
        "emoji_removal": ("invariance", 48, 0.05),
        "whitespace_and_punctuation": ("invariance", 300, 0.03),
        "negation": ("direction", 210, 0.68),
        "up_down_swap": ("direction", 95, 0.42),
        "negation_templates": ("direction", 30, 0.6),
    }
    found: dict[str, Any] = {}
    for name, (kind, n, rate) in checks.items():
        reach = 1.96 * (rate * (1 - rate) / n) ** 0.5
        interval = {"low": max(rate - reach, 0), "high": rate + reach, "level": 0.95}
        found[name] = {"kind": kind, "n": n, "failure_rate": rate, "interval": interval}
        if champion:
            found[name]["champion_failure_rate"] = rate * float(rng.uniform(0.7, 1.3))
    found["case"]["examples"] = [
        {
            "original": "$XYZ <i>beats</i> @desk",
            "changed": "$XYZ <I>BEATS</I> @DESK",
            "before": "Bullish",
            "after": "Neutral",
        }
    ]
    return found
