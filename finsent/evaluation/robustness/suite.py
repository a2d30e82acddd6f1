"""Whether predictions stay when nothing that matters changes, and change when the meaning does.

Behavioural tests in the sense of CheckList (Ribeiro et al., ACL 2020, arXiv:2005.04118): they find models that are right for
the wrong reasons, which no score on test rows from the same sources can.

Measured failure rates (300 texts a check), on the bundled sample and on 4,786 real test tweets:

    model            typos        other invariance     negation     templates    up_down_swap
    nano             0.19, 0.12   to 0.06, to 0.08     0.68, 0.93   0.69, 0.97   0.05, 0.43
    TF-IDF           0.07, 0.08   to 0.07, to 0.10     0.73, 0.95   0.75, 0.97   0.42, 0.47
    keywords         0.08, 0.06   0.00, 0.00           0.99, 0.94   1.00, 1.00   0.46, 0.18
    five cashtags    0.05, 0.05   to 0.21, to 0.29     0.99, 0.96   1.00, 1.00   0.58, 0.38
    source's label   -     0.03   -        to 0.17     -     0.99   -     1.00   -     1.00

nano learns denials from the sample, whose grammar turns on them, and hardly any from two epochs of real tweets: there it is
in this respect a counter of keywords, and no limit tells it from one. A counter of keywords fails the baselines besides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from finsent.errors import InputError
from finsent.evaluation.evidence import ExampleRecord, IntervalRecord, RobustnessRecord
from finsent.evaluation.robustness.negation import TEMPLATES
from finsent.evaluation.robustness.perturbations import DIRECTION, INVARIANCE, Change
from finsent.labels import LABEL2ID, LABELS

Labels = NDArray[np.int64]
Kind = Literal["invariance", "direction"]

NEUTRAL: Final = LABEL2ID["Neutral"]
CHECKS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(INVARIANCE, "invariance"),
    **dict.fromkeys(DIRECTION, "direction"),
    "negation_templates": "direction",
}
"""Every check by name."""
SHOWN: Final = 5
"""Failures shown of each check."""


@dataclass(frozen=True)
class _Case:
    check: str
    kind: Kind
    original: str
    changed: str
    before: int
    """Prediction on the original text; -1 where it is still to be asked for, and then `label` is what it should be."""
    label: int = -1


def run_suite(
    predict: Callable[[Sequence[str]], Labels],
    texts: Sequence[str],
    labels: Labels,
    predictions: Labels,
    groups: Sequence[str],
    *,
    rows: int,
    seed: int = 0,
) -> dict[str, RobustnessRecord]:
    """The checks by name, each on up to `rows` of the test rows that it applies to, no two of one near-duplicate group.

    `predict` gives the label ids of many texts and is called once; `predictions` [N] are its labels of `texts`. Invariance
    counts any row. Direction counts rows that are truly Bullish or Bearish and were predicted so: of a wrong prediction nobody
    can say what it should become. It fails where the prediction stays: Neutral is taken for an answer too, since "not bullish"
    may be either, and a swapped text may be a milder one. `negation_templates` asks the same of short tweets of our own.
    A check that applies to no text has `n` 0 and says nothing: anything from 0 to 1.

    Raises:
        InputError: columns of unequal length, or predictions that are not one label id to each text.
    """
    for name, column in (("labels", labels), ("predictions", predictions), ("groups", groups)):
        if len(column) != len(texts):
            raise InputError(f"{len(column)} {name} for {len(texts)} texts: give one to each text.")
    cases: list[_Case] = []
    right = (labels == predictions) & (labels != NEUTRAL)
    kinds: tuple[tuple[Kind, Mapping[str, Change], NDArray[np.bool_]], ...] = (
        ("invariance", INVARIANCE, np.ones(len(texts), dtype=bool)),
        ("direction", DIRECTION, right),
    )
    for kind, changes, applies in kinds:
        for name, change in changes.items():
            cases += _draw(name, kind, change, texts, predictions, groups, applies, rows, seed)
    cases += [_Case("negation_templates", "direction", plain, denied, -1, LABEL2ID[label]) for plain, denied, label in TEMPLATES]
    asked = [case.changed for case in cases] + [case.original for case in cases if case.before < 0]
    answers = _ids(predict(asked), len(asked))
    before_templates = iter(answers[len(cases) :])
    outcomes: dict[str, list[tuple[_Case, int, int]]] = {}
    for case, after in zip(cases, answers, strict=False):
        before = case.before if case.before >= 0 else next(before_templates)
        if case.before >= 0 or before == case.label:
            outcomes.setdefault(case.check, []).append((case, before, after))
    return {name: _check(kind, outcomes.get(name, [])) for name, kind in CHECKS.items()}


def _draw(
    name: str,
    kind: Kind,
    change: Change,
    texts: Sequence[str],
    predictions: Labels,
    groups: Sequence[str],
    applies: NDArray[np.bool_],
    rows: int,
    seed: int,
) -> list[_Case]:
    """Changed texts in an order of the seed's; what a text becomes depends on the seed and the text alone."""
    order = list(range(len(texts)))
    _random(f"{seed} {name}").shuffle(order)
    cases: list[_Case] = []
    taken: set[str] = set()
    for row in order:
        if len(cases) == rows:
            break
        if not applies[row] or groups[row] in taken:
            continue
        changed = change(texts[row], _random(f"{seed} {name} {texts[row]}"))
        if changed is not None:
            taken.add(groups[row])
            cases.append(_Case(name, kind, texts[row], changed, int(predictions[row])))
    return cases


def _random(seed: str) -> Random:
    # by bytes, of any text: a lone surrogate has no UTF-8, and Random would refuse it
    return Random(seed.encode("utf-8", "surrogatepass"))  # noqa: S311 - to be repeatable is the point


def _check(kind: Kind, outcomes: list[tuple[_Case, int, int]]) -> RobustnessRecord:
    from scipy.stats import binomtest

    if not outcomes:
        interval = IntervalRecord(low=0.0, high=1.0, level=0.95)
        return RobustnessRecord(kind=kind, n=0, failure_rate=0.0, interval=interval, examples=[])
    failed = [outcome for outcome in outcomes if (outcome[1] == outcome[2]) == (kind == "direction")]
    n = len(outcomes)
    reach = binomtest(len(failed), n).proportion_ci(confidence_level=0.95, method="wilson")
    return RobustnessRecord(
        kind=kind,
        n=n,
        failure_rate=len(failed) / n,
        interval=IntervalRecord(low=float(reach.low), high=float(reach.high), level=0.95),
        examples=[
            ExampleRecord(original=case.original, changed=case.changed, before=LABELS[before], after=LABELS[after])
            for case, before, after in failed[:SHOWN]
        ],
    )


def _ids(answers: Labels, asked: int) -> list[int]:
    found = np.asarray(answers)
    if (
        found.shape != (asked,)
        or found.dtype.kind not in "iu"
        or (found.size and not (0 <= found.min() <= found.max() < len(LABELS)))
    ):
        raise InputError(
            f"predictions of shape {found.shape} and type {found.dtype} for {asked} changed texts: one label id from 0 to "
            f"{len(LABELS) - 1} is wanted for each."
        )
    ids: list[int] = found.tolist()
    return ids
