"""From plain values, or the worker's environment, to configuration and home."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from finsent.cli.options import Settings
from finsent.errors import ConfigError, InputError
from finsent.workspace import Workspace, resolve_workspace
from flows.settings import FROM_ENVIRONMENT, FlowSettings, resolved


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


def test_an_edit_in_the_middle_of_a_run_changes_no_rule(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("gate: {alpha: 0.01}\n", encoding="utf-8")
    settings = FlowSettings(config_file=str(file), home=str(tmp_path / "home"))
    with resolved(settings) as training:
        file.write_text("gate: {alpha: 0.2}\n", encoding="utf-8")
        with resolved(settings) as promotion:
            assert promotion.config is training.config
            assert promotion.config.gate.alpha == 0.01


SECRETS = (
    "postgresql://u:hunter2@db/x",
    "mysql://u@db/x?password=hunter2",
    "http://u:hunter2@mlflow",
    "pg://db/x?apikey=hunter2",
)
HARMLESS = ("postgresql://u@db:5432/x", "postgresql://u:${PW}@db/x", "mysql://u@db/x?password=${PW}&a=b", "C:\\a:b@c", "a@b.csv")


@pytest.mark.parametrize("uri", [*SECRETS, *HARMLESS])
def test_prefects_server_refuses_passwords_before_it_stores_them(uri: str) -> None:
    """By the schema of the deployment's parameters, with the function that the server uses."""
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import ValidationError as Refused
    from prefect.utilities.schema_tools.validation import validate

    from flows.retrain import retrain

    schema = parameter_schema(retrain).model_dump_for_openapi()
    for parameters in ({"sources": [{"uri": uri}]}, {"settings": {"overrides": [uri]}}, {"settings": {"tracking_uri": uri}}):
        if uri in SECRETS:
            with pytest.raises(Refused, match=r"A URL with a password or key.*Write \$\{NAME\} in its place"):
                validate(parameters, schema, raise_on_error=True)
        else:
            assert not validate(parameters, schema, raise_on_error=True)


def test_a_flow_run_by_a_command_stores_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:hunter2@mlflow:5000")
    settings = Settings(home_dir=tmp_path, overrides=("recipe.epochs=1",)).flow_settings()
    assert "hunter2" not in settings.model_dump_json()
    assert settings.load().workspace.tracking_uri == "http://u:hunter2@mlflow:5000"
    with pytest.raises(InputError, match=r"holds a password") as refused:
        Settings(home_dir=tmp_path, overrides=("data.sources=[{uri: 'pg://u:hunter2@db/x'}]",)).flow_settings()
    assert "hunter2" not in str(refused.value)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="profil"):
        FlowSettings.model_validate({"profil": "nano"})
    with pytest.raises(ConfigError, match="unknown profile 'none'"):
        FlowSettings(profile="none").load()


LOAD = """
import json
import os
from dataclasses import asdict
from flows.settings import FROM_ENVIRONMENT
context = FROM_ENVIRONMENT.load()
print(json.dumps([asdict(context.workspace), context.config.model_dump(mode="json")], default=str))
"""


def test_a_worker_in_an_empty_folder_means_the_places_that_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `finsent up` hands to its workers, read by a process in a folder of its own, as for one flow run."""
    from finsent.cli.options import Settings
    from finsent.cli.up import UpOptions, environment

    given, empty = tmp_path / "given", tmp_path / "empty"
    for folder in (given / "sub" / "base", given / "sub" / "data", empty):
        folder.mkdir(parents=True)
    (given / "sub" / "mine.yaml").write_text(
        "profile: minilm\nmodel: {name: base}\ndata: {sources: [{uri: data/*}, {uri: ~/x}, {uri: 'sqlite:///d.db'},"
        " {uri: 'hf://data'}, {uri: 'hf://owner/name'}, {uri: 's3://b/k'}, {uri: 'file:///y.csv'}]}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(given)
    for name, value in {
        "FINSENT_HOME": "state",
        "FINSENT_TABLES": "tables",
        "FINSENT_CONFIG": "sub/mine.yaml",
        "HOME": "/me",
    }.items():
        monkeypatch.setenv(name, value)
    settings, home = Settings(), resolve_workspace()
    options = UpOptions("127.0.0.1", 5000, 4200, given)
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**environment(home, options, settings.profile, settings.config_file), "PREFECT__FLOW_RUN_ID": "x"},
        cwd=empty,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    workspace, config = json.loads(done.stdout)
    assert (workspace["root"], workspace["tables_url"]) == (str(given / "state"), str(given / "tables"))
    assert config["model"]["name"] == str(given / "sub" / "base")
    sub = given / "sub"
    assert [source["uri"] for source in config["data"]["sources"]] == [
        f"{sub}/data/*", "/me/x", f"sqlite:///{sub}/d.db", f"hf://{sub}/data", "hf://owner/name", "s3://b/k", "/y.csv",
    ]  # fmt: skip
    assert config == settings.config().model_dump(mode="json")
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({"FINSENT_HOME": "state"}, {}),
        ({"FINSENT_HOME": ""}, {}),
        ({"FINSENT_HOME": "/h", "FINSENT_TABLES": "tables"}, {}),
        ({"FINSENT_HOME": "/h", "FINSENT_CONFIG": "mine.yaml"}, {}),
        ({"FINSENT_HOME": "/h"}, {"overrides": ("data.sources=[{uri: x.csv}]",)}),
        ({"FINSENT_HOME": "/h"}, {"overrides": ("scoring.sources=[{uri: x.csv}]",)}),
        ({"FINSENT_HOME": "/h"}, {"overrides": ("model.name=./base", "model.embedded=null")}),
        ({"FINSENT_HOME": "/h"}, {"home": "state"}),
    ],
)
def test_a_worker_refuses_relative_places(
    variables: dict[str, str], settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"PREFECT__FLOW_RUN_ID": "x", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="is relative, and a Prefect worker runs in a temporary folder"):
        FlowSettings(**settings).load()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_a_worker_started_ends_with_it(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """How is a test of finsent.child_process."""
    import flows.settings

    watched: list[int] = []
    monkeypatch.setattr(flows.settings, "end_with_parent", watched.append)
    monkeypatch.setattr(flows.settings, "flow_run", SimpleNamespace(flow_name=None, id=None, name=None, ui_url=None))
    monkeypatch.setattr(flows.settings, "owning", nullcontext)  # both would start a temporary server to ask about the run
    monkeypatch.setenv("FINSENT_HOME", str(home.root))
    with resolved(FROM_ENVIRONMENT):
        assert watched == [], "no worker's"
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    with resolved(FROM_ENVIRONMENT):
        assert watched == [os.getppid()]
