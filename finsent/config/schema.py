"""Every configuration key of data, gate, evaluation, scoring and monitoring; the field docstrings are the user's schema."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic.json_schema import SkipJsonSchema

from finsent.config.loader import NO_PASSWORD, mask_passwords
from finsent.config.model_schema import MOST, EngineConfig, LoraConfig, ModelConfig, RayConfig, Recipe, Section

CENTURY: Final = 100 * 365 * 24.0
"""Hours; longer ones would leave the calendar."""


def _unescape_tab(value: Any) -> Any:
    return "\t" if value == "\\t" else value


class Source(Section):
    """One place that labelled tweets come from."""

    uri: str = Field(json_schema_extra=NO_PASSWORD)
    """File, folder, glob, `s3://bucket/key` (folders and globs too), `hf://owner/name` for a dataset of the Hub, or a database's
    SQLAlchemy URL together with `query`. A relative path counts from the folder of the configuration file that it stands in.
    `${NAME}` in a database's URL (user, password, host, port, database) is taken from the environment when it is read."""
    query: str | None = None
    """Query to a database, e.g. `SELECT body AS text, label FROM tweets`; only where `uri` is a database."""
    name: str | None = None
    """Name in reports and in the column `source`; left out, the file's name without endings."""
    format: Literal["auto", "csv", "tsv", "jsonl", "json", "text", "parquet", "excel"] = "auto"
    """File format; `text` is one tweet a line; `auto` goes by what the file holds, and by its ending where that does not tell."""
    delimiter: Annotated[str, BeforeValidator(_unescape_tab), StringConstraints(min_length=1, max_length=1)] | None = None
    """What separates the fields of a CSV file, e.g. `;`, `|` or `\\t`; left out, found in the file."""
    encoding: str | None = None
    """Encoding of a text file, e.g. cp1252; left out, UTF-8, or UTF-16 and UTF-32 by their byte order mark."""
    skip_rows: int = Field(default=0, ge=0, le=MOST)
    """Lines of a text file, or rows of a sheet, before its table."""
    header: bool = True
    """Whether the first row of a CSV file or sheet names the columns."""
    columns: tuple[str, ...] = ()
    """Names of the columns, in their order, where the file has no header; left out, they are called 1, 2, 3 ..."""
    records: str | None = None
    """Where a JSON document holds its list of rows, as a path such as `data.tweets`; left out, found where there is one list."""
    sheet: str | None = None
    """Sheet of a workbook; left out, the only one that has rows."""
    text: str = "text"
    """Column that holds the tweet; a path such as `entities.text` reaches into nested fields."""
    label: str = "label"
    """Column that holds the label, likewise."""
    label_value: Literal["Neutral", "Bullish", "Bearish"] | None = None
    """Class of every row, for a file without a label column."""
    label_bins: tuple[float, float] | None = None
    """For labels that are scores: below the first is Bearish, above the second Bullish, between and at them Neutral."""
    id: str | None = None
    """Column that holds the tweet's id; left out, `id` is used where the file has it, `none` uses no column."""
    created_at: str | None = None
    """Column that holds the time of writing; left out, `created_at` is used where the file has it, `none` uses no column."""
    date_format: str | None = None
    """Form of the times, as of Python's strptime (`%d.%m.%Y %H:%M`), or `day-first`, `month-first`, `year-first`, `excel` for a
    spreadsheet's serial dates, `s`, `ms` or `us` for the time since 1970; left out, understood where the whole column leaves one
    reading."""
    labels: dict[str, Literal["Neutral", "Bullish", "Bearish"]] | None = None
    """Meaning of the source's label values, e.g. {0: Bearish, 1: Bullish, 2: Neutral}. Left out, class names
    in any case are understood; numbers are never guessed, since datasets disagree on their order."""
    revision: str | None = None
    """Revision of a Hub dataset."""
    split: str = "train"
    """Split of a Hub dataset to read."""
    connection: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """A database's URL as it was given, where it holds a password: `uri` keeps it masked, and this is never shown or stored.
    Filled from `uri`."""

    @model_validator(mode="before")
    @classmethod
    def _label_keys_are_text(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("labels"), Mapping):
            return {**data, "labels": {str(key): value for key, value in data["labels"].items()}}
        return data

    @model_validator(mode="before")
    @classmethod
    def _password_is_taken_out(cls, data: Any) -> Any:
        uri = data.get("uri") if isinstance(data, Mapping) else None
        if isinstance(uri, str) and (masked := mask_passwords(uri)) != uri:
            return {**data, "uri": masked, "connection": uri}
        return data


