"""`finsent status`: data, versions, last decisions, inbox, servers and their runs at a glance. Reads only."""

from typing import TYPE_CHECKING, Any

import click

from finsent.cli.maintain import disk_parts, folder_ages, table_rows
from finsent.cli.operations_status import read_status
from finsent.cli.options import CommandResult, Settings, cli, examples
from finsent.cli.render import decision_word
from finsent.cli.server_password import password_path
from finsent.cli.services_file import Server, find_mlflow, find_prefect, is_healthy, services_path
from finsent.cli.status_text import render_status
from finsent.errors import CheckFailed, FinsentError, InputError
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from finsent.steps.context import Context

DECISIONS = 5
"""Entries of the audit log shown."""


@cli.command("status", epilog=examples("finsent status", "finsent status --json"))
@click.pass_obj
def status_command(settings: Settings) -> CommandResult:
    """Show data, versions, decisions, inbox, servers and runs.

    Exit code 1, and the reasons in the first lines, where something is wrong: the alias champion is not on the version that the
    last decision made champion, the audit log is damaged, the versions cannot be read, the MLflow server does not answer, or,
    where a Prefect server is known, it does not answer, a worker is missing, a run is stuck, or scheduled scoring fails, is
    cancelled again and again or has not completed for two periods.
    """
    from finsent.data.inbox_files import find_faults

    context = settings.context()
    home, versions, decisions = context.workspace, _versions(context), _decisions(context)
    champion = versions.get("champion", {}).get("version")
    prefect = find_prefect(home.root)
    operations, champion_problem = read_status(home.root, prefect), _champion_problem(context)
    services = _services(home, prefect)
    problems = list_problems(services, versions, decisions, champion_problem, operations)
    status = {
        "problems": problems,
        "home": home.root,
        "data": _data(home),
        "versions": versions,
        "champion_problem": champion_problem,
        "decisions": decisions,
        "scoring": scoring_counts(context, champion),
        "inbox_faults": find_faults(home, context.config.scoring.sources),
        "services": services,
        "operations": operations,
        "password": password_path(home.root) if services_path(home.root).exists() else None,
        "tables": table_rows(home),
        "folders": folder_ages(home),
        "disk": disk_parts(home),
    }
    return CommandResult(status, render_status(status), code=1 if problems else 0)


def list_problems(
    services: dict[str, Any],
    versions: dict[str, Any],
    decisions: dict[str, Any],
    champion_problem: str | None,
    operations: dict[str, Any] | None,
) -> list[str]:
    """What is wrong, of all parts; Prefect's server is judged in `operations`."""
    mlflow = services["mlflow"]
    away = (
        f"the MLflow server at {mlflow['url']} {mlflow['problem']}" if "problem" in mlflow and "error" not in versions else None
    )
    wrong = (
        champion_problem,
        decisions.get("error"),
        away,
        versions.get("error"),
        *(operations["problems"] if operations else ()),
    )
    return list(dict.fromkeys(problem for problem in wrong if problem))


def _data(home: Workspace) -> dict[str, Any]:
    from finsent.data.dataset import data_version

    try:
        found = data_version(home)
    except InputError as error:
        return {"version": None, "error": str(error)}
    return {name: getattr(found, name) for name in ("version", "fingerprint", "rows", "leaks", "naive_leak")}


def _versions(context: "Context") -> dict[str, Any]:
    from finsent.registry.aliases import stage_of
    from finsent.registry.approvals import expires_at
    from finsent.registry.evidence_store import load_evidence

    registry = context.registry
    if not registry_exists(context.workspace):
        return {}
    try:
        carried = registry.aliases()
        found: dict[str, Any] = {}
        for alias in ("champion", "challenger", "previous"):
            if alias in carried:
                evidence = load_evidence(registry, carried[alias])
                metrics = evidence.metrics if evidence else None
                found[alias] = {
                    "version": carried[alias],
                    "accuracy": metrics["accuracy"] if metrics else None,
                    "macro_f1": metrics["macro_f1"] if metrics else None,
                    "stage": stage_of(carried[alias], carried, registry.get_version(carried[alias]).tags),
                }
        if "challenger" in found:
            until = expires_at(registry, context.config.gate, carried["challenger"])
            found["challenger"]["approval_expires_at"] = until.isoformat(timespec="seconds") if until else None
    except FinsentError as error:
        return {"error": str(error)}
    return found


