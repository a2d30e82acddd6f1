"""`finsent serve` on the champion: the version alone answers, with the code that it carries."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests

from finsent.labels import LABELS
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context

pytestmark = pytest.mark.integration

TEXTS = ["$AAPL to the moon", "selling all my $TSLA, it will crash", "fed meets on tuesday"]
BAD = {"": "empty", " \u3000": "empty", "up \ud83d": "bad encoding", "x" * 5001: "too long", 1: "not a string", None: "empty"}


def test_champion_answers_over_http(mlflow_home, tiny_config, make_adapter, tmp_path):
    with tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        version = Registry(mlflow_home, "finsent").register(make_adapter(0), run_id=run_id, profile="nano")
    Registry(mlflow_home, "finsent").client.set_registered_model_alias("finsent", "champion", version)
    promote.adopt(make_context(tiny_config, mlflow_home), "desk", "the only one so far")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "finsent", "serve", "--port", str(port)]
    environment = {**os.environ, "FINSENT_HOME": str(mlflow_home.root), "MLFLOW_TRACKING_URI": mlflow_home.tracking_uri}
    log = (tmp_path / "serve.log").open("wb")
    with (
        log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while not answers(url):
                assert process.poll() is None, (tmp_path / "serve.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.3)
            response = requests.post(f"{url}/invocations", json={"inputs": TEXTS}, timeout=60)
            mixed = requests.post(f"{url}/invocations", json={"inputs": [TEXTS[0], *BAD, TEXTS[1]]}, timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    assert response.status_code == 200, response.text
    answer = response.json()["predictions"]
    assert len(answer) == len(TEXTS)
    for row in answer:
        assert set(row) == {"label", "confidence", "abstained", "probabilities", "reason"}
        assert row["label"] in LABELS
        assert list(row["probabilities"]) == list(LABELS)
        assert sum(row["probabilities"].values()) == pytest.approx(1.0)
        assert row["confidence"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]
    probe = json.loads((make_adapter(0) / "probe.json").read_text(encoding="utf-8"))
    assert answer[0]["label"] == LABELS[max(range(3), key=lambda i: probe["logits"][0][i])]
    assert mixed.status_code == 200, mixed.text
    first, *bad, last = mixed.json()["predictions"]
    assert (first["label"], last["label"]) == (answer[0]["label"], answer[1]["label"])
    for row, reason in zip(bad, BAD.values(), strict=True):
        assert (row["label"], row["confidence"], row["abstained"], row["probabilities"]) == (None, None, True, {})
        assert row["reason"].startswith(reason)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=5).ok
    except requests.RequestException:
        return False
