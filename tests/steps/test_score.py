"""Who scores: the champion of the moment at which scoring starts; nobody where the engine cannot start."""

import sys
import threading
import time

import pytest
from filelock import FileLock

from finsent import files
from finsent.config import InboxSource, load_config
from finsent.data import tables
from finsent.errors import ConfigError
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.steps.context import make_context
from finsent.steps.score import score
from tests.champions import crown


def test_a_run_that_waited_scores_with_the_champion_of_after_the_wait(mlflow_home, caplog, monkeypatch):
    monkeypatch.setattr(files, "_SILENT_SECONDS", 0.05)
    client = tracking.connect(mlflow_home)
    client.create_registered_model("finsent")
    first, second = (str(client.create_model_version("finsent", source="file:///nowhere").version) for _ in range(2))
    crown(Registry(mlflow_home, "finsent"), first)
    reports = []
    lock = mlflow_home.lock("score")
    lock.parent.mkdir(parents=True, exist_ok=True)
    waiting = threading.Thread(target=lambda: reports.append(score(make_context(load_config(), mlflow_home), progress=False)))
    with FileLock(lock):
        waiting.start()
        deadline = time.monotonic() + 30
        while "waiting for the lock" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        crown(Registry(mlflow_home, "finsent"), second, first)
    waiting.join(timeout=60)
    (report,) = reports
    assert report.model_version == second


def test_ray_that_is_not_installed_is_told_before_a_file_is_received(mlflow_home, monkeypatch, tmp_path):
    client = tracking.connect(mlflow_home)
    client.create_registered_model("finsent")
    crown(Registry(mlflow_home, "finsent"), str(client.create_model_version("finsent", source="file:///nowhere").version))
    (tmp_path / "new.csv").write_text("text\n$AAPL to the moon\n", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python says that there is none
    context = make_context(load_config(overrides=["scoring.engine=ray"]), mlflow_home)
    with pytest.raises(ConfigError, match=r"pip install 'finsent\[ray\]'"):
        score(context, files=[InboxSource(uri=str(tmp_path / "new.csv"))], progress=False)
    assert tables.version(mlflow_home, "inbox") is None