def _champion_problem(context: "Context") -> str | None:
    """How the alias `champion` disagrees with the audit log; None where it agrees, or MLflow cannot be reached."""
    from finsent.registry.champion import champion_state

    if not registry_exists(context.workspace):
        return None
    try:
        return champion_state(context.registry).problem
    except FinsentError:
        return None  # `versions` or `decisions` say why


def registry_exists(home: Workspace) -> bool:
    """Reading must not create a store."""
    return home.tracking_uri != f"sqlite:///{home.root / 'mlflow.db'}" or (home.root / "mlflow.db").exists()


def _decisions(context: "Context") -> dict[str, Any]:
    """The latest decisions; `agrees`: the audit log agrees with the registry, None where the registry cannot be reached."""
    from finsent.registry import audit_log
    from finsent.registry.audit_mirror import verify_against_registry

    home, agrees = context.workspace, None
    try:
        head = audit_log.verify(home.audit_log)
    except FinsentError as error:
        return {"error": str(error)}
    try:
        if registry_exists(home):
            verify_against_registry(context.registry)
            agrees = _champion_problem(context) is None
    except CheckFailed as error:
        return {"error": str(error)}
    except FinsentError:
        agrees = None  # `versions` says why
    entries = [entry for entry in audit_log.read(home.audit_log) if entry.get("action") != audit_log.EVALUATE][-DECISIONS:]
    outcomes = [decision_word(audit_log.audit_entry(entry)) for entry in entries]
    kept = ("seq", "at", "action", "version", "decision", "reasons", "who", "why")
    return {
        "entries": head.length,
        "agrees": agrees,
        "last": [
            {key: entry[key] for key in kept if key in entry} | {"outcome": outcome}
            for entry, outcome in reversed(list(zip(entries, outcomes, strict=True)))
        ],
    }


def scoring_counts(context: "Context", champion: str | None) -> dict[str, int]:
    """Tweets in the inbox, those that the next scoring run scores, and predictions."""
    from finsent.data.table_changes import count_rows
    from finsent.registry.scoring_identity import scoring_identity
    from finsent.scoring.pending_rows import backfill_start, count_pending

    home, config = context.workspace, context.config
    inbox, predictions = (count_rows(home, name) for name in ("inbox", "predictions"))
    if champion is None:
        return {"inbox": inbox, "waiting": inbox, "predictions": predictions}
    model, since = scoring_identity(context.registry, champion), backfill_start(config.scoring.backfill)
    waiting = count_pending(home, model, max_characters=config.data.max_characters, backfill=since)
    return {"inbox": inbox, "waiting": waiting, "predictions": predictions}


def _services(home: Workspace, prefect: Server | None) -> dict[str, Any]:
    uri = home.tracking_uri
    mlflow = find_mlflow(home.root)
    if uri.startswith("http") and (mlflow is None or mlflow.url != uri):
        mlflow = Server(uri, None if is_healthy(uri) else "does not answer")
    found = {"mlflow": mlflow, "prefect": prefect}
    return {name: _service_status(server) for name, server in found.items()}


def _service_status(server: Server | None) -> dict[str, Any]:
    from finsent.registry.mlflow_errors import public_uri

    if server is None:
        return {"url": None, "answers": None}
    return {
        "url": public_uri(server.url),
        "answers": server.problem is None,
        **({"problem": server.problem} if server.problem else {}),
    }