class InboxSource(Source):
    """One place that tweets to be scored come from: as in `data.sources`, without labels."""

    label: SkipJsonSchema[str] = Field(default="label", exclude=True)
    labels: SkipJsonSchema[dict[str, Literal["Neutral", "Bullish", "Bearish"]] | None] = Field(default=None, exclude=True)
    label_value: SkipJsonSchema[Literal["Neutral", "Bullish", "Bearish"] | None] = Field(default=None, exclude=True)
    label_bins: SkipJsonSchema[tuple[float, float] | None] = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _has_no_labels(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and (given := sorted({"label", "labels", "label_value", "label_bins"} & data.keys())):
            raise ValueError(f"{given[0]!r} is for `data.sources`: tweets to be scored have no label")
        return data


def _as_utc(value: Any) -> Any:
    """A date means its first moment, a time without a zone is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return value  # pydantic reports it
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _in_calendar(moment: datetime) -> datetime:
    if not 1970 <= moment.year < 2200:
        raise ValueError("only times from 1970 to 2199 are understood")
    return moment


UtcDatetime = Annotated[AwareDatetime, BeforeValidator(_as_utc), AfterValidator(_in_calendar)]


class DataConfig(Section):
    """What is ingested and how it is split."""

    sources: tuple[Source, ...] = ()
    """Labelled sources; the command line can name others."""
    near_duplicate_jaccard: float = Field(default=0.8, gt=0.0, le=1.0)
    """Texts whose shingle sets overlap at least this much are near duplicates and share a split."""
    shingle_size: int = Field(default=5, gt=0, le=1000)
    """Characters to a shingle, on the normalised text."""
    permutations: int = Field(default=160, ge=64, le=2**13)
    """MinHash permutations of the candidate search; every candidate is verified by its real Jaccard."""
    truncation_min_characters: int = Field(default=32, gt=0, le=MOST)
    """A text cut off by an ellipsis is a near duplicate of any text that it begins, if at least this many characters are left."""
    split: Literal["group", "time", "source"] = "group"
    """How rows are split: `group` by a stable hash of the near-duplicate group; `time` by `created_at`, later rows for testing;
    `source` by `test_sources` and `validation_sources`. A group lives in one split in each of them."""
    validation_from: UtcDatetime | None = None
    """With `split: time`: rows from here on, up to `test_from`, are for validation. A date (2025-03-01), or a time in UTC."""
    test_from: UtcDatetime | None = None
    """With `split: time`: rows from here on are for testing."""
    embargo_hours: float = Field(default=24.0, ge=0.0, le=CENTURY)
    """With `split: time`: rows this soon before `validation_from` and `test_from` are excluded, since the events they discuss
    continue after it."""
    validation_sources: tuple[str, ...] = ()
    """With `split: source`: names of the sources held out for validation."""
    test_sources: tuple[str, ...] = ()
    """With `split: source`: names of the sources held out for testing."""
    validation_fraction: float = Field(default=0.15, gt=0.0, lt=0.5)
    """Share of near-duplicate groups for validation: calibration, and scores during training."""
    test_fraction: float = Field(default=0.15, gt=0.0, lt=0.5)
    """Share of near-duplicate groups for the test set, which training never sees."""
    split_salt: str = "finsent"
    """Salt of the hash that assigns a group to a split. Changing it moves rows between train and test."""
    max_characters: int = Field(default=5000, gt=0, le=MOST)
    """Longer texts are quarantined."""
    near_contradictions: Literal["keep", "quarantine"] = "keep"
    """Near duplicates with different labels that differ in more than form (a word, a ticker, an emoji): `keep` them, in one
    split, or `quarantine` them. Texts that are equal but for punctuation, spaces and case are quarantined in any case."""
    languages: tuple[str, ...] = ()
    """Accepted languages, as two-letter codes (`en`); rows in others are quarantined. Left empty, every language is accepted."""
    repair_mojibake: bool = True
    r"""Undo what programs did to a text, where that is lossless: mojibake (`â€¦` for an ellipsis), Python byte literals
    (`b'...'`), escapes written out (`\n`, `\u2019`), HTML entities (`&amp;`) and quotes doubled once too often. Repaired rows
    are flagged, and so is what remains."""
    mask_handles: bool = False
    """Store and show `@user` in place of every handle."""
    check_schema: bool = True
    """Stop before writing when a source lost a column or has a label that it did not have the last time."""
    check_labels: bool = True
    """Stop before writing when a source's labels look mapped wrongly: rows labelled Bullish with the words of Bearish ones."""

    @model_validator(mode="after")
    def _split_is_complete(self) -> Self:
        if self.split == "time" and (self.validation_from is None or self.test_from is None):
            raise ValueError("data.split: time needs data.validation_from and data.test_from")
        if self.validation_from and self.test_from and self.validation_from >= self.test_from:
            raise ValueError(f"data.validation_from = {self.validation_from} must be before data.test_from = {self.test_from}")
        if self.split == "source" and not (self.validation_sources and self.test_sources):
            raise ValueError("data.split: source needs data.validation_sources and data.test_sources")
        if both := set(self.validation_sources) & set(self.test_sources):
            raise ValueError(f"sources {sorted(both)} are in data.validation_sources and in data.test_sources")
        return self


class GateConfig(Section):
    """Rules that a version must pass to be promoted. A rule without evidence fails."""

    min_accuracy: float = Field(default=0.5, ge=0.0, le=1.0)
    """Minimum accuracy on the held-out test split."""
    min_macro_f1: float = Field(default=0.4, ge=0.0, le=1.0)
    """Minimum macro-averaged F1."""
    min_class_f1: float = Field(default=0.2, ge=0.0, le=1.0)
    """Minimum F1 of each class."""
    min_test_rows: int = Field(default=200, gt=0, le=MOST)
    """Minimum number of test rows."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Level of the paired tests (exact McNemar, one-sided)."""
    power: float = Field(default=0.8, gt=0.5, lt=1.0)
    """Statistical power used for the minimum detectable difference."""
    macro_f1_margin: float = Field(default=0.01, ge=0.0, le=1.0)
    """Non-inferiority margin for macro-F1 against the champion (lower end of the paired interval, one-sided at `alpha`)."""
    class_margin: float = Field(default=0.03, ge=0.0, le=1.0)
    """Non-inferiority margin for each class's F1 (lower end of the paired interval, Holm-corrected for three classes)."""
    slice_margin: float = Field(default=0.05, ge=0.0, le=1.0)
    """Non-inferiority margin for accuracy on a slice (lower end of the paired interval, Holm-corrected for the slices)."""
    min_slice_rows: int = Field(default=200, ge=30, le=MOST)
    """Slices with fewer test rows are shown but not judged: they are too small for the margin."""
    max_flip_rate: float = Field(default=0.2, gt=0.0, le=1.0)
    """Maximum share of predictions that change under a change without meaning (other cashtag, link, case ...)."""
    max_typo_flip_rate: float = Field(default=0.3, gt=0.0, le=1.0)
    """The same for typing errors, which hide words."""
    max_negation_failures: float = Field(default=0.8, gt=0.0, le=1.0)
    """Maximum share of predictions that stay when the text is negated. A bag-of-words model is near 1."""
    max_swap_failures: float = Field(default=0.6, gt=0.0, le=1.0)
    """Maximum share of predictions that stay when up is swapped for down, buy for sell, and so on."""
    min_check_texts: int = Field(default=30, ge=10, le=MOST)
    """Robustness checks with fewer texts are shown but not judged; at least one of each kind must be judged."""
    max_ece: float = Field(default=0.1, gt=0.0, le=1.0)
    """Maximum expected calibration error after temperature scaling."""
    max_logit_difference: float = Field(default=1e-2, gt=0.0, le=1e6)
    """Maximum difference between logits in training and in a new process that loads from the registry; also bounds the
    differences by padding side and batch size."""
    bootstrap_resamples: int = Field(default=1000, ge=100, le=100_000)
    """Resamples of each bootstrap, drawn by near-duplicate group."""
    approval: Literal["required", "automatic"] = "required"
    """`required`: a version that passes waits as challenger for `finsent approve`."""
    approval_expires_hours: float = Field(default=168.0, gt=0.0, le=CENTURY)
    """A version that waits longer for approval than this must pass the gate again."""

    def robustness_limit(self, check: str) -> float:
        """Maximum failure rate of a robustness check; `max_flip_rate` where it has no limit of its own."""
        own = {
            "typos": self.max_typo_flip_rate,
            "negation": self.max_negation_failures,
            "negation_templates": self.max_negation_failures,
            "up_down_swap": self.max_swap_failures,
        }
        return own.get(check, self.max_flip_rate)


class EvaluationConfig(Section):
    """Measurements besides the scores."""

    target_precision: float = Field(default=0.9, gt=0.0, lt=1.0)
    """Precision that the abstain threshold is fitted to on the validation split."""
    robustness_rows: int = Field(default=300, ge=30, le=MOST)
    """Test rows that each robustness check perturbs and scores again."""
    latency_texts: int = Field(default=40, ge=5, le=MOST)
    """Tweets scored one at a time to measure latency."""
    price_per_hour: float | None = Field(default=None, gt=0.0, le=1e9)
    """Price of an hour of the machine that evaluates, in `currency`; with it the cost of a million tweets is stated."""
    currency: str = Field(default="USD", pattern=r"^\S{1,8}$")
    """Currency of `price_per_hour`, shown beside the cost."""


def _backfill(value: str) -> str:
    if re.fullmatch(r"none|all|[1-9][0-9]{0,4}d", value) is None:
        raise ValueError("none, all, or a number of days such as 30d are understood")
    return value


Backfill = Annotated[str, AfterValidator(_backfill)]
"""Which tweets a new champion scores again."""


class ScoringConfig(Section):
    """Batch inference."""

    engine: Literal["local", "ray"] = "local"
    """What computes: `local`, this machine (its GPUs, see `engine.devices`, or its cores), or `ray`, actors on a Ray cluster
    (`pip install 'finsent[ray]'`; see `scoring.ray`)."""
    ray: RayConfig = RayConfig()
    """The Ray cluster, and the actors on it."""

    sources: tuple[InboxSource, ...] = ()
    """Where unlabelled tweets arrive, such as [{uri: /srv/in, text: body}]: every scoring run without files of its own reads
    what is new there. Of each: `uri`, `text`, `created_at`, `format`, `name`, `query` as in `data.sources`, and `id`."""
    settle_seconds: float = Field(default=10.0, ge=0.0, le=60.0)
    """A file of `sources` is read once it has rested for this long; before that somebody may be writing it."""
    token_budget: int = Field(default=4096, gt=0, le=2**24)
    """Tokens, padding included, in one forward pass."""
    chunk_rows: int = Field(default=2000, gt=0, le=MOST)
    """Rows to one Delta commit: a crash loses less than this."""
    backfill: Backfill = "none"
    """What a new champion scores again of the tweets that earlier ones scored: `none`, `all`, or those received in the last days,
    such as `30d`."""
    abstain_below: float | None = Field(default=None, ge=0.0, le=1.0)
    """Predictions less confident than this are flagged as abstained. Left out, the version's own threshold is used, which
    training fitted to `evaluation.target_precision`; 0.5 for a version that has none."""


class MonitorConfig(Section):
    """Drift and the decision to retrain."""

    psi_threshold: float = Field(default=0.2, gt=0.0, le=1e6)
    """Population stability index above which a window counts as drifted (0.1 small, 0.25 large is the common reading)."""
    windows: int = Field(default=5, ge=1, le=MOST)
    """Number of latest scoring batches compared."""
    drifted_windows: int = Field(default=2, ge=1, le=MOST)
    """Drifted windows among them that trigger retraining."""
    min_new_labels: int = Field(default=500, ge=0, le=MOST)
    """Rows newly labelled, corrected or dropped since the latest training here, refused or not, that trigger retraining."""
    cooldown_hours: float = Field(default=24.0, ge=0.0, le=CENTURY)
    """No retraining sooner than this after the last one."""

    @model_validator(mode="after")
    def _threshold_can_be_reached(self) -> Self:
        if self.drifted_windows > self.windows:
            raise ValueError(
                f"monitor.drifted_windows = {self.drifted_windows} can never be reached among monitor.windows = {self.windows}"
            )
        return self


def _model_name(name: str) -> str:
    """What MLflow accepts as name of a registered and of a logged model; it would refuse others after the training."""
    if wrong := re.search(r"""[/:.%"'\\\x00-\x1f\x7f\ud800-\udfff]""", name):
        raise ValueError(f"MLflow takes no {wrong[0]!r} in the name of a model. Use letters, digits, `-` and `_`")
    return name


def _experiment_name(name: str) -> str:
    """MLflow takes almost any name; beside a local store it is that of a folder, which must lie in the home."""
    if wrong := re.search(r"[\\\x00-\x1f\x7f\ud800-\udfff]|(?:^|(?<=/))\.{1,2}(?=/|$)", name):
        raise ValueError(
            f"{wrong[0]!r} would lead out of the folder of artifacts. Use another name, such as finsent or /Users/me/finsent"
        )
    return name


_NAME: Final = StringConstraints(min_length=1, max_length=250, pattern=r"^\S(.*\S)?$")


class Config(Section):
    """A whole configuration."""

    profile: str
    """Name of the profile this started from."""
    registered_model: Annotated[str, _NAME, AfterValidator(_model_name)] = "finsent"
    """Name in the MLflow registry: letters, digits, `-` and `_`."""
    experiment: Annotated[str, _NAME, AfterValidator(_experiment_name)] = "finsent"
    """MLflow experiment that holds the runs. Names that are paths, such as Databricks's /Users/me/finsent, stay names: beside a
    local store artifacts lie in the home."""
    model: ModelConfig
    """The base model."""
    lora: LoraConfig
    """The adapter."""
    recipe: Recipe
    """The training."""
    data: DataConfig = DataConfig()
    """The data."""
    gate: GateConfig = GateConfig()
    """The promotion gate."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Measurements besides the scores."""
    scoring: ScoringConfig = ScoringConfig()
    """Batch inference."""
    engine: EngineConfig = EngineConfig()
    """Speed and memory."""
    monitor: MonitorConfig = MonitorConfig()
    """Monitoring."""
    notes: tuple[str, ...] = ()
    """Where this profile deviates from its reference, and why."""
