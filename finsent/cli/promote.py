"""`finsent promote`, `approve`, `reject`, `rollback`, `adopt`; `history` and `ledger`, which show and verify the audit log."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finsent.cli.options import LOCAL_PATH, CommandResult, Settings, cli, examples, login, suggest_command
from finsent.cli.output import cell_text, duration, key_values, lines, note, section, shorten, stack, table
from finsent.cli.render import decision_word, render_promotion
from finsent.cli.services_file import find_prefect
from finsent.cli.status import registry_exists, scoring_counts
from finsent.errors import CheckFailed, FinsentError, one_line
from finsent.proxies import bypass_proxies
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from finsent.registry.audit_log import AuditEntry
    from finsent.steps.context import Context
    from finsent.steps.promote import PromotionResult

_VERSION = click.argument("version", required=False)
_WHO = click.option("--who", metavar="NAME", help="Who decides; kept in the audit log. Default: your login name.")
_WHY = click.option("--why", metavar="TEXT", required=True, help="Why; kept in the audit log.")


@cli.command("promote", epilog=examples("finsent promote", "finsent promote --version 3"))
@click.option("--version", metavar="N", help="Registered version. Default: the newest.")
@click.pass_obj
def promote_command(settings: Settings, version: str | None) -> CommandResult:
    """Let the gate decide on a version's evidence.

    The version is promoted, waits for approval, or is refused (exit code 1). Every decision is appended to the audit log,
    refusals too. The gate fails closed on missing evidence.
    """
    from finsent.steps.promote import promote

    context = settings.context()
    return _finish(context, promote(context, version=version))


@cli.command(
    "approve", epilog=examples("finsent approve --why 'errors looked at'", "finsent approve 3 --who ada --why 'errors looked at'")
)
@_VERSION
@_WHO
@_WHY
@click.pass_obj
def approve_command(settings: Settings, version: str | None, who: str | None, why: str) -> CommandResult:
    """Make the version that waits the champion.

    The version has passed the gate, which decides once more: if the champion changed meanwhile, the evidence is void and
    the approval is refused.
    """
    from finsent.steps.promote import approve

    context = settings.context()
    done = _finish(context, approve(context, version, who or login(), why))
    close_approval_forms(context)
    return done


@cli.command("reject", epilog=examples("finsent reject 3 --why 'misreads negations'"))
@_VERSION
@_WHO
@_WHY
@click.pass_obj
def reject_command(settings: Settings, version: str | None, who: str | None, why: str) -> CommandResult:
    """Turn the version that waits down."""
    from finsent.steps.promote import reject

    context = settings.context()
    result = reject(context, version, who or login(), why)
    close_approval_forms(context)
    return CommandResult(result, f"Version {result.model_version} rejected: {why}")


@cli.command("rollback", epilog=examples("finsent rollback --why 'complaints since noon'"))
@_WHO
@_WHY
@click.pass_obj
def rollback_command(settings: Settings, who: str | None, why: str) -> CommandResult:
    """Bring the previous champion back at once."""
    from finsent.steps.promote import rollback

    context = settings.context()
    result = rollback(context, who or login(), why)
    done = _finish(context, result)
    if result.decision == "refused":
        return done
    text = stack(
        f"ROLLED BACK: version {result.model_version} is the champion again, version {result.champion_before} is archived",
        scoring_after(context, result.model_version),
    )
    return replace(done, text=text)


def scoring_after(context: "Context", champion: str) -> str:
    """What a champion that came back has to score."""
    try:
        waiting = scoring_counts(context, champion)["waiting"]
    except FinsentError as error:  # the rollback is done, whatever cannot be counted
        note(f"how much waits for version {champion} is not known: {one_line(error)}")
        return f"Next: {suggest_command('finsent score')}"
    if not waiting:
        return f"No tweet of the inbox waits: version {champion} has nothing to score."
    return f"Next: {suggest_command('finsent score')}\n  {waiting:,} tweets of the inbox wait for version {champion}."


@cli.command("adopt", epilog=examples("finsent adopt --why 'set in MLflow during the outage'"))
@_WHO
@_WHY
@click.pass_obj
def adopt_command(settings: Settings, who: str | None, why: str) -> CommandResult:
    """Record that the alias champion stands where a hand set it.

    Scoring, monitoring, exporting and promoting refuse a champion that no decision in the audit log made one. This takes the
    version that the alias names over as your decision, without the gate; or, where the champion was deleted, that there is none,
    so that the gate compares the next version with none. `finsent promote --version N` puts the recorded champion back instead.
    """
    from finsent.steps.promote import adopt

    context = settings.context()
    result = adopt(context, who or login(), why)
    done = _finish(context, result) if result.champion_after else CommandResult(result, "")
    return replace(done, text=lines(*result.reasons))


def _finish(context: "Context", result: "PromotionResult") -> CommandResult:
    """Notify a Prefect server of a decision and show it."""
    home, model = context.workspace, context.config.registered_model
    # also where it is the champion already: the command before may have died between alias and event
    if result.decision == "promoted":
        notify_promotion(home, model, result.model_version, result.champion_before)
    elif result.decision == "pending_approval":
        notify_approval_request(home, model, result.model_version, result.champion_before, result.reasons)
    text = lines(render_promotion(result), report_line(context, result.model_version))
    return CommandResult(result, text, code=1 if result.decision == "refused" else 0)


def report_line(context: "Context", version: str) -> str:
    """Where the version's evaluation report is; the model card lies beside it."""
    from finsent.registry.evidence_store import report_location

    place = report_location(context.registry, version)
    return f"Report: {place}" if place else ""


