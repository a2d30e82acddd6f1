"""What an evaluation's page takes for granted, for somebody who reads one for the first time."""

from typing import Final

from finsent.evaluation import html

WORDS: Final = {
    "gate": "The fixed set of rules that a version must pass before it may become the champion.",
    "floor": "A simple model trained on the same rows, which any version worth keeping must beat.",
    "MCC": "Matthews correlation coefficient, one score from the whole confusion matrix: 1 is perfect, 0 no better than chance.",
    "macro-F1": "The plain mean of the classes' F1 scores, so that a rare class counts as much as a frequent one.",
    "calibration error": "How far confidence is from the share of right answers, on average: at 0 a confidence of 80 % is right "
    "80 % of the time.",
    "temperature": "The one number by which the model's raw outputs (logits) are divided so that its confidence is neither too "
    "high nor too low.",
    "Brier score": "The squared distance between the probabilities and the truth, averaged over tweets: 0 is best, 2 is worst.",
    "slice": "A part of the rows that have something in common, such as their source or their length.",
    "head": "The last layer, which turns what the base model made of a tweet into one number for each class.",
    "pooled position": "The one token of a tweet, its last, whose vector the head reads.",
    "packed engine": "The faster way to compute: tweets are laid end to end instead of filled up to one length.",
    "McNemar test": "Compares two models by the tweets that only one of them gets right; a small p means that the difference is "
    "hardly chance.",
}


def glossary() -> str:
    """The words, on a click."""
    return html.folded("What the words mean", html.table(("word", "meaning"), list(WORDS.items()), text=(1,)))
