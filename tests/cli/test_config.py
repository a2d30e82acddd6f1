"""`finsent config show` and `schema`, and the global options in either place."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finsent.config import Config, load_config

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent


def test_show_is_yaml_that_loads_again(finsent: "Finsent", tmp_path: Path) -> None:
    said = finsent("config", "show", "--profile", "minilm")
    assert said.code == 0
    file = tmp_path / "shown.yaml"
    file.write_text(said.out, encoding="utf-8")
    assert load_config(path=file) == load_config("minilm")


def test_show_as_json_has_file_and_overrides_on_top(finsent: "Finsent", tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: {epochs: 1}\n", encoding="utf-8")
    said = finsent("--config", file, "--set", "recipe.seed=1", "config", "show", "--set", "recipe.batch_size=2", "--json")
    recipe = said.json()["recipe"]
    assert (recipe["epochs"], recipe["seed"], recipe["batch_size"]) == (1, 1, 2)


def test_options_after_the_command_win_over_those_before_and_over_the_environment(
    finsent: "Finsent", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINSENT_PROFILE", "llama-3.1-8b")
    assert finsent("config", "show", "--json").json()["profile"] == "llama-3.1-8b"
    assert finsent("--profile", "nano", "config", "show", "--json").json()["profile"] == "nano"
    assert finsent("--profile", "nano", "config", "show", "--profile", "minilm", "--json").json()["profile"] == "minilm"


def test_schema_text_names_every_key_with_its_meaning(finsent: "Finsent") -> None:
    lines = finsent("config", "schema").out.splitlines()
    keys = {line.split()[0]: line for line in lines[2:]}
    assert {"profile", "recipe.learning_rate", "model.quantization.kind", "model.embedded.layers", "data.sources"} <= set(keys)
    assert "Peak learning rate." in keys["recipe.learning_rate"]
    assert "0.0002" in keys["recipe.learning_rate"]
    assert len(keys) > 60


def test_schema_as_json_is_the_json_schema(finsent: "Finsent") -> None:
    assert finsent("--json", "config", "schema").json() == Config.model_json_schema()


@pytest.mark.parametrize("before", [True, False])
def test_json_works_before_and_after_the_command(finsent: "Finsent", before: bool) -> None:
    arguments = ["--json", "config", "show"] if before else ["config", "show", "--json"]
    assert finsent(*arguments).json()["profile"] == "nano"
