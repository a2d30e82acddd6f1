"""Evidence about a version: the typed records that evaluation produces, the gate reads, and MLflow stores as JSON.

Each record is defined here and nowhere else; the functions that compute one return it. A section may be absent (not measured);
a section that is present is complete, and may carry further figures. NaN stays NaN, in JSON too, so that the gate can report it.
`Evidence.model_validate` and `model_validate_json` validate every section. No torch, MLflow or SciPy.
"""

from typing import NotRequired

from pydantic import BaseModel, ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

_OPEN = ConfigDict(extra="allow", ser_json_inf_nan="strings")


@with_config(_OPEN)
class IntervalRecord(TypedDict):
    """Percentile interval of a bootstrap, or an analytic one where its function says so."""

    low: float
    high: float
    level: float


@with_config(_OPEN)
class ClassRecord(TypedDict):
    """Scores of one class, as in scikit-learn's classification report; an undefined ratio counts 0."""

    precision: float
    recall: float
    f1: float
    support: int


@with_config(_OPEN)
class MetricsRecord(TypedDict):
    """Scores on one set of rows."""

    n: int
    """Rows scored."""
    accuracy: float
    macro_f1: float
    """Unweighted mean of the three classes' F1."""
    mcc: float
    """Matthews correlation coefficient."""
    per_class: dict[str, ClassRecord]
    """By class name."""
    confusion: list[list[int]]
    """Rows are the truth, columns the prediction, in label-id order."""


@with_config(_OPEN)
class McnemarRecord(TypedDict):
    """Exact McNemar test of model a against model b; in evidence, a is the version that the evidence is about."""

    only_a: int
    """Rows (or groups) on which a is right and b wrong."""
    only_b: int
    """Rows (or groups) on which b is right and a wrong."""
    p_one_sided: float
    """Probability of as many wins of a, or more, if both were equally good. Small: a is better."""
    p_two_sided: float
    """Probability of so uneven a count in either direction."""


@with_config(_OPEN)
class DifferenceRecord(TypedDict):
    """Score of a minus score of b on the same rows; in evidence, this version minus the champion."""

    difference: float
    """On the rows as they are, not resampled."""
    standard_error: float
    """Of `difference`, rows of one near-duplicate group counting as one draw."""
    low: float
    high: float
    level: float
    """Of the interval from `low` to `high`."""
    rows: NotRequired[int]
    """Differences of accuracies only, as are the counts below."""
    only_a: NotRequired[int]
    """Rows on which a is right and b wrong."""
    only_b: NotRequired[int]
    """Rows on which b is right and a wrong."""


@with_config(_OPEN)
class PairedBootstrapRecord(TypedDict):
    """Differences a minus b on the same resampled groups; in evidence, this version minus the champion."""

    macro_f1_difference: DifferenceRecord
    class_f1_difference: dict[str, DifferenceRecord]


@with_config(_OPEN)
class PowerRecord(TypedDict):
    """The smallest true difference that the paired test on these rows detects with probability `power`."""

    groups: int
    """Near-duplicate groups: independent observations."""
    discordant_share: float
    """Share of the groups on which exactly one of the two models is better."""
    detectable_difference: float | None
    """In accuracy, by group; None where even winning every discordant group would be detected less often than that."""
    alpha: float
    power: float


@with_config(_OPEN)
class SliceRecord(TypedDict):
    """Scores on a slice of the test rows; with a champion, accuracy of this model minus the champion's."""

    n: int
    accuracy: float
    accuracy_interval: IntervalRecord
    macro_f1: float
    mcc: float
    baseline_accuracy: NotRequired[float]
    champion_accuracy: NotRequired[float]
    accuracy_difference: NotRequired[DifferenceRecord]


@with_config(_OPEN)
class BaselineRecord(TypedDict):
    """A baseline on the same rows; `mcnemar` has this model as `a` and the baseline as `b`."""

    accuracy: float
    macro_f1: float
    mcnemar: McnemarRecord


@with_config(_OPEN)
class ChampionRecord(TypedDict):
    """The champion on the same rows, and the paired tests of this model (`a`) against it (`b`)."""

    metrics: MetricsRecord
    mcnemar: McnemarRecord
    paired_bootstrap: PairedBootstrapRecord
    power: PowerRecord


@with_config(_OPEN)
class AbstentionRecord(TypedDict):
    """Effect on the test rows of abstaining below the version's own threshold, which was fitted on validation rows."""

    target_precision: float
    """Share of answers that are to be right."""
    threshold: float
    """Confidence below which no answer is given."""
    coverage: float
    """Share of test rows answered."""
    precision: float | None
    """Share of those that are right; None where none is answered."""


@with_config(_OPEN)
class CurvePointRecord(TypedDict):
    """Coverage and precision of one abstention threshold."""

    threshold: float
    coverage: float
    precision: float


@with_config(_OPEN)
class CalibrationRecord(TypedDict):
    """Calibration after temperature scaling; intervals are in `intervals`."""

    brier: float
    """See `calibration.brier_score`."""
    ece_before_scaling: float
    """Expected calibration error of the unscaled logits."""
    abstention: AbstentionRecord | None
    """None for a version without a threshold of its own."""
    curve: NotRequired[list[CurvePointRecord]]
    """Other thresholds on the same rows."""


@with_config(_OPEN)
class ExampleRecord(TypedDict):
    """A text on which a robustness check failed."""

    original: str
    changed: str
    before: str
    """Predicted label of the original text."""
    after: str
    """Predicted label of the changed text."""


