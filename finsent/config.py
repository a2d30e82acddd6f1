"""Configuration: frozen, unknown keys refused, every field documented. Knows nothing of torch, Prefect or MLflow.

A configuration is a shipped profile (`finsent/profiles/*.yaml`) with, on top, a YAML file of the user's and
`key=value` overrides.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BeforeValidator, Field, SecretStr, ValidationError, model_validator

from finsent.config_files import explain, mask_passwords, merge, parse_overrides, read_file, read_yaml
from finsent.config_model import EmbeddedBase, EngineConfig, LoraConfig, ModelConfig, Quantization, Recipe, Section
from finsent.errors import ConfigError

DEFAULT_PROFILE = "nano"

__all__ = [
    "DEFAULT_PROFILE",
    "Config",
    "DataConfig",
    "EmbeddedBase",
    "EngineConfig",
    "EvaluationConfig",
    "GateConfig",
    "LoraConfig",
    "ModelConfig",
    "MonitorConfig",
    "Quantization",
    "Recipe",
    "ScoringConfig",
    "Section",
    "Source",
    "load_config",
    "profiles",
]


class Source(Section):
    """One place that labelled tweets come from."""

    uri: str
    """File, folder, glob, `s3://bucket/key` (folders and globs too), `hf://owner/name` for a dataset of the Hub, or a database's
    SQLAlchemy URL together with `query`."""
    query: str | None = None
    """What to ask a database for, e.g. `SELECT body AS text, label FROM tweets`; only where `uri` is a database."""
    name: str | None = None
    """Name in reports and in the column `source`; left out, the file's name without endings."""
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = "auto"
    """File format; `auto` goes by the file's ending."""
    text: str = "text"
    """Column that holds the tweet."""
    label: str = "label"
    """Column that holds the label."""
    created_at: str | None = None
    """Column that holds the time of writing; left out, `created_at` is used where the file has it."""
    labels: dict[str, Literal["Neutral", "Bullish", "Bearish"]] | None = None
    """The source's label values and what they mean, e.g. {0: Bearish, 1: Bullish, 2: Neutral}. Left out, class names
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


def _as_utc(value: Any) -> Any:
    """A date is its first moment, and a time without a zone is UTC, as in the tables."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return value  # pydantic says what is wrong with it
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


Moment = Annotated[AwareDatetime, BeforeValidator(_as_utc)]


