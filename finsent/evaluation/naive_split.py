"""The score that a plain random split would have claimed: an estimate for people, which no gate reads."""

from finsent.evaluation.evidence import NaiveSplitRecord


def naive_split_claim(held_out: float, training: float, n_training: int, leak: float) -> NaiveSplitRecord:
    """Estimate (1 - leak) * held_out + leak * training.

    A test row that has a near duplicate in the training split is in effect a training row, and is right as often as those.

    Args:
        held_out: Accuracy on test rows without any near duplicate in the training split.
        training: Accuracy on rows trained on.
        n_training: How many of those were scored.
        leak: Share of test rows that a plain random split would leak.
    """
    return {  # type: ignore[typeddict-item]  # its configuration is no item of it
        "claimed_accuracy": (1 - leak) * held_out + leak * training,
        "held_out_accuracy": held_out,
        "training_accuracy": training,
        "n_training": n_training,
        "leak": leak,
    }


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
