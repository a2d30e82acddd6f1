"""Program that looks into a workspace without its servers: `python inspection.py HOME LEDGER`; prints one JSON object.

A process of its own, since it opens MLflow's store and the tables.
"""

import json
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finsent.data import tables
from finsent.errors import FinsentError
from finsent.registry import audit_log
from finsent.registry.audit_mirror import verify_against_registry
from finsent.registry.champion import champion_state
from finsent.registry.client import Registry
from finsent.workspace import Workspace, resolve_workspace

MODEL = "finsent"
SHOWN = 5


def main(home: str, ledger: str) -> None:
    """Rows, champion, audit log and MLflow's runs."""
    workspace = resolve_workspace({"FINSENT_HOME": home})
    found = {**_audit(workspace), **_runs(workspace)}
    found |= _rows(workspace, Path(ledger), found["champion"])
    print(json.dumps(found))


def _rows(workspace: Workspace, ledger: Path, champion: str | None) -> dict[str, Any]:
    """What was fed, received and scored, counted by id.

    A prediction's model is right if its version was made champion before it, and has the digest of the version's manifest. It
    may have lost its title meanwhile: a scoring run goes on with the champion that it began with.
    """
    lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()] if ledger.exists() else []
    fed = {row for line in lines for row in line["ids"]}
    received = tables.read(workspace, "inbox", columns=["id"])["id"].to_pylist()
    columns = ["id", "model_version", "model_digest", "scored_at"]
    predictions = tables.read(workspace, "predictions", columns=columns).to_pylist()
    pairs = Counter((row["id"], row["model_digest"]) for row in predictions)
    by_champion = {row["id"] for row in predictions if row["model_version"] == champion}
    reigns, registry = _reigns(workspace), Registry(workspace, MODEL)
    versions = {row["model_version"] for row in predictions}
    digests = {version: registry.identity(version).digest for version in versions}
    strangers = [
        f"{row['id']} by version {row['model_version']}"
        for row in predictions
        if row["model_version"] not in reigns
        or row["scored_at"] < reigns[row["model_version"]]
        or row["model_digest"] != digests[row["model_version"]]
    ]
    scored = {row["id"] for row in predictions}
    return {
        "fed": len(fed),
        "received": len(received),
        "received_twice": len(received) - len(set(received)),
        "never_received": sorted(fed - set(received))[:SHOWN],
        "number_never_received": len(fed - set(received)),
        "never_scored": sorted(set(received) - scored)[:SHOWN],
        "number_never_scored": len(set(received) - scored),
        "not_by_champion": len(set(received) - by_champion),
        "predictions": len(predictions),
        "scored_twice": [f"{row} by {digest[:8]}" for (row, digest), times in pairs.items() if times > 1][:SHOWN],
        "number_scored_twice": sum(times - 1 for times in pairs.values()),
        "not_of_a_champion": strangers[:SHOWN],
        "quarantined": tables.read(workspace, "quarantine", columns=["reason"])["reason"].to_pylist(),
    }


def _reigns(workspace: Workspace) -> dict[str, datetime]:
    """When each version was first made champion."""
    found: dict[str, datetime] = {}
    for entry in audit_log.champion_moves(audit_log.read(workspace.audit_log, MODEL)):  # the newest first
        if (version := audit_log.champion_after(entry)) is not None:
            found[version] = datetime.fromisoformat(entry["at"]).astimezone(UTC)
    return found


def _audit(workspace: Workspace) -> dict[str, Any]:
    registry = Registry(workspace, MODEL)
    found: dict[str, Any] = {"champion": None, "recorded_champion": None, "audit_problem": None, "audit_entries": 0}
    try:
        found["audit_entries"] = audit_log.verify(workspace.audit_log).length
        verify_against_registry(registry)
        state = champion_state(registry)
        found |= {"champion": state.alias, "recorded_champion": state.recorded, "audit_problem": state.problem}
    except FinsentError as error:
        found["audit_problem"] = str(error)
    actions = Counter(entry["action"] for entry in audit_log.read(workspace.audit_log))
    return {**found, "audit_actions": dict(actions)}


def _runs(workspace: Workspace) -> dict[str, Any]:
    """MLflow's runs by status, and those that are running."""
    from mlflow import MlflowClient

    client = MlflowClient(workspace.tracking_uri)
    experiments = [item.experiment_id for item in client.search_experiments()]
    runs = [*client.search_runs(experiments, max_results=10_000)]
    running = [
        {
            "run": run.info.run_id,
            "name": run.info.run_name,
            "flow_run": run.data.tags.get("prefect.flow_run_id"),
            "kind": run.data.tags.get("kind"),
        }
        for run in runs
        if run.info.status in {"RUNNING", "SCHEDULED"}
    ]
    return {"mlflow_runs": dict(Counter(run.info.status for run in runs)), "mlflow_running": running}


if __name__ == "__main__":
    main(*sys.argv[1:])
