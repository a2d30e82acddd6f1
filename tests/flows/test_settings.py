"""From plain values, or the worker's environment, to configuration and home."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from finsent.errors import ConfigError
from flows.settings import FROM_ENVIRONMENT, FlowSettings


def test_left_empty_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: {seed: 5}\n", encoding="utf-8")
    monkeypatch.setenv("FINSENT_PROFILE", "minilm")
    monkeypatch.setenv("FINSENT_CONFIG", str(file))
    monkeypatch.setenv("FINSENT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    context = FROM_ENVIRONMENT.load()
    config, home = context.config, context.workspace
    assert (config.profile, config.recipe.seed) == ("minilm", 5)
    assert (home.root, home.tracking_uri) == (tmp_path / "home", "http://mlflow:5000")


def test_values_win_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSENT_PROFILE", "minilm")
    monkeypatch.setenv("FINSENT_HOME", "/nowhere")
    setup = FlowSettings(profile="nano", overrides=("recipe.seed=9",), home=str(tmp_path), tracking_uri="sqlite:////x.db")
    context = setup.load()
    config, home = context.config, context.workspace
    assert (config.profile, config.recipe.seed) == ("nano", 9)
    assert (home.root, home.tracking_uri) == (tmp_path, "sqlite:////x.db")


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="profil"):
        FlowSettings.model_validate({"profil": "nano"})
    with pytest.raises(ConfigError, match="unknown profile 'none'"):
        FlowSettings(profile="none").load()
