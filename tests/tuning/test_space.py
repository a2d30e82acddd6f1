import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from finsent.config import Config, load_config, profiles
from finsent.errors import ConfigError
from finsent.tuning.space import (
    apply_params,
    contains,
    count_settings,
    current_params,
    default_space,
    read_space,
    settings_key,
)


@pytest.fixture
def nano() -> Config:
    return load_config("nano")


def written(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("profile", profiles())
def test_the_default_space_holds_the_profiles_own_values_and_costs_no_more_epochs(profile: str) -> None:
    config = load_config(profile)
    space = default_space(config)
    own = current_params(config, space)
    assert apply_params(config, own) == config
    assert all(contains(space[key], value) for key, value in own.items())
    assert ("recipe.token_dropout" in space) == (config.recipe.token_dropout > 0)
    epochs = space["recipe.epochs"]
    assert isinstance(epochs, FloatDistribution)
    assert epochs.high == config.recipe.epochs


def test_a_fractional_training_keeps_its_length() -> None:
    assert "recipe.epochs" not in default_space(load_config("nano", overrides=["recipe.epochs=0.5"]))


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_whatever_is_drawn_from_a_default_space_makes_a_configuration(seed: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = load_config("nano")
    space = default_space(config)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    params = study.ask(dict(space)).params
    assert current_params(apply_params(config, params), space) == params
    assert all(contains(space[key], value) for key, value in params.items())


def test_a_file_lists_all_that_is_varied(nano: Config, tmp_path: Path) -> None:
    rate = "learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}"
    path = written(tmp_path, f"recipe: {{{rate}, schedule: [cosine, linear]}}\nlora: {{r: [8, 16]}}")
    space = read_space(path, nano)
    assert space == {
        "recipe.learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "recipe.schedule": CategoricalDistribution(["cosine", "linear"]),
        "lora.r": CategoricalDistribution([8, 16]),
    }
    changed = apply_params(nano, {"recipe.schedule": "linear", "lora.r": 8})
    assert (changed.recipe.schedule, changed.lora.r, changed.lora.alpha) == ("linear", 8, nano.lora.alpha)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe: {lerning_rate: [0.1]}", "unknown key 'recipe.lerning_rate'"),
        ("model: {max_length: [64, 128]}", "'model' cannot be searched"),
        ("recipe: [1, 2]", "'recipe' cannot be searched"),
        ("recipe: {seed: [1, 42]}", "luck"),
        ("lora: {targets: [[q_proj], [v_proj]]}", "no single value"),
        ("recipe: {learning_rate: 0.1}", "0.1 is no set of values"),
        ("recipe: {learning_rate: []}", "no set of values"),
        ("recipe: {learning_rate: {low: 0.1, hgh: 1}}", "hgh"),
        ("recipe: {learning_rate: {low: 0.1, high: 0.01}}", "`low <= high` must hold"),
        ("recipe: {learning_rate: {low: 0.002, high: 0.002}}", "single value"),
        ("recipe: {learning_rate: {low: 0.001, high: .inf}}", "high: Input should be a finite number"),
        ("recipe: {learning_rate: {low: 0.001, high: 0.01, step: 0}}", "`step > 0` must hold"),
        ("recipe: {learning_rate: {low: 0, high: 0.01, log: true}}", "`low > 0` must hold"),
        (
            "recipe: {learning_rate: {low: 0.001, high: 0.01, log: true, step: 0.001}}",
            "not supported when `log`",
        ),
        ("recipe: {learning_rate: {low: 0.1, high: 1.0}}", "own 0.002"),
        ("recipe: {schedule: {low: 1, high: 2}}", "no number"),
        ("recipe: {schedule: [cosine, sawtooth]}", "sawtooth"),
        ("lora: {r: {low: 4, high: 16.5}}", "whole numbers"),
        ("lora: {dropout: {low: 0.0, high: 1.5}}", "lora"),
        ("lora: {r: [0, 16]}", "r = 0"),
        ("{}", "nothing to vary"),
        ("recipe: [", "not YAML"),
    ],
)
def test_a_wrong_space_is_explained(nano: Config, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(written(tmp_path, text), nano)
    assert said in str(caught.value)
    assert "space.yaml" in str(caught.value)


def test_an_absent_file_is_said(nano: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        read_space(tmp_path / "absent.yaml", nano)


def test_values_between_two_steps_are_not_in_an_interval() -> None:
    assert contains(FloatDistribution(4, 8, step=1.0), 5.0)
    assert not contains(FloatDistribution(4, 8, step=1.0), 5.5)
    assert not contains(IntDistribution(4, 8), True)


def test_a_range_of_a_whole_number_is_of_whole_numbers(nano: Config, tmp_path: Path) -> None:
    space = read_space(written(tmp_path, "lora: {r: {low: 4, high: 16, step: 4}}"), nano)
    assert space == {"lora.r": IntDistribution(4, 16, step=4)}


def test_settings_are_counted_and_compared_by_their_steps(tiny_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("lora: {r: {low: 4, high: 16, step: 4}, dropout: {low: 0.0, high: 0.3, step: 0.1}, bias: [none, all]}")
    space = read_space(
        file, tiny_config.model_copy(update={"lora": tiny_config.lora.model_copy(update={"dropout": 0.1, "r": 8})})
    )
    assert count_settings(space) == 4 * 4 * 2
    one, other = ({"lora.r": r, "lora.dropout": d, "lora.bias": "none"} for r, d in ((8, 0.3), (8.0, 3 * 0.1)))
    assert one != other
    assert settings_key(space, one) == settings_key(space, other)
    assert settings_key(space, {**one, "lora.bias": "all"}) != settings_key(space, one)
    assert count_settings(default_space(tiny_config)) == math.inf
