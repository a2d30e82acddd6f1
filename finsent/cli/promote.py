"""Tell a Prefect server, where one is known, what a person has done: its triggers start scoring, or ask for approval."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finsent.cli.options import CommandResult, Settings, command, examples
from finsent.cli.output import cell_text, key_values, section, shorten, table
from finsent.cli.services_file import prefect_answers, read_services

if TYPE_CHECKING:
    from finsent.pipeline.history import Recorded


def notify_promotion(settings: Settings, model: str, version: str, before: str | None) -> None:
    """Emit the promotion event. Without a server there is nobody to tell, which is no error."""
    if _server(settings, "scoring starts at its next schedule, not now"):
        from flows.events import emit_promoted

        emit_promoted(model, version, before)


def notify_approval_request(settings: Settings, model: str, version: str, champion: str | None, reasons: tuple[str, ...]) -> None:
    """Emit the request for approval: a server shows a form. Without one there is the command line."""
    if _server(settings, "it shows no form; `finsent approve` does as well"):
        from flows.events import emit_approval_requested

        emit_approval_requested(model, version, champion, list(reasons))


def _server(settings: Settings, otherwise: str) -> bool:
    """Whether a server is known and answers; events then go there."""
    running = read_services(settings.home().root)
    url = os.environ.get("PREFECT_API_URL") or (running.prefect_api if running else None)
    if url is None:
        return False
    if not prefect_answers(url):
        click.echo(f"the Prefect server at {url} does not answer: {otherwise}.", err=True)
        return False
    os.environ["PREFECT_API_URL"] = url
    return True


# merged from finsent.cli.promote: `finsent history` and `finsent ledger`: what was decided, by whom and why, and whether the record can be believed.


def register(group: click.Group) -> None:
    """Add `history`, and `ledger` with its commands."""
    command(
        group,
        "history",
        "Every decision on every version: when, who, why.",
        epilog=examples("finsent history", "finsent history 3", "finsent history --limit 20 --json"),
        options=(
            click.argument("version", required=False),
            click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The last N. Default: all."),
        ),
    )(_history)

    @group.group(
        "ledger",
        short_help="Check and copy the record of all decisions.",
        epilog=examples("finsent ledger verify", "finsent ledger export ledger-2026-07.jsonl"),
    )
    def ledger() -> None:
        """Check or copy the ledger: one line for each evaluation and decision, each with the hash of the line before."""

    command(
        ledger,
        "verify",
        "Find any edit, deletion, reorder or cut end.",
        epilog=examples("finsent ledger verify", "finsent ledger verify --json"),
    )(_verify)
    command(
        ledger,
        "export",
        "Copy it to a file.",
        epilog=examples("finsent ledger export ledger-2026-07.jsonl"),
        options=(click.argument("file", type=Path),),
    )(_export)


def _history(settings: Settings, *, version: str | None, limit: int | None) -> CommandResult:
    """Show every evaluation and decision, oldest first, and whether the chain of the ledger verifies.

    With VERSION only what concerns that one, rollbacks from it and to it included. Reads the ledger of this home alone;
    `finsent ledger verify` holds it against the registry, too.
    """
    from finsent.pipeline.history import history
    from finsent.registry.tracking import connect
    from finsent.registry.versions import get_version

    config, home = settings.config(), settings.home()
    found = history(config, home, version, limit)
    chain = "Its chain verifies." if found.whole else f"ITS CHAIN IS BROKEN: {found.problem}"
    if not found.entries:
        if version:
            get_version(connect(home), config.registered_model, version)  # a wrong number is an error, not an empty history
        about = f"version {version}" if version else "any version"
        return CommandResult(asdict(found), f"The ledger has no entry about {about}. {chain}")
    head = f"{len(found.entries)} of {found.of} entries in the ledger. {chain}"
    columns = ("at (UTC)", "version", "action", "decision", "champion", "who", "why")
    return CommandResult(asdict(found), section(head, table(columns, [_row(entry) for entry in found.entries])))


def _row(entry: "Recorded") -> tuple[str, ...]:
    before, after = cell_text(entry.champion_before), cell_text(entry.champion_after)
    why = entry.why or (entry.reasons[0] if entry.reasons else "")
    return (
        entry.at[:19],
        cell_text(entry.version),
        entry.action,
        _decision(entry),
        before if before == after else f"{before} -> {after}",
        cell_text(entry.who),
        shorten(why, 90),
    )


def _decision(entry: "Recorded") -> str:
    """In words: a version that the gate lets through may wait for a person, and then nothing has moved."""
    if entry.decision == "promote" and entry.champion_after != entry.version:
        return "passed, waits"
    if entry.action == "reject":
        return "rejected"
    words = {"promote": "promoted", "refuse": "refused"}
    return words.get(entry.decision or "", cell_text(entry.decision))


def _verify(settings: Settings) -> CommandResult:
    """Follow the chain from its first line, and hold it against the registry and against the ledger's copy in MLflow.

    Exit code 1, with the line's number, at any line that was edited, inserted, moved, deleted or cut off.
    """
    from finsent.pipeline.history import verify_ledger

    found = verify_ledger(settings.config(), settings.home())
    said = [("entries", found.entries), ("head", found.head), ("in the copy in MLflow", found.copied)]
    return CommandResult(found, section("The ledger is whole and agrees with the registry", key_values(said)))


def _export(settings: Settings, file: Path) -> CommandResult:
    """Copy the ledger to FILE, a new one: kept elsewhere, it shows what happens to the ledger here."""
    from finsent.pipeline.history import export_ledger

    head = export_ledger(settings.home(), file)
    return CommandResult(
        {"file": file, "entries": head.length, "head": head.hash},
        section("Ledger exported", key_values([("file", file), ("entries", head.length), ("head", head.hash)])),
    )