class DataConfig(Section):
    """What is ingested and how it is split."""

    sources: tuple[Source, ...] = ()
    """Labelled sources; the command line can name others."""
    near_duplicate_jaccard: float = Field(default=0.8, gt=0.0, le=1.0)
    """Texts whose shingle sets overlap at least this much are near duplicates and share a split."""
    shingle_size: int = Field(default=5, gt=0)
    """Characters to a shingle, on the normalised text."""
    permutations: int = Field(default=160, ge=64)
    """MinHash permutations of the candidate search; every candidate is verified by its real Jaccard."""
    truncation_min_characters: int = Field(default=32, gt=0)
    """A text that ends in an ellipsis is a near duplicate of whatever goes on after it, if at least this much is left of it."""
    split: Literal["group", "time", "source"] = "group"
    """How rows are split: `group` by a stable hash of the near-duplicate group; `time` by `created_at`, later rows for testing;
    `source` by `test_sources` and `validation_sources`. A group lives in one split in each of them."""
    validation_from: Moment | None = None
    """With `split: time`: rows from here on, up to `test_from`, are for validation. A date (2025-03-01), or a time in UTC."""
    test_from: Moment | None = None
    """With `split: time`: rows from here on are for testing."""
    embargo_hours: float = Field(default=24.0, ge=0.0)
    """With `split: time`: rows this soon before `validation_from` and `test_from` are used for nothing, since what they speak of
    is still going on after it."""
    validation_sources: tuple[str, ...] = ()
    """With `split: source`: names of the sources held out for validation."""
    test_sources: tuple[str, ...] = ()
    """With `split: source`: names of the sources held out for testing."""
    validation_fraction: float = Field(default=0.15, gt=0.0, lt=0.5)
    """Share of near-duplicate groups for validation: calibration and early looks."""
    test_fraction: float = Field(default=0.15, gt=0.0, lt=0.5)
    """Share of near-duplicate groups for the test set, which training never sees."""
    split_salt: str = "finsent"
    """Goes into the hash that decides a group's split. Changing it moves rows between train and test."""
    max_characters: int = Field(default=5000, gt=0)
    """Longer texts are quarantined."""
    languages: tuple[str, ...] = ()
    """Languages taken, as two-letter codes (`en`); rows in others are quarantined. Left empty, every language is taken."""
    repair_mojibake: bool = True
    """Repair text that was decoded with the wrong encoding (`â€¦` for an ellipsis), where that can be undone without loss.
    Repaired rows are flagged, and so is mojibake that stays."""
    mask_handles: bool = False
    """Store and show `@user` in place of every handle."""
    check_schema: bool = True
    """Stop before writing when a source lost a column or has a label that it did not have the last time."""
    check_labels: bool = True
    """Stop before writing when a source's labels look mapped wrongly: rows called Bullish that speak like Bearish ones."""

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
    """What a version must prove before it may be promoted. A rule without evidence fails."""

    min_accuracy: float = Field(default=0.5, ge=0.0, le=1.0)
    """Floor of accuracy on the held-out test split."""
    min_macro_f1: float = Field(default=0.4, ge=0.0, le=1.0)
    """Floor of macro-averaged F1."""
    min_class_f1: float = Field(default=0.2, ge=0.0, le=1.0)
    """Floor of each class's F1."""
    min_test_rows: int = Field(default=200, gt=0)
    """Fewer test rows prove nothing."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Level of the paired tests (exact McNemar, one-sided)."""
    power: float = Field(default=0.8, gt=0.5, lt=1.0)
    """Chance of being found with which the smallest difference that the test set can see is stated."""
    macro_f1_margin: float = Field(default=0.01, ge=0.0, le=1.0)
    """How much lower than the champion's macro-F1 may be (lower end of the paired interval, one-sided at `alpha`)."""
    class_margin: float = Field(default=0.03, ge=0.0, le=1.0)
    """How much lower than the champion's a class's F1 may be (lower end of the paired interval, corrected for three classes)."""
    slice_margin: float = Field(default=0.05, ge=0.0, le=1.0)
    """How much lower than the champion's the accuracy on a slice may be (lower end of the paired interval, corrected for the
    number of slices)."""
    min_slice_rows: int = Field(default=200, ge=30)
    """Slices with fewer test rows are shown and not judged: nothing can be proved on them within such a margin."""
    max_flip_rate: float = Field(default=0.2, gt=0.0, le=1.0)
    """Ceiling of the share of predictions that change when nothing that matters does (other cashtag, link, case ...)."""
    max_typo_flip_rate: float = Field(default=0.3, gt=0.0, le=1.0)
    """The same for typing errors, which do hide words."""
    max_negation_failures: float = Field(default=0.8, gt=0.0, le=1.0)
    """Ceiling of the share of predictions that stay when the text is negated. A model that counts words is near 1."""
    max_swap_failures: float = Field(default=0.6, gt=0.0, le=1.0)
    """Ceiling of the share of predictions that stay when up is swapped for down, buy for sell, and so on."""
    min_check_texts: int = Field(default=30, ge=10)
    """Robustness checks of fewer texts are shown and not judged; of each kind one at least must be judged."""
    max_ece: float = Field(default=0.1, gt=0.0, le=1.0)
    """Ceiling of the expected calibration error after temperature scaling."""
    max_logit_difference: float = Field(default=1e-2, gt=0.0)
    """Largest difference between training's logits and those of a fresh process that loads from the registry; bounds the
    differences by padding side and batch size too."""
    bootstrap_resamples: int = Field(default=1000, ge=100)
    """Resamples of each bootstrap, drawn by near-duplicate group."""
    approval: Literal["required", "automatic"] = "required"
    """`required`: a version that passes waits as challenger for `finsent approve`."""
    approval_expires_hours: float = Field(default=168.0, gt=0.0)
    """A version that waits longer for approval than this must pass the gate again."""

    def robustness_limit(self, check: str) -> float:
        """Ceiling of a robustness check's failures; one that has none of its own is held to `max_flip_rate`."""
        own = {
            "typos": self.max_typo_flip_rate,
            "negation": self.max_negation_failures,
            "negation_templates": self.max_negation_failures,
            "up_down_swap": self.max_swap_failures,
        }
        return own.get(check, self.max_flip_rate)


