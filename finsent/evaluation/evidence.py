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


class DifferenceRecord(TypedDict):
    """`statistics.Difference`: this model minus the champion on the same rows."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    difference: float
    standard_error: float
    low: float
    high: float
    level: float
    rows: NotRequired[int]
    only_a: NotRequired[int]
    only_b: NotRequired[int]


class PairedBootstrapRecord(TypedDict):
    """`statistics.PairedBootstrap`: this model minus the champion."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    macro_f1_difference: DifferenceRecord
    class_f1_difference: dict[str, DifferenceRecord]


class PowerRecord(TypedDict):
    """`power.Power`: what the paired test on these rows can see."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    groups: int
    discordant_share: float
    detectable_difference: float | None
    alpha: float
    power: float


class SliceRecord(TypedDict):
    """Scores on a slice of the test rows; with a champion, accuracy of this model minus the champion's."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    n: int
    accuracy: float
    accuracy_interval: IntervalRecord
    macro_f1: float
    mcc: float
    floor_accuracy: NotRequired[float]
    champion_accuracy: NotRequired[float]
    accuracy_difference: NotRequired[DifferenceRecord]


class FloorRecord(TypedDict):
    """A floor on the same rows; `mcnemar` has this model as `a` and the floor as `b`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    accuracy: float
    macro_f1: float
    mcnemar: McnemarRecord


class ChampionRecord(TypedDict):
    """The champion on the same rows, and the paired tests of this model (`a`) against it (`b`)."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    metrics: MetricsRecord
    mcnemar: McnemarRecord
    paired_bootstrap: PairedBootstrapRecord
    power: PowerRecord


class AbstentionRecord(TypedDict):
    """What abstaining below the version's own threshold, fitted on validation rows, does on the test rows."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    target_precision: float
    """Share of answers that are to be right."""
    threshold: float
    """Confidence below which no answer is given."""
    coverage: float
    """Share of test rows answered."""
    precision: float | None
    """Share of those that are right; None where none is answered."""


class CalibrationRecord(TypedDict):
    """`calibration.Calibration`: how far confidence can be believed, after temperature scaling; intervals are in `intervals`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    brier: float
    ece_before_scaling: float
    abstention: AbstentionRecord | None
    """None for a version without a threshold of its own."""


class RobustnessRecord(TypedDict):
    """`robustness.Check`: how often predictions do what they must not when texts are changed."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    kind: str
    """`invariance` (the label must stay) or `direction` (the label must change)."""
    n: int
    """Texts that the change applies to."""
    failure_rate: float
    """Invariance: share of predictions that changed, the flip rate. Direction: share that did not change as they must."""
    interval: IntervalRecord
    champion_failure_rate: NotRequired[float]


class SpeedRecord(TypedDict):
    """What scoring takes on the machine of the evaluation."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    device: str
    rows_per_second: float
    """In batches, tokenising included."""
    latency_ms_p50: float
    """One tweet at a time."""
    latency_ms_p95: float
    hours_per_million: float
    """Hours of this machine for a million tweets."""
    cost_per_million: float | None
    """Those hours at `evaluation.price_per_hour`, in its currency; None where no price is configured."""


class LooksRecord(TypedDict):
    """How often the test set has been looked at: evidence taken, this time included, by the ledger."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    at_these_rows: int
    """At exactly these test rows."""
    at_any_rows: int
    """At any version of the data, whose test rows are mostly the same."""


class RoundTripRecord(TypedDict):
    """What a fresh process found that loaded the version from the registry alone."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    max_logit_difference: float
    head_hash_equal: bool
    labels_equal: bool
    padding_equal: bool
    """Padding side, padding token and pooled position are training's."""
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
    test_fingerprint: str | None = None
    """Fingerprint of its test rows alone."""
    n_test: int | None = None
    """Held-out rows scored."""
    metrics: Annotated[MetricsRecord | None, _Plain] = None
    """Scores on the held-out rows."""
    intervals: Annotated[dict[str, IntervalRecord] | None, _Plain] = None
    """Bootstrap intervals of `accuracy`, `macro_f1`, `mcc`, `ece` and `brier`, drawn by near-duplicate group."""
    slices: Annotated[dict[str, dict[str, SliceRecord]] | None, _Plain] = None
    """The same rows by dimension (`source` is always one) and value; in each dimension the values' `n` add up to `n_test`."""
    ece: float | None = None
    """Expected calibration error after temperature scaling."""
    temperature: float | None = None
    """Temperature fitted on the validation split."""
    calibration: Annotated[CalibrationRecord | None, _Plain] = None
    """How far confidence can be believed, beside `ece`."""
    leaks: int | None = None
    """Exact and near-duplicate pairs across splits; None unless the version is known to have trained on this very table."""
    leaks_unknown_because: str | None = None
    """Why `leaks` is None, a sentence."""
    floors: Annotated[dict[str, FloorRecord] | None, _Plain] = None
    """Floors trained in the same run on the rows that the version trained on: `majority`, `source_majority`, `tfidf`."""
    robustness: Annotated[dict[str, RobustnessRecord] | None, _Plain] = None
    """The robustness suite, by check."""
    champion_version: str | None = None
    """Champion at the time of the evaluation; None if there was none."""
    champion_compared: bool = False
    """Whether the champion scored the same rows."""
    champion: Annotated[ChampionRecord | None, _Plain] = None
    """The comparison with that champion."""
    round_trip: Annotated[RoundTripRecord | None, _Plain] = None
    """The proof that the registry gives back what was trained."""
    manifest_sha256: str | None = None
    """Of the artifact that was evaluated and proved: its manifest, which lists the digest of every other file."""
    rules_sha256: str | None = None
    """Of the gate's rules that were declared when the evidence was taken (`gate.rules_digest`)."""
    looks: Annotated[LooksRecord | None, _Plain] = None
    speed: Annotated[SpeedRecord | None, _Plain] = None
    taken_at: str | None = None
    """When, in UTC."""
    scored_with: str | None = None
    """Engine and type of weights that computed the logits."""
    naive_split: Annotated[NaiveSplitRecord | None, _Plain] = None
    """Accuracy that a plain random split would have claimed, an estimate for people; the gate does not look at it. None where
    the version is not known to have trained on this very table, or what such a split would leak is not on record."""
