"""Profiles, files and overrides: what loads, what is refused, and the reference model card's numbers."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finsent.config import DEFAULT_PROFILE, Config, Section, load_config, profiles
from finsent.config.loader import write_yaml
from finsent.errors import ConfigError


@pytest.mark.parametrize("name", profiles())
def test_every_shipped_profile_loads(name: str) -> None:
    config = load_config(name)
    assert config.profile == name
    assert config.lora.targets


def test_the_default_profile_downloads_nothing() -> None:
    config = load_config()
    assert config.profile == DEFAULT_PROFILE == "nano"
    assert config.model.name == "embedded"
    assert config.data.sources == ()


def test_llama_profile_is_the_reference_card_to_the_letter() -> None:
    config = load_config("llama-3.1-8b")
    assert config.model.name == "meta-llama/Llama-3.1-8B-Instruct"
    assert (config.model.max_length, config.model.padding_side) == (128, "left")
    quantization = config.model.quantization
    assert (quantization.kind, quantization.double, quantization.compute_dtype) == ("nf4", True, "bfloat16")
    assert "score" in quantization.skip_modules
    lora = config.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.bias) == (16, 32, 0.05, "none")
    assert set(lora.targets) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    recipe = config.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.accumulation) == (3, 4, 4)
    assert (recipe.learning_rate, recipe.schedule, recipe.optimizer) == (2e-4, "cosine", "paged_adamw_8bit")
    assert recipe.mixed_precision == "fp16"
    assert [source.uri for source in config.data.sources] == ["hf://TimKoornstra/financial-tweets-sentiment"]
    assert config.data.sources[0].labels == {"0": "Neutral", "1": "Bullish", "2": "Bearish"}
    assert any("bf16" in note for note in config.notes), "deviations are stated"


def test_the_fast_profile_differs_from_the_card_in_what_its_notes_say() -> None:
    card, fast = load_config("llama-3.1-8b"), load_config("llama-3.1-8b-fast")
    assert (fast.model, fast.lora, fast.data, fast.gate) == (card.model, card.lora, card.data, card.gate)
    changed = {name for name in type(card.recipe).model_fields if getattr(card.recipe, name) != getattr(fast.recipe, name)}
    assert changed == {
        "batch_size", "accumulation", "learning_rate", "warmup_ratio", "mixed_precision", "gradient_checkpointing",
    }  # fmt: skip
    rows, more = (config.recipe.batch_size * config.recipe.accumulation for config in (card, fast))
    assert fast.recipe.learning_rate == pytest.approx(card.recipe.learning_rate * (more / rows) ** 0.5, rel=0.02)
    stated = " ".join(fast.notes)
    assert all(word in stated for word in ("128 rows", "5.6e-4", "warm-up", "bf16", "gradient checkpointing", "not measured"))


def test_trainable_parameters_of_the_card() -> None:
    """41,955,328: rank 16 on the seven projections of 32 layers, and a 3 x 4096 head without bias (Llama-3.1-8B's shapes)."""
    rank, layers, width, kv_width, mlp, classes = 16, 32, 4096, 1024, 14336, 3
    shapes = {
        "q_proj": (width, width), "k_proj": (width, kv_width), "v_proj": (width, kv_width), "o_proj": (width, width),
        "gate_proj": (width, mlp), "up_proj": (width, mlp), "down_proj": (mlp, width),
    }  # fmt: skip
    config = load_config("llama-3.1-8b")
    adapters = sum(config.lora.r * sum(shapes[name]) for name in config.lora.targets) * layers
    assert config.lora.r == rank
    assert adapters + classes * width == 41_955_328


def test_approval_by_a_human_is_the_default_everywhere() -> None:
    assert {load_config(name).gate.approval for name in profiles()} == {"required"}


def test_a_file_goes_on_top_of_its_profile_and_overrides_on_top_of_both(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("profile: minilm\nrecipe: {epochs: 1, batch_size: 8}\n", encoding="utf-8")
    config = load_config("nano", file, ["recipe.batch_size=64", "gate.approval=automatic"])
    assert config.profile == "minilm"
    assert (config.recipe.epochs, config.recipe.batch_size) == (1, 64)
    assert config.recipe.learning_rate == load_config("minilm").recipe.learning_rate
    assert config.gate.approval == "automatic"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["recipe.epoch=1"], r"unknown key 'recipe\.epoch'"),
        (["training.epochs=1"], r"unknown key 'training'"),
        (["recipe.epochs=-1"], r"recipe\.epochs = -1"),
        (["recipe.schedule=zigzag"], r"recipe\.schedule = 'zigzag'"),
        (["profile=minilm"], r"a profile is chosen with --profile"),
        (["recipe"], r"override 'recipe' is not of the form"),
        (["=1"], r"override '=1' is not of the form"),
        (["model.name=owner/other"], r"model\.embedded is given exactly when"),
        ([f"model.name={'a' * 5000}"], r"longer than the path"),
        (["model.embedded.heads=3"], r"hidden_size = 128 must be an even multiple of heads = 3"),
        (["model.embedded.kv_heads=8"], r"multiple of kv_heads = 8"),
    ],
)
def test_wrong_values_are_refused_by_name(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("nano", overrides=overrides)


def test_unknown_profile_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown profile 'nanoo'.*llama-3\.1-8b, .*nano"):
        load_config("nanoo")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file '.*absent\.yaml'"):
        load_config(path=tmp_path / "absent.yaml")


def test_configurations_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config().recipe.epochs = 9


def _properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section in [schema, *schema["$defs"].values()]:
        for name, item in section["properties"].items():
            yield f"{section['title']}.{name}", item


def test_schema_describes_every_field() -> None:
    schema = Config.model_json_schema()
    described = dict(_properties(schema))

    def description(item: dict[str, Any]) -> str | None:
        if "$ref" in item and "description" not in item:  # left out by pydantic when the section says the same
            item = schema["$defs"][item["$ref"].rpartition("/")[2]]
        return item.get("description")

    assert len(described) > 60
    assert not [name for name, item in described.items() if not description(item)]


def test_schema_forbids_unknown_keys_everywhere() -> None:
    schema = Config.model_json_schema()
    assert all(section["additionalProperties"] is False for section in [schema, *schema["$defs"].values()])


@pytest.mark.parametrize("name", profiles())
def test_a_shown_configuration_loads_again(name: str, tmp_path: Path) -> None:
    file = tmp_path / "shown.json"  # JSON is YAML
    file.write_text(load_config(name).model_dump_json(), encoding="utf-8")
    assert load_config(path=file) == load_config(name)


@given(st.dictionaries(st.integers(0, 9), st.sampled_from(["Neutral", "Bullish", "Bearish"]), min_size=1))
def test_label_mappings_take_numbers_as_keys(labels: dict[int, str]) -> None:
    source = Config.model_validate(
        {**load_config().model_dump(), "data": {"sources": [{"uri": "x.csv", "labels": labels}]}}
    ).data.sources[0]
    assert source.labels == {str(key): value for key, value in labels.items()}


@pytest.mark.parametrize(
    "item", ["model.name=@foo", "model.name=[a", "model.name=a: b: c", "model.name='open", "model.name=\x00"]
)
def test_an_override_that_is_not_yaml_is_quoted(item: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(overrides=["recipe.epochs=1", item])
    assert repr(item) in str(raised.value)
    assert "not YAML" in str(raised.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("registered_model: café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.yaml.* is not UTF-8 text: byte 0xe9 at place 21"):
        load_config(path=path)
    path.write_bytes(b"\xef\xbb\xbfregistered_model: desk\n")
    assert load_config(path=path).registered_model == "desk"


def test_a_drift_threshold_that_can_never_be_reached_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"drifted_windows = 6 can never be reached among monitor.windows = 5"):
        load_config(overrides=["monitor.drifted_windows=6"])
    assert load_config(overrides=["monitor.drifted_windows=6", "monitor.windows=6"]).monitor.windows == 6


def test_sources_to_be_scored_are_read_as_those_of_the_data_without_labels(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "scoring: {sources: [{uri: in, text: body, id: key}, {uri: 'sqlite:///d.db', query: SELECT 1}, {uri: 's3://b/k'},\n"
        "  {uri: 'postgresql://me:hunter2@h/d', query: SELECT 2}]}\n",
        encoding="utf-8",
    )
    config = load_config(path=tmp_path / "mine.yaml")
    assert [source.uri for source in config.scoring.sources] == [
        f"{tmp_path}/in", f"sqlite:///{tmp_path}/d.db", "s3://b/k", "postgresql://me:***@h/d",
    ]  # fmt: skip
    assert "hunter2" not in config.model_dump_json() + repr(config)
    shown = {**config.model_dump(mode="json")}
    (tmp_path / "shown.yaml").write_text(write_yaml(shown), encoding="utf-8")
    again = load_config(path=tmp_path / "shown.yaml")
    assert again.model_dump() == config.model_dump()
    for labels in ("label: mood", "labels: {up: Bullish}"):
        with pytest.raises(ConfigError, match=r"is for `data\.sources`: tweets to be scored have no label"):
            load_config(overrides=[f"scoring.sources=[{{uri: /x.csv, {labels}}}]"])


@pytest.mark.parametrize("written", ["2025-03-01", "'2025-03-01'", "2025-03-01T00:00:00", "'2025-03-01T01:00:00+01:00'"])
def test_dates_are_moments_in_utc(written: str) -> None:
    config = load_config(overrides=["data.split=time", f"data.validation_from={written}", "data.test_from=2025-04-01"])
    assert config.data.validation_from == datetime(2025, 3, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match=r"data\.test_from"):
        load_config(overrides=["data.split=time", "data.validation_from=2025-03-01", "data.test_from=soon"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("recipe: [", "is not YAML"),
        ("- a\n- b\n", "must hold a mapping"),
        ("colour: red\n", "unknown key 'colour'"),
        (
            "recipe:\n  epochs: 1\nmodel: {max_length: 64}\nrecipe:\n  seed: 3\n",
            r"line 4: the key 'recipe' is given twice.*line 1",
        ),
        ("recipe: {seed: 1,\n  seed: 2}", r"line 2: the key 'seed' is given twice"),
        ("profile: &a [*a]", "aliases"),
        ("a: &a [1]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in pairwise("abcdefgh")), "aliases"),
        ("a: " + "[" * 5000, "recursion"),
        ("a: !!timestamp x", "cannot be read|not YAML"),
        ("a: !!bool x", "cannot be read|not YAML"),
        ("? [a]\n: 1", "line 1: a key must be plain text"),
    ],
    ids=["no YAML", "no mapping", "unknown", "section", "key", "endless", "huge", "deep", "time", "boolean", "list"],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(path=file)
    assert str(file) in str(caught.value)


def test_a_doubled_key_in_an_override_is_refused() -> None:
    with pytest.raises(ConfigError, match="'uri' is given twice"):
        load_config(overrides=["data.sources=[{uri: a.csv, uri: b.csv}]"])


LABEL_KEYS = ("no", "yes", "on", "1.0", "1", "null", "~", "2024-01-01", "012", "12:30", "0x1F", "1e3", "1_000")


@pytest.mark.parametrize("given", ["file", "override"])
def test_keys_of_labels_are_taken_as_written(tmp_path: Path, given: str) -> None:
    labels = "{" + ", ".join(f"{key}: Bearish" for key in LABEL_KEYS) + "}"
    sources = f"[{{uri: x.csv, labels: {labels}}}]"
    (tmp_path / "mine.yaml").write_text(f"data: {{sources: {sources}}}", encoding="utf-8")
    config = load_config(path=tmp_path / "mine.yaml") if given == "file" else load_config(overrides=[f"data.sources={sources}"])
    assert config.data.sources[0].labels == dict.fromkeys(LABEL_KEYS, "Bearish")


def test_plain_values_mean_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "recipe: {seed: 010, learning_rate: 1e-4}\nengine: {compile: on}\n"
        "data: {split: time, validation_from: 2025-03-01, test_from: 2025-04-01 10:00:00,\n"
        "  test_sources: [no], mask_handles: yes}\n",
        encoding="utf-8",
    )
    config = load_config(path=tmp_path / "mine.yaml")
    assert (config.recipe.seed, config.recipe.learning_rate, config.engine.compile) == (10, 1e-4, "always")
    assert (config.data.test_sources, config.data.mask_handles) == (("no",), True)
    assert config.data.validation_from == datetime(2025, 3, 1, tzinfo=UTC)
    assert config.data.test_from == datetime(2025, 4, 1, 10, tzinfo=UTC)


def test_what_config_show_prints_is_read_as_the_same(tmp_path: Path) -> None:
    config = load_config(overrides=["data.sources=[{uri: /x.csv, labels: {no: Bearish, 012: Bullish}}]", "experiment='1e3'"])
    (tmp_path / "mine.yaml").write_text(write_yaml(config.model_dump(mode="json")), encoding="utf-8")
    assert load_config(path=tmp_path / "mine.yaml") == config


@pytest.mark.parametrize(
    "name", ["main.desk.finsent", "a/b", "a:b", "a%b", "it's", '"a"', "", " ", " a", "a\nb", "a\\b", "..", "x" * 251]
)
def test_names_that_mlflow_refuses_are_refused_when_the_configuration_is_read(name: str) -> None:
    with pytest.raises(ConfigError, match="registered_model"):
        load_config(overrides=[f"registered_model={json.dumps(name)}"])


@pytest.mark.parametrize("name", ["../../../outside", "a/../../b", "..", ".", "/..", "a\\b", "", " ", "a\nb", "x" * 251, "./a"])
def test_experiments_that_lead_out_of_the_home_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="experiment"):
        load_config(overrides=[f"experiment={json.dumps(name)}"])


@pytest.mark.parametrize("name", ["finsent", "/Users/me@firm/finsent", "a/b", "nightly (2)", "..a", "a..", "Übung"])
def test_other_names_are_taken(name: str) -> None:
    assert load_config(overrides=[f"experiment={json.dumps(name)}"]).experiment == name


@pytest.mark.parametrize("key", ["gate.alpha", "gate.max_ece", "monitor.psi_threshold", "monitor.cooldown_hours"])
@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_numbers_that_are_none_are_refused(key: str, value: str) -> None:
    """No comparison with a NaN holds, so a rule with one would hold for all or for none."""
    with pytest.raises(ConfigError, match=f"{key}.*finite number"):
        load_config("nano", overrides=[f"{key}={value}"])


def _numbers(section: type[Section], above: str = "") -> Iterator[str]:
    """Dotted keys of all numbers."""
    for name, field in section.model_fields.items():
        kinds = {field.annotation, *get_args(field.annotation)}
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section) and name != "sources":
                yield from _numbers(kind, f"{above}{name}.")
        if kinds & {int, float}:
            yield f"{above}{name}"


@pytest.mark.parametrize("key", list(_numbers(Config)))
def test_every_number_has_bounds(key: str) -> None:
    """What Python, NumPy, Torch or the calendar cannot take is refused by name, not where it is used."""
    for value in ("-1", "-1e300", f"1{'0' * 20}", "1e300", "99999999999"):
        with pytest.raises(ConfigError, match=rf"{key} = "):
            load_config("nano", overrides=[f"{key}={value}"])


@pytest.mark.parametrize("value", ["0001-01-01", "9999-12-31T23:59:59-23:00"])
def test_times_at_the_ends_of_the_calendar_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.test_from = .*only times from 1970 to 2199"):
        load_config("nano", overrides=[f"data.test_from={value}"])