class EvaluationConfig(Section):
    """What is measured of a version besides its scores."""

    target_precision: float = Field(default=0.9, gt=0.0, lt=1.0)
    """Share of answers that are to be right: the abstain threshold is fitted to it on the validation split."""
    robustness_rows: int = Field(default=300, ge=30)
    """Test rows that the robustness suite changes and scores again, for each of its checks."""
    latency_texts: int = Field(default=40, ge=5)
    """Tweets scored one at a time to measure latency."""
    price_per_hour: float | None = Field(default=None, gt=0.0)
    """Price of an hour of the machine that evaluates, in `currency`; with it the cost of a million tweets is stated."""
    currency: str = "USD"
    """Currency of `price_per_hour`."""


class ScoringConfig(Section):
    """Batch inference."""

    token_budget: int = Field(default=4096, gt=0)
    """Tokens, padding included, in one forward pass."""
    chunk_rows: int = Field(default=2000, gt=0)
    """Rows to one Delta commit: what a crash can lose is less than this."""
    abstain_below: float | None = Field(default=None, ge=0.0, le=1.0)
    """Predictions less confident than this are flagged as abstained. Left out, the threshold is the version's own, which its
    training fitted to `evaluation.target_precision`; 0.5 for a version that has none."""


class MonitorConfig(Section):
    """Drift and the decision to retrain."""

    psi_threshold: float = Field(default=0.2, gt=0.0)
    """Population stability index above which a window counts as drifted (0.1 small, 0.25 large is the common reading)."""
    windows: int = Field(default=5, ge=1)
    """Latest scoring batches looked at."""
    drifted_windows: int = Field(default=2, ge=1)
    """Drifted windows among them that call for retraining."""
    min_new_labels: int = Field(default=500, ge=0)
    """Newly labelled rows since the champion's training that call for retraining."""
    cooldown_hours: float = Field(default=24.0, ge=0.0)
    """No retraining sooner than this after the last one."""

    @model_validator(mode="after")
    def _threshold_can_be_reached(self) -> Self:
        if self.drifted_windows > self.windows:
            raise ValueError(
                f"monitor.drifted_windows = {self.drifted_windows} can never be reached among monitor.windows = {self.windows}"
            )
        return self


class Config(Section):
    """A whole configuration."""

    profile: str
    """Name of the profile this started from."""
    registered_model: str = "finsent"
    """Name in the MLflow registry."""
    experiment: str = "finsent"
    """MLflow experiment that holds the runs."""
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
    """What is measured of a version besides its scores."""
    scoring: ScoringConfig = ScoringConfig()
    """Batch inference."""
    engine: EngineConfig = EngineConfig()
    """Speed and memory."""
    monitor: MonitorConfig = MonitorConfig()
    """Monitoring."""
    notes: tuple[str, ...] = ()
    """Where this profile deviates from its reference, and why."""


def profiles() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    return tuple(sorted(p.name.removesuffix(".yaml") for p in files("finsent.profiles").iterdir() if p.name.endswith(".yaml")))


def load_config(profile: str = DEFAULT_PROFILE, path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """A profile, a YAML file on top, `section.key=value` overrides on top of that.

    A file may name its own `profile`, which then wins over the argument.

    Raises:
        ConfigError: unknown profile, unreadable file, unknown key or a value out of range.
    """
    on_top = read_file(path) if path else {}
    profile = str(on_top.pop("profile", profile))
    if profile not in profiles():
        raise ConfigError(f"unknown profile {profile!r}. Shipped profiles: {', '.join(profiles())}.")
    shipped = read_yaml((files("finsent.profiles") / f"{profile}.yaml").read_text(encoding="utf-8"), profile)
    merged = merge(merge({**shipped, "profile": profile}, on_top), parse_overrides(overrides))
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, str(path or f"profile {profile!r}"))) from error
