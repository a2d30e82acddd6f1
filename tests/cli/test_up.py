"""What `finsent up` checks before it starts anything, and what its servers and workers are given."""

from pathlib import Path

import pytest

from finsent.cli import up
from finsent.cli.server_password import auth_string
from finsent.logging_setup import IMPATIENT_ENVIRONMENT, QUIET_ENVIRONMENT, QUIETED, prepare_environment
from finsent.registry.own_server import LOGIN_VARIABLE
from finsent.workspace import Workspace


def test_servers_and_workers_log_what_the_console_of_the_command_hushes(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PREFECT_LOGGING_LEVEL", "DEBUG"), ("TORCH_LOGS", "-all"), (QUIETED, "TORCH_LOGS")):
        monkeypatch.setenv(name, value)
    for name in (*QUIET_ENVIRONMENT, *IMPATIENT_ENVIRONMENT):
        if name != "TORCH_LOGS":
            monkeypatch.delenv(name, raising=False)
    prepare_environment(verbose=False)
    environment = up.environment(home, up.UpOptions("127.0.0.1", 1, 2, Path()), "nano", None)
    assert not {*QUIET_ENVIRONMENT, QUIETED} & set(environment)
    assert environment["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in environment


def test_servers_and_workers_get_the_homes_password_and_open_nothing(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "*")
    environment = up.environment(home, up.UpOptions("127.0.0.1", 1, 2, Path()), "nano", None)
    auth = auth_string(home.root)
    assert environment["PREFECT_API_AUTH_STRING"] == environment["PREFECT_SERVER_API_AUTH_STRING"] == auth
    assert environment[LOGIN_VARIABLE] == f"http://{auth}@127.0.0.1:1"
    assert "MLFLOW_TRACKING_PASSWORD" not in environment, "which every MLflow server would be sent"
    assert environment["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:2"
    assert environment["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
    again = up.environment(home, up.UpOptions("127.0.0.1", 1, 2, Path()), "nano", None)
    assert again["PREFECT_API_AUTH_STRING"] == auth
    place = up.UpOptions("127.0.0.1", 1, 2, Path(), allow_hosts=("desk.firm",))
    for command in (up.mlflow_command(home, place), up.prefect_command(place)):
        assert "--allow-host desk.firm" in " ".join(command)
        assert auth.removeprefix("finsent:") not in " ".join(command), "every user of the machine sees it"


def test_servers_and_workers_reach_each_other_past_a_proxy(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "db.firm")
    environment = up.environment(home, up.UpOptions("10.1.2.3", 1, 2, Path()), "nano", None)
    assert environment["NO_PROXY"] == environment["no_proxy"] == "db.firm,127.0.0.1,localhost,::1,10.1.2.3"
