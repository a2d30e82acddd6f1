"""Rows whose label is likely wrong, by confident learning (Northcutt, Jiang, Chuang 2021, arXiv:1911.00068) as cleanlab has it.

A small model gives every row probabilities without having seen it; rows that it confidently takes for another class, more often
than the noise it estimates between those two classes explains, are listed, the likeliest error first (`label_noise`).

The source is no feature of that model. Label and source are confounded in such data (some sources have no neutral row at all):
a model that is told the source would doubt every neutral row of a source with few of them, which is prejudice and no evidence.
Texts give their source away in part all the same, so a list wants a person's eyes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from finsent.errors import InputError
from finsent.evaluation.label_noise import error_probabilities
from finsent.logging_setup import track

MOST_ROWS: Final = 200_000
"""Of more rows a random sample is looked at: so many take a quarter of an hour of one core and 2 GB."""
_FOLDS: Final = 5
_SEED: Final = 0
_COLUMNS: Final = 2**18  # hashed n-grams; more gain nothing at a million tweets and cost memory in every class


@dataclass(frozen=True)
class Suspects:
    """Likely label errors among some rows, the likeliest first; in one source that is the least believed label."""

    rows: NDArray[np.int64]
    """Positions [M] of the suspected rows among those given."""
    suggested: NDArray[np.int64]
    """Label id [M] that the model takes each for."""
    confidence: NDArray[np.float64]
    """Self-confidence [M]: the probability that the model gives the label as it is."""
    error_probability: NDArray[np.float64]
    """Estimated probability [M] that the label is wrong, see `finsent.evaluation.label_noise`."""
    looked_at: int
    """Rows looked at; fewer than given where they were sampled."""


def suspect_labels(
    texts: Sequence[str],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    sources: Sequence[str] | None = None,
    most_rows: int = MOST_ROWS,
    folds: int = _FOLDS,
) -> Suspects:
    """Rows whose label is likely wrong.

    Args:
        texts: Texts [N].
        labels: Label ids [N].
        groups: Near-duplicate group [N] of each row. A group is in one fold, so that no twin vouches for its twin.
        sources: Source [N] of each row, which tells how many labels may be wrong, and the model nothing.
        most_rows: Of more rows, this many are drawn at random, by a fixed seed.
        folds: Parts that take turns in being judged by a model of the others.

    Raises:
        InputError: fewer than two classes, or fewer groups than folds.
    """
    chosen = np.arange(len(texts), dtype=np.int64)
    if len(texts) > most_rows:
        chosen = np.sort(np.random.default_rng(_SEED).choice(len(texts), most_rows, replace=False)).astype(np.int64)
    classes, given = np.unique(np.asarray(labels)[chosen], return_inverse=True)
    kept = [groups[index] for index in chosen.tolist()]
    if len(classes) < 2 or len(set(kept)) < folds:
        raise InputError(
            f"cannot tell wrong labels from right ones among {len(chosen)} rows of {len(classes)} classes in {len(set(kept))} "
            f"near-duplicate groups: that takes two classes and {folds} groups. Ingest more tweets."
        )
    probabilities = out_of_fold([texts[index] for index in chosen.tolist()], given, kept, folds)

    from cleanlab.filter import find_label_issues

    found = np.asarray(find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1), np.int64)
    origins = None if sources is None else [sources[index] for index in chosen.tolist()]
    errors = error_probabilities(given, probabilities, origins)
    found = found[np.argsort(-errors[found], kind="stable")]
    return Suspects(
        rows=chosen[found],
        suggested=classes[probabilities[found].argmax(axis=1)].astype(np.int64),
        confidence=probabilities[found, given[found]],
        error_probability=errors[found],
        looked_at=len(chosen),
    )


def out_of_fold(texts: Sequence[str], labels: NDArray[np.int64], groups: Sequence[str], folds: int) -> NDArray[np.float64]:
    """Probabilities [N, classes] of rows by a model that saw neither them nor their near duplicates.

    A bag of word 1-2-grams and character 3-5-grams with logistic regression. The n-grams' weights come from all rows: they know
    no label.

    Args:
        texts: Texts [N].
        labels: Class numbers [N], each of 0 to the highest at least once.
        groups: Near-duplicate group [N] of each row.
        folds: Number of parts.
    """
    from sklearn.model_selection import GroupKFold

    features = _features(texts)
    probabilities = np.zeros((len(texts), int(labels.max()) + 1))
    parts = GroupKFold(n_splits=folds, shuffle=True, random_state=_SEED)
    turns = parts.split(features, labels, groups=list(groups))
    for learnt, judged in track(turns, description="judging labels", total=folds, unit="part"):
        model = _classifier()
        model.fit(features[learnt], labels[learnt])
        # a class whose rows are all in the part judged is unknown to this model: probability 0
        probabilities[np.ix_(judged, model.classes_)] = model.predict_proba(features[judged])
    return probabilities


def _features(texts: Sequence[str]) -> Any:
    """Sparse TF-IDF matrix [N, columns]: hashed, so that memory does not grow with the vocabulary.

    Without the columns that one text alone has: they are half of all and tell nothing of another text.
    """
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    counts = (
        HashingVectorizer(n_features=_COLUMNS, alternate_sign=False, norm=None, **settings).transform(texts)
        for settings in ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (3, 5)})
    )
    weighted = hstack([TfidfTransformer(sublinear_tf=True).fit_transform(matrix) for matrix in counts]).tocsc()
    return weighted[:, np.diff(weighted.indptr) > 1].tocsr()


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression

    # of nine settings on 27,842 real tweets with planted errors; they differ by less than chance in what they find, and this
    # one takes half the time of the default tolerance
    return LogisticRegression(C=5.0, tol=3e-4, max_iter=200)
