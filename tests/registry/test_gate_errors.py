"""How often the gate errs, by simulation; `benchmarks/gate_simulation.py` does the same for many settings and more pairs."""

import math

import numpy as np

from finsent.evaluation.evidence import Evidence
from finsent.evaluation.statistics import accuracy_difference, bootstrap, confusion_matrix, mcnemar, paired_bootstrap
from finsent.registry.gate import evaluate_gate
from tests.registry.whole_evidence import RULES, metrics_of, passing


def compared(rng, n, disagreement, advantage):
    """Evidence of a challenger whose accuracy is really `advantage` above the champion's, on `n` simulated rows."""
    labels = rng.choice(3, n, p=[0.3, 0.45, 0.25])
    wrong = (labels + rng.integers(1, 3, n)) % 3
    draw = rng.random(n)
    only_challenger = draw < (disagreement + advantage) / 2
    only_champion = (draw >= (disagreement + advantage) / 2) & (draw < disagreement)
    neither = (draw >= disagreement) & (rng.random(n) < 0.12)
    challenger = np.where(only_champion | neither, wrong, labels)
    champion = np.where(only_challenger | neither, wrong, labels)
    groups = [str(group) for group in rng.integers(0, n, n)]
    own, other = confusion_matrix(labels, challenger), confusion_matrix(labels, champion)
    data = passing()
    record = data["slices"]["source"]["pyfin"] | {"n": n}
    data |= {
        "n_test": n,
        "metrics": metrics_of(own),
        "intervals": data["intervals"] | bootstrap(labels, challenger, groups, 100),
        "slices": {
            "source": {"simulated": record | {"accuracy_difference": accuracy_difference(labels, challenger, champion, groups)}}
        },
    }
    data["champion"] = {
        "metrics": metrics_of(other),
        "mcnemar": mcnemar(labels, challenger, champion, groups),
        "paired_bootstrap": paired_bootstrap(labels, challenger, champion, groups, 200, seed=int(rng.integers(1 << 31))),
        "power": data["champion"]["power"],
    }
    return Evidence(**data)


def test_equal_models_are_promoted_at_most_at_the_declared_level():
    rng = np.random.default_rng(20240521)
    promoted = higher = 0
    for _ in range(300):
        evidence = compared(rng, n=1500, disagreement=0.07, advantage=0.0)
        promoted += evaluate_gate(evidence, RULES, "3").decision == "promote"
        higher += evidence.metrics["accuracy"] > evidence.champion["metrics"]["accuracy"]
    noise = 2.6 * math.sqrt(RULES.alpha * (1 - RULES.alpha) / 300)
    assert promoted / 300 <= RULES.alpha + noise
    assert higher / 300 > 0.4, "the rule 'higher score wins' promotes nearly half of the equal models"


def test_a_clearly_better_model_is_promoted():
    rng = np.random.default_rng(7)
    decisions = [evaluate_gate(compared(rng, n=3000, disagreement=0.08, advantage=0.025), RULES, "3").decision for _ in range(40)]
    assert decisions.count("promote") >= 38
