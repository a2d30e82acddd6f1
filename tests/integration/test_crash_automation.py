"""The shipped automation that ends lost runs, on a real Prefect server."""

import time

import pytest
import yaml

from tests.integration.prefect_servers import ROOT, Server, wait_for

pytestmark = pytest.mark.integration


@pytest.mark.long
def test_only_runs_that_stopped_without_a_word_are_ended(server: Server) -> None:
    """Automations as shipped, with a shorter wait: an end is a word, whatever its name, and an approval may wait.

    The states follow the heartbeats within milliseconds, and a server on SQLite then drops events ("database is locked").
    """
    flows = {name: server.ask("flows/", name=name)["id"] for name in ("retrain", "approve")}
    said: dict[str, tuple[str, str] | None] = {
        "lost": None,
        "asks": ("PAUSED", "Suspended"),
        "refused": ("COMPLETED", "Refused"),
        "being cancelled": ("CANCELLING", "Cancelling"),
    }
    flow_of = {name: "approve" if name == "asks" else "retrain" for name in said}
    new = {name: {"name": name, "flow_id": flows[flow_of[name]], "state": {"type": "RUNNING"}} for name in said}
    runs = {name: server.ask("flow_runs/", **run)["id"] for name, run in new.items()}
    for described in yaml.safe_load((ROOT / "automations.yaml").read_text(encoding="utf-8"))["automations"]:
        these = {"prefect.resource.id": [f"prefect.flow-run.{run}" for run in runs.values()]}
        trigger = described["trigger"] | {"within": 10, "match": these}
        server.ask("automations/", **(described | {"name": "shortened", "trigger": trigger}))
    for name, state in said.items():
        server.beat(runs[name], flow_of[name])
        if state is not None:
            server.ask(f"flow_runs/{runs[name]}/set_state", state={"type": state[0], "name": state[1]}, force=True)

    def states() -> dict[str, str]:
        found = server.ask("flow_runs/filter", flow_runs={"id": {"any_": list(runs.values())}})
        return {run["name"]: run["state_type"] for run in found}

    ended = {"lost": "CRASHED", "being cancelled": "CANCELLED"}
    wait_for("the end of runs that are lost", lambda: ended.items() <= states().items(), 40)
    time.sleep(6)  # the server looks at its automations once more
    assert states() == ended | {"asks": "PAUSED", "refused": "COMPLETED"}
