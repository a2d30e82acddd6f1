"""What `finsent doctor` finds and advises."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finsent.cli import doctor
from finsent.cli.services_file import RunningServices, write_services

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent


def by_name(said: "dict[str, list[dict[str, str]]]") -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in said["checks"]}


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks that import torch and bitsandbytes, which take seconds."""
    monkeypatch.setattr(doctor, "_bitsandbytes", lambda: doctor.DoctorCheck("bitsandbytes", "ok", "not looked at"))
    groups = [group for group in doctor.CHECKS if group is not doctor.check_hardware]
    monkeypatch.setattr(doctor, "CHECKS", groups)


def test_a_sound_machine_passes_every_check(finsent: "Finsent", tmp_path: Path) -> None:
    said = finsent("doctor", "--home", tmp_path, "--json")
    checks = by_name(said.json())
    assert said.code == 0
    assert {"python", "fastapi", "sqlalchemy", "packages", "bitsandbytes", "memory", "disk", "home", "mlflow", "prefect"} <= set(
        checks
    )
    assert not [check for check in checks.values() if check["state"] == "fail"]
    assert checks["base model"]["found"] == "embedded, built on the spot"
    assert list(tmp_path.iterdir()) == [], "looking changes nothing"


@pytest.mark.usefixtures("light")
def test_packages_that_break_things_silently_are_refused_by_name(finsent: "Finsent", monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"fastapi": "0.165.0", "sqlalchemy": "2.1.9", "mlflow": None}
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: found.get(name, real(name)) if name in found else real(name))
    said = finsent("doctor")
    assert said.code == 1
    assert "pip install 'fastapi<0.151'" in said.out
    assert "schedules never fire" in said.out
    assert "missing: mlflow" in said.out


@pytest.mark.usefixtures("light")
def test_servers_that_do_not_answer_fail(finsent: "Finsent", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_services(tmp_path, RunningServices(7, "http://127.0.0.1:9", "http://127.0.0.1:9"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = finsent("doctor", "--home", tmp_path, "--json")
    checks = by_name(said.json())
    assert said.code == 1
    assert (checks["mlflow"]["state"], checks["prefect"]["state"]) == ("fail", "fail")
    assert "correct MLFLOW_TRACKING_URI" in checks["mlflow"]["advice"]


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("model", "state"), [("owner/absent", "fail"), ("not a model!", "fail"), ("{folder}", "fail"), ("{whole}", "ok")]
)
def test_the_base_model_is_looked_for(finsent: "Finsent", tmp_path: Path, model: str, state: str) -> None:
    for name, files in (("folder", ["config.json"]), ("whole", ["config.json", "model.safetensors"])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    model = model.format(folder=tmp_path / "folder", whole=tmp_path / "whole")
    said = finsent("doctor", "--profile", "minilm", "--set", f"model.name={model}", "--home", tmp_path / "home", "--json")
    assert by_name(said.json())["base model"]["state"] == state


@pytest.mark.usefixtures("light")
def test_a_home_that_cannot_be_written_fails(finsent: "Finsent", tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = finsent("doctor", "--home", tmp_path / "file", "--json")
    assert by_name(said.json())["home"]["state"] == "fail"
    assert said.code == 1
