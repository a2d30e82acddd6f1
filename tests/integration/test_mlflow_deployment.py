"""The folder mlflow/: pinned, without secrets, and no Python in it. Docker itself is not run here."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "mlflow"
COMPOSE = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
SECRETS = (
    "POSTGRES_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
)


def example():
    lines = (FOLDER / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_no_python_shadows_the_library():
    assert not [path for path in FOLDER.rglob("*") if path.suffix == ".py" or path.name == "__init__.py"]
    import mlflow

    assert hasattr(mlflow, "MlflowClient")


def test_services_are_pinned_to_what_is_tested():
    services = yaml.safe_load(COMPOSE)["services"]
    assert set(services) == {"postgres", "s3", "bucket", "mlflow"}
    for service in services.values():
        assert re.fullmatch(r"[\w./-]+:\d+[\w.-]+", service["image"])
    pins = (FOLDER.parent / "constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^mlflow==(\S+)$", pins, re.MULTILINE)
    dockerfile = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert f'"mlflow[auth]=={version}"' in dockerfile
    assert services["mlflow"]["image"] == services["bucket"]["image"] == f"finsent-mlflow:{version}"
    assert re.search(r"^FROM python:3\.\d+\.\d+-", dockerfile, re.MULTILINE)
    assert (FOLDER / services["mlflow"]["build"]["context"] / services["mlflow"]["build"]["dockerfile"]).is_file()


def test_secrets_come_from_the_environment_alone():
    assert {name for name, value in example().items() if not value} == set(SECRETS)
    for name in SECRETS:
        uses = re.findall(rf"\${{{name}([^}}]*)}}", COMPOSE)
        assert uses
        assert all(use.startswith(":?") for use in uses)
    ini = configparser.ConfigParser()
    ini.read(FOLDER / "basic_auth.ini")
    assert "admin_password" not in ini["mlflow"]
    assert (FOLDER / ".gitignore").read_text(encoding="utf-8").split() == [".env"]


def test_every_variable_is_in_the_example_with_its_default():
    used = dict(re.findall(r"\${(\w+)(?::-([^}]*))?", COMPOSE))
    assert set(used) == set(example())
    assert {name: value for name, value in used.items() if value} == {name: value for name, value in example().items() if value}


def test_server_waits_for_its_stores_and_listens_on_loopback_only():
    mlflow = yaml.safe_load(COMPOSE)["services"]["mlflow"]
    assert mlflow["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert mlflow["depends_on"]["bucket"]["condition"] == "service_completed_successfully"
    assert mlflow["ports"] == ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"]
    assert mlflow["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert mlflow["environment"]["AWS_ACCESS_KEY_ID"]
    bucket = yaml.safe_load(COMPOSE)["services"]["bucket"]["command"]
    compile(bucket[2], "bucket", "exec")


def test_docker_reads_the_compose_file(tmp_path):
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no `docker compose` here")
    environment = tmp_path / "env"
    environment.write_text("\n".join(f"{name}=x" for name in SECRETS), encoding="utf-8")
    command = [docker, "compose", "--env-file", str(environment), "-f", str(FOLDER / "compose.yaml"), "config", "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