def notify_promotion(home: Workspace, model: str, version: str, before: str | None) -> None:
    """Emit the promotion event, which starts scoring. Does nothing where no Prefect server is known."""
    if use_prefect_server(home, "scoring starts at its next schedule, not now"):
        from flows.tasks import emit_promoted

        emit_promoted(model, version, before)


def notify_approval_request(home: Workspace, model: str, version: str, champion: str | None, reasons: tuple[str, ...]) -> None:
    """Emit the request for approval, for which a Prefect server shows a form. Without one there is `finsent approve`."""
    if use_prefect_server(home, "it shows no form; `finsent approve` does as well"):
        from flows.tasks import emit_approval_requested

        emit_approval_requested(model, version, champion, list(reasons))


def close_approval_forms(context: "Context") -> None:
    """End the runs that still ask about a version that was decided by a command. The decision stands, whatever happens here."""
    if use_prefect_server(context.workspace, "its form stays open until the next run of `monitor`"):
        from flows.approve import close_forms

        try:
            close_forms.fn(context)
        except Exception as error:  # noqa: BLE001 - Prefect's client raises anything; the decision is recorded
            note(f"the form in the Prefect UI stays open until the next run of `monitor`: {one_line(error)}")


def use_prefect_server(home: Workspace, otherwise: str) -> bool:
    """Whether a server is known and answers; events of this process then go there."""
    server = find_prefect(home.root)
    if server is None:
        return False
    if server.problem is not None:
        note(f"the Prefect server at {server.url} {server.problem}: {otherwise}.")
        os.environ.pop("PREFECT_API_URL", None)
        return False
    os.environ["PREFECT_API_URL"] = server.url
    if server.auth is not None:
        os.environ["PREFECT_API_AUTH_STRING"] = server.auth
    bypass_proxies(os.environ, server.url)
    return True


