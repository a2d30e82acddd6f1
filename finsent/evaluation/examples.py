"""Test rows that say more than a score: where two models disagree, and where a model is sure and wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finsent.errors import InputError
from finsent.labels import LABELS

ONLY_OWN: Final = "only this version is right"
ONLY_CHAMPION: Final = "only the champion is right"
NEITHER: Final = "both are wrong, differently"


@dataclass(frozen=True)
class Disagreement:
    """A row on which this version and the champion say different things."""

    kind: str
    """`ONLY_OWN`, `ONLY_CHAMPION` or `NEITHER`."""
    text: str
    label: str
    own: str
    champion: str
    confidence: float
    """Of this version in its own answer."""


@dataclass(frozen=True)
class WorstError:
    """A confident wrong answer."""

    text: str
    label: str
    own: str
    confidence: float


@dataclass(frozen=True)
class ErrorPair:
    """All errors that take one class for another, and the surest of them."""

    label: str
    own: str
    count: int
    """Test rows."""
    worst: tuple[WorstError, ...]


def disagreements(
    texts: Sequence[str],
    labels: NDArray[np.int64],
    champion: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    groups: Sequence[str],
    k: int = 6,
) -> tuple[Disagreement, ...]:
    """The `k` surest rows of each kind of disagreement, one of a near-duplicate group, surest first.

    Args:
        texts: [N], as they are to be shown: masked where `data.mask_handles` asks for it.
        labels: [N].
        champion: [N], the champion's predictions.
        probabilities: [N, 3], this version's after temperature scaling; its predictions are their largest.
        groups: [N], near-duplicate groups.
        k: Rows of each kind.

    Raises:
        InputError: lengths differ.
    """
    _same_length(texts, labels, champion, probabilities, groups)
    own, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    kinds = {
        ONLY_OWN: (own == labels) & (champion != labels),
        ONLY_CHAMPION: (own != labels) & (champion == labels),
        NEITHER: (own != labels) & (champion != labels) & (own != champion),
    }
    return tuple(
        Disagreement(kind, texts[row], LABELS[labels[row]], LABELS[own[row]], LABELS[champion[row]], float(sure[row]))
        for kind, chosen in kinds.items()
        for row in _surest(chosen, sure, groups, k)
    )


def worst_errors(
    texts: Sequence[str], labels: NDArray[np.int64], probabilities: NDArray[np.float64], groups: Sequence[str], k: int = 4
) -> tuple[ErrorPair, ...]:
    """The `k` surest wrong answers of each pair of true and predicted class, one of a group; the most frequent pair first.

    Arguments as of `disagreements`.

    Raises:
        InputError: lengths differ.
    """
    _same_length(texts, labels, probabilities, groups)
    own, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    pairs = []
    for truth, guess in np.argwhere(~np.eye(len(LABELS), dtype=np.bool_)):
        chosen = (labels == truth) & (own == guess)
        if chosen.any():
            names = LABELS[truth], LABELS[guess]
            worst = tuple(WorstError(texts[row], *names, float(sure[row])) for row in _surest(chosen, sure, groups, k))
            pairs.append(ErrorPair(*names, int(chosen.sum()), worst))
    return tuple(sorted(pairs, key=lambda pair: -pair.count))


def _surest(chosen: NDArray[np.bool_], sure: NDArray[np.float64], groups: Sequence[str], k: int) -> list[int]:
    rows = np.flatnonzero(chosen)
    taken: dict[str, int] = {}
    for row in rows[np.argsort(-sure[rows], kind="stable")]:
        if len(taken) == k:
            break
        taken.setdefault(groups[row], int(row))
    return list(taken.values())


def _same_length(*columns: Sequence[object] | NDArray[np.generic]) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1:
        raise InputError(f"texts, labels, predictions and groups of {lengths} rows: give one of each to each row.")
