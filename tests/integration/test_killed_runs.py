"""Runs that are killed under a real Prefect server and worker: their place comes back, and no process stays."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.integration.prefect_servers import ROOT, Server, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long]


def test_a_killed_training_gives_its_place_back(server: Server) -> None:
    """Lease, server and reaper as in production: two minutes after the kill at the latest, and a bit."""
    code = (
        "import time; from finsent.workspace import resolve_workspace as at; from flows.gpu import training_place\n"
        "with training_place(at(), 'held'): print('held', flush=True); time.sleep(900)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], env=server.env, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()

    def taken() -> int:
        limits = {limit["name"]: limit["active_slots"] for limit in server.ask("v2/concurrency_limits/filter")}
        return int(limits["finsent-training"])

    assert taken() == 1
    wait_for("the end of the lease", lambda: taken() == 0, 180)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_no_process(server: Server, tmp_path: Path, how: signal.Signals) -> None:
    file = tmp_path / "tweets.csv"
    with file.open("w", encoding="utf-8") as out:
        out.write("text,label\n")
        out.writelines(f"shares of firm {i} rise {i}% on results of quarter {i * 7},Bullish\n" for i in range(300_000))
    command = [sys.executable, "-m", "prefect", "deployment", "run", "ingest/ingest"]
    parameters = ["--param", f"sources={json.dumps([{'uri': str(file)}])}"]
    subprocess.run([*command, *parameters], env=server.env, check=True, capture_output=True, text=True)
    staging = server.home / "staging"
    wait_for("the ingestion at work", lambda: staging.is_dir() and any(staging.iterdir()))

    def engines() -> list[psutil.Process]:
        return [child for child in psutil.Process().children(recursive=True) if "prefect.engine" in child.cmdline()]

    (engine,) = engines()
    tree = [engine, *engine.children(recursive=True)]
    engine.send_signal(how)
    _, alive = psutil.wait_procs(tree, timeout=45)
    assert not alive
    wait_for("its state", lambda: server.ask("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["CRASHED"]}}}))