@cli.command("history", epilog=examples("finsent history", "finsent history 3", "finsent history --limit 20 --json"))
@_VERSION
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The last N. Default: all.")
@click.pass_obj
def history_command(settings: Settings, version: str | None, limit: int | None) -> CommandResult:
    """Show every decision on every version: when, who, why.

    Evaluations are shown, too, oldest first, and whether the hash chain of the audit log verifies. With VERSION only
    entries about that version, rollbacks from it and to it included. Compares this home's audit log with the entries that
    MLflow knows of; `finsent ledger verify` also compares it with its copy there.
    """
    from finsent.registry.audit_log import history
    from finsent.registry.client import version_number

    context, version = settings.context(), version_number(version) or None
    found = history(context.workspace.audit_log, context.registry.name, version, limit)
    chain = "Its chain verifies." if found.whole else f"ITS CHAIN IS BROKEN: {found.problem}"
    if found.whole and (problem := _registry_problem(context)) is not None:
        found, chain = replace(found, whole=False, problem=problem), f"IT IS NOT WHOLE: {problem}"
    if not found.entries:
        if version:
            context.registry.get_version(version)  # a wrong number is an error, not an empty history
        about = f"version {version}" if version else "any version"
        return CommandResult(asdict(found), f"The audit log has no entry about {about}. {chain}")
    head = f"{len(found.entries)} of {found.of} entries in the audit log. {chain}"
    columns = ("entry", "at (UTC)", "version", "action", "decision", "champion", "who", "why")
    return CommandResult(asdict(found), section(head, table(columns, [_history_row(entry) for entry in found.entries])))


def _registry_problem(context: "Context") -> str | None:
    """What MLflow knows of the audit log and the file does not hold; None also where MLflow cannot be reached."""
    from finsent.registry.audit_mirror import verify_against_registry

    if not registry_exists(context.workspace):
        return None
    try:
        verify_against_registry(context.registry)
    except CheckFailed as error:
        return str(error)
    except FinsentError as error:
        note(f"the audit log is not compared with MLflow: {error}")
    return None


def _history_row(entry: "AuditEntry") -> tuple[str, ...]:
    before, after = cell_text(entry.champion_before), cell_text(entry.champion_after)
    why = entry.why or (entry.reasons[0] if entry.reasons else "")
    return (
        "-" if entry.seq is None else str(entry.seq),  # by which messages name it
        entry.at[:19] + (f" (clock set back {duration(entry.clock_back_seconds)})" if entry.clock_back_seconds else ""),
        cell_text(entry.version),
        entry.action,
        decision_word(entry),
        before if before == after else f"{before} -> {after}",
        cell_text(entry.who),
        shorten(why, 90),
    )


@cli.group("ledger", epilog=examples("finsent ledger verify", "finsent ledger export audit-log-2026-07.jsonl"))
def ledger_group() -> None:
    """Check and copy the audit log of all decisions.

    It has one line for each evaluation and decision, each with the hash of the line before.
    """


@ledger_group.command("verify", epilog=examples("finsent ledger verify", "finsent ledger verify --json"))
@click.pass_obj
def verify_command(settings: Settings) -> CommandResult:
    """Find any edit, deletion, reorder or truncation.

    Verifies the hash chain from its first line, and compares the log with the registry and with its copy in MLflow. Exit
    code 1, with the line's number, at any line that was edited, inserted, moved, deleted or cut off; and where the alias
    champion is not on the version that the last decision made champion.
    """
    from finsent.registry.audit_mirror import verify_audit_log
    from finsent.registry.champion import current_champion

    registry = settings.context().registry
    found = verify_audit_log(registry)
    current_champion(registry)
    pairs = [("entries", found.entries), ("head", found.head), ("in the copy in MLflow", found.copied)]
    pairs += [(f"clock set back before line {line}", f"by {duration(seconds)}") for line, seconds in found.clock_set_back]
    return CommandResult(found, section("The audit log is whole and agrees with the registry", key_values(pairs)))


@ledger_group.command("export", epilog=examples("finsent ledger export audit-log-2026-07.jsonl"))
@click.argument("file", type=LOCAL_PATH)
@click.pass_obj
def export_command(settings: Settings, file: Path) -> CommandResult:
    """Copy the audit log to FILE, which must not exist. Kept elsewhere, the copy shows later changes to the log here."""
    from finsent.registry.audit_log import export_audit_log

    head = export_audit_log(settings.home().audit_log, file)
    result = {"file": file, "entries": head.length, "head": head.hash}
    return CommandResult(result, section("Audit log exported", key_values(result.items())))
