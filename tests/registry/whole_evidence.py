"""Evidence that every rule of the gate accepts, as plain data, and ways to spoil it."""

import copy

import numpy as np

from finsent.config import GateConfig
from finsent.evaluation.baselines import BASELINE_NAMES
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.robustness.suite import CHECKS
from finsent.evaluation.statistics import class_f1
from finsent.labels import LABELS
from finsent.registry.gate import rules_digest

RULES = GateConfig()
DIFFERENCE = {"difference": 0.02, "standard_error": 0.01, "low": 0.0, "high": 0.04, "level": 0.95}
CONFUSION = [[850, 90, 60], [80, 1100, 20], [50, 30, 720]]


def metrics_of(confusion):
    counts = np.asarray(confusion)
    n, hits, truth, guessed = counts.sum(), np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    f1 = class_f1(counts)
    columns = zip(LABELS, hits / np.maximum(guessed, 1), hits / np.maximum(truth, 1), f1, truth, strict=True)
    per_class = {
        label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)} for label, p, r, f, s in columns
    }
    return {
        "n": int(n),
        "accuracy": float(hits.sum() / n),
        "macro_f1": float(f1.mean()),
        "mcc": 0.7,
        "per_class": per_class,
        "confusion": counts.tolist(),
    }


def passing(champion="3"):
    """Evidence that every rule accepts, as plain data."""
    interval = {"low": 0.01, "high": 0.05, "level": 0.95}
    significant = {"only_a": 130, "only_b": 60, "p_one_sided": 2e-7, "p_two_sided": 4e-7}
    metrics = metrics_of(CONFUSION)
    compared = {
        "metrics": metrics_of([[800, 120, 80], [120, 1050, 30], [70, 50, 680]]),
        "mcnemar": significant,
        "paired_bootstrap": {
            "macro_f1_difference": DIFFERENCE,
            "class_f1_difference": {label: dict(DIFFERENCE) for label in LABELS},
        },
        "power": {
            "groups": 2900,
            "discordant_share": 0.06,
            "detectable_difference": 0.012,
            "alpha": 0.05,
            "power": 0.8,
        },
    }
    scores = {"accuracy": 0.89, "accuracy_interval": interval, "macro_f1": 0.88, "mcc": 0.8, "baseline_accuracy": 0.8}
    if champion:
        scores["accuracy_difference"] = DIFFERENCE
    baseline = {"accuracy": 0.8, "macro_f1": 0.78, "mcnemar": significant}
    check = {"n": 300, "failure_rate": 0.05, "interval": interval}
    return {
        "model_name": "finsent",
        "model_version": "4",
        "data_version": 7,
        "data_fingerprint": "abc",
        "test_fingerprint": "def",
        "n_test": 3000,
        "metrics": metrics,
        "intervals": dict.fromkeys(("accuracy", "macro_f1", "mcc", "ece", "brier"), interval),
        "slices": {
            "source": {"pyfin": {"n": 1000, **copy.deepcopy(scores)}, "zeroshot": {"n": 2000, **copy.deepcopy(scores)}},
            "emoji": {"with": {"n": 100, **copy.deepcopy(scores)}, "without": {"n": 2900, **copy.deepcopy(scores)}},
        },
        "ece": 0.02,
        "temperature": 1.3,
        "calibration": {
            "brier": 0.2,
            "ece_before_scaling": 0.08,
            "abstention": {"target_precision": 0.9, "threshold": 0.6, "coverage": 0.9, "precision": 0.92},
        },
        "leaks": 0,
        "baselines": {name: copy.deepcopy(baseline) for name in BASELINE_NAMES},
        "robustness": {name: {"kind": kind, **copy.deepcopy(check)} for name, kind in CHECKS.items()},
        "champion_version": champion,
        "champion_compared": champion is not None,
        "champion": compared if champion else None,
        "round_trip": {
            "max_logit_difference": 1e-4,
            "head_hash_equal": True,
            "labels_equal": True,
            "padding_equal": True,
            "max_padding_difference": 1e-4,
            "max_batch_difference": 1e-4,
        },
        "manifest_sha256": "cd" * 32,
        "rules_sha256": rules_digest(RULES),
        "test_set_uses": {"at_these_rows": 1, "at_any_rows": 3},
        "speed": {
            "device": "cpu",
            "rows_per_second": 400.0,
            "latency_ms_p50": 8.0,
            "latency_ms_p95": 11.0,
            "hours_per_million": 0.7,
            "cost_per_million": None,
        },
    }


def put(data, path, value):
    """A copy of `data` with the value at the dotted path replaced."""
    changed = copy.deepcopy(data)
    *parents, last = path.split(".")
    place = changed
    for key in parents:
        place = place[key]
    place[last] = value
    return changed


def leaves(data, prefix=""):
    """Dotted paths of all values and sections."""
    for key, value in data.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


def remove(data, path):
    changed = copy.deepcopy(data)
    *parents, last = path.split(".")
    place = changed
    for key in parents:
        place = place[key]
    del place[last]
    return changed


def unchecked(data):
    """Evidence whose sections nobody validated, as `model_copy` makes it."""
    return Evidence(model_name="finsent", model_version="4").model_copy(update=data)
