"""Our metric modules against scikit-learn, and what they leave behind: nothing."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score, matthews_corrcoef

from finsent.errors import InputError
from finsent.evaluation.metrics import compute_metrics
from finsent.labels import LABELS


def test_scores_are_sklearns():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 500, p=[0.5, 0.3, 0.2])
    predictions = np.where(rng.random(500) < 0.7, labels, rng.integers(0, 3, 500))
    metrics = compute_metrics(labels, predictions)
    report = classification_report(labels, predictions, labels=[0, 1, 2], target_names=list(LABELS), output_dict=True)
    assert metrics["n"] == 500
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert metrics["mcc"] == pytest.approx(matthews_corrcoef(labels, predictions))
    assert metrics["confusion"] == confusion_matrix(labels, predictions).tolist()
    for label in LABELS:
        own, theirs = metrics["per_class"][label], report[label]
        assert own["precision"] == pytest.approx(theirs["precision"])
        assert own["recall"] == pytest.approx(theirs["recall"])
        assert own["f1"] == pytest.approx(theirs["f1-score"])
        assert own["support"] == theirs["support"]


def test_a_class_that_never_occurs_counts_zero_and_is_not_left_out():
    metrics = compute_metrics(np.array([1, 1, 1]), np.array([1, 1, 1]))
    assert metrics["macro_f1"] == pytest.approx(1 / 3)
    assert metrics["mcc"] == 0.0
    assert metrics["per_class"]["Bearish"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert metrics["confusion"] == [[0, 0, 0], [0, 3, 0], [0, 0, 0]]


def test_no_rows_and_unknown_ids_are_refused():
    with pytest.raises(InputError, match="at least one row"):
        compute_metrics(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    with pytest.raises(InputError, match="whole numbers from 0 to 2"):
        compute_metrics(np.array([0, 5]), np.array([0, 1]))


@pytest.mark.long
def test_no_network_no_module_cache_and_evaluate_only_when_needed(tmp_path):
    """In a fresh process whose sockets do not connect and whose caches are empty."""
    program = """
import socket, sys
import numpy as np
def refuse(*_): raise AssertionError("a socket was opened")
socket.socket.connect = refuse
from finsent.evaluation.metrics import compute_metrics
assert "evaluate" not in sys.modules and "sklearn" not in sys.modules
print(compute_metrics(np.array([0, 1, 2]), np.array([0, 1, 1]))["accuracy"])
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(2 / 3)
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert not [path for path in left if "metric" in path or "modules" in path]
