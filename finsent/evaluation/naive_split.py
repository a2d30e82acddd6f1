"""The score that a plain random split would have claimed: an estimate for people, which no gate reads."""

from finsent.evaluation.evidence import NaiveSplitRecord


def claim_in_words(record: NaiveSplitRecord) -> str:
    """The claim beside what held-out rows say."""
    return (
        f"A naive random split would have claimed {record['claimed_accuracy']:.3f} where held-out rows say "
        f"{record['held_out_accuracy']:.3f}."
    )


def how_estimated(record: NaiveSplitRecord) -> str:
    """Where the claim comes from, with the numbers put in."""
    leak = record["leak"]
    return (
        f"Estimate: {1 - leak:.3f} x {record['held_out_accuracy']:.3f} (held-out accuracy) + {leak:.3f} x "
        f"{record['training_accuracy']:.3f} (accuracy on {record['n_training']:,} rows trained on), since {leak:.1%} of its test "
        "rows would have had a near copy among the training rows."
    )
