"""`finsent serve` on the champion: the version alone answers, with the code that it carries."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests

from finsent.labels import LABELS
from finsent.models.adapter import load_adapter
from finsent.models.predict import predict_logits
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from tests.champions import crown

pytestmark = pytest.mark.integration

TEXTS = ["$AAPL to the moon", "selling all my $TSLA, it will crash", "fed meets on tuesday"]
BAD = {"": "empty", " \u3000": "empty", "up \ud83d": "bad encoding", "x" * 5001: "too long", 1: "not a string", None: "empty"}
FORMS = {
    "one text": {"inputs": TEXTS[0]},
    "columns": {"inputs": {"id": ["7", "8"], "text": TEXTS[:2]}},
    "rows": {"instances": [{"id": 7, "text": TEXTS[0]}, {"id": 8}]},
    "split": {"dataframe_split": {"columns": ["id", "text"], "index": [5, 9], "data": [["7", TEXTS[0]], ["8", "up \ud83d"]]}},
    "records": {"dataframe_records": [{"text": TEXTS[0]}, {"text": "y " * 500_000}]},
    "an empty list": {"inputs": []},
}
"""Forms that MLflow documents, and its clients send; each answers the first text, and has its one row in place of the second."""
REFUSED = {
    "null": ({"inputs": None}, "inputs is null"),
    "a number": ({"inputs": 5}, "inputs is a number"),
    "two columns": ({"inputs": {"id": ["7"], "tweet": ["a"]}}, "must be named 'text'"),
    "a chat": ({"messages": [{"role": "user", "content": TEXTS[0]}]}, "this one has 'messages'"),
    "no JSON": (b'{"inputs": [', "the request is no JSON"),
    "not UTF-8": (b'{"inputs": ["\xff"]}', "the request is no JSON"),
}


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
            deadline = time.monotonic() + 300
            while not answers(url):
                assert process.poll() is None, (tmp_path / "serve.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.3)
            response = requests.post(f"{url}/invocations", json={"inputs": TEXTS}, timeout=60)
            mixed = requests.post(f"{url}/invocations", json={"inputs": [TEXTS[0], *BAD, TEXTS[1]]}, timeout=60)
            forms = {name: requests.post(f"{url}/invocations", json=form, timeout=60) for name, form in FORMS.items()}
            refused = {name: post_raw(url, body) for name, (body, _) in REFUSED.items()}
            as_csv = post_raw(url, f"id,text\n7,{TEXTS[0]}\n8,\n".encode(), "text/csv")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    assert response.status_code == 200, response.text
    answer = response.json()["predictions"]
    assert len(answer) == len(TEXTS)
    for row in answer:
        assert set(row) == {"label", "confidence", "abstained", "probabilities", "version", "reason"}
        assert row["version"] == version
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

    for name, form in (*forms.items(), ("CSV", as_csv)):
        assert form.status_code == 200, (name, form.text)
        told = form.json()["predictions"]
        assert [row["label"] for row in told[:1]] == [answer[0]["label"]][: len(told)], name
    assert forms["an empty list"].json() == {"predictions": []}
    assert forms["columns"].json()["predictions"][1]["label"] == answer[1]["label"]
    for name, reason in (("rows", "empty"), ("split", "bad encoding"), ("records", "too long")):
        bad = forms[name].json()["predictions"][1]
        assert (bad["label"], bad["version"]) == (None, version)
        assert bad["reason"].startswith(reason)
    for name, (_, reason) in REFUSED.items():
        assert refused[name].status_code == 400, name
        assert reason in refused[name].json()["message"]
        assert "stack_trace" not in refused[name].json()


@pytest.mark.long
def test_a_model_server_on_the_merged_model_as_documented(mlflow_home, tiny_config, make_adapter, tmp_path):
    """The blocks of the section in docs/operations.md, in their order, as they stand but for the port."""
    with tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        version = Registry(mlflow_home, "finsent").register(make_adapter(0), run_id=run_id, profile="nano")
    crown(Registry(mlflow_home, "finsent"), version)
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.split("### A model server on the merged model\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```(sh|python)\n(.*?)```", section, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["sh", "python", "python", "sh", "sh"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    export, score, save, serve, ask = (code.replace("5002", port) for _, code in blocks)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "FINSENT_HOME": str(mlflow_home.root), "PATH": path}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("bash", "-ec", export)
    logits = json.loads(run(sys.executable, "-W", "ignore", "-c", score).splitlines()[-1])
    loaded = load_adapter(make_adapter(0), mlflow_home)
    expected = predict_logits(loaded, TEXTS[:1])[0] / loaded.manifest.temperature
    assert [logits[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=0.05)
    run(sys.executable, "-W", "ignore", "-c", save)
    with (
        (tmp_path / "serve.log").open("wb") as log,
        subprocess.Popen(
            ["bash", "-ec", serve], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 300
            while not answers(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, (tmp_path / "serve.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.3)
            (answer,) = json.loads(run("bash", "-ec", ask))["predictions"]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    assert answer["label"] == LABELS[int(np.argmax(expected))]


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=5).ok
    except requests.RequestException:
        return False


def post_raw(url: str, body: object, kind: str = "application/json") -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(f"{url}/invocations", data=data, headers={"Content-Type": kind}, timeout=60)
