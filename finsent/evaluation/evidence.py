"""What a version has shown, as one typed object. Evaluation writes it, the registry gate reads it, MLflow keeps it as JSON.

A whole section may be absent (nobody measured it); a section that is there is whole. Sections take dataclasses of
`statistics` and `metrics` as they are, and may carry further figures beside those that the gate reads.
NaN is kept as NaN, in JSON too, so that the gate can say so.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

_OPEN = ConfigDict(extra="allow", ser_json_inf_nan="strings")


class IntervalRecord(TypedDict):
    """`statistics.Interval`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    low: float
    high: float
    level: float


class ClassRecord(TypedDict):
    """Scores of one class, as in scikit-learn's classification report; an undefined ratio counts 0."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    precision: float
    recall: float
    f1: float
    support: int


class MetricsRecord(TypedDict):
    """`metrics.Metrics`; rows of `confusion` are the truth, columns the prediction, in label-id order."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    n: int
    accuracy: float
    macro_f1: float
    mcc: float
    per_class: dict[str, ClassRecord]
    confusion: list[list[int]]


class McnemarRecord(TypedDict):
    """`statistics.Mcnemar`; `a` is the model that the evidence is about."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    only_a: int
    only_b: int
    p_one_sided: float
    p_two_sided: float


class PairedBootstrapRecord(TypedDict):
    """`statistics.PairedBootstrap`: this model minus the champion."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    macro_f1_difference: IntervalRecord
    class_f1_difference: dict[str, IntervalRecord]


class SourceRecord(TypedDict):
    """Scores on the test rows of one source."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    n: int
    accuracy: float
    macro_f1: float
    baseline_accuracy: float
    champion_accuracy: NotRequired[float]


class BaselineRecord(TypedDict):
    """The TF-IDF floor on the same rows; `mcnemar` has this model as `a` and the floor as `b`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    accuracy: float
    macro_f1: float
    mcnemar: McnemarRecord
    majority_accuracy: NotRequired[float]
    source_majority_accuracy: NotRequired[float]


class ChampionRecord(TypedDict):
    """The champion on the same rows, and the paired tests of this model (`a`) against it (`b`)."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    metrics: MetricsRecord
    mcnemar: McnemarRecord
    paired_bootstrap: PairedBootstrapRecord


class RoundTripRecord(TypedDict):
    """What a fresh process found that loaded the version from the registry alone."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    max_logit_difference: float
    head_hash_equal: bool
    max_padding_difference: float
    max_batch_difference: float


class NaiveSplitRecord(TypedDict):
    """What a plain random split would have claimed, an estimate: (1 - leak) * held out + leak * training accuracy.

    A test row with a near copy in the training split is in effect a training row.
    """

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    claimed_accuracy: float
    held_out_accuracy: float
    training_accuracy: float
    """On `n_training` random rows of the split that the version trained on."""
    n_training: int
    leak: float
    """Share of test rows with a near duplicate in the training split, had rows been split at random."""


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


_Plain = BeforeValidator(_plain)


class Evidence(BaseModel):
    """Everything the gate may look at. All but the identifiers may be absent, and what is absent fails the gate."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings", protected_namespaces=()
    )

    model_name: str
    """Registered model."""
    model_version: str
    """Version that the evidence is about."""
    data_version: int | None = None
    """Version of the table `tweets` that the test rows come from."""
    data_fingerprint: str | None = None
    """Fingerprint of that data version."""
    n_test: int | None = None
    """Held-out rows scored."""
    metrics: Annotated[MetricsRecord | None, _Plain] = None
    """Scores on the held-out rows."""
    intervals: Annotated[dict[str, IntervalRecord] | None, _Plain] = None
    """Bootstrap intervals of `accuracy` and `macro_f1`, drawn by near-duplicate group."""
    per_source: Annotated[dict[str, SourceRecord] | None, _Plain] = None
    """The same rows by source; the sources' `n` add up to `n_test`."""
    ece: float | None = None
    """Expected calibration error after temperature scaling."""
    temperature: float | None = None
    """Temperature fitted on the validation split."""
    leaks: int | None = None
    """Exact and near-duplicate pairs across splits; None unless the version is known to have trained on this very table."""
    leaks_unknown_because: str | None = None
    """Why `leaks` is None, a sentence."""
    baseline: Annotated[BaselineRecord | None, _Plain] = None
    """The TF-IDF floor, trained on the same training split."""
    champion_version: str | None = None
    """Champion at the time of the evaluation; None if there was none."""
    champion_compared: bool = False
    """Whether the champion scored the same rows."""
    champion: Annotated[ChampionRecord | None, _Plain] = None
    """The comparison with that champion."""
    round_trip: Annotated[RoundTripRecord | None, _Plain] = None
    """The proof that the registry gives back what was trained."""
    naive_split: Annotated[NaiveSplitRecord | None, _Plain] = None
    scored_with: str | None = None
    """Engine and type of weights that computed the logits."""
    """Accuracy that a plain random split would have claimed, an estimate for people; the gate does not look at it. None where
    the version is not known to have trained on this very table, or what such a split would leak is not on record."""
