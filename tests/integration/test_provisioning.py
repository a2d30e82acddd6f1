"""Provisioning a server again changes what the files say and loses nothing that is under way."""

import time
from pathlib import Path

import pytest
import yaml

from tests.integration.prefect_servers import Server, provisioned, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long]


def test_provisioning_again_forgets_no_run(server: Server, files: Path) -> None:
    described = yaml.safe_load((files / "automations.yaml").read_text(encoding="utf-8"))["automations"][0]
    shortened = described | {"name": "shortened to ten seconds", "trigger": described["trigger"] | {"within": 10}}
    (files / "automations.yaml").write_text(yaml.safe_dump({"automations": [shortened]}), encoding="utf-8")
    provisioned(server, files)
    flow = server.ask("flows/", name="retrain")["id"]
    run = server.ask("flow_runs/", name="lost", flow_id=flow, state={"type": "RUNNING"})["id"]
    server.beat(run, "retrain")
    time.sleep(2)
    assert not [line for line in provisioned(server, files) if line.startswith("deployed")]
    lost = {"flow_runs": {"id": {"any_": [run]}, "state": {"type": {"any_": ["CRASHED"]}}}}
    wait_for("the end of the lost run", lambda: server.ask("flow_runs/filter", **lost), 40)