@with_config(_OPEN)
class RobustnessRecord(TypedDict):
    """Failure rate of one robustness check: how often predictions on changed texts break its rule."""

    kind: str
    """`invariance` (the label must stay) or `direction` (the label must change)."""
    n: int
    """Texts that were changed, each of another near-duplicate group."""
    failure_rate: float
    """Invariance: share of predictions that changed, the flip rate. Direction: share that did not change as they must."""
    interval: IntervalRecord
    """Wilson's, of the failure rate."""
    examples: NotRequired[list[ExampleRecord]]
    """Up to `suite.SHOWN` failures."""
    champion_failure_rate: NotRequired[float]


@with_config(_OPEN)
class SpeedRecord(TypedDict):
    """Throughput, latency and cost of scoring on the machine of the evaluation."""

    device: str
    rows_per_second: float
    """In batches, tokenising included."""
    latency_ms_p50: float
    """One tweet at a time."""
    latency_ms_p95: float
    hours_per_million: float
    """Hours of this machine for a million tweets."""
    cost_per_million: float | None
    """Those hours at `evaluation.price_per_hour`; None where no price is configured."""
    currency: NotRequired[str]
    """Of the cost: `evaluation.currency`."""
    latency_texts: NotRequired[int]
    """Tweets that latency was measured on."""


@with_config(_OPEN)
class TestSetUsesRecord(TypedDict):
    """How often the test set was used: evaluations in the audit log, this one included."""

    at_these_rows: int
    """Evaluations on exactly these test rows."""
    at_any_rows: int
    """Evaluations on any version of the data; their test rows are mostly the same."""


@with_config(_OPEN)
class RoundTripRecord(TypedDict):
    """Results of the round trip: a new process loads the version from the registry alone and repeats training's probe."""

    max_logit_difference: float
    """Largest difference to training's logits on the probe texts."""
    head_hash_equal: bool
    """The loaded model's head has the very weights whose hash training recorded."""
    labels_equal: bool
    """The loaded model names its outputs as training's manifest does, in that order."""
    padding_equal: bool
    """Padding side, padding token (of tokenizer and model) and pooled position of the loaded model are training's."""
    max_padding_difference: float
    """Largest difference of logits between padding on either side (absolute positions: between little and much padding)."""
    max_batch_difference: float
    """Largest difference of logits between one text at a time and all at once."""
    probes: NotRequired[int]
    """Probe texts."""
    head_sha256: NotRequired[str]
    """Of the loaded model's head."""
    seconds: NotRequired[float]


@with_config(_OPEN)
class NaiveSplitRecord(TypedDict):
    """What a plain random split would have reported, an estimate: (1 - leak) * held out + leak * training accuracy.

    A test row with a near copy in the training split is in effect a training row.
    """

    estimated_accuracy: float
    held_out_accuracy: float
    training_accuracy: float
    """On `n_training` random rows of the split that the version trained on."""
    n_training: int
    leak: float
    """Share of test rows with a near duplicate in the training split, had rows been split at random."""


class Evidence(BaseModel):
    """All input of the gate. Everything but the identifiers may be absent, and what is absent fails the gate."""

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
    metrics: MetricsRecord | None = None
    """Scores on the held-out rows."""
    intervals: dict[str, IntervalRecord] | None = None
    """Bootstrap intervals of `accuracy`, `macro_f1`, `mcc`, `ece` and `brier`, drawn by near-duplicate group."""
    slices: dict[str, dict[str, SliceRecord]] | None = None
    """The same rows by dimension (`source` is always one) and value; in each dimension the values' `n` add up to `n_test`."""
    ece: float | None = None
    """Expected calibration error after temperature scaling."""
    temperature: float | None = None
    """Temperature fitted on the validation split."""
    calibration: CalibrationRecord | None = None
    """How far confidence can be believed, beside `ece`."""
    leaks: int | None = None
    """Exact and near-duplicate pairs across splits; None unless the version is known to have trained on this very table."""
    leaks_unknown_reason: str | None = None
    """Why `leaks` is None, a sentence."""
    baselines: dict[str, BaselineRecord] | None = None
    """Baselines trained in the same run on the rows that the version trained on: `majority`, `source_majority`, `tfidf`."""
    robustness: dict[str, RobustnessRecord] | None = None
    """The robustness suite, by check."""
    champion_version: str | None = None
    """Champion at the time of the evaluation; None if there was none."""
    champion_compared: bool = False
    """Whether the champion scored the same rows."""
    champion: ChampionRecord | None = None
    """The comparison with that champion."""
    round_trip: RoundTripRecord | None = None
    """The proof that the registry gives back what was trained."""
    manifest_sha256: str | None = None
    """Of the artifact that was evaluated and proved: its manifest, which lists the digest of every other file."""
    rules_sha256: str | None = None
    """Of the gate's rules that were declared when the evidence was taken (`gate.rules_digest`)."""
    test_set_uses: TestSetUsesRecord | None = None
    """Repeated use of the test set weakens the result."""
    speed: SpeedRecord | None = None
    taken_at: str | None = None
    """When, in UTC."""
    scored_with: str | None = None
    """Engine and type of weights that computed the logits."""
    naive_split: NaiveSplitRecord | None = None
    """Accuracy that a plain random split would have reported, an estimate for people; the gate does not look at it. None where
    the version is not known to have trained on this very table, or what such a split would leak is not on record."""
