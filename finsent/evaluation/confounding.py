"""Whether a tweet's source already tells its label: then a model can score by recognising sources, and sentiment stays unlearnt.

Everything is computed from cross tables of counts [sources, classes], so that the number of rows does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finsent.labels import LABELS

Int64 = NDArray[np.int64]

MEDIUM_EFFECT: Final = 0.3
"""Cohen's w from which an association counts as medium (Cohen 1988, Statistical Power Analysis, ch. 7.2)."""
_ENOUGH: Final = 30  # rows of a source before the lack of a class says anything
_NAMED: Final = 4  # sources named in the sentence


@dataclass(frozen=True)
class Confounding:
    """How much the source of a row says about its label."""

    by_source: dict[str, dict[str, int]]
    """Rows of each source by class, the largest source first."""
    majority_accuracy: float | None
    """Score on test rows of always guessing the most frequent training class; None without training or test rows."""
    source_majority_accuracy: float | None
    """Score on test rows of guessing the most frequent training class of the row's source."""
    label_entropy: float
    """Entropy of the label, in bits."""
    mutual_information: float
    """Mutual information of label and source, in bits."""
    cramers_v: float
    """Cramér's V with bias correction (Bergsma 2013), 0 to 1."""
    confounded: bool
    """Whether the association is medium or stronger by Cohen's w."""
    sentence: str
    """All that for a person."""

    @property
    def explained(self) -> float:
        """Share of the label's entropy that the source explains, 0 to 1."""
        return self.mutual_information / self.label_entropy if self.label_entropy else 0.0


def confounding(
    everything: Int64, train: Int64, test: Int64, sources: Sequence[str], labels: Sequence[str] = LABELS
) -> Confounding:
    """Confounding of label and source from counts [sources, classes]: of all rows, and of the training and test rows among them.

    The two guesses are learnt on `train` and scored on `test`; association and class balance are over all rows.
    """
    largest = np.argsort(-everything.sum(axis=1), kind="stable")
    v, w = cramers_v(everything)
    overall, by_source = majority_scores(train, test)
    confounded = w >= MEDIUM_EFFECT
    return Confounding(
        by_source={sources[row]: dict(zip(labels, everything[row].tolist(), strict=True)) for row in largest},
        majority_accuracy=overall,
        source_majority_accuracy=by_source,
        label_entropy=entropy(everything.sum(axis=0)),
        mutual_information=mutual_information(everything),
        cramers_v=v,
        confounded=confounded,
        sentence=_sentence(everything, sources, labels, overall, by_source, confounded=confounded),
    )


def majority_scores(train: Int64, test: Int64) -> tuple[float | None, float | None]:
    """Test accuracy of guessing the overall majority class, and the source's own (overall where the source is new).

    The lower class id wins a tie. (None, None) without training or test rows.
    """
    rows = int(test.sum())
    if not rows or not train.sum():
        return None, None
    overall = int(train.sum(axis=0).argmax())
    guess = np.where(train.sum(axis=1) > 0, train.argmax(axis=1), overall)
    return float(test[:, overall].sum() / rows), float(test[np.arange(len(test)), guess].sum() / rows)


def entropy(counts: Int64) -> float:
    """Shannon entropy of counts, in bits."""
    from scipy.stats import entropy as shannon

    return float(shannon(counts.ravel(), base=2)) if counts.sum() else 0.0


def mutual_information(table: Int64) -> float:
    """I(row; column) of counts [R, C] in bits: H(row) + H(column) - H(row, column)."""
    return max(0.0, entropy(table.sum(axis=1)) + entropy(table.sum(axis=0)) - entropy(table))


def cramers_v(table: Int64) -> tuple[float, float]:
    """Cramér's V of counts [R, C] with bias correction, and Cohen's w from the same corrected chi-square.

    W. Bergsma, A bias-correction for Cramér's V and Tschuprow's T, J. Korean Stat. Soc. 42 (2013). (0, 0) where a side has
    fewer than two values.
    """
    from scipy.stats import chi2_contingency

    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    rows, columns = table.shape
    n = int(table.sum())
    if min(rows, columns) < 2 or n < 2:
        return 0.0, 0.0
    phi2 = float(chi2_contingency(table, correction=False).statistic) / n
    corrected = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    smaller = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1))
    v = float(np.sqrt(corrected / (smaller - 1))) if smaller > 1 else 0.0
    return min(v, 1.0), float(np.sqrt(corrected))


def _sentence(
    table: Int64,
    sources: Sequence[str],
    labels: Sequence[str],
    overall: float | None,
    by_source: float | None,
    *,
    confounded: bool,
) -> str:
    if (table.sum(axis=1) > 0).sum() < 2:
        return "All rows come from one source: label and source cannot be confounded."
    guesses = (
        ""
        if overall is None or by_source is None
        else f" Guessing each source's most frequent class is right on {by_source:.1%} of the test rows, "
        f"guessing the most frequent class of all on {overall:.1%}."
    )
    if not confounded:
        return f"Label and source are hardly related.{guesses}"
    facts = "; ".join([_concentrated(table, sources, labels), *_lacking(table, sources, labels)])
    return (
        f"Label and source are confounded: {facts}.{guesses} "
        "A model can learn the style of a source and pass for one that reads sentiment: look at the scores by source."
    )


def _concentrated(table: Int64, sources: Sequence[str], labels: Sequence[str]) -> str:
    """The class and source whose share of the class is furthest above its share of all rows."""
    of_class = table / np.maximum(table.sum(axis=0, keepdims=True), 1)
    beyond = of_class - table.sum(axis=1, keepdims=True) / table.sum()
    row, column = divmod(int(beyond.argmax()), len(labels))
    share, all_rows = of_class[row, column], table[row].sum() / table.sum()
    return f"{share:.0%} of the {labels[column]} rows come from {sources[row]}, which is {all_rows:.0%} of all rows"


def _lacking(table: Int64, sources: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Sources without any row of a class, class by class."""
    found = []
    for column, label in enumerate(labels):
        without = [sources[row] for row in np.flatnonzero((table[:, column] == 0) & (table.sum(axis=1) >= _ENOUGH)).tolist()]
        if without and table[:, column].any():
            more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
            found.append(f"no {label} rows at all in {', '.join(without[:_NAMED])}{more}")
    return found
